"""What each rank waited for while it computed nothing: a peer, a send, or its own work.

Between two compute steps a rank waits for a **peer** until the peer has computed what the next one reads; then for a
**send** until that message is there, and in each ``WAIT_SEND``. What is left is its **own** work: nothing
was missing, or the rank had not come yet to wait for it, since it launched, posted messages or reduced gradients.
Behind its last step it waits for its peers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from schedverify.conformance.dependency_check import Message, RanOp, messages, operands, ops_of
from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.core.trace import StepSpan

CAUSES = ("peer", "send", "own")


class RankTime(NamedTuple):
    """What a rank did in one step of training, from its first begin to its last end on any rank; nanoseconds."""

    rank: int
    computes: int
    peer: int
    """Idle until a peer had computed what it reads, or behind its last step."""
    send: int
    """Idle until a message was there, or until one of its own had left."""
    own: int
    """Idle though nothing was missing."""

    @property
    def idle(self) -> int:
        """The whole bubble of the rank."""
        return self.peer + self.send + self.own


class _Gap(NamedTuple):
    """An idle stretch of a rank: until when a peer computed, and from when to when the rank waited for a message."""

    start: int
    made: int
    waits: int
    came: int
    end: int


def rank_times(problem: Problem, step: Sequence[StepSpan]) -> list[RankTime]:
    """Return by rank where the time of a step of training went."""
    computed = sorted(
        (ran for ran in step if ops_of(ran.step)[0].kind.is_compute), key=lambda ran: (ran.start, ran.end)
    )
    if not computed:
        return [RankTime(rank, 0, 0, 0, 0) for rank in range(problem.ranks)]
    made = {op: ran for ran in sorted(computed, key=lambda ran: ran.end) for op in ops_of(ran.step)}
    receives = messages(problem, step, sends=False)
    window = min(ran.start for ran in computed), max(ran.end for ran in computed)
    found = []
    for rank in range(problem.ranks):
        row = [ran for ran in computed if ran.rank == rank]
        waits = [(ran.start, ran.end) for ran in step if ran.rank == rank and ops_of(ran.step)[0].kind.is_send_wait]
        gaps = list(_gaps(row, window, lambda ran: _ready(problem, ran, window[0], made, receives)))
        idle = sum(gap.end - gap.start for gap in gaps)
        peer = sum(gap.made - gap.start for gap in gaps)
        send = sum(gap.came - gap.waits + _inside(waits, gap.came, gap.end) for gap in gaps)
        found.append(RankTime(rank, window[1] - window[0] - idle, peer, send, idle - peer - send))
    return found


def _gaps(
    row: Sequence[StepSpan], window: tuple[int, int], ready: Callable[[StepSpan], tuple[int, int]]
) -> Iterator[_Gap]:
    """Yield the idle stretches of a rank, with what each waited for within it."""
    free, last = window
    for ran in row:
        if ran.start > free:
            made, came = ready(ran)
            made = min(max(made, free), ran.start)
            came = min(max(came, made), ran.start)
            yield _Gap(free, made, min(max(made, ran.came or made), came), came, ran.start)
        free = max(free, ran.end)
    if free < last:
        yield _Gap(free, last, last, last, last)


def _ready(
    problem: Problem, ran: StepSpan, begin: int, made: dict[Op, StepSpan], receives: dict[Message, RanOp]
) -> tuple[int, int]:
    """Return when all that a step reads from other ranks was made, and when it was there; ``begin`` without any."""
    ends, arrivals = [begin], [begin]
    for op in ops_of(ran.step):
        for operand in operands(problem, op):
            source = made.get(operand)
            if source is None or source.rank == ran.rank:
                continue
            receive = receives.get(Message(operand.stage, op.stage, op.microbatch, operand.kind is not Kind.F))
            ends.append(source.end)
            arrivals.append(ran.start if receive is None else receive.ran.end)
    return max(ends), max(arrivals)


def _inside(spans: Sequence[tuple[int, int]], start: int, end: int) -> int:
    """Return how much of a stretch lies in spans that do not overlap."""
    return sum(max(min(until, end) - max(begin, start), 0) for begin, until in spans)


def data_of_ranks(times: Sequence[RankTime]) -> list[dict[str, int]]:
    """Return the same for programs; times are nanoseconds."""
    return [each._asdict() for each in times]


def lines_of_ranks(times: Sequence[RankTime]) -> Iterator[str]:
    """Yield the text: of each rank what it computed and what it waited for, in milliseconds."""
    yield "  rank  computes ms   waits for a peer   for a send   for its own work"
    for each in times:
        numbers = (f"{each.computes / 1e6:>11.3f}", f"{each.peer / 1e6:>16.3f}", f"{each.send / 1e6:>10.3f}",
                   f"{each.own / 1e6:>16.3f}")  # fmt: skip
        yield f"  {each.rank:>4}  {'   '.join(numbers)}"
