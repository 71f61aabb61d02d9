"""Equal blocks of a model: they do the same work, so that what was measured of all of them makes one figure.

Blocks are equal where their modules are of the same classes, with the same settings and shapes of weights, and take
inputs of the same shapes. A setting that cannot be compared, such as an object that each block has for itself, counts
as a difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from torch import nn

from schedverify.profiling.figures import EqualBlocks, Figure, pooled

Signature = tuple[Any, ...]
_TOWARDS_INPUTS: Final = ("backward", "backward_input")
"""What computes the gradients of inputs, of which those of the first block have none."""
_NUMBERS: Final = {"layer_idx", "layer_index", "layer_id", "layer_number", "block_idx", "block_index", "idx", "index"}
"""Attributes by which models number their layers."""
_INTERNAL: Final = frozenset(vars(nn.Module())) - {"training"}
_PLAIN: Final = (bool, int, float, str, tuple, type(None))


def signature_of(module: Any, inputs: Sequence[Any]) -> Signature:
    """Return what is the same of equal blocks, from a block and the tensors that it takes."""
    parts = tuple((path, _class(each), each.training, *_settings(each)) for path, each in module.named_modules())
    tensors = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    shapes = tuple((path, each.shape, each.dtype, each.requires_grad) for path, each in tensors)
    return parts, shapes, tuple((each.shape, each.dtype) for each in inputs)


def groups_of(signatures: Sequence[Signature]) -> list[list[int]]:
    """Return the groups of equal blocks, by position; blocks without an equal are in none."""
    groups: dict[Signature, list[int]] = {}
    for i, signature in enumerate(signatures):
        groups.setdefault(signature, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def figures_of(
    ranks: Sequence[Sequence[Mapping[str, Sequence[int]]]], groups: Sequence[Sequence[int]]
) -> list[dict[str, Figure]]:
    """Return by block the figures by kind: one for equal blocks, that of the loss added to the last block's.

    The first block has no gradients of inputs to compute: its backward is its own figure, but never more than that of
    its equals, which do more.

    Parameters
    ----------
    ranks
        By rank and block, and behind the blocks of the loss, the samples by kind.
    """
    *found, loss = (pooled(samples) for samples in zip(*ranks, strict=True))
    first = found[0]
    for group in groups:
        together = {kind: _together(ranks, group, kind) for kind in first}
        for i in group:
            found[i] = together
    if found[0] is not first:
        found[0] = found[0] | {kind: min(first[kind], found[0][kind]) for kind in _TOWARDS_INPUTS if kind in first}
    found[-1] = {kind: figure.plus(loss[kind]) for kind, figure in found[-1].items()}
    return found


def apart(
    ranks: Sequence[Sequence[Mapping[str, Sequence[int]]]], groups: Sequence[Sequence[int]], names: Sequence[str]
) -> Iterator[EqualBlocks]:
    """Yield for each group of equal blocks how far their own medians are apart."""
    for group in groups:
        medians = {}
        for kind in ranks[0][0]:
            own = [_together(ranks, [i], kind).median for i in _at_work(group, kind)]
            medians[kind] = min(own), max(own)
        yield EqualBlocks(tuple(names[i] for i in group), medians)


def _together(ranks: Sequence[Sequence[Mapping[str, Sequence[int]]]], group: Sequence[int], kind: str) -> Figure:
    return Figure.of([each for rank in ranks for i in _at_work(group, kind) for each in rank[i][kind]])


def _at_work(group: Sequence[int], kind: str) -> Sequence[int]:
    """Return the blocks of a group that do the same work: all, but for the first block of the model in its backward."""
    return [i for i in group if i or kind not in _TOWARDS_INPUTS] if len(group) > 1 else group


def _class(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _settings(module: Any) -> tuple[Any, ...]:
    """Return what a module is set to: torch's own by their numbers and texts, others by all that they hold."""
    own = ((name, value) for name, value in vars(module).items() if name not in _INTERNAL | _NUMBERS)
    if type(module).__module__.startswith("torch."):
        return module.extra_repr(), *((name, value) for name, value in own if type(value) in _PLAIN)
    return tuple((name, repr(value)) for name, value in own)
