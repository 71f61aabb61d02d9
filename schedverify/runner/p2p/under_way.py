"""Messages of one rank that are planned, posted or begun, and not yet at their end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from schedverify.runner.compute.batches import Tensors
from schedverify.runner.compute.parcels import Parcel
from schedverify.runner.p2p.boundaries import Seal
from schedverify.runner.p2p.headers import MessageForm
from schedverify.runner.p2p.messages import Name
from schedverify.runner.p2p.waiting import Waiting


class PostedReceive:
    """A receive that was posted: of its buffers, or of its header alone where the form is not known (None) yet."""

    def __init__(self, waiting: Waiting, position: int) -> None:
        self.waiting, self.position = waiting, position
        self.began = time.perf_counter_ns()
        self.works: list[Any] = []
        self.buffers: list[Any] | None = None
        self.form: MessageForm | None = None
        self.header: Any = None
        self.checksums: Any = None

    @property
    def tensors(self) -> Tensors:
        """What came, in its structure."""
        form, buffers = self.form, self.buffers or ()
        return tuple(buffers) if form is None else Parcel.of(buffers, form.structure, form.needs)

    @property
    def seal(self) -> Seal | None:
        """The checksums that came with it, one a tensor; None where the run has none."""
        return None if self.checksums is None else tuple(self.checksums.tolist())


class PlannedMessage(NamedTuple):
    """What stays of a message from step to step: at which end this rank is, and where its order has it."""

    name: Name
    tag: int
    """That of its header; those of its tensors and checksums follow."""
    waiting: Waiting


class PendingSend(NamedTuple):
    """A message that was begun to be sent, announced by a header or not, and that the plan will wait for."""

    works: list[Any]
    waiting: Waiting
    size: int
    ended: Callable[[int], None]
    announced: bool


class BatchedTransfer:
    """A transfer that is launched together with the others of its group, and has its handle from then on."""

    def __init__(self, transfer: Any) -> None:
        self.transfer = transfer
        self.work: Any = None

    def wait(self, timeout: Any) -> Any:
        """Wait as for the work itself."""
        return self.work.wait(timeout)
