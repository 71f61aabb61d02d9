"""What one rank holds while its steps run: bytes and micro-batches in flight, against its limits."""

from __future__ import annotations

from schedverify.core.problem import Problem
from schedverify.optimizer.values import OpKey


class Ledger:
    """The books of one rank (semantics, SV401 and SV402); steps run one after another, so the order alone counts."""

    def __init__(self, problem: Problem, rank: int) -> None:
        self.problem = problem
        self.rank = rank
        self.room = None if problem.capacity is None else problem.capacity[rank] - problem.static[rank]
        self.limit = None if problem.in_flight is None else problem.in_flight[rank]
        self.bytes = 0
        self.in_flight = 0
        self.by_stage = dict.fromkeys(problem.stages_of[rank], 0)

    def fits(self, op: OpKey) -> bool:
        """Whether a step could start now within all limits."""
        kind, stage, _ = op
        if kind == "W":
            return True
        if kind == "F":
            most = self.problem.in_flight_stage
            if self.limit is not None and self.in_flight >= self.limit:
                return False
            if most is not None and self.by_stage[stage] >= most[stage]:
                return False
            return self.room is None or self.bytes + self.problem.kept[stage] <= self.room
        return self.room is None or self.bytes + self.problem.activation[stage] - self.problem.kept[stage] <= self.room

    def run(self, op: OpKey) -> None:
        """Book a step from its start to its end."""
        kind, stage, _ = op
        if kind == "F" and self.problem.form != "inference":
            self._add(stage, self.problem.kept[stage], 1)
        elif kind == "W":
            self._add(stage, -self.problem.weight_stash[stage], 0)
        elif kind in "BI":
            left = self.problem.weight_stash[stage] if kind == "I" else 0
            self._add(stage, left - self.problem.kept[stage], -1)

    def _add(self, stage: int, held: int, pairs: int) -> None:
        self.bytes += held
        self.in_flight += pairs
        self.by_stage[stage] += pairs
