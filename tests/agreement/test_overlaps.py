"""Overlapped pairs that can never run change nothing: no evidence, no refusal. Which can is found by the law alone.

Optimizer and verifier each decide it for themselves. Here it is looked for among all pairs of operations, by what each
of them waits for in the end.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import product
from typing import Any

import pytest

from oracle.compute_orders import runs_to_its_end
from oracle.law import Law, Op, case_of
from schedverify.core.errors import UnsupportedError
from schedverify.core.problem import Problem
from schedverify.core.result import Status, Verdict
from schedverify.core.schedule import Schedule
from schedverify.generators import generate
from schedverify.optimizer.support import check_supported
from schedverify.planner.plans import optimize
from schedverify.verifier.certificates import SilentEvidenceError, proved_bound
from schedverify.verifier.certificates.overlaps import can_overlap
from schedverify.verifier.verification import verify
from support.random_schedules import random_data


def before(law: Law, op: Op) -> set[Op]:
    """Every operation that one waits for, directly or through others, whatever form a backward takes."""
    found: set[Op] = set()
    front = [op]
    while front:
        new = {needed for needed in law.reads(front.pop()) if law.admits(needed)} - found
        found |= new
        front += new
    return found


def ever(law: Law, forward: int, backward: int) -> list[tuple[Op, Op]]:
    """The pairs of an F of one stage and a B of another that can run as one step."""
    if "B" not in {"fused": "FB", "split": "FBIW", "inference": "F"}[law.form]:
        return []
    if not law.ranks_of[forward] & law.ranks_of[backward]:
        return []
    numbers = range(law.microbatches)
    pairs = [(Op("F", forward, one), Op("B", backward, other)) for one, other in product(numbers, numbers)]
    return [(f, b) for f, b in pairs if law.admits(f) and law.admits(b) and f not in before(law, b)]


def order_with(law: Law, f: Op, b: Op) -> list[list[str]]:
    """Return an order in which the two run as one step on every rank that has both."""
    together = f"({f.stage}F{f.microbatch};{b.stage}B{b.microbatch})OVERLAP_F_B"
    waiting = [Op(kind, *pair) for pair in law.pairs() for kind in "FB"]
    rows: list[list[str]] = [[] for _ in range(law.ranks)]
    done: set[Op] = set()
    while waiting:
        ready = [op for op in waiting if {n for n in law.reads(op) if n.kind in "FB"} <= done]
        chosen = [op for op in ready if op not in (f, b)][:1] or [f, b]
        assert set(chosen) <= set(ready), "the two can start together once all else that can has run"
        for rank in range(law.ranks):
            here = [op for op in chosen if rank in law.ranks_of[op.stage]]
            rows[rank] += [together] if len(here) == 2 else [f"{op.stage}{op.kind}{op.microbatch}" for op in here]
        done.update(chosen)
        waiting = [op for op in waiting if op not in done]
    return rows


@pytest.mark.parametrize("chunk", range(4))
def test_which_pairs_can_run(chunk: int) -> None:
    seen = Counter[bool]()
    for number in range(chunk * 400, chunk * 400 + 400):
        rng = random.Random(f"overlap {number}")
        data = random_data(rng)
        if rng.random() < 0.6:
            data["microbatches"] = data["slices"] * (1 if data["replicas"] == 1 else 2)
            data.pop("replica_of", None)
        total = data["stages"] * data["replicas"]
        forward, backward = rng.randrange(total), rng.randrange(total)
        data["costs"] = {"forward": 4, "backward": 4, "backward_input": 2, "backward_weight": 2}
        if data["form"] == "inference":
            data["costs"] = {"forward": 4}
        data["costs"]["overlapped"] = [{"forward": forward, "backward": backward, "cost": 1}]
        problem = Problem.of(data)
        law = Law(problem.to_dict())
        pairs = ever(law, forward, backward)
        seen[bool(pairs)] += 1
        assert can_overlap(problem, forward, backward) == bool(pairs), data
        assert refused(problem) == bool(pairs), data
        if pairs:
            rows = order_with(law, *rng.choice(pairs))
            assert any("OVERLAP" in text for row in rows for text in row)
            assert runs_to_its_end(case_of(rows, problem.to_dict(), False)), data
            with pytest.raises(SilentEvidenceError, match="cost less than the sum"):
                proved_bound(problem, "makespan", {"rule": "load", "rank": 0})
        else:
            without = Problem.of(data | {"costs": data["costs"] | {"overlapped": []}})
            for rank in range(problem.ranks):
                loads = [proved_bound(p, "makespan", {"rule": "load", "rank": rank}) for p in (problem, without)]
                assert loads[0] == loads[1]
    assert min(seen.values()) > 40, seen


def refused(problem: Problem) -> bool:
    try:
        check_supported(problem, "makespan")
    except UnsupportedError as error:
        return [fault.key for fault in error.faults] == ["costs.overlapped"]
    return False


CHEAP: dict[str, Any] = {
    "ranks": 2, "microbatches": 2, "forward": 1, "backward": 2,
    "overlapped": [{"forward": 0, "backward": 1, "cost": 1}],
}  # fmt: skip


def test_a_pair_on_two_ranks_leaves_plans_and_bounds_as_they_are() -> None:
    problem = Problem.chain(**CHEAP)
    plan = optimize(problem, time_limit=20, workers=1)
    assert (plan.status, plan.value, plan.bound) == (Status.OPTIMAL, 9, 9)
    assert verify(plan).ok
    claims = {"bound": 9, "certificate": {"rule": "load", "rank": 1, "bound": 9}}
    assert verify(generate("1f1b", problem), problem, select=["SV502"], claims=claims).ok
    claims = {"bound": 10, "certificate": {"rule": "load", "rank": 1, "bound": 10}}
    assert verify(generate("1f1b", problem), problem, select=["SV502"], claims=claims).verdict is Verdict.VIOLATED


def test_evidence_that_does_not_speak_of_a_problem_with_cheaper_pairs_is_undecided() -> None:
    problem = Problem.chain(**CHEAP | {"overlapped": [{"forward": 0, "backward": 0, "cost": 1}]})
    claims = {"bound": 9, "certificate": {"rule": "load", "rank": 1, "bound": 9}}
    report = verify(generate("1f1b", problem), problem, select=["SV502"], claims=claims)
    assert report.verdict is Verdict.UNDECIDED
    assert "does not speak of this problem" in report["SV502"].reason
    assert verify(Schedule.parse("0F0 (0F1;0B0)OVERLAP_F_B 0B1\n1F0 1B0 1F1 1B1"), problem, select=["SV1", "SV2"]).ok
