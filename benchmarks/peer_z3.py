"""A fused problem for z3: constraints on start times, and a makespan that is lowered; a search such as Tessel's."""

from __future__ import annotations

import itertools
import time
from typing import Any

from peer_pyjobshop import Answer, judged

from schedverify import Problem
from schedverify.core.op import Kind

Op = tuple[str, int, int]


def solve(problem: Problem, seconds: float) -> Answer:
    """Lower the makespan tick by tick with z3 until there is no schedule or the time is over.

    One integer for each start; dependencies; for each two operations of a rank, one ends before the other begins; at
    each F, what is in flight on its rank stays within the limit. So the search of Tessel (arXiv 2311.15269) states
    a whole schedule; it knows no first in, first out.
    """
    import z3

    began = time.perf_counter()
    solver = z3.Solver()
    start = {(kind, s, m): z3.Int(f"{s}{kind}{m}") for kind in "FB" for s, m in _pairs(problem)}
    end = {op: value + problem.duration(int(Kind[op[0]]), op[1]) for op, value in start.items()}
    solver.add([value >= 0 for value in start.values()])
    solver.add(_flow(problem, start, end))
    solver.add(_exclusive(z3, problem, start, end))
    solver.add(_in_flight(z3, problem, start, end))
    value = None
    while (left := seconds - (time.perf_counter() - began)) > 0:
        solver.set("timeout", max(1, int(1000 * left)))
        verdict = solver.check()
        if verdict != z3.sat:
            return Answer(value, verdict == z3.unsat, time.perf_counter() - began)
        model = solver.model()
        value = judged(problem, {op: model.eval(variable).as_long() for op, variable in start.items()})
        solver.add([last < value for last in end.values()])
    return Answer(value, False, time.perf_counter() - began)


def _pairs(problem: Problem) -> list[tuple[int, int]]:
    return [(stage, m) for stage in range(problem.total_stages) for m in range(problem.microbatches)]


def _flow(problem: Problem, start: dict[Op, Any], end: dict[Op, Any]) -> list[Any]:
    """Return what waits for what."""
    rules = []
    for stage, m in _pairs(problem):
        rules.append(start["B", stage, m] >= end["F", stage, m])
        for source in problem.predecessors[stage]:
            rules.append(start["F", stage, m] >= end["F", source, m] + problem.forward_lag(source, stage))
        for source in problem.successors[stage]:
            rules.append(start["B", stage, m] >= end["B", source, m] + problem.backward_lag(source, stage))
    return rules


def _exclusive(z3: Any, problem: Problem, start: dict[Op, Any], end: dict[Op, Any]) -> list[Any]:
    """Return that of each two operations of a rank one ends before the other begins."""
    ranks = [[op for op in start if problem.owner_rank[op[1]] == rank] for rank in range(problem.ranks)]
    pairs = [pair for ops in ranks for pair in itertools.combinations(ops, 2)]
    return [z3.Or(end[one] <= start[other], end[other] <= start[one]) for one, other in pairs]


def _in_flight(z3: Any, problem: Problem, start: dict[Op, Any], end: dict[Op, Any]) -> list[Any]:
    """Return that no F of a rank finds its limit of micro-batches in flight reached."""
    rules: list[Any] = []
    limits = problem.in_flight
    if limits is None:
        return rules
    for stage, m in _pairs(problem):
        rank, now = problem.owner_rank[stage], start["F", stage, m]
        others = [pair for pair in _pairs(problem) if problem.owner_rank[pair[0]] == rank and pair != (stage, m)]
        held = [z3.If(z3.And(start["F", *pair] <= now, now < end["B", *pair]), 1, 0) for pair in others]
        rules.append(z3.Sum(held) < limits[rank])
    return rules
