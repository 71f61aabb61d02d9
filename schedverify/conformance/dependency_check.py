"""Whether every step of a run began after what it depends on, by the times of both.

On one rank a send begins when the compute step in front of it has ended, and a compute step when its receives have.
Between ranks nothing comes before it is sent, or is read before it is made; there the clocks may differ, and what they
may differ by is in favour of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from schedverify.core.messages import named
from schedverify.core.op import Kind, Op, pack_step, unpack
from schedverify.core.problem import Problem
from schedverify.core.trace import StepSpan


class Message(NamedTuple):
    """What crosses between two stages on different ranks."""

    source: int
    target: int
    microbatch: int | None
    backward: bool


class RanOp(NamedTuple):
    """An operation, and the step in which it ran."""

    op: Op
    ran: StepSpan

    def early(self, what: str, nanoseconds: int, before: str, source: StepSpan) -> EarlyStep:
        """Return the step of this operation as one that ``began`` or ``ended`` too early.

        Parameters
        ----------
        nanoseconds
            By how much.
        before
            What it should have come after: ``2F0 had ended``.
        source
            The step of which ``before`` speaks.
        """
        place = f"rank {self.ran.rank}, position {self.ran.position} ({self.op})"
        message = f"{place}: {what} {nanoseconds / 1000:.1f} us before {before} on rank {source.rank}"
        return EarlyStep(self.ran, message)


class EarlyStep(NamedTuple):
    """A step that began, or ended, before it can have."""

    ran: StepSpan
    message: str


def ops_of(step: str) -> tuple[Op, ...]:
    """Return the operations of a step's text."""
    return tuple(map(unpack, pack_step(step)))


def messages(problem: Problem, step: Sequence[StepSpan], *, sends: bool) -> dict[Message, RanOp]:
    """Return by message the operation of a step of training that sends it, or receives it."""
    transfers = [
        RanOp(op, ran) for ran in step for op in ops_of(ran.step) if op.kind.is_transfer and op.kind.is_send is sends
    ]
    words = named(np.array([transfer.op.pack() for transfer in transfers], dtype=np.int64), problem)
    found: dict[Message, RanOp] = {}
    for transfer, word in zip(transfers, words.tolist(), strict=True):
        stage, peer = transfer.op.stage, unpack(word).peer
        if peer is not None:
            source, target = (stage, peer) if sends else (peer, stage)
            backward = transfer.op.kind in (Kind.SEND_B, Kind.RECV_B)
            found.setdefault(Message(source, target, transfer.op.microbatch, backward), transfer)
    return found


def early_steps(problem: Problem, step: Sequence[StepSpan], errors: Sequence[int]) -> Iterator[EarlyStep]:
    """Yield what ran before what it reads was made or had come, by more than the clocks may differ.

    Parameters
    ----------
    step
        What ran in one step of training.
    errors
        By rank, the nanoseconds by which its times may be wrong.
    """
    computed: dict[Op, list[StepSpan]] = {}
    for ran in step:
        for op in ops_of(ran.step):
            if op.kind.is_compute:
                computed.setdefault(op, []).append(ran)
    yield from _before_operands(problem, computed, errors)
    sends, receives = messages(problem, step, sends=True), messages(problem, step, sends=False)
    for message, send in sends.items():
        yield from _before_made(message, send, computed)
    for message, receive in receives.items():
        if message in sends:
            yield from _before_sent(receive, sends[message], errors)
        yield from _before_received(message, receive, computed)


def _before_operands(
    problem: Problem, computed: dict[Op, list[StepSpan]], errors: Sequence[int]
) -> Iterator[EarlyStep]:
    """Yield the compute steps that began before one that they read from had ended."""
    for op, readers in computed.items():
        for operand in operands(problem, op):
            for source in computed.get(operand, ()):
                for ran in readers:
                    early = source.end - _reads(ran)
                    if source is not ran and early > _clock_error(source, ran, errors):
                        yield RanOp(op, ran).early("began", early, f"{operand} had ended", source)


def _before_made(message: Message, send: RanOp, computed: dict[Op, list[StepSpan]]) -> Iterator[EarlyStep]:
    """Yield a send that began before the compute step that makes its message had ended."""
    for op, source in _compute_steps(computed, send.ran.rank, message.source, message):
        if send.ran.start < source.end:
            yield send.early("began", source.end - send.ran.start, f"{op} had ended", source)


def _before_sent(receive: RanOp, send: RanOp, errors: Sequence[int]) -> Iterator[EarlyStep]:
    """Yield a receive that ended before the send of its message began."""
    early = send.ran.start - receive.ran.end
    if early > _clock_error(send.ran, receive.ran, errors):
        yield receive.early("ended", early, f"{send.op} began", send.ran)


def _before_received(message: Message, receive: RanOp, computed: dict[Op, list[StepSpan]]) -> Iterator[EarlyStep]:
    """Yield the compute steps that began before the receive of what they read had ended.

    A group ends with its last member, which may come after what another member brings is read.
    """
    alone = len(ops_of(receive.ran.step)) == 1
    received = receive.ran.end if alone else receive.ran.start
    for reader in _compute_steps(computed, receive.ran.rank, message.target, message):
        if _reads(reader.ran) < received:
            before = f"{receive.op} had {'ended' if alone else 'begun'}"
            yield reader.early("began", received - _reads(reader.ran), before, receive.ran)


def _reads(ran: StepSpan) -> int:
    """Return by when a step has all that it reads: at its start.

    Where a program waits for the inputs of an overlapped pair one behind the other, it has the last of them before the
    end of both.
    """
    return ran.end if ran.came is not None and len(ops_of(ran.step)) > 1 else ran.start


def _compute_steps(computed: dict[Op, list[StepSpan]], rank: int, stage: int, message: Message) -> Iterator[RanOp]:
    """Yield the compute steps of a stage, on one rank, that make or read a message."""
    for kind in (Kind.B, Kind.I) if message.backward else (Kind.F,):
        op = Op(kind, stage, message.microbatch)
        yield from (RanOp(op, ran) for ran in computed.get(op, ()) if ran.rank == rank)


def operands(problem: Problem, op: Op) -> Iterator[Op]:
    """Yield what an operation reads: the F before it, its own F, the gradients behind it, its own I."""
    if op.stage >= problem.total_stages:
        return
    if op.kind is Kind.F:
        yield from (op._replace(stage=stage) for stage in problem.predecessors[op.stage])
    elif op.kind is Kind.W:
        yield op._replace(kind=Kind.I)
    else:
        yield op._replace(kind=Kind.F)
        for stage in problem.successors[op.stage]:
            yield from (op._replace(stage=stage, kind=kind) for kind in (Kind.B, Kind.I))


def _clock_error(one: StepSpan, other: StepSpan, errors: Sequence[int]) -> int:
    """Return the nanoseconds by which the times of two steps may differ from the truth; 0 on one rank."""
    return 0 if one.rank == other.rank else errors[one.rank] + errors[other.rank]
