"""Partitions with several stages on a rank, by CP-SAT: a rank's load and memory are sums over its stages.

Dynamic programming over stages does not see these sums; where every rank has one stage, both give the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from schedverify.core.ending import checked
from schedverify.core.model import Model, TiedWeight
from schedverify.optimizer.effort import Effort
from schedverify.optimizer.solvers.cp_sat import ABANDONED, new_solver, solve
from schedverify.partitioner.account import Layers, link_ticks, queues_of
from schedverify.partitioner.cuts import Cuts
from schedverify.partitioner.encodings import Encoding, LayerEncoding, PlaceEncoding
from schedverify.partitioner.requirements import StageRequirements

if TYPE_CHECKING:
    from ortools.sat.python import cp_model


MOST_PAIRED: Final = 400
"""The most down-sets of a graph for which every pair of nested ones is written out."""


class PartitionModel:
    """The constraint model of a partition.

    Its variables are where the stages end, the ticks of the busiest rank or link (``bound``), those of the largest
    stage, and the bytes over each cut between ranks.

    Parameters
    ----------
    cuts
        Those of the model.
    ceiling
        Ticks that the busiest rank or link exceeds in no partition.
    work
        Ticks of each layer on a rank of slowness 1, where it is not those of F and the whole backward.
    more_memory
        Whether every rank may have more memory than there is, by an amount that is a variable too.
    effort
        The means for the model and all searches of it together.

    Raises
    ------
    OverError
        If the means are used up before the model is made.
    """

    def __init__(
        self,
        model: Model,
        cuts: Cuts,
        requirements: StageRequirements,
        ceiling: int,
        *,
        work: Sequence[int] | None = None,
        more_memory: bool = False,
        effort: Effort | None = None,
    ) -> None:
        from ortools.sat.python import cp_model

        self.layers, self.requirements, self.effort = model.layers, requirements, effort or Effort()
        self.model = cp_model.CpModel()
        self.bound = self.model.new_int_var(0, ceiling, "bound")
        self.missing: Any = self.model.new_int_var(0, self._all_on_one_rank(), "lacking") if more_memory else 0
        in_order = cuts.members is None
        by_layer = cuts.entry.any() if cuts.linearized else not in_order and len(cuts) > MOST_PAIRED
        self.cut: Encoding = (
            LayerEncoding(self.model, model, requirements.stages, in_order=in_order, check=self.effort.check)
            if by_layer
            else PlaceEncoding(self.model, cuts, requirements)
        )
        queues = queues_of(requirements.placement)
        self.crossing = {stage: self.cut.crossing(stage) for stages in queues.values() for stage in stages}
        self._add_links(list(queues.values()))
        by_rank = requirements.stages_by_rank
        several = len(by_rank) < requirements.stages
        self.largest = [self.model.new_int_var(0, ceiling, "largest")] if several else []
        self.work = [layer.work for layer in model.layers] if work is None else list(work)
        self.entries = cuts.entry.tolist()
        for stages in checked(by_rank.values(), self.effort.check):
            self._add_rank(stages)

    def solve(self) -> tuple[Layers, bool] | None:
        """Return a partition with the least bottleneck, and whether that is proved; None where none is in the time.

        Among the partitions of that bottleneck it is one with the least largest stage where ranks have several, and
        among those one with the fewest bytes between ranks; where the means are used up, it is the best so far.
        """
        found: tuple[Layers, bool] | None = None
        for goal in (self.bound, *self.largest, sum(self.crossing.values())):
            if found and self.effort.over:
                return found
            solver, status = self._minimize(goal)
            if status not in ("OPTIMAL", "FEASIBLE"):
                return found
            found = self.cut.layers(solver), found[1] if found else status == "OPTIMAL"
            self._hint(solver)
            self.model.add(goal <= round(solver.objective_value))
        return found

    def least_bottleneck(self) -> int | None:
        """Return a bound on the bottleneck of all partitions, the least one itself where the time is enough.

        None where it is proved that there is no partition.
        """
        solver, status = self._minimize(self.bound)
        if status == "INFEASIBLE":
            return None
        return 0 if status == ABANDONED else max(0, round(solver.best_objective_bound))

    def least_missing(self) -> Layers | None:
        """Return the partition for which every rank needs the fewest bytes more; None where that stays open."""
        solver, status = self._minimize(self.missing)
        return self.cut.layers(solver) if status == "OPTIMAL" else None

    def _minimize(self, goal: Any) -> tuple[cp_model.CpSolver, str]:
        """Return the solver, and the name of its status."""
        self.model.minimize(goal)
        solver = new_solver(self.effort.left, self.effort.threads)
        return solver, solve(solver, self.model, lambda: self.effort.stopped)

    def _hint(self, solver: cp_model.CpSolver) -> None:
        """Begin the next search where this one has ended."""
        self.model.clear_hints()  # type: ignore[no-untyped-call]
        for variable in self.cut.variables:
            self.model.add_hint(variable, solver.value(variable))

    def _all_on_one_rank(self) -> int:
        """Return the bytes of a rank that holds all layers."""
        moments = (moment for own in self.requirements.moments for moment in own)
        most = max((sum(moment.in_flight) + sum(moment.waiting) for moment in moments), default=0)
        return sum(layer.resident + most * layer.activation for layer in self.layers)

    def _add_links(self, queues: list[list[int]]) -> None:
        """Have no queue of two ranks busy for longer than the bound, with each tensor and its gradient."""
        if self.requirements.bandwidth is None:
            return
        sent = sum(layer.output for layer in self.layers)
        bandwidth = min(self.requirements.bandwidth, max(sent, 1))  # as fast as sends all at once
        for stages in queues:
            ticks = []
            for stage in stages:
                half = self.model.new_int_var(0, max(link_ticks(sent, bandwidth) // 2, 1), "half")
                self.model.add(bandwidth * half >= self.crossing[stage])
                ticks.append(2 * half)
            self.model.add(sum(ticks) <= self.bound)

    def _add_rank(self, stages: list[int]) -> None:
        """Have a rank busy for no longer than the bound, and hold no more than its memory at any moment."""
        work = [self.cut.between(stage, self.work) for stage in stages]
        slowness = self.requirements.slowness[stages[0]]
        self.model.add(slowness * sum(work) <= self.bound)
        for largest in self.largest:
            for part in work:
                self.model.add(slowness * part <= largest)
        if self.requirements.capacity is not None:
            self._add_memory(stages, self.requirements.capacity[stages[0]])

    def _add_memory(self, stages: list[int], room: int) -> None:
        resident = sum(self.cut.between(stage, [layer.resident for layer in self.layers]) for stage in stages)
        resident -= sum(self._held_once(weight, stages) for weight in self.requirements.tied)
        waits = [layer.weight_stash for layer in self.layers]
        stash = [self.cut.between(stage, waits) if any(waits) else 0 for stage in stages]
        active = [self._activation(stage, stash[place]) for place, stage in enumerate(stages)]
        for moment in self.requirements.moments[self.requirements.placement[stages[0]]]:
            held = sum(count * part for count, part in zip(moment.in_flight, active, strict=True))
            held += sum(count * part for count, part in zip(moment.waiting, stash, strict=True))
            self.model.add(resident + held <= room + self.missing)

    def _held_once(self, weight: TiedWeight, stages: list[int]) -> Any:
        """Return the bytes that layers of a rank do not hold, as another of them has the same weight."""
        having = sum(
            self.cut.between(stage, [int(i in weight.layers) for i in range(len(self.layers))]) for stage in stages
        )
        is_there = self.model.new_bool_var("tied")
        self.model.add(having <= len(weight.layers) * is_there)
        return weight.resident * (having - is_there)

    def _activation(self, stage: int, stash: Any) -> Any:
        """Return what a micro-batch in flight holds of a stage, or a number that need not be more.

        The entry of a layer counts where one that feeds it stands before the stage; what waits for W is no less.
        """
        pairs = zip(self.layers, self.entries, strict=True)
        inside = self.cut.between(stage, [layer.activation - entry for layer, entry in pairs])
        if not any(self.entries):
            return inside
        held = self.model.new_int_var(0, sum(layer.activation for layer in self.layers), "")
        self.model.add(held >= inside + self.cut.kept(stage))
        self.model.add(held >= stash)
        return held
