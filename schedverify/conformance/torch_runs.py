"""Traces of torch.profiler, one of each rank, as the trace of one run: ranks found, steps matched, clocks aligned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from schedverify.conformance.clocks import Offsets, offsets
from schedverify.conformance.dependency_check import Message
from schedverify.core.errors import Fault, InputError
from schedverify.core.op import Kind, Op
from schedverify.core.trace import RunTrace, StepSpan
from schedverify.formats.profiler_marks import Mark, MarkedRank, MarkedStep, operations

_SAME_RUN = "give the traces of the ranks of one pipeline, all of the same profiled steps"
_READ_BY: Final = {Kind.RECV_F: (Kind.F,), Kind.RECV_B: (Kind.B, Kind.I)}
"""By kind of receive, what reads its message."""


class TorchRun(NamedTuple):
    """A run of torch's pipeline runtime, and what is to be said of its traces."""

    trace: RunTrace
    remarks: tuple[str, ...]


def torch_run(ranks: Sequence[MarkedRank]) -> TorchRun:
    """Return what the traces of all ranks of a pipeline tell of its run.

    Steps of training that are not whole in all traces are left out, and so is the first of several where it is the
    first of the run, which is slow.

    Raises
    ------
    InputError
        If the traces are not those of the ranks of one pipeline, or no step is whole in all of them, or no clocks make
        the messages between them possible.
    """
    ordered = _in_order(ranks)
    steps, remarks = _whole_steps(ordered)
    last = max((stage for rank in ordered for stage in rank.stages), default=len(ordered) - 1)
    aligned, errors = [], [0] * len(ordered)
    for step in steps:
        rows = [
            _with_transfers(marks, rank, last) if ordered[rank].of_a_loop else list(marks)
            for rank, marks in enumerate(step)
        ]
        known = _aligned(rows, ordered)
        aligned.append(tuple(_spans(rows, known.added)))
        length = max(mark.end for row in rows for mark in row) - min(mark.start for row in rows for mark in row)
        errors = [max(a, length if b is None else b) for a, b in zip(errors, known.errors, strict=True)]
    remarks += list(_remarks(ordered))
    return TorchRun(RunTrace("", len(ordered), tuple(aligned), tuple(errors)), tuple(remarks))


def _in_order(ranks: Sequence[MarkedRank]) -> list[MarkedRank]:
    """Return the traces by rank of the pipeline, once they are those of all of its ranks.

    The order is that of the ranks of the job, which the files tell, else that of the first stage of each.
    """
    told = [rank.trace.rank for rank in ranks]
    if len({rank.of_a_loop for rank in ranks}) > 1:
        one = next(rank for rank in ranks if rank.of_a_loop)
        raise InputError(Fault("traceEvents", "no action is marked as PP:2F0, as in the other traces", _SAME_RUN),
                         one.trace.source)  # fmt: skip
    for i, rank in enumerate(ranks):
        if rank.trace.rank is not None and rank.trace.rank in told[:i]:
            found = f"rank {rank.trace.rank}, as in {ranks[told.index(rank.trace.rank)].trace.source}"
            raise InputError(Fault("distributedInfo.rank", found, "one trace of each rank"), rank.trace.source)
    unknown = next((rank for rank in ranks if rank.trace.rank is None), None)
    if ranks[0].of_a_loop and unknown is not None and len(ranks) > 1:
        hint = "its marks do not tell the stage; profile after init_process_group"
        raise InputError(Fault("distributedInfo.rank", "missing", hint), unknown.trace.source)
    _check_group(ranks)
    if not ranks[0].of_a_loop:
        _check_stages(ranks)
    by_stage = unknown is not None
    return sorted(ranks, key=lambda rank: min(rank.stages, default=0) if by_stage else rank.trace.rank or 0)


def _check_stages(ranks: Sequence[MarkedRank]) -> None:
    owner: dict[int, MarkedRank] = {}
    for rank in ranks:
        for stage in sorted(rank.stages):
            if stage in owner:
                found = f"stage {stage} computes here and in {owner[stage].trace.source}"
                hint = "of several pipelines give the traces of one"
                raise InputError(Fault("traceEvents", found, hint), rank.trace.source)
            owner[stage] = rank
    ops = [op for rank in ranks for step in rank.steps for mark in step.marks for op in operations(mark.text)]
    needed = {op.stage + 1 if op.kind is Kind.SEND_F else op.stage for op in ops}
    absent = min(set(range(max(needed, default=0) + 1)) - owner.keys(), default=None)
    if absent is not None:
        found = f"stage {absent} computes in none of the {len(ranks)} traces"
        raise InputError(Fault("traceEvents", found, _SAME_RUN), _sources(ranks))


def _sources(ranks: Sequence[MarkedRank]) -> str:
    return ", ".join(rank.trace.source for rank in ranks)


def _check_group(ranks: Sequence[MarkedRank]) -> None:
    """Refuse ranks that are no process group of the job, where the files tell the groups."""
    told = sorted(rank.trace.rank for rank in ranks if rank.trace.rank is not None)
    groups = {tuple(sorted(group)) for rank in ranks for group in rank.trace.groups}
    if not groups or len(told) < len(ranks) or tuple(told) in groups:
        return
    around = min((group for group in groups if set(told) < set(group)), key=len, default=None)
    if around is not None and ranks[0].of_a_loop:
        absent = ", ".join(str(rank) for rank in around if rank not in told)
        found = f"ranks {', '.join(map(str, told))} are no group of the job; of {len(around)} there lack {absent}"
        raise InputError(Fault("distributedInfo.pg_config", found, _SAME_RUN), ranks[0].trace.source)


def _whole_steps(ranks: Sequence[MarkedRank]) -> tuple[list[list[tuple[Mark, ...]]], list[str]]:
    """Return for each step of training the marks by rank, and what is left out."""
    whole = [_whole_of(rank) for rank in ranks]
    if any(step.number is None for rank in whole for step in rank.values()):
        counts = [len(rank) for rank in whole]
        if len(set(counts)) > 1:
            least, most = (counts.index(bound) for bound in (min(counts), max(counts)))
            found = f"{counts[least]} whole steps of training, {counts[most]} in {ranks[most].trace.source}"
            hint = "prof.step() after each step of training numbers them"
            raise InputError(Fault("traceEvents", found, hint), ranks[least].trace.source)
    common = [key for key in whole[0] if all(key in rank for rank in whole)]
    if not common:
        found = "no step of training is whole in all of the traces"
        raise InputError(Fault("traceEvents", found, _SAME_RUN), ranks[0].trace.source)
    seen = {(step.number, step.repetition) for rank in ranks for step in rank.steps}
    remarks = [f"left out, not whole in all traces: {_named(key)}" for key in sorted(seen - set(common), key=str)]
    if len(common) > 1 and common[0][0] in (None, 0) and common[0][1] == 0:
        remarks.append(f"left out as warm-up: {_named(common[0])}")
        del common[0]
    return [[rank[key].marks for rank in whole] for key in common], remarks


def _whole_of(rank: MarkedRank) -> dict[tuple[int | None, int], MarkedStep]:
    """Return by number and repetition the steps in which the rank did all that it did in any."""
    most = {mark.text for step in rank.steps for mark in step.marks}
    whole = [step for step in rank.steps if len({mark.text for mark in step.marks}) == len(most)]
    return {(step.number, step.repetition): step for step in whole}


def _named(key: tuple[int | None, int]) -> str:
    number, repetition = key
    again = f", {repetition + 1}. time" if repetition and number is not None else ""
    return f"ProfilerStep#{number}{again}" if number is not None else f"step {repetition}"


def _with_transfers(marks: Sequence[Mark], rank: int, last: int) -> list[Mark]:
    """Return the marks of a loop with the stage, which is the rank, and with what it receives and sends in them."""
    found = []
    for mark in marks:
        letter, microbatch = mark.text[0], mark.text[1:]
        reads, makes = (rank > 0, rank < last) if letter == "F" else (rank < last, rank > 0)
        if reads:
            text = f"{rank}RECV_{letter}{microbatch}"
            found.append(mark._replace(text=text, begun=mark.start, ended=mark.begun))
        found.append(mark._replace(text=f"{rank}{mark.text}"))
        if makes:
            found.append(mark._replace(text=f"{rank}SEND_{letter}{microbatch}", begun=mark.ended, ended=mark.end))
    return found


class _Ends(NamedTuple):
    """Of a message, the rank that sends it and when, the rank that it goes to and the action that reads it."""

    source: int
    sent: int
    target: int
    reader: Mark


def _ends(rows: Sequence[Sequence[Mark]]) -> Iterator[tuple[Message, _Ends]]:
    """Yield the messages between ranks: when each was sent, and what reads it."""
    made: dict[Op, tuple[int, Mark]] = {}
    for rank, row in enumerate(rows):
        for mark in row:
            for op in operations(mark.text):
                made[op] = rank, mark
    for op, (rank, mark) in made.items():
        if op.kind not in (Kind.F, Kind.B, Kind.I):
            continue
        forward = op.kind is Kind.F
        stage = op.stage + (1 if forward else -1)
        for kind in (Kind.F,) if forward else (Kind.B, Kind.I):
            target, reader = made.get(Op(kind, stage, op.microbatch), (rank, mark))
            if target != rank:
                send = made.get(Op(Kind.SEND_F if forward else Kind.SEND_B, op.stage, op.microbatch))
                sent = max(mark.ended, send[1].begun) if send is not None else mark.ended
                yield Message(op.stage, stage, op.microbatch, not forward), _Ends(rank, sent, target, reader)


def _arrived(reader: Mark) -> int:
    """Return by when what an action reads was there; of a pair, either part may have waited for its own."""
    return reader.begun if reader.told and len(operations(reader.text)) == 1 else reader.ended


def _aligned(rows: Sequence[Sequence[Mark]], ranks: Sequence[MarkedRank]) -> Offsets:
    least: dict[tuple[int, int], int] = {}
    for _, ends in _ends(rows):
        reader, pair = ends.reader, (ends.source, ends.target)
        by = ends.sent - _arrived(reader)
        least[pair] = max(least.get(pair, by), by)
    found = offsets(least, [rank.trace.host for rank in ranks])
    if found is None:
        message = "no clocks let every message end after it began"
        raise InputError(Fault("traceEvents.ts", message, _SAME_RUN), _sources(ranks))
    return found


def _spans(rows: Sequence[Sequence[Mark]], added: Sequence[int]) -> Iterator[StepSpan]:
    """Yield the marks of a step of training as what ran, by rank and position, with one clock for all ranks.

    A receive ends where its reader begins to work, if no device tells when it ended. Where a file does not tell how
    long a rank waited, it waited until its message was sent.
    """
    begun: dict[tuple[int, str], int] = {}
    for _, ends in _ends(rows):
        reader = ends.reader
        if not reader.told:
            sent = ends.sent + added[ends.source] - added[ends.target]
            place = ends.target, reader.key
            begun[place] = min(max(begun.get(place, reader.begun), sent), reader.ended)
    readers = {op: mark for row in rows for mark in row for op in operations(mark.text) if op.kind.is_compute}
    for rank, (row, offset) in enumerate(zip(rows, added, strict=True)):
        for position, mark in enumerate(row):
            op, start, end = operations(mark.text)[0], mark.begun, mark.ended
            if op.kind.is_compute:
                start = begun.get((rank, mark.key), start)
            elif op.kind in _READ_BY and not mark.on_device:
                reading = (Op(kind, op.stage, op.microbatch) for kind in _READ_BY[op.kind])
                reader = next((readers[each] for each in reading if each in readers), mark)
                end = max(begun.get((rank, reader.key), _arrived(reader)), start)
            on_host = not mark.on_device or len(operations(mark.text)) > 1
            came = mark.start + offset if on_host else None
            yield StepSpan(rank, position, mark.text, start + offset, end + offset, came)


def _remarks(ranks: Sequence[MarkedRank]) -> Iterator[str]:
    launched = [rank.trace.source for rank in ranks if rank.trace.backend in ("nccl", "hccl", "xccl")
                and not any(mark.on_device for step in rank.steps for mark in step.marks)]  # fmt: skip
    if launched:
        yield f"no work of a device in {', '.join(launched)}: times are those of launching it, not of computing"
    if any(not mark.told for rank in ranks for step in rank.steps for mark in step.marks):
        yield "some waits are not told from work: they are taken to end when their message was sent"
