"""Moves tensors between ranks: a message has a name, a buffer lives from its receive to its reading, and no longer.

The shapes of a message are learned when it first crosses: a header goes ahead of it. After that its receive takes a
buffer at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from schedverify.core.op import Op
from schedverify.core.problem import Problem
from schedverify.runner.compute.batches import Tensors
from schedverify.runner.failures import RunError
from schedverify.runner.p2p.boundaries import Boundaries, Seal
from schedverify.runner.p2p.messages import HEADER, Name, Tags, name_of, plain, read, signature, unfit, written
from schedverify.runner.p2p.waiting import Sends, Waiting, begin, wait_for_all


class Posted:
    """A receive that stands: its buffers, or its header where the shapes are not known yet."""

    def __init__(self, waiting: Waiting, position: int) -> None:
        self.waiting, self.position = waiting, position
        self.began = time.perf_counter_ns()
        self.works: list[Any] = []
        self.buffers: list[Any] = []
        self.header: Any = None
        self.checksums: Any = None

    @property
    def seal(self) -> Seal | None:
        """The checksums that came with it, if they were asked for."""
        return None if self.checksums is None else tuple(self.checksums.tolist())


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
        boundary must be known in advance.
    device
        Where buffers are taken.
    boundaries
        What crosses each boundary, where it is known, and whether checksums follow.
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
        boundaries: Boundaries,
    ) -> None:
        self.timeout, self.device = timeout, device
        self.sends = Sends(timeout)
        self._rank, self._group, self._tagged = rank, group, tagged
        self._owner_rank, self._tags = problem.owner_rank, Tags(problem)
        self._boundaries = boundaries
        self._posted: dict[Name, Posted] = {}
        self._batch: list[Late] | None = None
        self._begun: list[tuple[list[Any], Waiting, int, Callable[[int], None]]] = []

    def begin(self) -> None:
        """Begin a step: nothing is under way."""
        self.sends = Sends(self.timeout)
        self._posted.clear()

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

    def send(self, op: Op, position: int, tensors: Tensors, seal: Seal | None, ended: Callable[[int], None]) -> None:
        """Begin to send; ``ended`` is called as :meth:`Sends.add` says."""
        self.sends.check()
        name = name_of(op)
        peer, tag = self._owner_rank[name.target], self._tags.first(name)
        waiting = Waiting(self._rank, peer, f"position {position} ({op})")
        works = []
        if self._boundaries.expected(name) is None:
            own = signature(tensors)
            if reason := unfit(own):
                raise RunError(f"{waiting}: {reason}")
            works.append(self._isend(written(own), waiting, tag))
            self._boundaries.learn(name, own)
        parts = [plain(tensor) for tensor in tensors]
        if seal is not None:
            parts.append(torch.tensor(seal, dtype=torch.int64, device=self.device))
        works += [self._isend(part, waiting, tag + number) for number, part in enumerate(parts, 1)]
        size = sum(part.untyped_storage().nbytes() for part in parts)
        if self._batch is None:
            self.sends.add(works, waiting, size, ended)
        else:
            self._begun.append((works, waiting, size, ended))

    def post(self, op: Op, position: int) -> None:
        """Post a receive; that of a gradient whose activation has not left yet, and is not known, when it is read."""
        name = name_of(op)
        peer = self._owner_rank[name.source]
        posted = Posted(Waiting(self._rank, peer, f"position {position} ({op})"), position)
        if self._boundaries.expected(name) is not None:
            self._post_buffers(posted, name)
        elif not name.backward:
            posted.header = torch.zeros(HEADER, dtype=torch.int64)
            posted.works = [self._irecv(posted.header, posted.waiting, self._tags.first(name))]
        self._posted[name] = posted

    def take(self, name: Name) -> Posted | None:
        """Return the receive of a message when its buffers are full; None where no receive stands."""
        posted = self._posted.pop(name, None)
        if posted is None:
            return None
        began = time.monotonic()
        if posted.header is not None:
            wait_for_all(posted.works, posted.waiting, self.timeout, began)
            self._boundaries.learn(name, read(posted.header))
        if not posted.works:
            self._post_buffers(posted, name)
        wait_for_all(posted.works, posted.waiting, self.timeout, began)
        return posted

    def _post_buffers(self, posted: Posted, name: Name) -> None:
        known = self._boundaries.expected(name)
        if known is None:
            raise RunError(f"{posted.waiting}: nothing has left that it could be the gradient of")
        posted.buffers = [torch.empty(shape, dtype=dtype, device=self.device) for dtype, shape in known]
        parts = list(posted.buffers)
        if self._boundaries.sealed:
            posted.checksums = torch.zeros(len(parts), dtype=torch.int64, device=self.device)
            parts.append(posted.checksums)
        first = self._tags.first(name) + 1
        posted.works = [self._irecv(part, posted.waiting, tag) for tag, part in enumerate(parts, first)]

    def _isend(self, tensor: Any, waiting: Waiting, tag: int) -> Any:
        if self._batch is not None:
            return _later(self._batch, dist.P2POp(dist.isend, tensor, group=self._group, group_peer=waiting.peer))
        to = {"group": self._group, "group_dst": waiting.peer, "tag": tag if self._tagged else 0}
        return begin(lambda: dist.isend(tensor, **to), waiting)

    def _irecv(self, buffer: Any, waiting: Waiting, tag: int) -> Any:
        if self._batch is not None:
            return _later(self._batch, dist.P2POp(dist.irecv, buffer, group=self._group, group_peer=waiting.peer))
        of = {"group": self._group, "group_src": waiting.peer, "tag": tag if self._tagged else 0}
        return begin(lambda: dist.irecv(buffer, **of), waiting)


def _later(batch: list[Late], transfer: Any) -> Late:
    batch.append(Late(transfer))
    return batch[-1]
