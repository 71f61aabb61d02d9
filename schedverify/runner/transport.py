"""Moves tensors between ranks: a message has a name, a buffer lives from its receive to its reading, and no longer.

The shapes of a message are learned when it first crosses: a header goes ahead of it. After that its receive takes a
buffer at once, and a message of another shape is an error that names the boundary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from schedverify.op import Op
from schedverify.problem import Problem
from schedverify.runner.batches import Tensors
from schedverify.runner.failures import RunError
from schedverify.runner.messages import (
    HEADER,
    Name,
    Signature,
    Tags,
    gradients_of,
    name_of,
    read,
    shown,
    signature,
    unfit,
    written,
)  # fmt: skip
from schedverify.runner.waiting import Sends, Waiting, wait

Edge = tuple[int, int]


class Posted:
    """A receive that stands: its buffers, or its header where the shapes are not known yet."""

    def __init__(self, waiting: Waiting, position: int) -> None:
        self.waiting, self.position = waiting, position
        self.began = time.perf_counter_ns()
        self.works: list[Any] = []
        self.buffers: list[Any] = []
        self.header: Any = None


class Late:
    """A transfer of a group, which is launched with the others of it."""

    def __init__(self, transfer: Any) -> None:
        self.transfer = transfer
        self.work: Any = None

    def wait(self, timeout: Any) -> Any:
        """Wait as for the work itself."""
        return self.work.wait(timeout)


class Transport:
    """The messages of one rank.

    Parameters
    ----------
    group
        The process group of the pipeline.
    tagged
        Whether the backend matches messages by their tags. Without, no header may go ahead of a message, and every
        boundary must be in ``declared``.
    device
        Where buffers are taken.
    declared
        By edge of all copies, what crosses it.
    """

    def __init__(
        self,
        problem: Problem,
        rank: int,
        group: Any,
        *,
        tagged: bool,
        timeout: float,
        device: Any,
        declared: Mapping[Edge, Signature],
    ) -> None:
        self.timeout, self.device = timeout, device
        self.sends = Sends(timeout)
        self._rank, self._group, self._tagged = rank, group, tagged
        self._homes, self._tags = problem.homes, Tags(problem)
        self._declared = {} if tagged else dict(declared)
        self._learned: dict[tuple[int, int, int], Signature] = {}
        self._posted: dict[Name, Posted] = {}
        self._batch: list[Late] | None = None
        self._begun: list[tuple[list[Any], Waiting, Callable[[int], None]]] = []

    def begin(self) -> None:
        """Begin a step: nothing is under way."""
        self.sends = Sends(self.timeout)
        self._posted.clear()

    def forget(self) -> None:
        """Forget what was learned about shapes."""
        self._learned.clear()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Launch the transfers that are begun within as one, where messages are matched by their order alone."""
        if self._tagged:
            yield
            return
        batch = self._batch = []
        self._begun = []
        try:
            yield
        finally:
            self._batch = None
        works = dist.batch_isend_irecv([late.transfer for late in batch])
        for i, late in enumerate(batch):
            late.work = works[i] if len(works) == len(batch) else works[0]
        for begun in self._begun:
            self.sends.add(*begun)

    def send(self, op: Op, position: int, tensors: Tensors, ended: Callable[[int], None]) -> None:
        """Begin to send; ``ended`` is called with the time in nanoseconds when the message has left."""
        self.sends.check()
        name = name_of(op)
        peer, tag = self._homes[name.target], self._tags.first(name)
        waiting = Waiting(self._rank, peer, f"position {position} ({op})")
        known, own = self._known(name), signature(tensors)
        works = []
        if known is None:
            if reason := unfit(own):
                raise RunError(f"{waiting}: {reason}")
            works.append(self._isend(written(own), peer, tag))
            self._learned[name.forward] = own
        elif own != known:
            text = f"boundary {name.source} to {name.target}: {shown(own)}, where {shown(known)} crosses"
            hint = "before steps of other shapes call relearn() on every rank"
            raise RunError(f"{waiting}: {text} ({hint})")
        parts = enumerate(tensors, 1)
        works += [self._isend(tensor.contiguous(), peer, tag + part) for part, tensor in parts]
        if self._batch is None:
            self.sends.add(works, waiting, ended)
        else:
            self._begun.append((works, waiting, ended))

    def post(self, op: Op, position: int) -> None:
        """Post a receive."""
        name = name_of(op)
        peer = self._homes[name.source]
        posted = Posted(Waiting(self._rank, peer, f"position {position} ({op})"), position)
        known = self._known(name)
        if known is None:
            posted.header = torch.zeros(HEADER, dtype=torch.int64)
            posted.works = [self._irecv(posted.header, peer, self._tags.first(name))]
        else:
            self._post_buffers(posted, name, peer, known)
        self._posted[name] = posted

    def take(self, name: Name) -> Posted | None:
        """Return the receive of a message when its buffers are full; None where no receive stands."""
        posted = self._posted.pop(name, None)
        if posted is None:
            return None
        if posted.header is not None:
            self._wait(posted)
            self._learned[name.forward] = read(posted.header)
            self._post_buffers(posted, name, self._homes[name.source], self._learned[name.forward])
        self._wait(posted)
        return posted

    def _wait(self, posted: Posted) -> None:
        while posted.works:
            wait(posted.works.pop(0), posted.waiting, self.timeout)

    def _post_buffers(self, posted: Posted, name: Name, peer: int, known: Signature) -> None:
        posted.buffers = [torch.empty(shape, dtype=dtype, device=self.device) for dtype, shape in known]
        parts = enumerate(posted.buffers, self._tags.first(name) + 1)
        posted.works = [self._irecv(buffer, peer, tag) for tag, buffer in parts]

    def _known(self, name: Name) -> Signature | None:
        found = self._learned.get(name.forward) or self._declared.get(name.forward[:2])
        return gradients_of(found) if found is not None and name.backward else found

    def _isend(self, tensor: Any, peer: int, tag: int) -> Any:
        if self._batch is None:
            return dist.isend(tensor, group=self._group, group_dst=peer, tag=tag if self._tagged else 0)
        return _later(self._batch, dist.P2POp(dist.isend, tensor, group=self._group, group_peer=peer))

    def _irecv(self, buffer: Any, peer: int, tag: int) -> Any:
        if self._batch is None:
            return dist.irecv(buffer, group=self._group, group_src=peer, tag=tag if self._tagged else 0)
        return _later(self._batch, dist.P2POp(dist.irecv, buffer, group=self._group, group_peer=peer))


def _later(batch: list[Late], transfer: Any) -> Late:
    batch.append(Late(transfer))
    return batch[-1]
