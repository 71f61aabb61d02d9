"""Stages on several ranks beside overlapped pairs, copies, ties and slices: every judge and the timeline agree.

An overlapped pair of two stages that share some ranks only is one step there and two elsewhere, all of them one node.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from agreement.test_compute_orders import compare
from oracle.law import Law
from oracle.times import Clock, earliest, is_possible, measures
from schedverify.core.errors import ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.result import Verdict
from schedverify.core.schedule import Schedule
from schedverify.lowering import add_communication
from schedverify.simulator.engine import simulate
from schedverify.verifier.graph import critical_path, dependency_graph, step_graph
from schedverify.verifier.verification import verify
from support.mutants import break_pair, faulty, make_pair_of_kinds
from support.random_schedules import MOST_PAIRS, Rows, random_data, random_rows
from support.thinned import thinned

DRAWN = 1_000
CHUNKS = 4
STRUCTURE = ("SV101", "SV102", "SV103", "SV104")


def drawn(number: int) -> tuple[Problem, Rows]:
    """Return a problem with stages on several ranks, and an order of it that can run, mostly with overlapped pairs."""
    rng = random.Random(f"several ranks {number}")
    data: dict[str, Any] = {"ranks": 1, "form": "inference"}
    while data["ranks"] == 1 or data["form"] == "inference":
        data = random_data(rng)
    ranks, stages, replicas = data["ranks"], data["stages"], data["replicas"]
    sizes = [2, 2, 3, 1]
    copies = [[rng.sample(range(ranks), min(rng.choice(sizes), ranks)) for _ in range(stages)] for _ in range(replicas)]
    data["placement"] = copies if replicas > 1 else copies[0]
    if stages > 1 and rng.random() < 0.3:
        data["tied"] = [rng.sample(range(stages), 2)]
    problem = Problem.of(data)
    law = Law(problem.to_dict())
    assert len(list(law.pairs())) <= 2 * MOST_PAIRS
    return problem, random_rows(rng, law)


def has_several_steps(rows: Rows) -> bool:
    """Whether an operation stands alone on one rank and in a pair on another."""
    steps = {text for row in rows for text in row}
    pairs = [text for text in steps if text.startswith("(")]
    return any(part in steps for pair in pairs for part in pair.removesuffix("OVERLAP_F_B").strip("()").split(";"))


def mutated(rng: random.Random, rows: Rows, law: Law) -> Rows:
    """Return the rows with a fault: half of the time one that makes or breaks a pair on one rank alone."""
    if rng.random() < 0.5:
        return faulty(rng, rows, law)[0]
    changed = [list(row) for row in rows]
    rng.choice([break_pair, make_pair_of_kinds])(rng, changed, law)
    return changed


@pytest.mark.parametrize("chunk", thinned(range(CHUNKS)))
def test_all_agree(chunk: int) -> None:
    met = Counter[str]()
    for number in range(chunk * DRAWN // CHUNKS, (chunk + 1) * DRAWN // CHUNKS):
        problem, rows = drawn(number)
        data = problem.to_dict()
        story = f"drawn {number}\nproblem: {data}\nrows: {rows}"
        assert not any(compare(problem, rows, False, story).values()), story
        check_times(problem, rows, story)
        met["several steps"] += has_several_steps(rows)
        rng = random.Random(f"fault {number}")
        wrong = mutated(rng, rows, Law(data))
        verdicts = compare(problem, wrong, False, f"mutant of {story}")
        if not any(verdicts[code] for code in STRUCTURE):
            met["stuck" if verdicts["SV201"] else "runs"] += 1
            check_run(problem, wrong, not verdicts["SV201"], f"{wrong}, mutant of {story}")
    assert min(met["several steps"], met["stuck"], met["runs"]) > 10, met


def check_times(problem: Problem, rows: Rows, story: str) -> None:
    """Hold timeline, measures, graph and SV202 against the oracle's times of an order that can run."""
    schedule, data = Schedule.of(rows), problem.to_dict()
    timeline, times = simulate(schedule, problem), earliest(rows, data)
    assert [row.tolist() for row in timeline.starts] == times, story
    clock = Clock(rows, data)
    ends = [[clock.end(times, (rank, position)) for position in range(len(row))] for rank, row in enumerate(rows)]
    assert [row.tolist() for row in timeline.ends] == ends, story
    assert timeline.makespan == measures(rows, data)["makespan"], story
    graph = dependency_graph(problem, schedule)
    path, steps = critical_path(graph), step_graph(graph)
    hops = sum(steps.edges[pair]["lag"] for pair in pairwise(path))
    assert hops + sum(steps.nodes[step]["duration"] for step in path) == timeline.makespan, story
    rng = random.Random(story)
    rank = rng.choice([rank for rank, row in enumerate(rows) if row])
    times[rank][rng.randrange(len(times[rank]))] += rng.choice([-1, 1])
    verdict = verify(schedule, problem, select=["SV202"], claims={"timeline": times}).verdict
    assert (verdict is Verdict.HOLDS) == is_possible(rows, data, times), f"{times} of {story}"


def check_run(problem: Problem, rows: Rows, runs: bool, story: str) -> None:
    """What cannot run has no timeline and no lowering; what can has all of its steps in both."""
    schedule = Schedule.of(rows)
    if not runs:
        for make in (simulate, add_communication):
            with pytest.raises(ScheduleError, match="cannot run to its end"):
                make(schedule, problem)
        assert verify(schedule, problem, select=["SV5"], claims={"makespan": 4}).verdict is Verdict.UNDECIDED, story
        return
    assert [len(row) for row in simulate(schedule, problem).starts] == [len(row) for row in rows], story
    assert add_communication(schedule, problem).compute_only() == schedule, story
