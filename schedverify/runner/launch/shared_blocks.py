"""What the stages of a model share, read off the whole model: a parameter that lies in blocks of several stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.runner.compute.shared_weights import named_weights, tied_groups


class _Use(NamedTuple):
    """Where a parameter lies: its stage, its name in the stage's module, and its name in a block of the model."""

    stage: int
    name: str
    block: str


def shared_by_blocks(problem: Problem, parts: Sequence[Sequence[tuple[str, Any]]]) -> dict[str, dict[int, str]]:
    """Return by a name in the model the weights that stages share, each with its name in each stage's module.

    Parameters
    ----------
    parts
        By stage of one copy of the model its blocks, each with its name.

    Raises
    ------
    InputError
        If stages of several ranks share a weight that is trained, and the plan does not tie them; names weights and
        blocks.
    """
    uses: dict[int, list[_Use]] = {}
    trained: dict[int, bool] = {}
    for stage, blocks in enumerate(parts):
        for name, weight in named_weights(nn.Sequential(*(block for _, block in blocks))).items():
            place, _, inner = name.partition(".")
            uses.setdefault(id(weight), []).append(_Use(stage, name, f"{blocks[int(place)][0]}.{inner}"))
            trained[id(weight)] = weight.requires_grad
    shared = {number: own for number, own in uses.items() if len({use.stage for use in own}) > 1}
    if problem.form != "inference":
        faults = list(_not_joined(problem, [own for number, own in shared.items() if trained[number]]))
        if faults:
            raise InputError(faults)
    return {own[0].block: {use.stage: use.name for use in reversed(own)} for own in shared.values()}


def _not_joined(problem: Problem, shared: Iterable[Sequence[_Use]]) -> Iterator[Fault]:
    """Yield a fault for each shared weight whose stages, on several ranks, are not tied."""
    groups = [set(group) for group in tied_groups(problem)]
    copies = range(0, problem.total_stages, problem.stages)
    for own in shared:
        stages = sorted({use.stage for use in own})
        on_one_rank = all(len({problem.owner_rank[stage + first] for stage in stages}) == 1 for first in copies)
        if not on_one_rank and not any(set(stages) <= group for group in groups):
            named = ", ".join(f"{use.block!r} (stage {use.stage})" for use in own)
            text = f"blocks of the model share a weight, {named}, and the plan does not tie their stages"
            yield Fault("problem.tied", text, f"plan a problem with tied = [{stages}], as partition writes it")
