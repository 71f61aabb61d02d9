"""What the model cannot take is refused by name; that no order can keep the limits is said at once where it is seen."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

from schedverify.core.errors import Fault, UnknownNameError, UnsupportedError
from schedverify.core.problem import Problem
from schedverify.core.problem.keys import OBJECTIVES
from schedverify.optimizer.bounds.costs import Costs
from schedverify.optimizer.bounds.formulas import admission_bounds, best_bound
from schedverify.optimizer.tasks import Tasks, ancestors

TIMES: Final = ("makespan", "span")
"""The objectives of one search over the model."""
SUPPORTED: Final = (*TIMES, "peak-memory")
MOST_TICKS: Final = 1 << 52
"""The longest horizon, in scaled ticks: the solver reports its bounds as floats, which are exact up to here."""


def check_supported(problem: Problem, objective: str, among: Collection[str] = SUPPORTED) -> None:
    """Raise for an objective that is not ``among`` these, and for everything that the model would otherwise ignore.

    Raises
    ------
    UnknownNameError
        If the objective is none.
    UnsupportedError
        With every fault at once: another objective, channel buffers, overlapped pairs that cost less than the sum, sums
        of durations that are too long for the solver.
    """
    if objective not in OBJECTIVES:
        raise UnknownNameError.among("objective", objective, OBJECTIVES)
    if faults := list(_faults(problem, objective, among)):
        raise UnsupportedError(faults)


class Obstacle(NamedTuple):
    """Why no order keeps the limits, in words, and the evidence: what every order needs, which is beyond a limit."""

    reason: str
    evidence: dict[str, Any]


def impossible(problem: Problem) -> Obstacle | None:
    """Return why no order keeps the limits, where that is seen at once."""
    alone = _alone(problem) if problem.form != "inference" else iter(())
    return next((obstacle for found in (alone, _in_time(problem)) for obstacle in found), None)


def limits_of(problem: Problem) -> list[str]:
    """Return the names of the limits that are on."""
    limits = {
        "limits.in_flight": problem.in_flight,
        "limits.in_flight_stage": problem.in_flight_stage,
        "memory.capacity": problem.capacity,
        "limits.makespan": problem.makespan_limit,
    }
    return [name for name, limit in limits.items() if limit is not None]


def _faults(problem: Problem, objective: str, among: Collection[str]) -> Iterator[Fault]:
    if objective not in among:
        message = f"the optimizer cannot minimize the {objective} yet"
        yield Fault("objective.minimize", message, " or ".join(among))
    if problem.buffer is not None:
        yield Fault("links.buffer", "the optimizer cannot keep channel buffers yet", "leave it away to plan without")
    yield from _misdeclared(problem)
    for forward, backward, cost in problem.overlapped:
        if cost < _sequential_cost(problem, forward, backward) and _can_overlap(problem, forward, backward):
            text = (
                f"the pair of stages {forward} and {backward} costs less than the sum, and the optimizer makes no pairs"
            )
            yield Fault("costs.overlapped", text, "leave it away to plan without")
            break
    if (horizon := Tasks(problem, objective).horizon) > MOST_TICKS:
        hint = "use a coarser tick"
        yield Fault("costs", f"durations and transfers of {horizon} ticks in all are beyond the solver's 2^52", hint)


def _misdeclared(problem: Problem) -> Iterator[Fault]:
    """Yield a fault for each edge between ranks over which no message can be what its boundaries declare (SV306)."""
    declared: dict[tuple[int, int], list[tuple[int, int | None]]] = {}
    for i, row in enumerate(problem.boundaries):
        declared.setdefault((row.source, row.target), []).append((i, row.bytes))
    for (source, target), rows in declared.items():
        total = sum(size or 0 for _, size in rows)
        offsets = range(0, problem.total_stages, problem.stages)
        rank = problem.owner_rank
        sent = {problem.boundary_bytes[k + source] for k in offsets if rank[k + source] != rank[k + target]} - {total}
        if sent and any(problem.boundary_bytes) and all(size is not None for _, size in rows):
            message = f"{total} bytes go from stage {source} to {target}, and links.bytes says {min(sent)}"
            yield Fault(f"boundary[{rows[0][0]}].bytes", message, "make them equal, or leave one of them away")


def _sequential_cost(problem: Problem, forward: int, backward: int) -> int:
    again = problem.forward[backward] if problem.recompute[backward] else 0
    return problem.forward[forward] + problem.backward[backward] + again


def _can_overlap(problem: Problem, forward: int, backward: int) -> bool:
    """Whether F of one stage and B of another can run as one step: on one rank, and neither waiting for the other.

    Two micro-batches never wait for each other but as parts of a sequence. Where both are of one sequence, the B waits
    for the F of all stages before it, and before those that it feeds.
    """
    if problem.form == "inference" or not set(problem.placement[forward]) & set(problem.placement[backward]):
        return False
    of_forward, of_backward = (
        {m // problem.slices for m, copy in enumerate(problem.replica_of) if copy == problem.copy_of(stage)}
        for stage in (forward, backward)
    )
    if not of_forward or not of_backward or len(of_forward | of_backward) > 1:
        return bool(of_forward and of_backward)
    lines = [above | {stage} for stage, above in enumerate(ancestors(problem))]
    return not any(forward in line and backward in line for line in lines)


def _alone(problem: Problem) -> Iterator[Obstacle]:
    """Yield what keeps even a single sequence from getting through.

    When the gradient op of the last part of a sequence starts on a stage, all its parts are in flight there and on
    every stage before, and none of their gradient ops has run. So ``slices`` times the number of these stages on one
    rank is needed in flight; in bytes, what they keep, with the full activation of the part that runs.

    Evidence: ``{"rule": "in_flight", "rank": r}``, ``{"rule": "in_flight_stage", "stage": s}`` and
    ``{"rule": "sequence", "rank": r}``.
    """
    above, parts = ancestors(problem), problem.slices
    for rank, stages in enumerate(problem.stages_of):
        for stage in stages:
            before = above[stage].intersection(stages)
            count = len(before) + 1
            if not problem.microbatch_counts[stage]:
                continue
            if problem.in_flight is not None and (most := problem.in_flight[rank]) < parts * count:
                text = f"on rank {rank} one sequence has {parts} x {count} in flight when stage {stage} turns back"
                evidence = _evidence("in_flight", "in-flight", parts * count, rank=rank)
                yield Obstacle(f"{text}, and in_flight is {most}", evidence)
            if problem.in_flight_stage is not None and (most := problem.in_flight_stage[stage]) < parts:
                text = f"on stage {stage} one sequence has {parts} in flight, and in_flight_stage is {most}"
                yield Obstacle(text, _evidence("in_flight_stage", "in-flight", parts, stage=stage))
            need = (
                sum(parts * problem.saved_activation_bytes[other] for other in before)
                + (parts - 1) * problem.saved_activation_bytes[stage]
            )
            need += problem.static[rank] + problem.activation[stage]
            if problem.capacity is not None and (most := problem.capacity[rank]) < need:
                text = f"rank {rank} holds {problem.units.over(need, most)}, when stage {stage} turns back"
                yield Obstacle(text, _evidence("sequence", "peak-memory", need, rank=rank))


def _in_time(problem: Problem) -> Iterator[Obstacle]:
    """Yield what the limit on the makespan leaves no time for, or no bytes."""
    limit, units = problem.makespan_limit, problem.units
    if limit is None:
        return
    bound = best_bound(problem, "makespan")
    if bound is not None and bound.value > limit:
        others = [name for name in limits_of(problem) if name != "limits.makespan"]
        within = f" within {' and '.join(others)}" if others and bound.evidence["rule"] == "idle" else ""
        text = f"no order has a makespan below {units.time(bound.value)}{within}"
        yield Obstacle(f"{text}, and limits.makespan is {units.time(limit)}", bound.evidence)
    if problem.capacity is None:
        return
    for bound in admission_bounds(Costs(problem), ("makespan", limit)):
        rank = problem.owner_rank[bound.evidence["stage"]]
        if bound.value > (most := problem.capacity[rank]):
            text = f"rank {rank} holds {units.over(bound.value, most)}"
            yield Obstacle(f"{text}, in every order with a makespan of {units.time(limit)} or less", bound.evidence)


def _evidence(rule: str, objective: str, bound: int, **place: int) -> dict[str, Any]:
    return {"rule": rule, **place, "objective": objective, "bound": bound}
