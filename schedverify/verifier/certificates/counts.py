"""Checks the evidence of the count rule: prices that no schedule within the ticks in question could pay.

The evidence gives rows (see :mod:`~schedverify.verifier.certificates.rows`) weights at each tick, zero or more. Summed
over rows and ticks, the weighted left sides are at most the **budget**, the weighted limits. Regrouped by operation,
the left side is what each start adds to it, its **price**, which depends on its class and its tick alone. If even the
cheapest ticks within the windows of the classes (:class:`Windows`) cost more in all than the budget, no schedule ends
within the ticks in question. All of it is whole numbers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from schedverify.verifier.certificates.derivation import Derivation, EvidenceError, SilentEvidenceError
from schedverify.verifier.certificates.rows import Class, Rows, is_count

MOST_CHANGES: Final = 2_000_000
"""The most changes of slope over all prices: a few seconds of checking."""


def counted_bound(known: Derivation, certificate: Mapping[str, Any]) -> int:
    """Return the bound that the certificate states, if its weights show that everything below is impossible.

    All times of an earliest timeline are multiples of the greatest common divisor of durations and lags, so the ticks
    in question are the largest such multiple below the bound. That is so for the span too, although a first step may
    wait until any tick: on the rank of :class:`Windows` all begins, and from there on the earliest timeline is the one
    that is done there first.

    Raises
    ------
    EvidenceError
        If a row is none of this problem, times or weights are no such, or the weights show nothing.
    """
    bound, weighed = certificate.get("bound"), certificate.get("rows")
    if not is_count(bound) or not isinstance(weighed, list | tuple):
        raise EvidenceError("the rule counts states a bound and gives rows")
    rows = Rows(known.problem, known.ceiling)
    prices = _Prices(rows)
    budget = sum(prices.weigh(row) for row in weighed)
    unit = _unit(rows)
    ticks = (int(bound or 0) - 1) // unit * unit
    least = prices.least(Windows(rows, makespan=known.makespan), ticks)
    if least <= budget:
        raise EvidenceError(f"its weights rule out no schedule of {ticks} ticks: {least} is due, {budget} is there")
    return int(bound or 0)


def _unit(rows: Rows) -> int:
    problem = rows.problem
    edges = [(a, b) for b in rows.used for a in problem.predecessors[b]]
    lags = [problem.forward_lag(a, b) for a, b in edges] + [problem.backward_lag(b, a) for a, b in edges]
    return math.gcd(*rows.cost.values(), *lags) or 1


class _Prices:
    """By class, the price of a start at every tick: its value long before all weights, and the changes of its slope."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.value: dict[Class, int] = defaultdict(int)
        self.slope: dict[Class, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        self.changes = 0

    def weigh(self, row: object) -> int:
        """Add one row with its weights, and return its share of the budget.

        A start at u is counted at t from ``u + delay`` on, so it pays the factor times all weights from there on.
        """
        if not isinstance(row, Mapping):
            raise EvidenceError("a row names itself, its place, times and weights")
        terms, limit = self.rows.row(row.get("row"), row.get("at"))
        times, weights = _runs(row.get("times"), row.get("weights"))
        self.changes += 2 * len(weights) * len(terms)
        if self.changes > MOST_CHANGES:
            raise SilentEvidenceError(f"its prices change more than {MOST_CHANGES} times, which is too long to check")
        total = sum(weight * (end - begin) for (begin, end), weight in zip(pairwise(times), weights, strict=True))
        for each, factor, delay in terms:
            self.value[each] += factor * total
            slope = self.slope[each]
            for (begin, end), weight in zip(pairwise(times), weights, strict=True):
                slope[begin - delay] -= factor * weight
                slope[end - delay] += factor * weight
        return limit * total

    def least(self, windows: Windows, ticks: int) -> int:
        """Return the least that all starts together must pay if everything ends within these ticks.

        Each micro-batch on a stage has one F, and either one B, or one I and one W.
        """
        due = 0
        for stage in self.rows.used:
            forms = ["IW" if kind == "I" else kind for kind in self.rows.gradients(stage)]
            ways = [sum(self._cheapest((kind, stage), windows, ticks) for kind in form) for form in forms]
            forward = self._cheapest(("F", stage), windows, ticks)
            due += self.rows.problem.microbatch_counts[stage] * (forward + min(ways, default=0))
        return due

    def _cheapest(self, each: Class, windows: Windows, ticks: int) -> int:
        """Return the least price of a start within the window; one that may wait for ever can start for nothing."""
        first, rest = windows.first[each], windows.rest[each]
        last = None if rest is None else max(first, ticks - rest)
        at, price, slope = first, self.value[each], 0
        changes = sorted(self.slope[each].items())
        for tick, change in changes:
            if tick < first:
                slope += change
                price += change * (first - tick)
        least = price
        for tick, change in changes:
            if tick >= first and (last is None or tick <= last):
                price += slope * (tick - at)
                at, slope, least = tick, slope + change, min(least, price)
        return min(least, 0) if last is None else min(least, price + slope * (last - at))


def _runs(times: object, weights: object) -> tuple[Sequence[int], Sequence[int]]:
    """Take the times at which weights begin, and at last the time at which the last of them ends."""
    if not isinstance(times, list | tuple) or not isinstance(weights, list | tuple):
        raise EvidenceError("a row has times and weights")
    if len(times) != len(weights) + 1 or not all(map(is_count, [*times, *weights])):
        raise EvidenceError("a row has whole weights from 0 on, and one more times than weights")
    if any(begin >= end for begin, end in pairwise(times)):
        raise EvidenceError("the times of a row rise")
    return times, weights


class Windows:
    """By class, the ticks before its first start, and from each start to the end of all that must follow.

    Of a makespan, every rank ends within the ticks in question. Of a span, one rank does on which all the stages stand
    that nothing feeds: its first start is tick 0, and nothing is earlier. The others end in time by clocks of their
    own, which may start later, and say nothing here.

    Attributes
    ----------
    first
        Ticks before the first start.
    rest
        Ticks from a start until all that must follow on the ranks that end in time has ended; None where nothing must.

    Raises
    ------
    SilentEvidenceError
        If there is no such rank for the span.
    """

    def __init__(self, rows: Rows, *, makespan: bool) -> None:
        self.rows, self.problem, self.cost = rows, rows.problem, rows.cost
        ranks = set(range(self.problem.ranks)) if makespan else self._rank_of_the_span()
        self._in_time = {s for s in rows.used if ranks & set(self.problem.placement[s])}
        self._order = [s for s in self.problem.topological_order if s in rows.used]
        self.first: dict[Class, int] = {}
        self.rest: dict[Class, int | None] = {}
        self._look_back()
        self._look_ahead()

    def _rank_of_the_span(self) -> set[int]:
        sources = [set(self.problem.placement[s]) for s in self.rows.used if not self.problem.predecessors[s]]
        shared = set.intersection(*sources)
        if not shared:
            raise SilentEvidenceError("no rank has all the stages that nothing feeds, so counts bound no span here")
        return {min(shared)}

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
