"""A bare executor of lowered orders over gloo: it runs each rank's steps to the letter and refuses nothing.

A stage is ``y = tanh(x @ w)``, the loss half the squared distance to targets that differ with each micro-batch, so that
data which change places change the gradients. There is a buffer for every tensor, full of zeros until something is put
into it: a step that reads what is not there reads zeros, and a send before its step sends zeros. What a step makes is
kept the first time; what a B or W adds to a weight's gradient is added each time. A compute step waits for the first
receive of each tensor that it reads, if that stands before it, and at the end a rank waits for all that it has sent
and received. Nothing else blocks, but for the blocking modes, in which each send, receive or group does.

What gloo does, as measured with torch 2.13 on loopback: a send, blocking or not, is complete only once its receive is
posted, however small it is, so nothing is eager; without tags the n-th send between two ranks meets the n-th receive;
with tags, those of one tag meet, in whatever order they are posted. The hand cases of ``test_reality`` hold it to that.

Only what is not its rank's or not its problem's is passed over. It shares nothing with schedverify or a runner of ours.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from oracle.law import Op
from oracle.messages import Mark, Name, Transfer, read_lowered

Rows = list[list[str]]

MODES = ("tagged", "edge", "block", "named block")
"""``isend`` and ``irecv``, with a tag for each message or without; blocking ``send`` and ``recv``, without or with."""

WIDTH, SAMPLES = 3, 2
PATIENCE = 1.5
"""Seconds without any progress of a rank after which a run counts as hung where a hang is predicted."""
GENEROUS = 60
"""Seconds without any progress after which it counts as hung where it should end."""


class Work(NamedTuple):
    """One order to run: a chain of stages, cut over ranks, and how its messages go."""

    rows: Rows
    placement: tuple[int, ...]
    """The rank of each stage."""
    microbatches: int
    split: bool
    """Whether I and W are operations."""
    mode: str
    hangs: bool = False
    """Whether it is predicted to hang: how soon one gives up waiting depends on it, nothing else."""


def drawn(kind: int, number: int, rows: int, seed: int = 0) -> Any:
    """Return a random matrix of width 3 that follows from its numbers."""
    import torch

    generator = torch.Generator().manual_seed(1_000_000 * seed + 1000 * kind + number)
    return torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64)


def weight(stage: int) -> Any:
    return drawn(0, stage, WIDTH)


def inputs_of(microbatch: int) -> Any:
    return drawn(1, microbatch, SAMPLES)


def targets_of(microbatch: int) -> Any:
    return drawn(2, microbatch, SAMPLES)


def true_gradients(stages: int, microbatches: int) -> list[Any]:
    """Return the gradient of each stage's weight, summed over the micro-batches, by autograd in one process."""
    import torch

    weights = [weight(stage).requires_grad_() for stage in range(stages)]
    for microbatch in range(microbatches):
        value = inputs_of(microbatch)
        for own in weights:
            value = torch.tanh(value @ own)
        (0.5 * ((value - targets_of(microbatch)) ** 2).sum()).backward()
    return [own.grad for own in weights]


class Wire:
    """Sends and receives in one mode, over one process group; waits once for each."""

    def __init__(self, mode: str, group: Any, stages: int, microbatches: int) -> None:
        self.named, self.blocking = mode in ("tagged", "named block"), mode.endswith("block")
        self.group, self.stages, self.microbatches = group, stages, microbatches
        self.pending: list[Any] = []

    def tag(self, name: Name) -> int:
        if not self.named:
            return 0
        edge = (name.source * self.stages + name.target) * 2 + (name.letter == "B")
        return 1 + edge * self.microbatches + name.microbatch

    def launch(self, messages: Sequence[tuple[bool, Name, int, Any]]) -> list[Any]:
        """Launch what one step sends and receives: (whether it sends, name, rank at the other end, tensor)."""
        import torch.distributed as dist

        if self.blocking and len(messages) == 1:
            ((sends, name, peer, tensor),) = messages
            (dist.send if sends else dist.recv)(tensor, peer, group=self.group, tag=self.tag(name))
            return [None]
        works = [
            (dist.isend if sends else dist.irecv)(tensor, peer, group=self.group, tag=self.tag(name))
            for sends, name, peer, tensor in messages
        ]
        self.pending += works
        if self.blocking:
            self.wait_for_all()
        return works

    def wait_for(self, work: Any) -> None:
        """Wait for a send or receive, unless that was done."""
        if any(work is pending for pending in self.pending):
            self.pending = [pending for pending in self.pending if pending is not work]
            work.wait()

    def wait_for_all(self) -> None:
        while self.pending:
            self.pending.pop(0).wait()


class Rank:
    """One rank: its buffers, and a method for each kind of operation."""

    def __init__(self, rank: int, work: Work, wire: Wire) -> None:
        import torch

        self.rank, self.work, self.wire = rank, work, wire
        self.stages = len(work.placement)
        self.steps = [read_lowered(text).ops for text in work.rows[rank]]
        self.made: dict[tuple[str, int, int], Any] = {}
        self.saved: dict[tuple[str, int, int], Any] = {}
        self.arriving: dict[Name, tuple[Any, Any]] = {}
        own = [stage for stage, home in enumerate(work.placement) if home == rank]
        self.gradients = {stage: torch.zeros(WIDTH, WIDTH, dtype=torch.float64) for stage in own}
        marks = [op for ops in self.steps for op in ops if isinstance(op, Mark)]
        self.sharded = {op.stage for op in marks if op.kind in ("UNSHARD", "RESHARD")}
        self.progress = 0

    def run(self) -> dict[int, Any]:
        """Run the whole order and return the gradient of each stage's weight."""
        for ops in self.steps:
            own = [op for op in ops if self.is_own(op)]
            computes = [op for op in own if isinstance(op, Op)]
            inputs = [self.read(op) for op in computes]
            marks = [op for op in own if isinstance(op, Mark)]
            self.launch([op for op in own if isinstance(op, Transfer)])
            self.gather(marks)
            for op, values in zip(computes, inputs, strict=True):
                self.compute(op, values)
            self.reduce(marks)
            self.progress += 1
        while self.wire.pending:
            self.wire.wait_for(self.wire.pending[0])
            self.progress += 1
        return self.gradients

    def is_own(self, op: Op | Transfer | Mark) -> bool:
        """Whether an operation is of the problem and of this rank."""
        if op.stage >= self.stages or self.work.placement[op.stage] != self.rank:
            return False
        if isinstance(op, Mark):
            return True
        return op.microbatch < self.work.microbatches and (
            isinstance(op, Transfer) or op.kind in ("FBIW" if self.work.split else "FB")
        )

    def launch(self, transfers: list[Transfer]) -> None:
        messages = []
        for op in transfers:
            peer = self.peer_of(op)
            if not 0 <= peer < self.stages or self.work.placement[peer] == self.rank:
                continue
            ends = (op.stage, peer) if op.sends else (peer, op.stage)
            name = Name(op.letter, *ends, op.microbatch)
            tensor = self.zeros()
            if op.sends:
                tensor = self.made.get((op.letter, op.stage, op.microbatch), tensor)
            messages.append((op.sends, name, self.work.placement[peer], tensor))
        if messages:
            for (sends, name, _, tensor), work in zip(messages, self.wire.launch(messages), strict=True):
                if not sends:
                    self.arriving.setdefault(name, (tensor, work))

    def peer_of(self, op: Transfer) -> int:
        if op.peer is not None:
            return op.peer
        return op.stage + (1 if op.sends == (op.letter == "F") else -1)

    def zeros(self) -> Any:
        import torch

        return torch.zeros(SAMPLES, WIDTH, dtype=torch.float64)

    # Computing

    def read(self, op: Op) -> tuple[Any, ...]:
        """Return what an operation reads, as it stands in the buffers before its step, once its receives are there."""
        stage, microbatch = op.pair
        if op.kind == "F":
            return (self.arrived("F", stage - 1, stage, microbatch) if stage else inputs_of(microbatch),)
        zeros = self.zeros()
        if op.kind == "W":
            return self.saved.get(("x", stage, microbatch), zeros), self.saved.get(("dz", stage, microbatch), zeros)
        x, y = (self.saved.get((name, stage, microbatch), zeros) for name in "xy")
        last = stage == self.stages - 1
        g = y - targets_of(microbatch) if last else self.arrived("B", stage + 1, stage, microbatch)
        return x, y, g

    def arrived(self, letter: str, source: int, target: int, microbatch: int) -> Any:
        """Return what another stage made: from this rank's buffers, or from the first receive once it is complete."""
        if self.work.placement[source] == self.rank:
            return self.made.get((letter, source, microbatch), self.zeros())
        tensor, work = self.arriving.get(Name(letter, source, target, microbatch), (self.zeros(), None))
        if work is not None:
            self.wire.wait_for(work)
        return tensor

    def compute(self, op: Op, values: tuple[Any, ...]) -> None:
        """Compute an operation and keep what it makes; on a sharded stage the weight and its gradient are not there."""
        import torch

        stage, microbatch = op.pair
        there = stage not in self.sharded
        own = weight(stage) if there else torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
        if op.kind == "F":
            (x,) = values
            self.keep(op, x=x, y=torch.tanh(x @ own))
            self.made.setdefault(("F", stage, microbatch), self.saved["y", stage, microbatch])
        elif op.kind == "W":
            x, dz = values
            self.add(op, x.T @ dz * there)
        else:
            x, y, g = values
            dz = g * (1 - y**2) * there
            self.made.setdefault(("B", stage, microbatch), dz @ own.T)
            if op.kind == "I":
                self.keep(op, dz=dz)
            else:
                self.add(op, x.T @ dz)

    def keep(self, op: Op, **values: Any) -> None:
        for name, value in values.items():
            self.saved.setdefault((name, *op.pair), value)

    def add(self, op: Op, value: Any) -> None:
        """Add what a B or W made, the first time that it ran, to the gradient of its stage."""
        self.keep(op, **{f"dw of {op.kind}": value})
        self.gradients[op.stage] += self.saved[f"dw of {op.kind}", op.stage, op.microbatch]

    def gather(self, marks: list[Mark]) -> None:
        for op in marks:
            if op.kind == "UNSHARD":
                self.sharded.discard(op.stage)
            elif op.kind == "RESHARD":
                self.sharded.add(op.stage)

    def reduce(self, marks: list[Mark]) -> None:
        for op in marks:
            if op.kind == "REDUCE_GRAD":
                self.gradients[op.stage] /= self.work.microbatches


# Many at once


class Thread(threading.Thread):
    """A rank of one order, run beside others in one process."""

    def __init__(self, rank: int, work: Work, group: Any) -> None:
        super().__init__(daemon=True)
        self.wire = Wire(work.mode, group, len(work.placement), work.microbatches)
        self.own = Rank(rank, work, self.wire)
        self.patience = PATIENCE if work.hangs else GENEROUS
        self.gradients: dict[int, Any] | None = None
        self.error: Exception | None = None
        self.seen, self.since = -1, time.monotonic()

    def run(self) -> None:
        try:
            self.gradients = {stage: value.tolist() for stage, value in self.own.run().items()}
        except Exception as error:
            self.error = error

    def is_given_up(self) -> bool:
        """Whether it has ended, or has not gone on for as long as its patience."""
        if self.own.progress != self.seen:
            self.seen, self.since = self.own.progress, time.monotonic()
        return not self.is_alive() or time.monotonic() > self.since + self.patience


def run_together(rank: int, works: Sequence[Work]) -> list[Any]:
    """Run a rank of every order at the same time; return its gradients by stage, None where it hangs.

    A rank that is not of an order returns no gradients for it. Each order has a process group to itself. The threads of
    those that hang are left behind, waiting, until the process ends, and so is their group.
    """
    used: dict[int, int] = {}
    threads = []
    for work in works:
        group = group_for(len(work.rows), None if work.hangs else used.setdefault(len(work.rows), 0))
        used[len(work.rows)] = used.get(len(work.rows), 0) + (not work.hangs)
        threads.append(Thread(rank, work, group) if rank < len(work.rows) else None)
    running = [thread for thread in threads if thread is not None]
    for thread in running:
        thread.start()
    while not all([thread.is_given_up() for thread in running]):  # noqa: C419 - every one of them looks
        time.sleep(0.01)
    for thread in running:
        if thread.error is not None:
            raise thread.error
    return [{} if thread is None else thread.gradients for thread in threads]


GROUPS: dict[tuple[int, int], Any] = {}
"""By number of ranks and a number, the process groups in which nothing was left over."""


def group_for(ranks: int, number: int | None) -> Any:
    """Return the process group of a number, or one of its own; every rank of the pool must ask for it."""
    import torch.distributed as dist

    if number is None or (ranks, number) not in GROUPS:
        group = dist.new_group(range(ranks))
        if dist.get_rank() < ranks:
            # All the connections are made here: threads that make them at the same time hold each other up.
            dist.barrier(group=group)
        if number is None:
            return group
        GROUPS[ranks, number] = group
    return GROUPS[ranks, number]
