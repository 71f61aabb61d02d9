"""Moves tensors between ranks; a buffer lives from the posting of its receive to its reading, and no longer.

Where the shapes of a message are neither declared nor learned, a header with them goes ahead of it, and the buffers are
taken when the header is there. From the second step on they are taken when the receive is posted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from schedverify.core.op import Op
from schedverify.core.problem import Problem
from schedverify.runner.compute.batches import Tensors
from schedverify.runner.failures import RunError
from schedverify.runner.p2p import messages
from schedverify.runner.p2p.boundaries import Boundaries, Seal
from schedverify.runner.p2p.messages import Name, Tags, contiguous, name_of, signature
from schedverify.runner.p2p.waiting import Sends, Waiting, begin_transfer, wait_for_all


class PostedReceive:
    """A receive that was posted: of its buffers, or of its header alone where the shapes are not known yet."""

    def __init__(self, waiting: Waiting, position: int) -> None:
        self.waiting, self.position = waiting, position
        self.began = time.perf_counter_ns()
        self.works: list[Any] = []
        self.buffers: list[Any] = []
        self.header: Any = None
        self.checksums: Any = None

    @property
    def seal(self) -> Seal | None:
        """The checksums that came with it, one a tensor; None where the run has none."""
        return None if self.checksums is None else tuple(self.checksums.tolist())


class BatchedTransfer:
    """A transfer that is launched together with the others of its group, and has its handle from then on."""

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
    boundaries
        The contracts of the boundaries, which know shapes, and whether checksums follow a message.
    group
        The process group of the pipeline.
    tagged
        Whether the backend matches messages by their tags. If it does not, no header may go ahead of a message, and
        every boundary must be declared.
    timeout
        Seconds that a message is waited for.
    device
        The device of the buffers.
    awaited
        The messages for whose sends :meth:`wait_sent` is called; no other sends are waited for before the step's end.

    Attributes
    ----------
    received
        Where it is not None it is called with the name and the buffers of each message that has come, before anybody
        reads them: where a test damages them.
    """

    def __init__(
        self,
        boundaries: Boundaries,
        problem: Problem,
        rank: int,
        group: Any,
        *,
        tagged: bool,
        timeout: float,
        device: Any,
        awaited: frozenset[Name] = frozenset(),
    ) -> None:
        self.timeout, self.device = timeout, device
        self._awaited, self._pending = awaited, dict[Name, tuple[list[Any], Waiting, int, Callable[[int], None]]]()
        self._waits_block = True
        self.sends = Sends(timeout)
        self._rank, self._group, self._tagged = rank, group, tagged
        self._owner_rank, self._tags = problem.owner_rank, Tags(problem)
        self._boundaries = boundaries
        self.received: Callable[[Name, list[Any]], None] | None = None
        self._posted: dict[Name, PostedReceive] = {}
        self._batch: list[BatchedTransfer] | None = None
        self._begun: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Begin a step of training, without sends and receives of an earlier one."""
        self.sends = Sends(self.timeout)
        self._posted.clear()
        self._pending.clear()
        self._waits_block = self._boundaries.shapes_known

    @contextmanager
    def together(self) -> Iterator[None]:
        """Launch the transfers that are begun within this context as one, where the backend has no tags."""
        if self._tagged:
            yield
            return
        batch = self._batch = []
        self._begun = []
        try:
            yield
        finally:
            self._batch = None
        works = dist.batch_isend_irecv([entry.transfer for entry in batch])
        for i, entry in enumerate(batch):
            entry.work = works[i] if len(works) == len(batch) else works[0]
        for add in self._begun:
            add()

    def send(self, op: Op, position: int, tensors: Tensors, seal: Seal | None, ended: Callable[[int], None]) -> None:
        """Begin to send tensors, with their checksums where there are some; ``ended`` is that of :meth:`Sends.add`."""
        self.sends.check()
        name = name_of(op)
        peer, tag = self._owner_rank[name.target], self._tags.first(name)
        waiting = Waiting(self._rank, peer, f"position {position} ({op})")
        works = []
        if self._boundaries.expected(name) is None:
            own = signature(tensors)
            if reason := messages.header_objection(own):
                raise RunError(f"{waiting}: {reason}")
            works.append(self._begin(dist.isend, messages.header_of(own), waiting, tag))
            self._boundaries.learn(name, own)
        parts = [contiguous(tensor) for tensor in tensors]
        if seal is not None:
            parts.append(torch.tensor(seal, dtype=torch.int64, device=self.device))
        works += [self._begin(dist.isend, part, waiting, tag + number) for number, part in enumerate(parts, 1)]
        size = sum(part.untyped_storage().nbytes() for part in parts)
        if name in self._awaited:
            self._pending[name] = works, waiting, size, ended
        elif self._batch is None:
            self.sends.add(works, waiting, size, ended)
        else:
            self._begun.append(partial(self.sends.add, works, waiting, size, ended))

    def wait_sent(self, op: Op, position: int) -> None:
        """Wait until the send that a ``WAIT_SEND`` names is complete, and let its tensors go.

        In a step that has to learn shapes it is not waited for here: its receive has no buffers before its reader wants
        it, which can be later than where the plan posts it, so that ranks could wait for each other for ever.

        Raises
        ------
        RunError
            If it was not begun.
        TimedOutError
            If it is not complete in time.
        """
        place = f"position {position} ({op})"
        if name_of(op) not in self._pending:
            raise RunError(f"rank {self._rank}, {place}: the send that it waits for was not begun")
        works, waiting, size, ended = self._pending.pop(name_of(op))
        if not self._waits_block:
            self.sends.add(works, waiting, size, ended)
            return
        wait_for_all(works, waiting._replace(what=place), self.timeout)
        ended(time.perf_counter_ns())

    def post(self, op: Op, position: int) -> None:
        """Post a receive: of its buffers where their shapes are known, else of its header.

        The receive of a gradient whose shapes are not known, since its activation has not left yet, begins when
        :meth:`take` wants it.
        """
        name = name_of(op)
        peer = self._owner_rank[name.source]
        posted = PostedReceive(Waiting(self._rank, peer, f"position {position} ({op})"), position)
        if self._boundaries.expected(name) is not None:
            self._post_buffers(posted, name)
        elif not name.backward:
            posted.header = torch.zeros(messages.HEADER, dtype=torch.int64)
            posted.works = [self._begin(dist.irecv, posted.header, posted.waiting, self._tags.first(name))]
        self._posted[name] = posted

    def take(self, name: Name) -> PostedReceive | None:
        """Wait for a message and return its receive, with full buffers; None where no receive was posted."""
        posted = self._posted.pop(name, None)
        if posted is None:
            return None
        began = time.monotonic()
        if posted.header is not None:
            wait_for_all(posted.works, posted.waiting, self.timeout, began)
            self._boundaries.learn(name, self._signature_in(posted, name))
        if not posted.works:
            self._post_buffers(posted, name)
        wait_for_all(posted.works, posted.waiting, self.timeout, began)
        if self.received is not None:
            self.received(name, posted.buffers)
        return posted

    def _signature_in(self, posted: PostedReceive, name: Name) -> messages.Signature:
        """Return the signature in a header that has come, if there may be buffers for it."""
        try:
            found = messages.signature_in(posted.header)
        except ValueError as error:
            raise RunError(f"{posted.waiting}: {error}") from error
        if reason := self._boundaries.objection(name, found):
            raise RunError(f"{posted.waiting}: {reason}")
        return found

    def _post_buffers(self, posted: PostedReceive, name: Name) -> None:
        known = self._boundaries.expected(name)
        if known is None:
            raise RunError(f"{posted.waiting}: nothing has left that it could be the gradient of")
        posted.buffers = [torch.empty(shape, dtype=dtype, device=self.device) for dtype, shape in known]
        parts = list(posted.buffers)
        if self._boundaries.sealed:
            posted.checksums = torch.zeros(len(parts), dtype=torch.int64, device=self.device)
            parts.append(posted.checksums)
        first = self._tags.first(name) + 1
        posted.works = [self._begin(dist.irecv, part, posted.waiting, tag) for tag, part in enumerate(parts, first)]

    def _begin(self, transfer: Callable[..., Any], tensor: Any, waiting: Waiting, tag: int) -> Any:
        """Begin ``dist.isend`` or ``dist.irecv`` of a tensor, or add it to the group, and return its handle."""
        if self._batch is not None:
            operation = dist.P2POp(transfer, tensor, group=self._group, group_peer=waiting.peer)
            self._batch.append(BatchedTransfer(operation))
            return self._batch[-1]
        return begin_transfer(transfer, tensor, self._group, tag if self._tagged else 0, waiting)
