"""That there is no schedule, against brute force: evidence never says it of a problem that has one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from oracle.brute_force import brute_force
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Status, Verdict
from schedverify.optimizer.support import impossible
from schedverify.verifier.certificates import EvidenceError, proved_bound, proved_in_flight, proved_peak
from schedverify.verifier.verification import verify
from support.tiny_problems import tiny_problems

SMALL = tiny_problems(a_rank=6, in_all=12)
MANY = settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def evidence_at_every_place(problem: Problem) -> Iterator[dict[str, Any]]:
    """Yield evidence by every rule at every place, with the bound that follows from it, where one does."""
    ranks, stages = range(problem.ranks), range(problem.total_stages)
    for objective in ("makespan", "span"):
        places: list[dict[str, Any]] = [{"rule": rule, "rank": rank} for rule in ("load", "idle") for rank in ranks]
        places += [{"rule": "pair", "stages": [s, t]} for s in stages for t in stages]
        yield from ({**place, "objective": objective} for place in places)
    peaks: list[dict[str, Any]] = [{"rule": "sequence", "rank": rank} for rank in ranks]
    peaks += [{"rule": "memory", "stage": stage} for stage in stages]
    yield from ({**place, "objective": "peak-memory"} for place in peaks)
    yield from ({"rule": "in_flight", "rank": rank, "objective": "in-flight"} for rank in ranks)
    yield from ({"rule": "in_flight_stage", "stage": stage, "objective": "in-flight"} for stage in stages)


def proved(problem: Problem, evidence: dict[str, Any]) -> int | None:
    """Return what follows from evidence; None where it is silent."""
    objective = evidence["objective"]
    try:
        if objective == "in-flight":
            return proved_in_flight(problem, evidence)
        return (proved_peak if objective == "peak-memory" else proved_bound)(problem, objective, evidence)
    except EvidenceError:
        return None


def limited(problem: Problem, spare: int | None) -> tuple[Problem, bool]:
    """Return a problem with a limit so far above the least makespan, and whether a schedule keeps all its limits."""
    least = brute_force(problem).makespan
    if least is None or spare is None or least + spare < 1:
        return problem, least is not None
    return dataclasses.replace(problem, makespan_limit=least + spare), spare >= 0


@seed(16)
@MANY
@given(SMALL, st.sampled_from([None, -1, 0, -2, 1, -5]), st.sampled_from(["makespan", "span", "peak-memory"]))
def test_no_evidence_says_that_there_is_none_where_there_is_one(
    drawn: Problem, spare: int | None, objective: str
) -> None:
    problem, feasible = limited(drawn, spare)
    held = []
    for evidence in evidence_at_every_place(problem):
        bound = proved(problem, evidence)
        if bound is not None:
            plan = Plan(problem, Status.INFEASIBLE, objective, certificate={**evidence, "bound": bound})
            verdict = verify(plan)["SV502"].verdict
            assert verdict in (Verdict.HOLDS, Verdict.UNDECIDED)
            held += [evidence] if verdict is Verdict.HOLDS else []
            bent = dataclasses.replace(plan, certificate={**evidence, "bound": bound + 1})
            assert verify(bent)["SV502"].verdict is Verdict.VIOLATED
    assert not (feasible and held), f"{held} of {problem.to_dict()}"
    obstacle = impossible(problem)
    if obstacle is not None:
        assert not feasible
        shown = Plan(problem, Status.INFEASIBLE, objective, certificate=obstacle.evidence)
        assert verify(shown)["SV502"].verdict is Verdict.HOLDS, obstacle
    elif problem.form != "inference":  # where it leaves the rule pair out
        assert not held, f"the optimizer does not see what {held} show of {problem.to_dict()}"


@seed(17)
@MANY
@given(SMALL)
def test_what_a_sequence_needs_in_flight_is_what_brute_force_finds_too_little_without(drawn: Problem) -> None:
    free = dataclasses.replace(drawn, in_flight=None, in_flight_stage=None, capacity=None)
    for rank in range(free.ranks):
        needed = proved_in_flight(free, {"rule": "in_flight", "rank": rank})
        if needed > 1:
            limits = [free.microbatches * free.total_stages] * free.ranks
            limits[rank] = needed - 1
            assert not brute_force(dataclasses.replace(free, in_flight=tuple(limits))).feasible
    for stage in range(free.total_stages):
        needed = proved_in_flight(free, {"rule": "in_flight_stage", "stage": stage})
        if needed > 1:
            of_stages = [free.microbatches] * free.total_stages
            of_stages[stage] = needed - 1
            assert not brute_force(dataclasses.replace(free, in_flight_stage=tuple(of_stages))).feasible
