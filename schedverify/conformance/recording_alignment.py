"""Which sends and receives of a schedule a flight recorder saw: the recorded ones matched by order, step after step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from schedverify.core.errors import Fault, InputError
from schedverify.core.messages import named
from schedverify.core.op import Op, unpack
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, is_transfer, positions
from schedverify.core.trace import RecordedTransfer, Recording

MOST_FOREIGN: Final = 32
"""The most transfers in front of the schedule's for each stage of a rank: PyTorch's runtime sends shapes first."""


class PlannedTransfer(NamedTuple):
    """A send or receive of a lowered schedule: where it stands, and which rank is at the other end."""

    position: int
    op: Op
    peer: int

    @property
    def is_send(self) -> bool:
        """Whether it sends."""
        return self.op.kind.is_send


class SeenTransfer(NamedTuple):
    """A transfer of the schedule that was recorded: in which step of training, from 0, and as which of its rank."""

    step: int
    turn: int
    recorded: RecordedTransfer


class RankRecord(NamedTuple):
    """What a rank of the schedule has begun: every transfer in order, or None where there is no dump of it."""

    planned: tuple[PlannedTransfer, ...]
    seen: tuple[SeenTransfer, ...] | None


def planned_transfers(schedule: Schedule, problem: Problem) -> list[tuple[PlannedTransfer, ...]]:
    """Return by rank the transfers of a lowered schedule, in the order in which they are begun.

    Raises
    ------
    InputError
        If no send or receive stands in the schedule, or one has no rank at its other end.
    """
    rows = []
    for rank, row in enumerate(schedule.rows):
        chosen = is_transfer(row)
        planned = []
        for place, word, own in zip(
            positions(row)[chosen].tolist(), named(row[chosen], problem).tolist(), row[chosen].tolist(), strict=True
        ):
            peer = unpack(word).peer
            if peer is None or peer >= problem.total_stages or problem.owner_rank[peer] == rank:
                fault = f"{unpack(own)} has no rank at its other end"
                raise InputError(Fault(f"rank {rank}, position {place}", fault, "schedverify verify --select SV301"))
            planned.append(PlannedTransfer(place, unpack(own), problem.owner_rank[peer]))
        rows.append(tuple(planned))
    if not any(rows):
        hint = "give the order with the communication that ran: schedverify lower adds one, the dumper writes yours"
        raise InputError(Fault("", "no send or receive stands in the schedule", hint))
    return rows


def aligned(schedule: Schedule, problem: Problem, recordings: Sequence[Recording]) -> list[RankRecord]:
    """Return for each rank of a schedule what was recorded of its transfers.

    The ranks of the job that send to each other are the schedule's, in their order. What a rank recorded is its row,
    step of training after step, the last one perhaps in part; transfers that are none of the schedule's may stand in
    front. Where the recorder dropped the oldest, it begins anywhere in the row, and all ranks are taken to have begun
    the same step last.

    Raises
    ------
    InputError
        If other ranks were recorded than the schedule has, or other transfers than those of a rank.
    """
    planned = planned_transfers(schedule, problem)
    numbers = _rank_numbers(recordings, schedule.ranks)
    found: dict[int, tuple[SeenTransfer, ...]] = {}
    for recording in recordings:
        if recording.rank in numbers:
            rank = numbers[recording.rank]
            most = MOST_FOREIGN * max(len(problem.stages_of[rank]), 1)
            found[rank] = _seen(recording, planned[rank], numbers, most)
    found = _in_one_step(found) if any(recording.lost for recording in recordings) else found
    return [RankRecord(row, found.get(rank)) for rank, row in enumerate(planned)]


def _rank_numbers(recordings: Sequence[Recording], ranks: int) -> dict[int | None, int]:
    """Return by rank of the job the rank of the schedule."""
    used = {number for each in recordings for moved in each.transfers for number in (moved.rank, moved.peer)}
    seen = used | {each.rank for each in recordings if each.rank is not None}
    if seen and max(seen) < ranks:
        return {rank: rank for rank in range(ranks)}
    if len(seen) != ranks:
        told = ", ".join(map(str, sorted(seen)[:20])) or "none"
        hint = "give the dumps of one pipeline, and the schedule that it ran"
        raise InputError(Fault("", f"recorded are the ranks {told}; the schedule has {ranks} ranks", hint))
    return {rank: number for number, rank in enumerate(sorted(seen))}


def _seen(
    recording: Recording, planned: Sequence[PlannedTransfer], numbers: dict[int | None, int], most: int
) -> tuple[SeenTransfer, ...]:
    """Match what a rank recorded with its row; of several ways the one in which each boundary has one size."""
    wanted = [(each.is_send, each.peer) for each in planned]
    moved = [(each.is_send, numbers.get(each.peer, -1)) for each in recording.transfers]
    fronts, phases = (range(1), range(len(wanted))) if recording.lost else (range(most + 1), range(1))
    ways = [(front, phase) for front in fronts for phase in phases if _follows(moved[front:], wanted, phase)]
    if not planned or not moved:
        return ()
    if not ways:
        raise InputError(_other_transfers(recording, planned, moved, wanted), recording.source)
    if recording.lost and len(ways) > 1:
        hint = "let the recorder keep more: TORCH_FR_BUFFER_SIZE, until torch 2.9 TORCH_NCCL_TRACE_BUFFER_SIZE"
        raise InputError(Fault("entries", "the oldest are dropped, and the rest fits the row in several ways", hint))
    front, phase = min(ways, key=lambda way: (not _sizes_agree(recording, planned, *way), way))
    return tuple(
        SeenTransfer(*divmod(phase + i, len(planned)), each) for i, each in enumerate(recording.transfers[front:])
    )


def _in_one_step(records: dict[int, tuple[SeenTransfer, ...]]) -> dict[int, tuple[SeenTransfer, ...]]:
    """Number the steps of training so that all ranks have begun the same one last: where some lack their beginnings."""
    last = max((seen[-1].step for seen in records.values() if seen), default=0)
    return {
        rank: tuple(each._replace(step=each.step + last - seen[-1].step) for each in seen)
        for rank, seen in records.items()
    }


def _follows(moved: Sequence[object], wanted: Sequence[object], phase: int) -> bool:
    """Whether some transfers, at least one, are those of a row, over and over, from the one at ``phase`` on."""
    return bool(moved and wanted) and all(each == wanted[(phase + i) % len(wanted)] for i, each in enumerate(moved))


def _sizes_agree(recording: Recording, planned: Sequence[PlannedTransfer], front: int, phase: int) -> bool:
    """Whether all that crosses one boundary in one direction has one size, where sizes were recorded."""
    sizes: dict[object, tuple[int, ...]] = {}
    for i, each in enumerate(recording.transfers[front:]):
        op = planned[(phase + i) % len(planned)].op
        if sizes.setdefault((op.kind, op.stage, op.peer), each.sizes) != each.sizes:
            return False
    return True


def _other_transfers(
    recording: Recording, planned: Sequence[PlannedTransfer], moved: Sequence[object], wanted: Sequence[object]
) -> Fault:
    """Return the fault that a rank ran other transfers than the schedule has; tells the first that differs."""
    i = next((i for i, each in enumerate(moved) if each != wanted[i % len(wanted)]), 0)
    what = recording.transfers[i]
    ran = f"{'sends to' if what.is_send else 'receives from'} rank {what.peer}"
    message = f"rank {what.rank} {ran}, where {planned[i % len(planned)].op} stands in the schedule"
    return Fault(f"transfer {i}", message, "give the order that really ran; the dumper writes it")
