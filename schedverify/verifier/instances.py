"""Where each operation of a schedule stands, be the schedule right or wrong."""

from __future__ import annotations

from functools import cached_property

from schedverify.core.op import Op
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule

Place = tuple[int, int]
"""A rank and a position in its order."""


class Instances:
    """The steps of a schedule, without the operations that are none of the problem's, and where each stands.

    An operation's *main* instance is what others wait for: its first occurrence on each rank of its stage, taken as
    one; where it stands on none of them, its first occurrence on the lowest rank that has it.
    """

    def __init__(self, schedule: Schedule, problem: Problem) -> None:
        self.schedule, self.problem = schedule, problem
        self.steps: list[list[tuple[Op, ...]]] = [
            [tuple(op for op in step.ops if self.known(op)) for step in schedule.steps(rank)]
            for rank in range(schedule.ranks)
        ]

    def known(self, op: Op) -> bool:
        """Whether it is a compute operation of the problem."""
        return op.kind.is_compute and self.problem.has_operation(op)

    @cached_property
    def places(self) -> dict[Op, list[Place]]:
        """For each operation every place where it stands, by rank and position."""
        found: dict[Op, list[Place]] = {}
        for rank, steps in enumerate(self.steps):
            for position, ops in enumerate(steps):
                for op in ops:
                    found.setdefault(op, []).append((rank, position))
        return found

    @cached_property
    def main(self) -> dict[Op, tuple[Place, ...]]:
        """For each operation that stands anywhere, the places of its main instance."""
        return {op: self._main(op, places) for op, places in self.places.items()}

    def is_main(self, op: Op, rank: int, position: int) -> bool:
        """Whether the operation's instance at a place belongs to its main one."""
        return (rank, position) in self.main[op]

    def _main(self, op: Op, places: list[Place]) -> tuple[Place, ...]:
        first: dict[int, Place] = {}
        for place in places:
            first.setdefault(place[0], place)
        own = tuple(first[rank] for rank in sorted(self.problem.placement[op.stage]) if rank in first)
        return own or (places[0],)
