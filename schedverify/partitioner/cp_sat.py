"""Partitions with several stages on a rank, by CP-SAT: a rank's load and memory are sums over its stages.

Dynamic programming over stages does not see these sums; where every rank has one stage, both give the same.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from schedverify.partitioner.cuts import Cuts, possible_stages
from schedverify.partitioner.requirements import StageRequirements

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

MOST_PAIRED: Final = 400
"""The most down-sets of a graph for which every nested pair is written out."""


class PartitionModel:
    """The constraint model of a partition.

    Its variables are the cut at which each stage ends, the ticks of the busiest rank or link (``bound``), those of the
    largest stage, and the bytes over each cut; what a stage comes to is the difference of two values of a table over
    the cuts, at its end and at the end of the stage before.

    Parameters
    ----------
    ceiling
        Ticks that the busiest rank or link exceeds in no partition.
    more_memory
        Whether every rank may have more memory than there is, by an amount that is a variable too.
    """

    def __init__(self, cuts: Cuts, requirements: StageRequirements, ceiling: int, *, more_memory: bool = False) -> None:
        from ortools.sat.python import cp_model

        self.cp, self.cuts, self.requirements, self.ceiling = cp_model, cuts, requirements, ceiling
        self.model = cp_model.CpModel()
        self.bound = self.model.new_int_var(0, ceiling, "bound")
        self.missing: Any = self.model.new_int_var(0, self._all_on_one_rank(), "lacking") if more_memory else 0
        self.ends = [self._end(stage) for stage in range(-1, requirements.stages)]
        self.crossing = [self._at(cut, cuts.crossing.tolist()) for cut in self.ends[1:-1]]
        self._add_nesting()
        self._add_alone()
        self._add_links()
        by_rank = requirements.stages_by_rank
        several = len(by_rank) < requirements.stages
        self.largest = [self.model.new_int_var(0, ceiling, "largest")] if several else []
        for stages in by_rank.values():
            self._add_rank(stages)

    def solve(self, seconds: float, workers: int) -> tuple[list[int], int, bool] | None:
        """Return the cuts, the least bottleneck, and whether it is proved; None where there is none in the time.

        Among the partitions of that bottleneck it is one with the least largest stage where ranks have several, and
        among those one with the fewest bytes over the cuts; each search takes at most ``seconds``.
        """
        found: tuple[list[int], int, bool] | None = None
        for goal in (self.bound, *self.largest, sum(self.crossing)):
            solver, status = self._minimize(goal, seconds, workers)
            if status not in (self.cp.OPTIMAL, self.cp.FEASIBLE):
                return found
            chosen = [solver.value(end) for end in self.ends]
            found = (chosen, *(found[1:] if found else (solver.value(self.bound), status == self.cp.OPTIMAL)))
            self.model.add(goal <= round(solver.objective_value))
        return found

    def least_bottleneck(self, seconds: float, workers: int) -> int | None:
        """Return a bound on the bottleneck of all partitions, the least one itself where the time is enough.

        None where it is proved that there is no partition.
        """
        solver, status = self._minimize(self.bound, seconds, workers)
        return None if status == self.cp.INFEASIBLE else max(0, round(solver.best_objective_bound))

    def least_missing(self, seconds: float, workers: int) -> tuple[int, list[int]] | None:
        """Return the least bytes that every rank needs more, and cuts that then fit; None where that stays open."""
        solver, status = self._minimize(self.missing, seconds, workers)
        if status != self.cp.OPTIMAL or not solver.value(self.missing):
            return None
        return solver.value(self.missing), [solver.value(end) for end in self.ends]

    def _minimize(self, goal: Any, seconds: float, workers: int) -> tuple[cp_model.CpSolver, cp_model.CpSolverStatus]:
        from schedverify.optimizer.solvers.cp_sat import new_solver  # loads the whole optimizer

        self.model.minimize(goal)
        solver = new_solver(seconds, workers)
        return solver, solver.solve(self.model)

    def _all_on_one_rank(self) -> int:
        """Return the bytes of a rank that holds all layers."""
        most = max(sum(state) for states in self.requirements.states for state in states)
        return int(self.cuts.resident[-1]) + most * int(self.cuts.activation[-1])

    def _end(self, stage: int) -> cp_model.IntVar:
        """Return the cut at which a stage ends; that of stage -1 is the cut before all layers."""
        places = [0] if stage < 0 else np.flatnonzero(self.requirements.allowed[stage]).tolist()
        return self.model.new_int_var_from_domain(self.cp.Domain.from_values(places), f"end{stage}")

    def _at(self, cut: cp_model.IntVar, values: list[int]) -> cp_model.IntVar:
        """Return the value of a table over the cuts at a cut."""
        value = self.model.new_int_var(min(values), max(values), "")
        self.model.add_element(cut, values, value)
        return value

    def _between(self, stage: int, values: list[int]) -> Any:
        """Return what the layers of a stage come to by a table of what stands before each cut."""
        return self._at(self.ends[stage + 1], values) - self._at(self.ends[stage], values)

    def _add_nesting(self) -> None:
        """Have each stage begin where the one before it ends, with at least one layer, the cuts of a graph nested."""
        pairs = None
        if self.cuts.members is not None:
            by_end = possible_stages(self.cuts, self.requirements.alone).T
            pairs = [(begin, end) for end, begin in np.argwhere(by_end).tolist()]
        for begin, end in pairwise(self.ends):
            self.model.add(begin + 1 <= end)
            if pairs is not None:
                self.model.add_allowed_assignments([begin, end], pairs)

    def _add_alone(self) -> None:
        """Have layers of a chain be a stage of their own; of a graph the pairs of cuts say it already."""
        for layer in self.requirements.alone if self.cuts.members is None else ():
            places = []
            for begin, end in pairwise(self.ends):
                is_stage = self.model.new_bool_var("")
                self.model.add(begin == layer).only_enforce_if(is_stage)
                self.model.add(end == layer + 1).only_enforce_if(is_stage)
                places.append(is_stage)
            self.model.add_exactly_one(places)

    def _add_links(self) -> None:
        """Have no link busy for longer than the bound, with each tensor and its gradient."""
        if self.requirements.bandwidth is None:
            return
        half = self.model.new_int_var(0, self.ceiling, "half")
        self.model.add(2 * half <= self.bound)
        for crossing, bandwidth in zip(self.crossing, self.requirements.bandwidth, strict=True):
            self.model.add(crossing <= bandwidth * half)

    def _add_rank(self, stages: list[int]) -> None:
        """Have a rank busy for no longer than the bound, and hold no more than its memory at any moment."""
        work = [self._between(stage, self.cuts.work.tolist()) for stage in stages]
        slowness = self.requirements.slowness[stages[0]]
        self.model.add(slowness * sum(work) <= self.bound)
        for largest in self.largest:
            for part in work:
                self.model.add(slowness * part <= largest)
        if self.requirements.capacity is not None:
            resident = [self._between(stage, self.cuts.resident.tolist()) for stage in stages]
            activation = [self._between(stage, self.cuts.activation.tolist()) for stage in stages]
            for state in self.requirements.states[self.requirements.placement[stages[0]]]:
                in_flight = sum(count * bytes_ for count, bytes_ in zip(state, activation, strict=True))
                self.model.add(sum(resident) + in_flight <= self.requirements.capacity[stages[0]] + self.missing)
