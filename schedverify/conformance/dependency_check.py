"""Whether what was read had been made and had come: each hand-over of a run, by its times.

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


class Did(NamedTuple):
    """An operation, and the step in which it ran."""

    op: Op
    ran: StepSpan


class Early(NamedTuple):
    """A step that began, or ended, before it can have."""

    ran: StepSpan
    message: str


def ops_of(step: str) -> tuple[Op, ...]:
    """Return the operations of a step's text."""
    return tuple(map(unpack, pack_step(step)))


def messages(problem: Problem, step: Sequence[StepSpan], *, sends: bool) -> dict[Message, Did]:
    """Return by message the operation of a step of training that sends it, or receives it."""
    did = [Did(op, ran) for ran in step for op in ops_of(ran.step) if op.kind.is_transfer and op.kind.is_send is sends]
    words = named(np.array([each.op.pack() for each in did], dtype=np.int64), problem)
    found: dict[Message, Did] = {}
    for each, word in zip(did, words.tolist(), strict=True):
        stage, peer = each.op.stage, unpack(word).peer
        if peer is not None:
            source, target = (stage, peer) if sends else (peer, stage)
            backward = each.op.kind in (Kind.SEND_B, Kind.RECV_B)
            found.setdefault(Message(source, target, each.op.microbatch, backward), each)
    return found


def too_early(problem: Problem, step: Sequence[StepSpan], errors: Sequence[int]) -> Iterator[Early]:
    """Tell what ran before what it reads, by more than the clocks may differ.

    Parameters
    ----------
    errors
        By rank, the nanoseconds by which its times may be wrong.
    """
    made: dict[Op, list[StepSpan]] = {}
    for ran in step:
        for op in ops_of(ran.step):
            if op.kind.is_compute:
                made.setdefault(op, []).append(ran)
    yield from _between_computing(problem, made, errors)
    sent, received = messages(problem, step, sends=True), messages(problem, step, sends=False)
    for message, (op, ran) in sent.items():
        for maker, source in _here(made, ran.rank, message.source, message):
            if ran.start < source.end:
                yield _early(Did(op, ran), "began", source.end - ran.start, f"{maker} had ended", source)
    for message, got in received.items():
        yield from _received(got, sent.get(message), errors)
        for reader, ran in _here(made, got.ran.rank, message.target, message):
            # A group ends with its last member, which may come after what another member brings is read.
            alone = len(ops_of(got.ran.step)) == 1
            there = got.ran.end if alone else got.ran.start
            if ran.start < there:
                told = f"{got.op} had {'ended' if alone else 'begun'}"
                yield _early(Did(reader, ran), "began", there - ran.start, told, got.ran)


def _between_computing(problem: Problem, made: dict[Op, list[StepSpan]], errors: Sequence[int]) -> Iterator[Early]:
    for op, readers in made.items():
        for needed in _needed(problem, op):
            for source in made.get(needed, ())[:1]:
                for ran in readers:
                    early = source.end - ran.start
                    if source is not ran and early > _slack(source, ran, errors):
                        yield _early(Did(op, ran), "began", early, f"{needed} had ended", source)


def _received(got: Did, sent: Did | None, errors: Sequence[int]) -> Iterator[Early]:
    if sent is not None:
        early = sent.ran.start - got.ran.end
        if early > _slack(sent.ran, got.ran, errors):
            yield _early(got, "ended", early, f"{sent.op} began", sent.ran)


def _here(made: dict[Op, list[StepSpan]], rank: int, stage: int, message: Message) -> Iterator[Did]:
    """Yield the compute step of a stage, on one rank, that makes or reads a message."""
    for kind in (Kind.B, Kind.I) if message.backward else (Kind.F,):
        op = Op(kind, stage, message.microbatch)
        yield from (Did(op, ran) for ran in made.get(op, ()) if ran.rank == rank)


def _needed(problem: Problem, op: Op) -> Iterator[Op]:
    """Return what an operation reads: the F before it, its own F, the gradients behind it, its own I."""
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


def _slack(one: StepSpan, other: StepSpan, errors: Sequence[int]) -> int:
    return 0 if one.rank == other.rank else errors[one.rank] + errors[other.rank]


def _early(did: Did, what: str, early: int, before: str, source: StepSpan) -> Early:
    place = f"rank {did.ran.rank}, position {did.ran.position} ({did.op})"
    return Early(did.ran, f"{place}: {what} {early / 1000:.1f} us before {before} on rank {source.rank}")
