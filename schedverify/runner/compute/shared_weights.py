"""Which weights of several stages are one weight: within a rank by identity, between ranks by their names.

Each rank tells the weights of its stages; from what all ranks told, each finds the same shared weights::

    rank 0, stage 0            rank 1, stage 3
    0.weight  --- shared --- 1.weight          shared = {"table": {0: "0.weight", 3: "1.weight"}}
    1.weight                   0.weight        stage 3 alone has it
    1.bias                     1.bias          the head's own, as stage 0's is that of another layer
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from torch.nn.parallel import DistributedDataParallel

from schedverify.core.errors import Fault, InputError, nearest, shown
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.runner.compute.parts import place_of

_WRAPPERS: Final = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
"""Parts of a weight's name that say how a module is wrapped: compiled, checkpointed, sharded."""
_MOST_NAMED: Final = 3

Sharing = Mapping[str, Sequence[int] | Mapping[int, str]]
"""By the name of a shared weight its stages, or by stage its name there."""
Names = dict[int, str]
"""By stage of one copy of the model, the name of one shared weight in that stage's module."""


class ToldWeight(NamedTuple):
    """A weight of a stage, as its rank tells it to the others."""

    rank: int
    stage: int
    """Of all copies of the model."""
    name: str
    form: str
    """Dtype and shape, as ``float32 50 x 16``, and of a sharded weight which part of it is here."""
    trained: bool
    number: int
    """The same for all names of one parameter on its rank, and for no other parameter there."""

    def __str__(self) -> str:
        return f"{self.name} of stage {self.stage} on rank {self.rank}"


class SharedWeight(NamedTuple):
    """A weight that stands in several parameters, whose gradients are summed."""

    ranks: tuple[int, ...]
    """The ranks that have it, in rising order."""
    form: str
    own: tuple[Any, ...]
    """The parameters of this rank."""


def named_weights(module: Any) -> dict[str, Any]:
    """Return the weights of a stage by name, as the module has them that was wrapped, if it was.

    A parameter with several names stands under each of them.
    """
    while isinstance(module, DistributedDataParallel) or hasattr(module, "_orig_mod"):
        module = module.module if isinstance(module, DistributedDataParallel) else module._orig_mod
    named = module.named_parameters(remove_duplicate=False)
    return {".".join(part for part in name.split(".") if part not in _WRAPPERS): weight for name, weight in named}


def told_weights(modules: Mapping[int, Any], rank: int) -> list[ToldWeight]:
    """Return what a rank tells of the weights of its stages."""
    numbers: dict[int, int] = {}
    return [
        ToldWeight(rank, stage, name, _form(weight), weight.requires_grad, numbers.setdefault(id(weight), len(numbers)))
        for stage, module in sorted(modules.items())
        for name, weight in named_weights(module).items()
    ]


def _form(weight: Any) -> str:
    return " ".join([str(weight.dtype)[6:], " x ".join(map(str, weight.shape)) or "scalar", *place_of(weight)])


def sharing_of(shared: Any, plan: Plan, modules: Mapping[int, Any]) -> list[Names]:
    """Return the shared weights that a user names, each by stage of one copy of the model.

    Parameters
    ----------
    shared
        By name, or a function that returns that for the plan.
    modules
        Those of this rank, by stage of all copies.

    Raises
    ------
    InputError
        With every fault: what is no such mapping, names a stage that there is not, or a weight that a stage of this
        rank has not.
    """
    problem, shared = plan.problem, shared(plan) if callable(shared) else shared
    if not isinstance(shared, Mapping):
        hint = "such as {'weight': [0, 3]} or {'table': {0: 'weight', 3: 'head.weight'}}"
        raise InputError(Fault("shared", f"expected shared weights with their stages, found {shown(shared)}", hint))
    faults: list[Fault] = []
    found = []
    for name, given in shared.items():
        names = _names(name, given)
        key = f"shared[{name!r}]"
        wrong = [stage for stage in names if type(stage) is not int or not 0 <= stage < problem.stages]
        if len(names) < 2 or wrong or not all(isinstance(own, str) for own in names.values()):
            hint = f"at least two of the stages 0 to {problem.stages - 1}, or the weight's name by stage"
            faults.append(Fault(key, f"expected the stages that share a weight, found {shown(given)}", hint))
            continue
        faults += _unknown(key, names, problem, modules)
        found.append(names)
    if faults:
        raise InputError(faults)
    return found


def _names(name: Any, given: Any) -> dict[Any, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    return dict.fromkeys(given, name) if isinstance(given, list | tuple | range) else {}


def _unknown(key: str, names: Names, problem: Problem, modules: Mapping[int, Any]) -> Iterator[Fault]:
    """Yield a fault for each stage of this rank that has no weight of the name that is shared."""
    for stage, module in sorted(modules.items()):
        name = names.get(stage % problem.stages)
        known = named_weights(module)
        if name is not None and name not in known:
            hint = nearest(name, known) or f"it has {_some(known) or 'none'}"
            hint += "; where names differ, give them by stage: {0: 'weight', 3: 'head.weight'}"
            yield Fault(key, f"stage {stage} has no weight called {shown(name)}", hint)


class _Classes:
    """Told weights that are joined to classes, each of which is one weight."""

    def __init__(self, told: Sequence[ToldWeight]) -> None:
        self.told = told
        self._parent = list(range(len(told)))
        self.by_stage: dict[int, dict[str, int]] = {}
        """By stage of all copies, the positions of its weights by name."""
        for position, weight in enumerate(told):
            self.by_stage.setdefault(weight.stage, {})[weight.name] = position

    def root(self, position: int) -> int:
        """Return the position that stands for the class of a weight."""
        while self._parent[position] != position:
            self._parent[position] = position = self._parent[self._parent[position]]
        return position

    def join(self, positions: Iterable[int]) -> None:
        """Make weights one."""
        for first, second in pairwise(positions):
            self._parent[max(self.root(first), self.root(second))] = min(self.root(first), self.root(second))

    def members(self) -> list[list[ToldWeight]]:
        """Return the classes, each in the order of what was told, in the order of their first members."""
        found: dict[int, list[ToldWeight]] = {}
        for position, weight in enumerate(self.told):
            found.setdefault(self.root(position), []).append(weight)
        return list(found.values())


def shared_classes(
    problem: Problem, named: Sequence[Names] | None, told: Sequence[ToldWeight]
) -> tuple[list[list[ToldWeight]], list[str]]:
    """Return the weights that stand in several parameters, and why they cannot be shared.

    Parameters
    ----------
    named
        What is shared by name; None where tied stages share all their weights.
    told
        The weights of all stages, by rank, stage and name.
    """
    classes = _Classes(told)
    by_number: dict[tuple[int, int], list[int]] = {}
    for position, weight in enumerate(told):
        by_number.setdefault((weight.rank, weight.number), []).append(position)
    for positions in by_number.values():
        classes.join(positions)
    objections = []
    for stage in range(problem.stages):
        copies = [stage + first for first in range(0, problem.total_stages, problem.stages)]
        objections += _join_stages(classes, copies, "are copies of one stage", named=False)
    if named is None:
        for group in tied_groups(problem):
            if not _are_joined(classes, problem, group):
                objections += _join_stages(classes, group, "are tied", named=True)
    for names in named or ():
        classes.join(
            classes.by_stage[stage][names[stage % problem.stages]]
            for stage in sorted(classes.by_stage)
            if names.get(stage % problem.stages) in classes.by_stage[stage]
        )
    shared = [members for members in classes.members() if len({(each.rank, each.number) for each in members}) > 1]
    return shared, objections or [text for members in shared if (text := _objection(members))]


def tied_groups(problem: Problem) -> list[list[int]]:
    """Return the groups of tied stages of one copy; groups with a stage in common are one."""
    merged: list[set[int]] = []
    for group in problem.tied:
        joined = set(group).union(*(other for other in merged if other & set(group)))
        merged = [other for other in merged if not other & joined] + [joined]
    return sorted(map(sorted, merged))


def _are_joined(classes: _Classes, problem: Problem, group: Sequence[int]) -> bool:
    """Whether all stages of a group have weights in common already, since they stand on one rank with its tensors."""
    left, reached = set(group), {group[0]}
    stages_of = [{weight.stage % problem.stages for weight in members} for members in classes.members()]
    while more := {s for stages in stages_of if stages & reached for s in stages & left} - reached:
        reached |= more
    return reached == left


def _join_stages(classes: _Classes, stages: Sequence[int], how: str, *, named: bool) -> list[str]:
    """Join the weights of equal names of stages that share all their weights; return why they cannot be joined."""
    by_name = [classes.by_stage.get(stage, {}) for stage in stages]
    forms = [{name: classes.told[at].form for name, at in own.items()} for own in by_name]
    odd = [place for place, own in enumerate(forms) if own != forms[0]]
    if not odd:
        for name in by_name[0]:
            classes.join(own[name] for own in by_name)
        return []
    other = odd[0]
    first, second = ({(name, form) for name, form in forms[place].items()} for place in (0, other))
    text = f"stages {stages[0]} and {stages[other]} {how}, and their weights differ in name or shape: "
    text += "; ".join(
        f"stage {stages[place]} alone has {_some(f'{name} ({form})' for name, form in sorted(alone)) or 'none'}"
        for place, alone in ((0, first - second), (other, second - first))
    )
    return [f"{text}; {_cure(forms[0], forms[other], stages[0], stages[other])}" if named else text]


def _cure(first: Mapping[str, str], second: Mapping[str, str], one: int, other: int) -> str:
    """Return how a user names what two tied stages share."""
    both = next((name for name, form in first.items() if second.get(name) == form), None)
    alike = ((a, b) for a, form in first.items() for b in second if second[b] == form)
    pair = (both, both) if both is not None else next(alike, ("NAME", "NAME"))
    example = f"[{one}, {other}]" if both is not None else f"{{{one}: {pair[0]!r}, {other}: {pair[1]!r}}}"
    return f"name what they share, such as Runner(..., shared={{{pair[0]!r}: {example}}})"


def _objection(members: Sequence[ToldWeight]) -> str:
    """Return why weights cannot be one: they differ in dtype, shape or freezing, or two of them are one stage's."""
    first = members[0]
    for other in members:
        if other.form != first.form:
            return f"{first} and {other} are one weight, here they are {first.form} and {other.form}"
        if other.trained != first.trained:
            frozen, trained = (first, other) if other.trained else (other, first)
            return f"{frozen} is frozen, {trained} is not, and they are one weight: let requires_grad be the same"
    of_stage: dict[int, ToldWeight] = {}
    for each in members:
        if of_stage.setdefault(each.stage, each).number != each.number:
            return f"{of_stage[each.stage]} and {each} are said to be one weight, but they are two parameters"
    return ""


def _some(names: Iterable[str]) -> str:
    """Return the first names of many, and how many more there are."""
    listed = list(names)
    more = len(listed) - _MOST_NAMED
    return ", ".join(listed[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def own_shared(
    classes: Iterable[Sequence[ToldWeight]], modules: Mapping[int, Any], rank: int
) -> tuple[SharedWeight, ...]:
    """Return the shared weights that this rank has a part in, in an order that is the same on every rank."""
    found = []
    for members in classes:
        own = {each.number: named_weights(modules[each.stage])[each.name] for each in members if each.rank == rank}
        if own:
            ranks = tuple(sorted({each.rank for each in members}))
            found.append(SharedWeight(ranks, members[0].form, tuple(own.values())))
    return tuple(found)
