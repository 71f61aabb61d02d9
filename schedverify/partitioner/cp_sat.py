"""Partitions with several stages on a rank, by CP-SAT: a rank's load and memory are sums over its stages.

Dynamic programming over stages does not see these sums; where every rank has one stage, both give the same.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from schedverify.partitioner.cuts import Cuts
from schedverify.partitioner.requirements import Demands

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

MOST_PAIRED: Final = 400
"""The most down-sets of a graph for which every nested pair is written out."""

Ints = tuple[int, ...]


class ByRank:
    """One model: at which cut each stage ends, the busiest rank or link, the largest stage, the bytes over the cuts."""

    def __init__(self, cuts: Cuts, demands: Demands, ceiling: int, *, lacking: bool = False) -> None:
        from ortools.sat.python import cp_model

        self.cp, self.cuts, self.demands, self.ceiling = cp_model, cuts, demands, ceiling
        self.model = cp_model.CpModel()
        self.bound = self.model.new_int_var(0, ceiling, "bound")
        self.lacking: Any = self.model.new_int_var(0, self._most_held(), "lacking") if lacking else 0
        self.ends = [self._end(stage) for stage in range(-1, demands.stages)]
        self.crossing = [self._at(cut, cuts.crossing.tolist()) for cut in self.ends[1:-1]]
        self._nested()
        self._alone()
        self._links()
        several = len(set(demands.placement)) < demands.stages
        self.largest = [self.model.new_int_var(0, ceiling, "largest")] if several else []
        for rank in sorted(set(demands.placement)):
            self._rank([stage for stage, home in enumerate(demands.placement) if home == rank])

    def solve(self, seconds: float, workers: int) -> tuple[list[int], int, bool] | None:
        """Return the cuts, the least bottleneck, and whether it is proved; None where there is none in the time.

        Among the partitions of that bottleneck it is one with the least largest stage where ranks have several, and
        among those one with the fewest bytes over the cuts; each search takes at most ``seconds``.
        """
        found: tuple[list[int], int, bool] | None = None
        for goal in (self.bound, *self.largest, sum(self.crossing)):
            self.model.minimize(goal)
            solver = self.cp.CpSolver()
            solver.parameters.max_time_in_seconds = seconds
            solver.parameters.num_workers = workers
            status = solver.solve(self.model)
            if status not in (self.cp.OPTIMAL, self.cp.FEASIBLE):
                return found
            chosen = [solver.value(end) for end in self.ends]
            found = (chosen, *(found[1:] if found else (solver.value(self.bound), status == self.cp.OPTIMAL)))
            self.model.add(goal <= round(solver.objective_value))
        return found

    def least(self, seconds: float, workers: int) -> int | None:
        """Return what no partition's bottleneck is below, the least one itself where the time is enough.

        None where it is proved that there is no partition.
        """
        self.model.minimize(self.bound)
        solver = self.cp.CpSolver()
        solver.parameters.max_time_in_seconds = seconds
        solver.parameters.num_workers = workers
        status = solver.solve(self.model)
        return None if status == self.cp.INFEASIBLE else max(0, round(solver.best_objective_bound))

    def least_lacking(self, seconds: float, workers: int) -> tuple[int, list[int]] | None:
        """Return the least bytes that every rank needs more, and cuts that then fit; None where that stays open."""
        self.model.minimize(self.lacking)
        solver = self.cp.CpSolver()
        solver.parameters.max_time_in_seconds = seconds
        solver.parameters.num_workers = workers
        if solver.solve(self.model) != self.cp.OPTIMAL or not solver.value(self.lacking):
            return None
        return solver.value(self.lacking), [solver.value(end) for end in self.ends]

    def _most_held(self) -> int:
        """Return the bytes of a rank that holds all layers."""
        most = max(sum(state) for states in self.demands.states for state in states)
        return int(self.cuts.resident[-1]) + most * int(self.cuts.activation[-1])

    def _end(self, stage: int) -> cp_model.IntVar:
        places = [0] if stage < 0 else np.flatnonzero(self.demands.allowed[stage]).tolist()
        return self.model.new_int_var_from_domain(self.cp.Domain.from_values(places), f"end{stage}")

    def _at(self, cut: cp_model.IntVar, values: list[int]) -> cp_model.IntVar:
        value = self.model.new_int_var(min(values), max(values), "")
        self.model.add_element(cut, values, value)
        return value

    def _nested(self) -> None:
        pairs = None if self.cuts.members is None else stage_pairs(self.cuts.members, self.demands.alone)
        for begin, end in pairwise(self.ends):
            self.model.add(begin + 1 <= end)
            if pairs is not None:
                self.model.add_allowed_assignments([begin, end], pairs)

    def _alone(self) -> None:
        for layer in self.demands.alone if self.cuts.members is None else ():
            places = []
            for begin, end in pairwise(self.ends):
                here = self.model.new_bool_var("")
                self.model.add(begin == layer).only_enforce_if(here)
                self.model.add(end == layer + 1).only_enforce_if(here)
                places.append(here)
            self.model.add_exactly_one(places)

    def _links(self) -> None:
        if self.demands.bandwidth is None:
            return
        half = self.model.new_int_var(0, self.ceiling, "half")
        self.model.add(2 * half <= self.bound)
        for crossing, bandwidth in zip(self.crossing, self.demands.bandwidth, strict=True):
            self.model.add(crossing <= bandwidth * half)

    def _rank(self, stages: list[int]) -> None:
        work = [self._between(stage, self.cuts.work.tolist()) for stage in stages]
        slowness = self.demands.slowness[stages[0]]
        self.model.add(slowness * sum(work) <= self.bound)
        for largest in self.largest:
            for part in work:
                self.model.add(slowness * part <= largest)
        if self.demands.capacity is not None:
            resident = [self._between(stage, self.cuts.resident.tolist()) for stage in stages]
            kept = [self._between(stage, self.cuts.activation.tolist()) for stage in stages]
            for state in self.demands.states[self.demands.placement[stages[0]]]:
                held = sum(count * bytes_ for count, bytes_ in zip(state, kept, strict=True))
                self.model.add(sum(resident) + held <= self.demands.capacity[stages[0]] + self.lacking)

    def _between(self, stage: int, values: list[int]) -> Any:
        return self._at(self.ends[stage + 1], values) - self._at(self.ends[stage], values)


def stage_pairs(members: NDArray[np.bool_], alone: Ints) -> list[tuple[int, int]]:
    """Return the pairs of cuts between which the layers can be a stage: nested, and who stands alone does."""
    sizes, pairs = members.sum(axis=1), []
    for end in range(len(members)):
        inside = ~(members & ~members[end]).any(axis=1)
        crowded = sizes[end] - sizes > 1
        for layer in alone:
            inside &= ~(crowded & members[end, layer] & ~members[:, layer])
        pairs += [(begin, end) for begin in np.flatnonzero(inside).tolist() if begin < end]
    return pairs
