"""The oracle's times of a valid schedule, by raising every start until nothing is too early; see :mod:`compute_orders`.

It imports nothing of schedverify.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from oracle.compute_orders import main_places
from oracle.law import Case, Op, Place, Step, case_of

Times = list[list[int]]
"""By rank, the start of each step."""


class Clock:
    """What a valid schedule's steps cost, and what each must wait for."""

    def __init__(self, rows: list[list[str]], problem: dict[str, Any]) -> None:
        self.case: Case = case_of(rows, problem, False)
        self.costs, self.links = problem["costs"], problem["links"]
        self.overlapped = {(row["forward"], row["backward"]): row["cost"] for row in self.costs["overlapped"]}
        copies = problem["placement"] if problem["replicas"] > 1 else [problem["placement"]]
        entries = [entry for copy in copies for entry in copy]
        self.home = [entry[0] if isinstance(entry, list) else entry for entry in entries]
        self.main = main_places(self.case)

    def cost(self, step: Step) -> int:
        """Ticks of a step: the pair's own cost where it has one, else the sum."""
        if len(step.ops) == 2:
            stages = {op.kind: op.stage for op in step.ops}
            if (stages["F"], stages["B"]) in self.overlapped:
                return self.overlapped[stages["F"], stages["B"]]
        return sum(self.cost_of(op) for op in step.ops)

    def cost_of(self, op: Op) -> int:
        name = {"F": "forward", "B": "backward", "I": "backward_input", "W": "backward_weight"}[op.kind]
        again = op.kind in "BI" and self.case.law.recompute[op.stage]
        return self.costs[name][op.stage] + (self.costs["forward"][op.stage] if again else 0)

    def lag(self, source: Op, reader: Op) -> int:
        """Ticks from the end of an operation until another can read its output."""
        start, end = self.home[source.stage], self.home[reader.stage]
        if start == end:
            return 0
        size = self.links["bytes"][source.stage if source.kind == "F" else reader.stage]
        bandwidth = entry_of(self.links.get("bandwidth"), start, end)
        return entry_of(self.links["latency"], start, end) + (-(-size // bandwidth) if bandwidth else 0)

    def end(self, times: Times, place: Place) -> int:
        rank, position = place
        return times[rank][position] + self.cost(self.case.rows[rank][position])

    def waits(self, place: Place) -> Iterator[tuple[Place, int]]:
        """What a step waits for: steps, and how many ticks after the start of each it may start."""
        rank, position = place
        if position:
            yield (rank, position - 1), self.cost(self.case.rows[rank][position - 1])
        for op in self.case.rows[rank][position].ops:
            for needed in self.case.law.reads(op) & set(self.main):
                for source in self.main[needed]:
                    yield source, self.cost(self.case.rows[source[0]][source[1]]) + self.lag(needed, op)
            for partner in self.main[op]:
                yield partner, 0

    def least(self, times: Times, place: Place) -> int:
        """The earliest start of a step that the starts of the others allow."""
        return max((times[rank][position] + ticks for (rank, position), ticks in self.waits(place)), default=0)


def entry_of(table: Any, row: int, column: int) -> Any:
    """Return an entry of a matrix that may be written as one number, or be absent."""
    return table[row][column] if isinstance(table, list) else table


def places_in(rows: Sequence[Sequence[Any]]) -> Iterator[Place]:
    for rank, row in enumerate(rows):
        for position in range(len(row)):
            yield rank, position


def earliest(rows: list[list[str]], problem: dict[str, Any]) -> Times:
    """Return the earliest starts of a valid schedule."""
    return earliest_of(Clock(rows, problem))


def earliest_of(clock: Clock) -> Times:
    """Return the earliest starts of the steps of a clock."""
    rows = clock.case.rows
    times = [[0] * len(row) for row in rows]
    changed = True
    while changed:
        changed = False
        for rank, position in places_in(rows):
            least = clock.least(times, (rank, position))
            if times[rank][position] < least:
                times[rank][position] = least
                changed = True
    return times


def is_possible(rows: list[list[str]], problem: dict[str, Any], times: Times) -> bool:
    """SV202: no step of a valid schedule starts before all that it waits for, and none before 0."""
    clock = Clock(rows, problem)
    return all(times[rank][p] >= max(0, clock.least(times, (rank, p))) for rank, p in places_in(rows))


def measures(rows: list[list[str]], problem: dict[str, Any]) -> dict[str, Any]:
    """Return makespan, bubble fraction and work of a valid schedule; :mod:`oracle.span` has its span."""
    clock, times = Clock(rows, problem), earliest(rows, problem)
    ends = [[clock.end(times, (rank, p)) for p in range(len(row))] for rank, row in enumerate(rows)]
    work = [sum(end - start for start, end in zip(*pair, strict=True)) for pair in zip(times, ends, strict=True)]
    makespan = max((end for row in ends for end in row), default=0)
    idle = Fraction(len(rows) * makespan - sum(work))
    return {
        "makespan": makespan,
        "bubble_fraction": idle / (len(rows) * makespan) if makespan else Fraction(0),
        "work": tuple(work),
    }
