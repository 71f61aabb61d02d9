"""Moves tensors between ranks; a buffer lives from the posting of its receive to its reading, and no longer.

In the first step a header with the form of a message goes ahead of it, and its buffers are taken when the header is
there. From the second step on they are taken when the receive is posted, for what came the last time; a message of
another form has a mark and a header again. Where the backend has no tags no header can go, and forms are declared.
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
from schedverify.runner.p2p import headers
from schedverify.runner.p2p.boundaries import Boundaries, Seal
from schedverify.runner.p2p.headers import MessageForm
from schedverify.runner.p2p.marks import begins_with_mark, leading, placeholders
from schedverify.runner.p2p.messages import Name, Signature, Tags, contiguous, name_of
from schedverify.runner.p2p.under_way import BatchedTransfer, PendingSend, PlannedMessage, PostedReceive
from schedverify.runner.p2p.waiting import Sends, Waiting, begin_transfer, wait_for_all


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
        self._awaited, self._pending = awaited, dict[Name, PendingSend]()
        self.sends = Sends(timeout)
        self._rank, self._group, self._tagged = rank, group, tagged
        self._owner_rank, self._tags = problem.owner_rank, Tags(problem)
        self._boundaries = boundaries
        self.received: Callable[[Name, list[Any]], None] | None = None
        self._planned: dict[tuple[int, Op], PlannedMessage] = {}
        self._posted: dict[Name, PostedReceive] = {}
        self._batch: list[BatchedTransfer] | None = None
        self._begun: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Begin a step of training, without sends and receives of an earlier one."""
        self.sends = Sends(self.timeout)
        self._posted.clear()
        self._pending.clear()

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
        works = dist.batch_isend_irecv([entry.transfer for entry in batch]) if batch else []
        for i, entry in enumerate(batch):
            entry.work = works[i] if len(works) == len(batch) else works[0]
        for add in self._begun:
            add()

    def planned(self, op: Op, position: int) -> PlannedMessage:
        """Return the message that a send or receive at a position of the rank's order moves; made once."""
        found = self._planned.get((position, op))
        if found is None:
            name = name_of(op)
            peer = self._owner_rank[name.target if op.kind.is_send else name.source]
            waiting = Waiting(self._rank, peer, f"position {position} ({op})")
            found = self._planned[position, op] = PlannedMessage(name, self._tags.first(name), waiting)
        return found

    def send(self, op: Op, position: int, tensors: Tensors, seal: Seal | None, ended: Callable[[int], None]) -> None:
        """Begin to send tensors, with their checksums where there are some; ``ended`` is that of :meth:`Sends.add`."""
        self.sends.check()
        name, tag, waiting = self.planned(op, position)
        parts = [contiguous(tensor) for tensor in tensors]
        if seal is not None:
            parts.append(torch.tensor(seal, dtype=torch.int64, device=self.device))
        works = self._announce(name, parts, waiting) if self._tagged and not name.backward else []
        announced = bool(works)
        works += [self._begin(dist.isend, part, waiting, tag + number) for number, part in enumerate(parts, 1)]
        size = sum(part.untyped_storage().nbytes() for part in parts)
        if name in self._awaited:
            self._pending[name] = PendingSend(works, waiting, size, ended, announced)
        elif self._batch is None:
            self.sends.add(works, waiting, size, ended)
        else:
            self._begun.append(partial(self.sends.add, works, waiting, size, ended))
        if not name.backward:
            self._post_deferred(Name(name.target, name.source, name.microbatch, True))

    def _announce(self, name: Name, parts: list[Any], waiting: Waiting) -> list[Any]:
        """Begin to send a header, where the reader of a message needs one, and return the handles."""
        form, agreed, tag = self._boundaries.form(name), self._boundaries.agreed(name), self._tags.first(name)
        place = leading(agreed.members) if agreed is not None else None
        if form is None or (form == agreed and place is not None and not begins_with_mark(parts[place])):
            return []
        if reason := headers.header_objection(form):
            raise RunError(f"{waiting}: {reason}")
        works = []
        if agreed is not None and place is not None and form != agreed:
            expected = placeholders(len(agreed.members) + self._boundaries.sealed, place)
            works += [self._begin(dist.isend, part, waiting, tag + number) for number, part in enumerate(expected, 1)]
        return works + [self._begin(dist.isend, part, waiting, tag) for part in headers.header_of(form)]

    def _post_deferred(self, name: Name) -> None:
        """Post the receive of a gradient whose form was not known, once what it is the gradient of has left."""
        posted, members = self._posted.get(name), self._boundaries.gradients(name)
        if posted is not None and posted.buffers is None and members is not None:
            self._post_buffers(posted, name, members)

    def wait_sent(self, op: Op, position: int) -> None:
        """Wait until the send that a ``WAIT_SEND`` names is complete, and let its tensors go.

        A message with a header is not waited for here: its receive has no buffers before its reader wants it, which can
        be later than where the plan posts it, so that ranks could wait for each other for ever.

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
        works, waiting, size, ended, announced = self._pending.pop(name_of(op))
        if announced:
            self.sends.add(works, waiting, size, ended)
            return
        wait_for_all(works, waiting._replace(what=place), self.timeout)
        ended(time.perf_counter_ns())

    def post(self, op: Op, position: int) -> None:
        """Post a receive: of its buffers where their form is known, else of its header.

        The receive of a gradient is posted when what it is the gradient of has left, where that comes later.
        """
        name, _, waiting = self.planned(op, position)
        posted = self._posted[name] = PostedReceive(waiting, position)
        if name.backward:
            members = self._boundaries.gradients(name)
            if members is not None:
                self._post_buffers(posted, name, members)
            return
        form = self._boundaries.agreed(name)
        if form is not None and (not self._tagged or leading(form.members) is not None):
            posted.form = form
            self._post_buffers(posted, name, form.members)
        else:
            self._post_header(posted, name)

    def take(self, name: Name) -> PostedReceive | None:
        """Wait for a message and return its receive, with full buffers; None where no receive was posted."""
        posted = self._posted.pop(name, None)
        if posted is None:
            return None
        began = time.monotonic()
        wait_for_all(posted.works, posted.waiting, self.timeout, began)
        if not name.backward:
            self._take_form(posted, name, began)
        if posted.buffers is None:
            raise RunError(f"{posted.waiting}: nothing has left that it could be the gradient of")
        if self.received is not None:
            self.received(name, posted.buffers)
        return posted

    def _take_form(self, posted: PostedReceive, name: Name, began: float) -> None:
        """Note the form of a message to the next stage; where it has a header, read that and what follows it."""
        if posted.form is not None and posted.buffers and self._tagged:
            place = leading(posted.form.members)
            if place is not None and begins_with_mark(posted.buffers[place]):
                self._post_header(posted, name)
        if posted.header is not None:
            form = self._form_in(posted, name, began)
            if form != posted.form:
                posted.form = form
                self._post_buffers(posted, name, form.members)
                wait_for_all(posted.works, posted.waiting, self.timeout, began)
        if posted.form is not None:
            self._boundaries.learn(name, posted.form)

    def _form_in(self, posted: PostedReceive, name: Name, began: float) -> MessageForm:
        """Wait for a header, and for the text behind it, and return the form that they tell."""
        wait_for_all(posted.works, posted.waiting, self.timeout, began)
        try:
            text = torch.empty(headers.text_bytes_in(posted.header), dtype=torch.uint8)
            if len(text):
                works = [self._begin(dist.irecv, text, posted.waiting, self._tags.first(name))]
                wait_for_all(works, posted.waiting, self.timeout, began)
            form = headers.form_in(posted.header, bytes(text.tolist()))
        except ValueError as error:
            raise RunError(f"{posted.waiting}: {error}") from error
        if reason := self._boundaries.objection(name, form.members):
            raise RunError(f"{posted.waiting}: {reason}")
        return form

    def _post_header(self, posted: PostedReceive, name: Name) -> None:
        posted.header = torch.zeros(headers.HEADER, dtype=torch.int64)
        posted.works = [self._begin(dist.irecv, posted.header, posted.waiting, self._tags.first(name))]

    def _post_buffers(self, posted: PostedReceive, name: Name, members: Signature) -> None:
        posted.buffers = [torch.empty(shape, dtype=dtype, device=self.device) for dtype, shape in members]
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
