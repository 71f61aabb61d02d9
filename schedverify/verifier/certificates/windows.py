"""When the steps of a class can start at all, by the longest paths before and behind them."""

from __future__ import annotations

from schedverify.verifier.certificates.error import EvidenceError
from schedverify.verifier.certificates.rows import Class, Rows


class Windows:
    """By class, the ticks before its first start, and from each start to the end of all that must follow.

    Of a makespan, every rank ends within the ticks in question. Of a span, one rank does on which all the stages stand
    that nothing feeds: its first start is tick 0, and nothing is earlier.

    Attributes
    ----------
    first
        Ticks before the first start.
    rest
        Ticks from a start until all that must follow on the ranks that end in time has ended; None where nothing must.

    Raises
    ------
    EvidenceError
        If there is no such rank for the span.
    """

    def __init__(self, rows: Rows, *, makespan: bool) -> None:
        self.rows, self.problem, self.cost = rows, rows.problem, rows.cost
        ranks = set(range(self.problem.ranks)) if makespan else self._rank_of_the_span()
        self._in_time = {s for s in rows.used if ranks & set(self.problem.placement[s])}
        self._order = self._topological()
        self.first: dict[Class, int] = {}
        self.rest: dict[Class, int | None] = {}
        self._look_back()
        self._look_ahead()

    def _rank_of_the_span(self) -> set[int]:
        sources = [set(self.problem.placement[s]) for s in self.rows.used if not self.problem.predecessors[s]]
        shared = set.intersection(*sources)
        if not shared:
            raise EvidenceError("no rank has all the stages that nothing feeds, so counts bound no span here")
        return {min(shared)}

    def _topological(self) -> list[int]:
        waiting = {s: len(self.problem.predecessors[s]) for s in self.rows.used}
        order = [s for s, count in waiting.items() if not count]
        for stage in order:
            for t in self.problem.successors[stage]:
                waiting[t] -= 1
                order += [] if waiting[t] else [t]
        return order

    def _look_back(self) -> None:
        first, cost, rows = self.first, self.cost, self.rows
        for s in self._order:
            paths = (first["F", a] + cost["F", a] + rows.forward_lag(a, s) for a in self.problem.predecessors[s])
            first["F", s] = max(paths, default=0)
        for s in reversed(self._order) if rows.training else ():
            start = first["F", s] + cost["F", s]
            for a in self.problem.successors[s]:
                soonest = min(first[kind, a] + cost[kind, a] for kind in rows.gradients(a))
                start = max(start, soonest + rows.gradient_lag(a, s))
            first |= {(kind, s): start for kind in rows.gradients(s)}
            first |= {("W", s): start + cost["I", s]} if ("W", s) in cost else {}

    def _look_ahead(self) -> None:
        rest, cost, rows = self.rest, self.cost, self.rows
        for s in self._order if rows.training else ():
            own = 0 if s in self._in_time else None
            rest["W", s] = _later(own, cost.get(("W", s), 0))
            back = [_later(self._quickest(a), rows.gradient_lag(s, a)) for a in self.problem.predecessors[s]]
            for kind in rows.gradients(s):
                rest[kind, s] = _later(_most([*back, own, rest["W", s] if kind == "I" else None]), cost[kind, s])
        for s in reversed(self._order):
            on = [_later(rest["F", t], rows.forward_lag(s, t)) for t in self.problem.successors[s]]
            turn = self._quickest(s) if rows.training else None
            rest["F", s] = _later(_most([*on, turn, 0 if s in self._in_time else None]), cost["F", s])

    def _quickest(self, s: int) -> int | None:
        """Return the ticks from the start of the gradient op of a stage, in the shorter of its forms."""
        ways = [self.rest[kind, s] for kind in self.rows.gradients(s)]
        return None if None in ways else min(way for way in ways if way is not None)


def _later(ticks: int | None, more: int) -> int | None:
    return None if ticks is None else ticks + more


def _most(ways: list[int | None]) -> int | None:
    return max((way for way in ways if way is not None), default=None)
