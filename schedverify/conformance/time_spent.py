"""Where the time of a step of training went: along what each step waited for, from the last end back to the begin.

The last step to end began when its rank was free and what it reads was there; whichever came last led to it, and so
back to the first begin. What lies on this way adds up to the makespan: compute, messages, and gaps in which a rank
stood though nothing was missing. Beside each stands what it would take with the measured costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from schedverify.conformance.dependency_check import Message, RanOp, messages, operands, ops_of
from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.core.trace import StepSpan

KINDS = ("compute", "message", "gap")


class Stretch(NamedTuple):
    """A part of the way. Times are nanoseconds.

    Attributes
    ----------
    what
        ``compute``, ``message`` or ``gap``.
    rank, position, step
        What computed; behind a message or a gap, what began then.
    took, predicted
        What it took, and would take with the measured costs: a gap nothing.
    source
        Of a message the step that made it, of a gap the rank's transfer that took most of it; else empty.
    unsent
        Of a message, how long after the end of what made it its send began.
    """

    what: str
    rank: int
    position: int
    step: str
    took: int
    predicted: int
    source: str = ""
    unsent: int = 0

    @property
    def more(self) -> int:
        """By how much it took longer than predicted."""
        return self.took - self.predicted

    def __str__(self) -> str:
        took = f"{_ms(self.took)} ms"
        if self.what == "compute":
            return f"rank {self.rank}: {self.step} took {took}, with measured costs {_ms(self.predicted)}"
        if self.what == "gap":
            meanwhile = f"; {self.source} ran meanwhile" if self.source else ""
            return f"rank {self.rank}: {took} in front of {self.step}, for which nothing was missing{meanwhile}"
        unsent = f"{_ms(self.unsent)} until it was sent, {_ms(self.took - self.unsent)} on its way"
        return f"rank {self.rank}: {self.step} waited {took} for what {self.source} had made: {unsent}"


@dataclass(frozen=True)
class TimeSpent:
    """Where the time of one step of training went. Times are nanoseconds.

    Attributes
    ----------
    number
        Which step of training it is: that of the median makespan.
    stretches
        The way to its last end, in the order of time; together they take its makespan.
    """

    number: int
    stretches: tuple[Stretch, ...]

    @property
    def makespan(self) -> int:
        """What all stretches took."""
        return sum(each.took for each in self.stretches)

    def took(self, what: str, rank: int | None = None) -> int:
        """Return what the stretches of a kind took, on all ranks or on one."""
        return sum(each.took for each in self._of(what, rank))

    def predicted(self, what: str, rank: int | None = None) -> int:
        """Return what the stretches of a kind would take with the measured costs, on all ranks or on one."""
        return sum(each.predicted for each in self._of(what, rank))

    def longest(self, count: int) -> list[Stretch]:
        """Return the stretches that took most beyond what was predicted, at most ``count``."""
        late = [each for each in self.stretches if each.more > 0]
        return sorted(late, key=lambda each: -each.more)[:count]

    def _of(self, what: str, rank: int | None) -> Iterator[Stretch]:
        return (each for each in self.stretches if each.what == what and rank in (None, each.rank))


def time_spent(problem: Problem, costs: Problem, number: int, step: Sequence[StepSpan]) -> TimeSpent:
    """Return where the time of a step of training went.

    Parameters
    ----------
    costs
        The problem with the measured costs, in microseconds.
    number, step
        Which step of training it is, and what ran in it.
    """
    return TimeSpent(number, tuple(_Way(problem, costs, step).back())[::-1])


class _Cause(NamedTuple):
    """What a step waited for: when it was there, the step behind it, and the message that brought it, if one did."""

    ready: int
    ran: StepSpan | None
    message: Message | None = None


class _Way:
    """A step of training, and what each of its steps could have waited for."""

    def __init__(self, problem: Problem, costs: Problem, step: Sequence[StepSpan]) -> None:
        self.problem, self.costs = problem, costs
        self.sends, self.receives = messages(problem, step, sends=True), messages(problem, step, sends=False)
        computed = sorted((ran for ran in step if ops_of(ran.step)[0].kind.is_compute), key=lambda ran: ran[:2])
        self.transfers = [ran for ran in step if ops_of(ran.step)[0].kind.is_transfer]
        self.begin = min((ran.start for ran in computed), default=0)
        self.last = max(computed, key=lambda ran: ran.end, default=None)
        self.before = {ran: prior for prior, ran in pairwise(computed) if prior[0] == ran[0]}
        self.made: dict[Op, StepSpan] = {}
        for ran in computed:
            for op in ops_of(ran.step):
                self.made[op] = max(self.made.get(op, ran), ran, key=lambda each: each.end)

    def back(self) -> Iterator[Stretch]:
        """Yield the stretches from the last end back to the begin; a step of a run in disorder stands once."""
        ran, seen = self.last, set[StepSpan]()
        while ran is not None:
            seen.add(ran)
            yield self._compute(ran)
            causes = [cause for cause in self._causes(ran) if cause.ran not in seen]
            cause = max(causes, key=lambda cause: cause.ready, default=_Cause(self.begin, None))
            if ran.start != cause.ready:
                gap, meanwhile = ran.start - cause.ready, self._meanwhile(ran.rank, cause.ready, ran.start)
                yield Stretch("gap", ran.rank, ran.position, ran.step, gap, 0, meanwhile)
            if cause.message is not None and cause.ran is not None:
                yield self._crossing(ran, cause.ran, cause.message, cause.ready)
            ran = cause.ran

    def _meanwhile(self, rank: int, begin: int, end: int) -> str:
        """Return the transfer of a rank that took most of the time between two moments; empty without one."""
        during = {ran.step: min(ran.end, end) - max(ran.start, begin) for ran in self.transfers if ran.rank == rank}
        longest = max(during, key=during.__getitem__, default="")
        return longest if during.get(longest, 0) > 0 else ""

    def _compute(self, ran: StepSpan) -> Stretch:
        ops = ops_of(ran.step)
        known = all(op.stage < self.costs.total_stages for op in ops)
        predicted = self.costs.step_duration(ops) * 1000 if known else 0
        return Stretch("compute", ran.rank, ran.position, ran.step, ran.end - ran.start, predicted)

    def _crossing(self, reader: StepSpan, source: StepSpan, message: Message, ready: int) -> Stretch:
        sent, lag = self.sends.get(message), self.costs.backward_lag if message.backward else self.costs.forward_lag
        unsent = 0 if sent is None else min(max(sent.ran.start - source.end, 0), max(ready - source.end, 0))
        return Stretch(
            "message", reader.rank, reader.position, reader.step, ready - source.end,
            lag(message.source, message.target) * 1000, source.step, unsent,
        )  # fmt: skip

    def _causes(self, ran: StepSpan) -> Iterator[_Cause]:
        """Yield what a step could have waited for: the step in front of it on its rank, and all that it reads."""
        front = self.before.get(ran)
        if front is not None:
            yield _Cause(front.end, front)
        for op in ops_of(ran.step):
            for operand in operands(self.problem, op):
                source = self.made.get(operand)
                if source is None or source is ran:
                    continue
                message = Message(operand.stage, op.stage, op.microbatch, operand.kind is not Kind.F)
                receive = self.receives.get(message)
                if source.rank == ran.rank or receive is None:
                    yield _Cause(source.end, source)
                else:
                    yield _Cause(self._came(receive, ran), source, message)

    def _came(self, receive: RanOp, reader: StepSpan) -> int:
        """Return when a message was there: a group ends with its last member, which may not be the one that is read."""
        return min(receive.ran.end, reader.start) if len(ops_of(receive.ran.step)) > 1 else receive.ran.end


def lines_of(spent: TimeSpent, most: int = 5) -> Iterator[str]:
    """Yield the text: totals by kind, the stretches that took most beyond what was predicted, and that by rank."""
    yield f"  where the {_ms(spent.makespan)} ms of step {spent.number} went, back along what each step waited for:"
    yield "            took ms  with measured costs     more"
    for what in KINDS:
        took, predicted = spent.took(what), spent.predicted(what)
        name = {"compute": "compute", "message": "messages", "gap": "gaps"}[what]
        yield f"  {name:<8}  {_ms(took):>7}  {_ms(predicted):>19}  {_ms(took - predicted):>7}"
    for each in spent.longest(most):
        yield f"    +{_ms(each.more)} ms  {each}"
    for rank in sorted({each.rank for each in spent.stretches if each.more > 0}):
        more = [f"{what} {_ms(spent.took(what, rank) - spent.predicted(what, rank))}" for what in KINDS]
        yield f"    more on rank {rank}, ms: {', '.join(more)}"


def data_of_spent(spent: TimeSpent) -> dict[str, object]:
    """Return the same for programs; times are nanoseconds."""
    totals = {what: {"took": spent.took(what), "predicted": spent.predicted(what)} for what in KINDS}
    return {"step": spent.number, **totals, "stretches": [each._asdict() for each in spent.stretches]}


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.3f}"
