"""Sums of the gradients of shared weights, over the parameters of a rank and over ranks.

What goes from rank to rank is one row for all weights of one dtype that the same ranks share, where a flag says which
kind of gradient a rank has, none (0, 0), a dense (1, 0) or a sparse one (0, 1), and zeros stand where it has none::

    flags of weight 0, flags of weight 1, ... | numbers of weight 0 | numbers of weight 1 | ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from schedverify.runner.compute.parts import as_part_of, part_of
from schedverify.runner.compute.shared_weights import SharedWeight
from schedverify.runner.p2p.messages import SUM_TAG
from schedverify.runner.p2p.waiting import Waiting, begin_transfer, wait


class _Exchange(NamedTuple):
    """How rows go between ranks."""

    rank: int
    group: Any
    timeout: float
    tagged: bool

    def total(self, row: Any, ranks: Sequence[int]) -> Any:
        """Return the sum of the rows of some ranks, which is the same to the bit on each of them."""
        parts = {self.rank: row} | self._others(row, [rank for rank in ranks if rank != self.rank])
        return torch.stack([parts[rank] for rank in ranks]).sum(0)

    def _others(self, row: Any, others: list[int]) -> dict[int, Any]:
        """Send this rank's row to others and return theirs; on each pair of ranks the lower one sends first."""
        tag = SUM_TAG if self.tagged else 0
        received = {other: torch.empty_like(row) for other in others}
        works = []
        for other, buffer in received.items():
            both = [(dist.isend, row), (dist.irecv, buffer)]
            waiting = Waiting(self.rank, other, "sum of gradients of shared weights")
            for transfer, tensor in both if self.rank < other else both[::-1]:
                works.append((begin_transfer(transfer, tensor, self.group, tag, waiting), waiting))
        for work, waiting in works:
            wait(work, waiting, self.timeout)
        return received


def sum_shared(weights: Sequence[SharedWeight], rank: int, group: Any, timeout: float, tagged: bool) -> None:
    """Replace the gradients of shared weights by their sum; every rank that has a part in one calls it.

    A weight without any gradient keeps none, and one whose gradients are all sparse has a sparse sum. Of a sharded
    weight each rank has the same part, and the parts are summed.

    Parameters
    ----------
    weights
        Those that this rank has a part in, in the order in which all ranks have them.
    """
    alike: dict[tuple[tuple[int, ...], str], list[SharedWeight]] = {}
    for weight in weights:
        alike.setdefault((weight.ranks, weight.form.partition(" ")[0]), []).append(weight)
    for (ranks, _), members in alike.items():
        sums = [_sum_of([part_of(own.grad) for own in weight.own if own.grad is not None]) for weight in members]
        if len(ranks) > 1:
            firsts = [part_of(weight.own[0]) for weight in members]
            sums = _sums_between(firsts, sums, ranks, _Exchange(rank, group, timeout, tagged))
        for weight, total in zip(members, sums, strict=True):
            for own in weight.own if total is not None else ():
                own.grad = as_part_of(own, total.clone())


def _sum_of(gradients: Sequence[Any]) -> Any:
    """Return the sum of gradients, sparse where all of them are sparse in their rows alone; None without any."""
    if not gradients:
        return None
    if not all(each.is_sparse and each.sparse_dim() == 1 for each in gradients):
        gradients = [each.to_dense() for each in gradients]
    total = sum(gradients[1:], gradients[0])
    return total.coalesce() if total.is_sparse else total


def _sums_between(weights: Sequence[Any], own: Sequence[Any], ranks: Sequence[int], between: _Exchange) -> list[Any]:
    """Return the sums over ranks of the gradients of weights of one dtype, whose gradients here are given."""
    flags = [[float(each is not None and each.is_sparse is kind) for kind in (False, True)] for each in own]
    first = weights[0]
    row = [torch.tensor(flags, dtype=first.dtype, device=first.device).reshape(-1)]
    for weight, gradient in zip(weights, own, strict=True):
        row.append(torch.zeros_like(weight).reshape(-1) if gradient is None else gradient.to_dense().reshape(-1))
    total = between.total(torch.cat([part.detach().to(first.dtype) for part in row]), ranks)
    count = 2 * len(weights)
    kinds = (total[:count].abs() > 0).reshape(-1, 2).tolist()
    parts = total[count:].split([weight.numel() for weight in weights])
    sums: list[Any] = [
        part.view(weight.shape) if dense or sparse else None
        for weight, part, (dense, sparse) in zip(weights, parts, kinds, strict=True)
    ]
    sparse = [place for place, kind in enumerate(kinds) if kind == [False, True]]
    touched = _touched([sums[place] for place in sparse], [own[place] for place in sparse], ranks, between)
    for place, rows in zip(sparse, touched, strict=True):
        sums[place] = torch.sparse_coo_tensor(rows[None], sums[place][rows], sums[place].shape, is_coalesced=True)
    return sums


def _touched(sums: Sequence[Any], own: Sequence[Any], ranks: Sequence[int], between: _Exchange) -> list[Any]:
    """Return the rows of sparse sums in which any rank has a gradient, each of shape ``(rows,)``."""
    if not sums:
        return []
    marks = [torch.zeros(len(total), dtype=total.dtype, device=total.device) for total in sums]
    for mark, gradient in zip(marks, own, strict=True):
        if gradient is not None:
            mark[gradient.indices()[0]] = 1
    total = between.total(torch.cat(marks), ranks).abs() > 0
    return [part.nonzero()[:, 0] for part in total.split([len(mark) for mark in marks])]
