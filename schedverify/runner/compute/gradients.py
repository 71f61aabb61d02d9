"""Gradients before and behind a step: what stood before is set aside, and replicas take their mean.

The gradients of a stage's weights go as one row: a tensor of shape ``(numbers,)``, the weights one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from schedverify.runner.p2p.waiting import begin, wait


@contextmanager
def set_aside(modules: Iterable[Any]) -> Iterator[list[Any]]:
    """Set gradients aside that stand when a step begins, and add what the step made to them when it ends.

    Yields the weights.

    Within this context the ``grad`` of each weight of the modules holds only what the step adds, so that sums between
    ranks do not count twice what they have summed before. After a failure what stood before stands again.
    """
    weights = list({id(weight): weight for module in modules for weight in module.parameters()}.values())
    before = [(weight, weight.grad) for weight in weights if weight.grad is not None]
    for weight, _ in before:
        weight.grad = None
    try:
        yield weights
    except BaseException:
        for weight, gradient in before:
            weight.grad = gradient
        raise
    for weight, gradient in before:
        weight.grad = gradient if weight.grad is None else _added(gradient, weight.grad)


def scale(weights: Iterable[Any], factor: float) -> None:
    """Multiply the gradients of weights by a factor; 0 makes zeros even of a NaN."""
    for weight in weights:
        if weight.grad is not None:
            weight.grad.mul_(factor) if factor else weight.grad.zero_()


def _added(gradient: Any, further: Any) -> Any:
    """Add a gradient to another, in place where the other is no sparse tensor that a dense one is added to."""
    with torch.no_grad():
        return further + gradient if gradient.is_sparse and not further.is_sparse else gradient.add_(further)


def begin_average(weights: Iterable[Any], group: Any, place: str, timeout: float) -> Callable[[], None]:
    """Begin to take the mean of gradients over a process group; what is returned waits for it and puts it in place.

    A weight that has no gradient counts as zeros where another rank has one; where none has, it keeps None, so that an
    optimizer leaves it alone. Behind the row of gradients goes a number for each weight: 0 without a gradient, 1 with
    one, and more than the ranks are with a sparse one, so that the sum tells what to make.

    Parameters
    ----------
    place
        The rank and the stage, for messages of errors.

    Raises
    ------
    TimedOutError
        If another rank of the group does not come within ``timeout`` seconds, or is gone.
    """
    with_gradients = [weight for weight in weights if weight.requires_grad]
    if not with_gradients:
        return lambda: None
    flat, size = _flat(with_gradients), dist.get_world_size(group)
    kinds = [0 if weight.grad is None else 2 * size if weight.grad.is_sparse else 1 for weight in with_gradients]
    row = torch.cat([flat, flat.new_tensor(kinds)])
    what = f"{place}, mean of gradients over the data-parallel group"
    work = begin(partial(dist.all_reduce, row, group=group, async_op=True), what)

    def end() -> None:
        wait(work, what, timeout)
        means = (row[: len(flat)] / size).split([weight.numel() for weight in with_gradients])
        for weight, mean, kind in zip(with_gradients, means, row[len(flat) :].real.tolist(), strict=True):
            dense = mean.view_as(weight).to(weight.dtype).clone() if kind else None
            weight.grad = dense.to_sparse(1) if dense is not None and kind > size else dense

    return end


def _flat(weights: Sequence[Any]) -> Any:
    """Return the gradients of weights as one row, shape ``(numbers,)``; zeros where a weight has none."""
    gradients = [torch.zeros_like(w) if w.grad is None else w.grad.to_dense() for w in weights if w.requires_grad]
    return torch.cat([gradient.reshape(-1) for gradient in gradients]) if gradients else torch.zeros(0)


def weights_of(modules: Mapping[int, Any]) -> dict[str, str]:
    """Return by stage its weights' count of numbers and dtypes, as ``180/float32``."""
    return {str(number): _size(module.parameters()) for number, module in modules.items()}


def _size(weights: Iterable[Any]) -> str:
    with_gradients = [weight for weight in weights if weight.requires_grad]
    dtypes = sorted({str(weight.dtype)[6:] for weight in with_gradients})
    return "/".join([str(sum(weight.numel() for weight in with_gradients)), *dtypes])
