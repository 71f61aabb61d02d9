"""Which rank of a run waits where, and for whom, by what flight recorders kept: a cycle where it hangs by its order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from schedverify.conformance.recording_alignment import PlannedTransfer, RankRecord, SeenTransfer, aligned
from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.core.trace import Recording
from schedverify.verifier.wait_cycles import Wait, shortest_cycles

Place = tuple[int, int, int]
"""A rank, a step of training, and which transfer of the rank's row."""


class RankState(NamedTuple):
    """Where a rank stood when its recorder was read.

    Attributes
    ----------
    begun, planned
        How many of its transfers it had begun in the step of training that it had begun last, and how many it has.
    step
        That step, from 0; None where nothing of the schedule was recorded of it.
    last
        The last transfer that was complete, with its position; empty where none was.
    waits
        The sentence that says where it waits; empty where nothing of it was pending.
    """

    rank: int
    step: int | None
    begun: int
    planned: int
    last: str
    waits: str


class RecordedHang(NamedTuple):
    """Where every rank stood, and the cycles of ranks that wait for one another; one for each group that does."""

    ranks: tuple[RankState, ...]
    cycles: tuple[tuple[str, ...], ...]

    @property
    def waiting(self) -> bool:
        """Whether any rank waited."""
        return any(rank.waits for rank in self.ranks)

    def lines(self) -> Iterator[str]:
        """Yield it as text."""
        for cycle in self.cycles:
            yield f"the run hangs: {'; '.join(cycle)}"
        if not self.cycles:
            yield "no ranks wait for one another in a cycle" if self.waiting else "nothing was pending"
        for state in self.ranks:
            if state.step is None:
                yield f"  rank {state.rank}: nothing of the schedule was recorded"
                continue
            done = f"begun {state.begun} of {state.planned} transfers of step {state.step}"
            last = f", last complete {state.last}" if state.last else ""
            yield f"  rank {state.rank}: {done}{last}"
            yield from [f"    {state.waits}"] if state.waits else ()

    def data(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "waiting": self.waiting,
            "cycles": [list(cycle) for cycle in self.cycles],
            "ranks": [state._asdict() for state in self.ranks],
        }


def recorded_hang(schedule: Schedule, problem: Problem, recordings: Sequence[Recording]) -> RecordedHang:
    """Say where each rank waited by what the flight recorders kept.

    Parameters
    ----------
    schedule
        The order that ran, with its sends and receives.
    recordings
        One for each rank; a rank without one is told as such.

    Raises
    ------
    InputError
        If what was recorded is not the schedule; see :func:`schedverify.conformance.recording_alignment.aligned`.
    """
    return _Waits(schedule, aligned(schedule, problem, recordings)).found()


class _Waits:
    """The transfers that are pending, and which of them waits for which.

    A pending transfer waits for its other end; where that has not begun, for what holds up the program there; where
    it has, for the first pending transfer in the queue that it goes through there.
    """

    def __init__(self, schedule: Schedule, records: Sequence[RankRecord]) -> None:
        self.schedule, self.records = schedule, records
        self.seen: dict[Place, SeenTransfer] = {
            (rank, each.step, each.turn): each for rank, record in enumerate(records) for each in record.seen or ()
        }
        self.pending = {place: each for place, each in self.seen.items() if not each.recorded.done}
        self.ends = _ends([record.planned for record in records])

    def found(self) -> RecordedHang:
        import networkx as nx

        waits = nx.MultiDiGraph()
        told: dict[Place, str] = {}
        for place in self._heads():
            wait, target = self._wait(place)
            told[place] = str(wait)
            if target is not None:
                waits.add_edge(place, target, wait=wait)
        cycles = shortest_cycles(waits)
        stuck = {(wait.rank, wait.position): str(wait) for cycle in cycles for wait in cycle}
        states = [self._state(rank, told, stuck) for rank in range(len(self.records))]
        return RecordedHang(tuple(states), tuple(tuple(map(str, cycle)) for cycle in cycles))

    def _heads(self) -> list[Place]:
        """Return the first pending transfer of each queue of each rank."""
        firsts: dict[object, Place] = {}
        for place, each in sorted(self.pending.items()):
            firsts.setdefault((place[0], each.recorded.queue), place)
        return list(firsts.values())

    def _head_before(self, place: Place) -> Place:
        """Return the first pending transfer of the queue that a pending one goes through."""
        queue = self.pending[place].recorded.queue
        return min(p for p, each in self.pending.items() if p[0] == place[0] and each.recorded.queue == queue)

    def _wait(self, place: Place) -> tuple[Wait, Place | None]:
        """Return what a pending transfer waits for, and the pending transfer of another rank that this leads to."""
        rank, step, index = place
        own = self._planned(place)
        end = self.ends.get((rank, index))
        if end is None:
            return self._waiting(place, own.peer, "its other end, which stands nowhere in the schedule"), None
        other = (end[0], step, end[1])
        name = str(self._planned(other).op)
        if self.records[end[0]].seen is None:
            return self._waiting(place, end[0], f"{name} on rank {end[0]}, of which there is no dump"), None
        if other not in self.seen:
            return self._not_begun(place, other, name)
        if other not in self.pending:
            return self._waiting(place, end[0], f"{name}, which is complete on rank {end[0]}"), None
        head = self._head_before(other)
        if head == other:
            sizes = {self.seen[each].recorded.sizes for each in (place, other)}
            text = f"{name}, which rank {end[0]} has begun: both ends are there and nothing stands in front"
            tail = f"; their sizes differ: {_sizes(sizes)}" if len(sizes) > 1 else ""
            return self._waiting(place, end[0], text + tail), None
        front = self._planned(head)
        text = f"{name}, which stands on rank {end[0]} behind {front.op} (position {front.position}) in the same queue"
        return self._waiting(place, end[0], text), head

    def _not_begun(self, place: Place, other: Place, name: str) -> tuple[Wait, Place | None]:
        """Return the wait for a transfer that its rank has not begun, and what holds up that rank's program."""
        position = self._planned(other).position
        text = f"{name} at position {position} of rank {other[0]}, which has not begun"
        held, by = self._program(other)
        return self._waiting(place, other[0], text + held), by

    def _program(self, target: Place) -> tuple[str, Place | None]:
        """Say what holds up a rank's program in front of a transfer, and which pending transfer that is."""
        rank, step, _ = target
        begun = [place for place in self.seen if place[0] == rank and place[1] <= step]
        last = max(begun, default=None)
        first = self._planned(last).position + 1 if last and last[1] == step else 0
        for position in range(first, self._planned(target).position):
            for op in self.schedule.step(rank, position).ops:
                for awaited in self._read_by(rank, step, op):
                    if awaited in self.pending:
                        front = self._head_before(awaited)
                        at = f": it waits at position {position} ({op}) for {self._planned(awaited).op}"
                        return at, front
        if last in self.pending:
            own = self._planned(last)
            return f": it stands at position {own.position} ({own.op}), which blocks its program", self._head_before(
                last
            )
        return ": nothing that was recorded holds it up, it computes or waits outside of the schedule", None

    def _read_by(self, rank: int, step: int, op: Op) -> list[Place]:
        """Return the transfers that an operation waits for on its rank: what it reads, or the send of a wait."""
        kinds = {
            Kind.F: Kind.RECV_F, Kind.B: Kind.RECV_B, Kind.I: Kind.RECV_B, Kind.WAIT_SEND_F: Kind.SEND_F,
            Kind.WAIT_SEND_B: Kind.SEND_B,
        }  # fmt: skip
        return [
            (rank, step, index)
            for index, each in enumerate(self.records[rank].planned)
            if (each.op.kind, each.op.stage, each.op.microbatch) == (kinds.get(op.kind), op.stage, op.microbatch)
        ]

    def _planned(self, place: Place) -> PlannedTransfer:
        return self.records[place[0]].planned[place[2]]

    def _waiting(self, place: Place, target: int, awaited: str) -> Wait:
        own = self._planned(place)
        towards = "to" if own.is_send else "from"
        return Wait(place[0], own.position, f"{own.op} {towards} rank {own.peer}", target, awaited)

    def _state(self, rank: int, told: dict[Place, str], stuck: dict[tuple[int, int], str]) -> RankState:
        """Return where a rank stood: in a cycle if it is in one, else at the first transfer that was pending."""
        record = self.records[rank]
        if not record.seen:
            return RankState(rank, None, 0, len(record.planned), "", "")
        step = record.seen[-1].step
        begun = sum(each.step == step for each in record.seen)
        done = [each for each in record.seen if each.recorded.done]
        last = record.planned[done[-1].turn] if done else None
        heads = sorted(place for place in told if place[0] == rank)
        waits = next((text for (r, _), text in sorted(stuck.items()) if r == rank), told[heads[0]] if heads else "")
        last_text = f"{last.op} (position {last.position})" if last else ""
        return RankState(rank, step, begun, len(record.planned), last_text, waits)


def _ends(rows: Sequence[Sequence[PlannedTransfer]]) -> dict[tuple[int, int], tuple[int, int]]:
    """Return for each transfer, by rank and index, the one it meets: the n-th send on a channel the n-th receive."""
    by_channel: dict[tuple[int, int], tuple[list[tuple[int, int]], list[tuple[int, int]]]] = {}
    for rank, row in enumerate(rows):
        for index, each in enumerate(row):
            channel = (rank, each.peer) if each.is_send else (each.peer, rank)
            by_channel.setdefault(channel, ([], []))[0 if each.is_send else 1].append((rank, index))
    ends: dict[tuple[int, int], tuple[int, int]] = {}
    for sends, receives in by_channel.values():
        for send, receive in zip(sends, receives, strict=False):  # a lone one has no other end
            ends[send], ends[receive] = receive, send
    return ends


def _sizes(sizes: set[tuple[int, ...]]) -> str:
    return " and ".join(sorted(map(str, map(list, sizes))))
