"""Derives a claimed idle time of a rank again: what its limits leave undone before a gradient and after the last F."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from schedverify.verifier.certificates.derivation import Derivation, SilentEvidenceError


class _HeldLimits(NamedTuple):
    """Something of which a rank may hold many at once.

    Attributes
    ----------
    size
        Bytes of one.
    flying
        1 if each is a micro-batch in flight, else 0.
    ticks
        What is still to be done for one.
    number
        The most that there can be at once.
    """

    size: int
    flying: int
    ticks: int
    number: int


def proved_idle(known: Derivation, certificate: Mapping[str, Any]) -> int:
    """Return the work of a rank and the idle time that its limits force on it, around its first gradient and last F.

    Raises
    ------
    EvidenceError
        If the rank is none of the problem's.
    SilentEvidenceError
        If there is no backward.
    """
    rank = known.index(certificate.get("rank"), known.problem.ranks, "rank")
    stages = [s for s in known.problem.stages_of[rank] if known.passing[s]]
    if not known.training:
        raise SilentEvidenceError("without a backward nothing is held")
    return _Idle(known, rank, stages).ticks() if stages else 0


class _Idle:
    """The two halves of the argument on one rank."""

    def __init__(self, known: Derivation, rank: int, stages: list[int]) -> None:
        self.known, self.problem, self.rank, self.stages = known, known.problem, rank, stages

    def ticks(self) -> int:
        """All work, behind the idle time before the first gradient op; or with what the last F must still wait for."""
        known, problem = self.known, self.problem
        work = sum(known.passing[s] * (problem.forward[s] + known.backward(s)) for s in self.stages)
        turned = min(self._gradient_from(s) for s in self.stages)
        arrivals = {known.head[s] for s in self.stages} if known.makespan else set()
        ahead = max((self._idle_before(tick) for tick in arrivals if tick <= turned), default=0)
        begin = max(ahead, self._idle_before(turned))
        left = self._most([*(self._flying(s, known.backward(s)) for s in self.stages), *self._waiting()])
        lasts = [s for s in self.stages if not any(known.way(s, t) for t in self.stages if t != s)]
        ahead = ahead if self._hold_all() else begin
        return work + max(begin, ahead - left + min(self._behind(s) - problem.forward[s] for s in lasts))

    def _idle_before(self, tick: int) -> int:
        """How long the rank idles before a tick at which no gradient op has started: only what arrived earlier runs."""
        forwards = []
        for s in self.stages:
            arrived = not self.known.makespan or self.known.head[s] < tick
            forwards.append(self._flying(s, self.problem.forward[s] * arrived))
        return tick - self._most(forwards)

    def _gradient_from(self, s: int) -> int:
        """When a gradient op of s can start at the earliest: from tick 0, or from the first F of the rank.

        From that F on in every timeline, however long the rank waited: a micro-batch that comes to s by way of another
        stage t of the rank had its F there first.
        """
        if self.known.makespan:
            return self.known.head[s] + self.known.until_gradient(s)
        ways = [self.known.way(t, s) for t in self.stages if t != s]
        return max([0, *(way[0] for way in ways if way)]) + self.known.until_gradient(s)

    def _behind(self, s: int) -> int:
        """What must come after the start of an F of s: its gradient op, and what that one's gradient leads to.

        For the span only what it leads to on this rank, which ends when this rank does.
        """
        known = self.known
        ends = [known.backward(s)]
        for t in range(self.problem.total_stages) if known.makespan else self.stages:
            way = known.way(t, s) if t != s else None
            ends += [known.gradient(s) + way[1]] if way else []
        return known.until_gradient(s) + max(ends)

    def _flying(self, s: int, ticks: int) -> _HeldLimits:
        saved_bytes = self.problem.saved_activation_bytes[s]
        alone = [self.known.passing[s]]
        alone += [self.problem.in_flight[self.rank]] if self.problem.in_flight is not None else []
        alone += [self.problem.in_flight_stage[s]] if self.problem.in_flight_stage is not None else []
        alone += [self._room // saved_bytes] if self._room is not None and saved_bytes else []
        return _HeldLimits(saved_bytes, 1, ticks, min(alone))

    def _waiting(self) -> Iterable[_HeldLimits]:
        """What waits for its W: at least the backward without the I that is done."""
        for s in self.stages if self.problem.form == "split" else ():
            left = self.known.backward(s) - self.problem.backward_input[s] - self.known.again(s)
            yield _HeldLimits(self.problem.weight_stash[s], 0, max(0, left), self.known.passing[s])

    @property
    def _room(self) -> int | None:
        """Bytes that the capacity leaves, or the peak of a plan whose second objective this is about; None if any."""
        capacity, ceiling = self.problem.capacity, self.known.ceiling
        limits = [capacity[self.rank]] if capacity is not None else []
        limits += [ceiling[1]] if ceiling is not None and ceiling[0] == "peak-memory" else []
        return min(limits) - self.problem.static[self.rank] if limits else None

    def _hold_all(self) -> bool:
        """Whether the rank can have every micro-batch of all its stages in flight at once."""
        limited = [self._flying(s, 1) for s in self.stages]
        full = [part._replace(number=self.known.passing[s]) for s, part in zip(self.stages, limited, strict=True)]
        limit = None if self.problem.in_flight is None else self.problem.in_flight[self.rank]
        fits = self._room is None or sum(part.size * part.number for part in full) <= self._room
        return limited == full and fits and (limit is None or sum(part.number for part in full) <= limit)

    def _most(self, parts: list[_HeldLimits]) -> int:
        """The most ticks that can be left for what is held at once, whatever the limits admit of it."""
        most = [sum(part.ticks * part.number for part in parts)]
        most.append(sum(part.ticks * self.known.passing[s] for s, part in zip(self.stages, parts, strict=False)))
        if self._room is not None:
            most.append(_priced([(part.size, part.ticks, part.number) for part in parts], self._room))
        if self.problem.in_flight is not None:
            most.append(_priced([(p.flying, p.ticks, p.number) for p in parts], self.problem.in_flight[self.rank]))
        return min(most)


def _priced(parts: list[tuple[int, int, int]], room: int) -> int:
    """What fits into a room can be worth no more than the room at any price and what each part is worth above it.

    The best price is that of one of the parts, or nothing.
    """
    prices = [Fraction(0), *(Fraction(ticks, size) for size, ticks, _ in parts if size)]
    above = (sum(count * max(Fraction(0), ticks - price * size) for size, ticks, count in parts) for price in prices)
    return math.floor(min(price * room + worth for price, worth in zip(prices, above, strict=True)))
