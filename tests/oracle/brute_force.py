"""The truth about tiny problems: a search of every order of every rank, with no symmetry argument.

Written from the law (``Law`` and ``Clock`` of the oracle, which share no code with schedverify), it takes nothing from
the optimizer. The search begins with nothing done and appends one operation after another, on all its ranks at once,
wherever its inputs are done, its limits admit it, and (for the backward) the other form is not taken. An appended
operation starts when its ranks are free and its inputs have arrived. So every sequence of appended operations that does
not contradict itself is met, hence every order of every rank that can run to its end (such orders have at least one
such sequence), and its times are those of its timeline, each step as early as the order lets it start: a step that
begins late does so because the order or an input makes it.

A *state* is the set of operations done (with the form of each backward) and some numbers. What can follow depends on
the set alone, and so does what each rank holds, because memory changes at the rank's own steps. The numbers are

- for each step that is not done, the earliest start that the steps done allow: the latest of the ends on its ranks and
  the arrivals of the inputs that are done. No other time matters to what follows.
- the peak so far, and the latest end of the ranks that have ended.

Two states with one set are kept both unless one is nowhere greater than the other; then the greater is dropped. Nothing
is lost, because the same operations may follow on both: every later start and end is a maximum of sums of these
numbers, which rises with each of them, so nothing ends later in what is kept; the peak is the greater of the peak so
far and what follows, which is the same. The span, in which first steps may wait, has numbers of its own:
:mod:`brute_force_spans`.

:func:`first_in_first_out` and :func:`first_in_first_out_span` are the same search over fewer orders: the steps of one
stage and kind (B and I count as one) take the micro-batches of one copy, and of one part of the sequence, in rising
order.

Overlapped pairs and channel buffers are not looked at, nor is the makespan limit, but for that of :func:`span_within`.
"""

from __future__ import annotations

from operator import itemgetter, le
from typing import NamedTuple

from oracle.brute_force_moves import PEAK, WORST, Move, Moves
from oracle.brute_force_spans import least_span
from oracle.law import Op
from schedverify.core.problem import Problem

Numbers = tuple[int, ...]
"""Peak so far, worst of the ranks that ended, nothing by rank, earliest start by step."""

Trace = tuple[Op, "Trace"] | None
"""The operations of a state, the last one first."""

State = tuple[Numbers, Trace]
_MAKESPAN, _TRADE_OFF = "makespan", "trade-off"


class Truth(NamedTuple):
    """What all the orders of a problem come to.

    Attributes
    ----------
    trade_off
        ``(peak memory, makespan)`` of the orders that no other beats in both, by rising peak. Empty where no order
        keeps the limits. The peak is that of the rank that holds most, its static bytes included.
    span
        The least span; None where no order keeps the limits.
    rows
        By objective, orders that reach it, as rows of texts.
    """

    trade_off: tuple[tuple[int, int], ...]
    span: int | None
    rows: dict[str, list[list[str]]]

    @property
    def feasible(self) -> bool:
        """Whether any order keeps the limits."""
        return bool(self.trade_off)

    @property
    def makespan(self) -> int | None:
        """The least makespan."""
        return self.trade_off[-1][1] if self.trade_off else None

    @property
    def peak(self) -> int | None:
        """The least peak memory."""
        return self.trade_off[0][0] if self.trade_off else None

    @property
    def makespan_of_least_peak(self) -> int | None:
        """The least makespan among the orders of the least peak memory."""
        return self.trade_off[0][1] if self.trade_off else None

    @property
    def peak_of_least_makespan(self) -> int | None:
        """The least peak memory among the orders of the least makespan."""
        return self.trade_off[-1][0] if self.trade_off else None

    def peak_within(self, makespan: int) -> int | None:
        """Return the least peak memory of the orders that end by a tick; None where none does."""
        return min((peak for peak, ticks in self.trade_off if ticks <= makespan), default=None)

    def value(self, objective: str) -> int | None:
        """Return the least makespan, span or peak memory, by the name of the objective."""
        return {"makespan": self.makespan, "span": self.span, "peak-memory": self.peak}[objective]


def brute_force(problem: Problem) -> Truth:
    """Return what all orders of a problem come to."""
    moves = Moves(problem.to_dict())
    front: list[tuple[tuple[int, int], Trace]] = []
    for numbers, trace in sorted(_ended(moves, _TRADE_OFF), key=itemgetter(0)):
        if not front or numbers[WORST] < front[-1][0][1]:
            front.append(((numbers[PEAK], numbers[WORST]), trace))
    found = {"peak-memory": front[0][1], "makespan": front[-1][1]} if front else {}
    span, found["span"] = least_span(moves)
    return Truth(
        trade_off=tuple(values for values, _ in front),
        span=span,
        rows={objective: _rows(moves, trace) for objective, trace in found.items() if front},
    )


def span_within(problem: Problem, makespan: int) -> int | None:
    """Return the least span of the orders whose earliest timeline ends by a tick; None where none does."""
    return least_span(Moves(problem.to_dict()), makespan)[0]


def first_in_first_out_span(problem: Problem, makespan: int | None = None) -> int | None:
    """Return the least span of the orders that go first in, first out, and end by a tick; None where none does."""
    return least_span(Moves(problem.to_dict(), fifo=True), makespan)[0]


def first_in_first_out(problem: Problem) -> int | None:
    """Return the least makespan of the orders that go first in, first out; None where none of them keeps the limits."""
    ended = _ended(Moves(problem.to_dict(), fifo=True), _MAKESPAN)
    return min((numbers[WORST] for numbers, _ in ended), default=None)


def _ended(moves: Moves, what: str) -> list[State]:
    """Return the states that are kept in which everything is done."""
    peak = max(moves.law.static) if what == _TRADE_OFF else 0
    layer: dict[int, list[State]] = {0: [((peak, *[0] * (1 + moves.law.ranks + len(moves.place))), None)]}
    found: list[State] = []
    while layer:
        following: dict[int, list[State]] = {}
        for done, states in layer.items():
            found += states if moves.all_done(done) else []
            for move in moves.from_set(done):
                for numbers, trace in states:
                    _keep(following.setdefault(move.done, []), (_run(move, numbers, what), (move.op, trace)))
        layer = following
    return found


def _run(move: Move, numbers: Numbers, what: str) -> Numbers:
    """Return the numbers once an operation is appended."""
    after = list(numbers)
    start = after[move.start]
    end = start + move.cost
    for place in move.cleared:
        after[place] = 0
    for place in move.busy:
        after[place] = max(after[place], end)
    for place, lag in move.fed:
        after[place] = max(after[place], end + lag)
    if what == _TRADE_OFF:
        after[PEAK] = max(after[PEAK], move.peak)
    if move.ended:
        after[WORST] = max(after[WORST], end)
    return tuple(after)


def _keep(front: list[State], state: State) -> None:
    """Add a state to those with the same set, unless one is nowhere greater; drop those that are nowhere smaller."""
    numbers = state[0]
    if any(all(map(le, other, numbers)) for other, _ in front):
        return
    front[:] = [kept for kept in front if not all(map(le, numbers, kept[0]))]
    front.append(state)


def _rows(moves: Moves, trace: Trace) -> list[list[str]]:
    """Return the orders of a state."""
    rows: list[list[str]] = [[] for _ in range(moves.law.ranks)]
    while trace is not None:
        op, trace = trace
        for rank in moves.law.ranks_of[op.stage]:
            rows[rank].insert(0, f"{op.stage}{op.kind}{op.microbatch}")
    return rows
