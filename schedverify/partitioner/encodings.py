"""Two ways to say in variables of CP-SAT where a model is cut: by places, where these are few, and layer by layer.

Each says of a stage what its layers come to, what goes over its end, and which entries it keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from schedverify.core.ending import Check, checked, go_on
from schedverify.core.model import Model
from schedverify.partitioner.account import Layers
from schedverify.partitioner.cuts import Cuts, possible_stages
from schedverify.partitioner.requirements import StageRequirements

if TYPE_CHECKING:
    from ortools.sat.python import cp_model


class Encoding(Protocol):
    """Where the stages end, as variables of a constraint model.

    Attributes
    ----------
    variables
        The variables that say it all.
    """

    variables: list[Any]

    def between(self, stage: int, values: Sequence[int]) -> Any:
        """Return what the layers of a stage come to, by the value of each layer."""

    def crossing(self, stage: int) -> Any:
        """Return the bytes over the end of a stage, or a number that need not be more."""

    def kept(self, stage: int) -> Any:
        """Return the bytes of the entries that a stage keeps, or a number that need not be more."""

    def layers(self, solver: cp_model.CpSolver) -> Layers:
        """Return the partition that a solver has found."""


class PlaceEncoding:
    """The cut at which each stage ends; what a stage comes to is the difference of two values of a table.

    .. code-block:: text

        work of layers   4   3   5        ends 2 and 3: stage 0 has 7 - 0, stage 1 has 12 - 7
        table        0   4   7   12

    Of a graph, the pairs of cuts between which a stage can lie are written out, with the entries that it keeps.
    """

    def __init__(self, model: cp_model.CpModel, cuts: Cuts, requirements: StageRequirements) -> None:
        from ortools.sat.python import cp_model

        self.model, self.cuts = model, cuts
        places = [[0], *(np.flatnonzero(row).tolist() for row in requirements.allowed)]
        domains = map(cp_model.Domain.from_values, places)
        self.variables: list[Any] = [model.new_int_var_from_domain(domain, "") for domain in domains]
        for begin, end in pairwise(self.variables):
            model.add(begin + 1 <= end)
        if cuts.members is None:
            for layer in requirements.alone:
                self._add_alone(layer)
        else:
            self._kept = self._add_pairs(possible_stages(cuts, requirements.alone))

    def between(self, stage: int, values: Sequence[int]) -> Any:
        """See :class:`Encoding`."""
        members = self.cuts.members
        table = [0, *accumulate(values)] if members is None else (members @ np.array(values, dtype=np.int64)).tolist()
        return self._at(self.variables[stage + 1], table) - self._at(self.variables[stage], table)

    def crossing(self, stage: int) -> Any:
        """See :class:`Encoding`."""
        return self._at(self.variables[stage + 1], self.cuts.crossing.tolist())

    def kept(self, stage: int) -> Any:
        """See :class:`Encoding`: of a chain, that of the stage's first layer."""
        if self.cuts.members is not None:
            return self._kept[stage]
        return self._at(self.variables[stage], [*self.cuts.entry.tolist(), 0])

    def layers(self, solver: cp_model.CpSolver) -> Layers:
        """See :class:`Encoding`."""
        ends = [solver.value(end) for end in self.variables]
        return tuple(self.cuts.layers_between(*pair) for pair in pairwise(ends))

    def _at(self, cut: cp_model.IntVar, values: list[int]) -> cp_model.IntVar:
        """Return the value of a table over the cuts at a cut."""
        value = self.model.new_int_var(min(values), max(values), "")
        self.model.add_element(cut, values, value)
        return value

    def _add_pairs(self, possible: NDArray[np.bool_]) -> list[cp_model.IntVar]:
        """Have each stage lie between two cuts where one can; return the bytes of the entries that each stage keeps."""
        held, members = np.zeros(possible.shape, dtype=np.int64), np.asarray(self.cuts.members)
        for cut, layer in self.cuts.kept.tolist():
            held[cut] += self.cuts.entry[layer] * members[:, layer]
        begins, ends = np.nonzero(possible)
        rows = np.stack([begins, ends, held[begins, ends]], axis=1).tolist()
        kept = [self.model.new_int_var(0, int(held.max()), "") for _ in self.variables[1:]]
        for (begin, end), own in zip(pairwise(self.variables), kept, strict=True):
            self.model.add_allowed_assignments([begin, end, own], rows)
        return kept

    def _add_alone(self, layer: int) -> None:
        """Have a layer be a stage of its own."""
        places = []
        for begin, end in pairwise(self.variables):
            is_stage = self.model.new_bool_var("")
            self.model.add(begin == layer).only_enforce_if(is_stage)
            self.model.add(end == layer + 1).only_enforce_if(is_stage)
            places.append(is_stage)
        self.model.add_exactly_one(places)


class LayerEncoding:
    """Of each layer and each end of a stage, whether the layer stands before it.

    Of a layer on stage 1 of 4::

        ends of stages   0  1  2        the end of the last stage stands behind all layers
        stands before    0  1  1

    Parameters
    ----------
    in_order
        Whether the layers stay in their order; else the edges alone count.
    check
        Called while the model is made.
    """

    def __init__(
        self, model: cp_model.CpModel, layered: Model, stages: int, *, in_order: bool, check: Check = go_on
    ) -> None:
        self.model, self.layered, self.count = model, layered, len(layered.layers)
        inner: list[list[Any]] = [[model.new_bool_var("") for _ in range(self.count)] for _ in range(stages - 1)]
        self.variables = [flag for flags in inner for flag in flags]
        self.before: list[list[Any]] = [[0] * self.count, *inner, [1] * self.count]
        """By end, beginning with that of stage -1, which all layers stand behind."""
        edges = list(pairwise(range(self.count))) if in_order else layered.all_edges
        for first, after in checked(pairwise(self.before), check):
            for was, now in zip(first, after, strict=True):
                model.add(was <= now)
            for source, target in edges:
                model.add(after[target] <= after[source])
            model.add(sum(after) - sum(first) >= 1)
        self._add_wishes(stages)

    def between(self, stage: int, values: Sequence[int]) -> Any:
        """See :class:`Encoding`."""
        first, after = self.before[stage : stage + 2]
        return sum(value * (now - was) for value, was, now in zip(values, first, after, strict=True) if value)

    def crossing(self, stage: int) -> Any:
        """See :class:`Encoding`: an output crosses where its layer stands before the end and a reader does not."""
        readers: dict[int, set[int]] = {}
        for source, target in self.layered.all_edges:
            readers.setdefault(source, set()).add(target)
        flags = self.before[stage + 1]
        total: Any = 0
        for source, targets in readers.items():
            if size := self.layered.layers[source].output:
                crosses = self.model.new_bool_var("")
                for target in targets:
                    self.model.add(crosses >= flags[source] - flags[target])
                total += size * crosses
        return total

    def kept(self, stage: int) -> Any:
        """See :class:`Encoding`: of the layers of the stage that one before it feeds."""
        first, after = self.before[stage : stage + 2]
        keeps: dict[int, Any] = {}
        for source, target in self.layered.all_edges:
            if self.layered.layers[target].entry:
                flag = keeps.setdefault(target, self.model.new_bool_var(""))
                self.model.add(flag >= after[target] - first[target] + first[source] - 1)
        return sum(self.layered.layers[layer].entry * flag for layer, flag in keeps.items())

    def layers(self, solver: cp_model.CpSolver) -> Layers:
        """See :class:`Encoding`."""
        ends = [[solver.value(flag) for flag in flags] for flags in self.before]
        return tuple(
            tuple(layer for layer in range(self.count) if after[layer] > first[layer])
            for first, after in pairwise(ends)
        )

    def _add_wishes(self, stages: int) -> None:
        """Have layers on the stages that they are pinned to, together, or alone."""
        wishes = self.layered.constraints
        for layer, stage in wishes.pinned:
            first, after = self.before[stage % stages :][:2]
            self.model.add(after[layer] - first[layer] == 1)
        for group in wishes.together:
            for flags in self.before:
                for layer in group[1:]:
                    self.model.add(flags[layer] == flags[group[0]])
        for layer in wishes.alone:
            for first, after in pairwise(self.before):
                others = sum(after) - sum(first) - 1
                self.model.add(others <= self.count * (1 - after[layer] + first[layer]))
