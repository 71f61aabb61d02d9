"""Whether a run followed its plan: the order on each rank, each hand-over, and what was in flight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

import numpy as np

from schedverify.conformance.dependency_check import early_steps, ops_of
from schedverify.core.messages import named
from schedverify.core.op import Kind, Op, unpack
from schedverify.core.problem import Problem
from schedverify.core.result import Lowered
from schedverify.core.schedule import Schedule
from schedverify.core.trace import RunTrace, StepSpan

_MOST_REPORTED: Final = 50


class Departure(NamedTuple):
    """One thing in which a run did not follow its plan."""

    what: str
    """``order``, ``hand-over`` or ``in flight``."""
    step: int
    """The step of training, from 0."""
    rank: int
    position: int | None
    message: str

    def __str__(self) -> str:
        return f"step {self.step}, {self.message}"


def departures(plan: Lowered | Schedule, problem: Problem, trace: RunTrace, most: Sequence[int]) -> list[Departure]:
    """Return where a run did not follow a schedule; the first :data:`_MOST_REPORTED` of each step of training.

    Parameters
    ----------
    plan
        The lowered schedule, with the discipline of its queues; or an order of compute, where the runtime puts the
        communication in: then what it sends and receives may stand anywhere.
    most
        By rank, the micro-batches that may be in flight.
    """
    found: list[Departure] = []
    for number, step in enumerate(trace.steps):
        early = early_steps(problem, step, trace.errors)
        if isinstance(plan, Lowered):
            schedule, ran, transfers = plan.schedule, list(step), transfer_faults(problem, step, plan.discipline)
        else:
            schedule, ran, transfers = plan, _computing(step), iter(())
        in_step = [
            *(Departure("order", number, *fault) for fault in _order_faults(schedule, ran)),
            *(Departure("order", number, *fault) for fault in transfers),
            *(Departure("hand-over", number, ran.rank, ran.position, message) for ran, message in early),
            *(Departure("in flight", number, *fault) for fault in _in_flight_faults(problem, step, most)),
        ]
        found += in_step[:_MOST_REPORTED]
    return found


def _computing(step: Sequence[StepSpan]) -> list[StepSpan]:
    """Return what computed in a step of training, with the position of each in the rank's order of compute."""
    found: list[StepSpan] = []
    for rank in sorted({ran.rank for ran in step}):
        row = [ran for ran in step if ran.rank == rank and ops_of(ran.step)[0].kind.is_compute]
        row.sort(key=lambda ran: ran.position)
        found += [ran._replace(position=position) for position, ran in enumerate(row)]
    return found


def peaks(problem: Problem, step: Sequence[StepSpan]) -> list[int]:
    """Return by rank the most pairs of stage and micro-batch in flight (semantics, SV401).

    A pair is in flight from the start of its F to the end of its B or I; in inference to the end of its F.
    """
    inference = problem.form == "inference"
    changes: list[list[tuple[int, int, int]]] = [[] for _ in range(problem.ranks)]
    for ran in step:
        for op in ops_of(ran.step):
            if op.kind is Kind.F:
                changes[ran.rank].append((ran.start, ran.position, 1))
            if op.kind in (Kind.B, Kind.I) or (inference and op.kind is Kind.F):
                changes[ran.rank].append((ran.end, ran.position, -1))
    return [_most(each) for each in changes]


def _most(changes: list[tuple[int, int, int]]) -> int:
    """Return the highest count, with changes of one moment in the order of their positions, begins before ends."""
    in_order = sorted(changes, key=lambda change: (change[0], change[1], -change[2]))
    return max(accumulate(by for _, _, by in in_order), default=0)


def _order_faults(schedule: Schedule, step: Sequence[StepSpan]) -> Iterator[tuple[int, int | None, str]]:
    """Yield rank, position and message of what ran elsewhere than planned, twice, never, or before its predecessor."""
    for rank, planned in enumerate(schedule.strings()):
        spans = [span for span in step if span.rank == rank]
        ran = {span.position: span for span in spans}
        if len(ran) < len(spans):
            yield rank, None, f"rank {rank}: a position ran twice"
        for position, text in enumerate(planned):
            if position not in ran:
                yield rank, position, f"rank {rank}, position {position} ({text}): never ran"
            elif ran[position].step != text:
                yield rank, position, f"rank {rank}, position {position} ({text}): {ran[position].step} ran there"
        for position in sorted(set(ran) - set(range(len(planned)))):
            yield rank, position, f"rank {rank}, position {position} ({ran[position].step}): the plan ends before it"
        computed = [span for _, span in sorted(ran.items()) if ops_of(span.step)[0].kind.is_compute]
        for before, after in pairwise(computed):
            if after.start < before.end:
                place = f"rank {rank}, position {after.position} ({after.step})"
                yield rank, after.position, f"{place}: began before {before.step} had ended"


def transfer_faults(
    problem: Problem, step: Sequence[StepSpan], discipline: str
) -> Iterator[tuple[int, int | None, str]]:
    """Yield rank, position and message of each transfer that began before what stands in front of it.

    In front stand the last step of the rank that computes, which has ended, and the last transfer of the same queue,
    which has begun. Whether a transfer begins where its rank posts it or where it goes through its queue, both hold.
    """
    for rank in range(problem.ranks):
        computed: StepSpan | None = None
        last: dict[object, StepSpan] = {}
        for span in sorted((span for span in step if span.rank == rank), key=lambda span: span.position):
            ops = ops_of(span.step)
            if not ops[0].kind.is_transfer:
                computed = span if ops[0].kind.is_compute else computed
                continue
            place = f"rank {rank}, position {span.position} ({span.step})"
            if computed is not None and span.start < computed.end:
                yield rank, span.position, f"{place}: began before {computed.step} had ended"
            queues = set(_queues(problem, ops, rank, discipline))
            for before in {last[queue] for queue in queues if queue in last}:
                if span.start < before.start:
                    yield rank, span.position, f"{place}: began before {before.step}, which stands in front of it"
            last |= dict.fromkeys(queues, span)


def _queues(problem: Problem, ops: Sequence[Op], rank: int, discipline: str) -> Iterator[object]:
    """Yield the queue of each transfer of a step (semantics, section 4); a receive under ``tagged`` has none."""
    for op, word in zip(ops, named(np.array([op.pack() for op in ops], dtype=np.int64), problem).tolist(), strict=True):
        peer = unpack(word).peer
        other = None if peer is None or peer >= problem.total_stages else problem.owner_rank[peer]
        if discipline in ("rank", "block"):
            yield rank
        elif discipline == "pair":
            yield other
        elif discipline != "tagged" or op.kind.is_send:
            yield other, op.kind.is_send


def _in_flight_faults(
    problem: Problem, step: Sequence[StepSpan], most: Sequence[int]
) -> Iterator[tuple[int, None, str]]:
    for rank, (found, allowed) in enumerate(zip(peaks(problem, step), most, strict=True)):
        if found > allowed:
            yield rank, None, f"rank {rank}: {found} micro-batches were in flight, the plan has at most {allowed}"
