"""What a run took: medians of each operation, latency, and a problem with these costs to optimize again."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from statistics import median
from typing import Final, NamedTuple

from schedverify.conformance.dependency_check import Message, messages, ops_of
from schedverify.core.argument_types import check_types
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.trace import RunTrace, StepSpan

_UNITS: Final = {"ns": 1, "us": 1000, "µs": 1000, "ms": 1_000_000, "s": 1_000_000_000}
_TICK: Final = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)?\s*([a-zµ]{1,2})\s*")
_COSTS: Final = {Kind.F: "forward", Kind.B: "backward", Kind.I: "backward_input", Kind.W: "backward_weight"}


class Cost(NamedTuple):
    """What one kind of operation of a stage took, in nanoseconds, over a run."""

    kind: Kind
    stage: int
    runs: int
    median: int
    least: int
    most: int
    planned: int
    """Ticks that the plan's problem says."""


def costs(problem: Problem, trace: RunTrace) -> list[Cost]:
    """Return what each kind of operation of each stage took; operations that ran overlapped are left out."""
    found: dict[tuple[int, Kind], list[int]] = defaultdict(list)
    for ran in (ran for step in trace.steps for ran in step):
        ops = ops_of(ran.step)
        if len(ops) == 1 and ops[0].kind.is_compute and ops[0].stage < problem.total_stages:
            found[ops[0].stage, ops[0].kind].append(ran.end - ran.start)
    return [
        Cost(kind, stage, len(times), round(median(times)), min(times), max(times),
             problem.duration(int(kind), stage))
        for (stage, kind), times in sorted(found.items())
    ]  # fmt: skip


def makespans(trace: RunTrace) -> list[int]:
    """Return for each step of training the nanoseconds from the first start to the last end of what computes."""
    computed = [[ran for ran in step if ops_of(ran.step)[0].kind.is_compute] for step in trace.steps]
    return [max(r.end for r in step) - min(r.start for r in step) if step else 0 for step in computed]


def bubble(step: Sequence[StepSpan], ranks: int) -> float:
    """Return the idle share of all ranks over the makespan of a step of training."""
    computed = [ran for ran in step if ops_of(ran.step)[0].kind.is_compute]
    if not computed:
        return 0.0
    makespan = max(ran.end for ran in computed) - min(ran.start for ran in computed)
    return 1 - sum(ran.end - ran.start for ran in computed) / (ranks * makespan) if makespan else 0.0


def latency(problem: Problem, trace: RunTrace) -> int:
    """Return the nanoseconds of the quickest message between two ranks: from its send's start to its receive's end.

    Others had to wait for their queue, or for whom they were for, to get there; the quickest shows the link.
    """
    return min((took for _, took in _travel_times(problem, trace)), default=0)


def lines_of_costs(
    costs: Sequence[Cost], quickest: int, errors: Sequence[int], planned: Callable[[Cost], str] | None = None
) -> Iterator[str]:
    """Yield the text: the quickest message, how far clocks may be wrong, and what each operation took.

    Parameters
    ----------
    quickest, errors
        Nanoseconds; the latter by rank.
    planned
        Returns what was planned of an operation, as text; None where nothing was.
    """
    yield f"  quickest message    {quickest / 1000:.1f} us"
    yield f"  clocks agree within {max(errors) / 1000:.1f} us"
    yield "  operation    runs   median us  least us   most us" + (f"{'planned':>16}" if planned else "")
    for cost in costs:
        name = f"{cost.kind.name} of stage {cost.stage}"
        each = "  ".join(f"{time / 1000:>8.1f}" for time in (cost.median, cost.least, cost.most))
        yield f"  {name:<11} {cost.runs:>5}    {each}" + (f"   {planned(cost):>13}" if planned else "")


def line_of_makespan(measured: int, predicted: int) -> str:
    """Return the text: the median makespan beside what the measured costs predict, both in nanoseconds."""
    ratio = f"{measured / max(predicted, 1):.2f} times that"
    told = f"with the measured costs predicted {predicted / 1e6:.3f} ms: {ratio}"
    return f"  makespan, median    {measured / 1e6:.3f} ms; {told}"


def tick_of(problem: Problem) -> Fraction | None:
    """Return the nanoseconds of a problem's tick, or None where its name is no unit of time."""
    match = _TICK.fullmatch(problem.tick)
    if match is None or match[2] not in _UNITS:
        return None
    return Fraction(match[1] or 1) * _UNITS[match[2]]


def measured_problem(problem: Problem, trace: RunTrace) -> Problem:
    """Return the problem with measured costs and latencies, in microseconds.

    What was not measured (a kind of operation that did not run, or ran overlapped only; the cost of an overlapped pair)
    keeps its proportion to what was. The latency of a link is that of its quickest message, without what the message
    occupied by the problem's bandwidth; where none crossed, that of the quickest of all. Bandwidth is not measured: it
    stays, in bytes per microsecond and not below 1. Memory, limits and placement stay.

    Raises
    ------
    InputError
        If nothing was measured, or the result is no problem.
    """
    check_types("measured_problem", problem=(problem, Problem), trace=(trace, RunTrace))
    found = {(cost.kind, cost.stage): cost for cost in costs(problem, trace)}
    planned = sum(cost.planned * cost.runs for cost in found.values())
    scale = Fraction(sum(cost.median * cost.runs for cost in found.values()), planned) if planned else Fraction(1000)
    tick = tick_of(problem) or scale or Fraction(1000)
    data = problem.to_dict()
    data["tick"] = "us"
    costed = {
        name: [
            _microseconds(found, kind, stage, ticks, scale, problem) for stage, ticks in enumerate(data["costs"][name])
        ]
        for kind, name in _COSTS.items()
        if data["costs"].get(name)
    }
    pairs = [pair | {"cost": round(pair["cost"] * scale / 1000)} for pair in data["costs"].get("overlapped", ())]
    data["costs"] = costed | ({"overlapped": pairs} if pairs else {})
    data["links"]["latency"] = _latencies(problem, trace, tick)
    if problem.bandwidth is not None:
        data["links"]["bandwidth"] = [[max(round(each * 1000 / tick), 1) for each in row] for row in problem.bandwidth]
    if problem.makespan_limit is not None:
        data["limits"]["makespan"] = round(problem.makespan_limit * scale / 1000)
    return Problem.of(data)


def _microseconds(
    found: dict[tuple[Kind, int], Cost], kind: Kind, stage: int, planned: int, scale: Fraction, problem: Problem
) -> int:
    """Return what an operation takes; the forward that a backward repeats is not part of its cost."""
    cost = found.get((kind, stage))
    if cost is None:
        return round(planned * scale / 1000)
    repeated = Fraction(0)
    if problem.recompute[stage] and kind in (Kind.B, Kind.I):
        forward = found.get((Kind.F, stage))
        repeated = Fraction(forward.median) if forward else problem.forward[stage] * scale
    return max(round((cost.median - repeated) / 1000), 1 if planned else 0)


def _latencies(problem: Problem, trace: RunTrace, tick: Fraction) -> list[list[int]]:
    """Return rank by rank the microseconds of latency."""
    quickest: dict[tuple[int, int], Fraction] = {}
    for message, took in _travel_times(problem, trace):
        link = problem.owner_rank[message.source], problem.owner_rank[message.target]
        size = problem.boundary_bytes[message.target if message.backward else message.source]
        occupied = -(-size // problem.bandwidth[link[0]][link[1]]) * tick if problem.bandwidth else Fraction(0)
        quickest[link] = min(quickest.get(link, Fraction(took)), max(took - occupied, Fraction(0)))
    others = min(quickest.values(), default=Fraction(0))
    ranks = range(problem.ranks)
    return [[round(quickest.get((source, target), others) / 1000) for target in ranks] for source in ranks]


def _travel_times(problem: Problem, trace: RunTrace) -> Iterator[tuple[Message, int]]:
    """Yield the messages that crossed, and the nanoseconds from the start of each one's send to its receive's end."""
    for step in trace.steps:
        sent = messages(problem, step, sends=True)
        for message, got in messages(problem, step, sends=False).items():
            if message in sent:
                yield message, max(got.ran.end - sent[message].ran.start, 0)
