"""Sums of gradients between ranks: over copies of the model and tied stages, then over a data-parallel group.

The gradients of a stage's weights go as one row: a tensor of shape ``(numbers,)``, the weights one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from schedverify.core.problem import Problem
from schedverify.runner.failures import RunError
from schedverify.runner.p2p.messages import SUM_TAG
from schedverify.runner.p2p.waiting import Waiting, begin, begin_transfer, wait


@contextmanager
def set_aside(modules: Iterable[Any]) -> Iterator[None]:
    """Set gradients aside that stand when a step begins, and add what the step made to them when it ends.

    Within this context the ``grad`` of each weight of the modules holds only what the step adds, so that sums between
    ranks do not count twice what they have summed before. After a failure what stood before stands again.
    """
    weights = list({id(weight): weight for module in modules for weight in module.parameters()}.values())
    before = [(weight, weight.grad) for weight in weights if weight.grad is not None]
    for weight, _ in before:
        weight.grad = None
    try:
        yield
    except BaseException:
        for weight, gradient in before:
            weight.grad = gradient
        raise
    for weight, gradient in before:
        weight.grad = gradient if weight.grad is None else _added(gradient, weight.grad)


def scale(modules: Iterable[Any], factor: float) -> None:
    """Multiply the gradients of modules by a factor, those of shared weights once; 0 makes zeros even of a NaN."""
    for weight in {id(weight): weight for module in modules for weight in module.parameters()}.values():
        if weight.grad is not None:
            weight.grad.mul_(factor) if factor else weight.grad.zero_()


def _added(gradient: Any, further: Any) -> Any:
    """Add a gradient to another, in place where the other is no sparse tensor that a dense one is added to."""
    with torch.no_grad():
        return further + gradient if gradient.is_sparse and not further.is_sparse else gradient.add_(further)


def shared_weights(problem: Problem) -> list[tuple[int, ...]]:
    """Return the groups of at least two stages (of all copies) that have the same weights, each in rising order."""
    merged: list[set[int]] = []
    for group in [*problem.tied, *((stage,) for stage in range(problem.stages))]:
        joined = set(group).union(*(other for other in merged if other & set(group)))
        merged = [other for other in merged if not other & joined] + [joined]
    copies = range(0, problem.total_stages, problem.stages)
    groups = [tuple(sorted(stage + first for first in copies for stage in group)) for group in merged]
    return sorted(group for group in groups if len(group) > 1)


def sum_shared(
    problem: Problem, rank: int, modules: Mapping[int, Any], group: Any, timeout: float, tagged: bool
) -> None:
    """Replace the gradients of stages with the same weights by their sum; every rank with such a stage calls it.

    Raises
    ------
    RunError
        If two such stages have not as many numbers.
    """
    for stages in shared_weights(problem):
        holders = sorted({problem.owner_rank[stage] for stage in stages})
        if rank not in holders:
            continue
        sets = [tuple(modules[stage].parameters()) for stage in stages if problem.owner_rank[stage] == rank]
        own = list({tuple(map(id, weights)): weights for weights in sets}.values())  # each set of tensors once
        summed = sum(map(_flat, own[1:]), _flat(own[0]))
        others = [holder for holder in holders if holder != rank]
        parts = {rank: summed} | _exchanged(summed, rank, others, group, timeout, tagged)
        total = torch.stack([parts[holder] for holder in holders]).sum(0) if len(holders) > 1 else summed
        for weights in own:
            _set(weights, total)


def begin_average(weights: Iterable[Any], group: Any, place: str, timeout: float) -> Callable[[], None]:
    """Begin to take the mean of gradients over a process group; what is returned waits for it and puts it in place.

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
    flat = _flat(with_gradients)
    what = f"{place}, mean of gradients over the data-parallel group"
    work = begin(partial(dist.all_reduce, flat, group=group, async_op=True), what)

    def end() -> None:
        wait(work, what, timeout)
        _set(with_gradients, flat / dist.get_world_size(group))

    return end


def _flat(weights: Sequence[Any]) -> Any:
    """Return the gradients of weights as one row, shape ``(numbers,)``; zeros where a weight has none."""
    gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights if w.requires_grad]
    return torch.cat([gradient.reshape(-1) for gradient in gradients]) if gradients else torch.zeros(0)


def _set(weights: Sequence[Any], flat: Any) -> None:
    """Set the gradients of weights from one row, shape ``(numbers,)``."""
    first = 0
    for weight in weights:
        if weight.requires_grad:
            count = weight.numel()
            weight.grad = flat[first : first + count].view_as(weight).to(weight.dtype).clone()
            first += count


def _exchanged(own: Any, rank: int, others: list[int], group: Any, timeout: float, tagged: bool) -> dict[int, Any]:
    """Send this rank's row to others and return theirs, by rank; on each pair of ranks the lower one sends first."""
    tag = SUM_TAG if tagged else 0
    received = {other: torch.empty_like(own) for other in others}
    works = []
    for other, buffer in received.items():
        both = [(dist.isend, own), (dist.irecv, buffer)]
        waiting = Waiting(rank, other, "sum of gradients over stages with the same weights")
        for transfer, tensor in both if rank < other else both[::-1]:
            works.append((begin_transfer(transfer, tensor, group, tag, waiting), waiting))
    for work, waiting in works:
        wait(work, waiting, timeout)
    return received


def weights_shared(problem: Problem, modules: Mapping[int, Any]) -> dict[str, str]:
    """Return by stages with the same weights, as ``0+3``, their count of numbers and dtypes, as ``180/float32``.

    Raises
    ------
    RunError
        If they differ on this rank already.
    """
    found: dict[str, str] = {}
    for stages in shared_weights(problem):
        sizes = {stage: _size(modules[stage].parameters()) for stage in stages if stage in modules}
        if len(set(sizes.values())) > 1:
            raise RunError(f"stages with the same weights have not as many numbers: {sizes}")
        found |= {"+".join(map(str, stages)): size for size in sizes.values()}
    return found


def weights_of(modules: Mapping[int, Any]) -> dict[str, str]:
    """Return by stage its weights' count of numbers and dtypes, as ``180/float32``."""
    return {str(number): _size(module.parameters()) for number, module in modules.items()}


def _size(weights: Iterable[Any]) -> str:
    with_gradients = [weight for weight in weights if weight.requires_grad]
    dtypes = sorted({str(weight.dtype)[6:] for weight in with_gradients})
    return "/".join([str(sum(weight.numel() for weight in with_gradients)), *dtypes])
