"""What a rank of torch's pipeline runtime did, read off the ranges that it marks in its profiler.

The runtime marks every action, such as ``PP:2F0``; the loops of GPipe and of the forward-only class mark ``Forward 0``
and ``Backward 0`` and leave the stage to the rank. On the CPU a mark holds the wait for the message that the action
reads, so what the rank worked of it is told apart by what stands inside: the wait ends where a receive does, or at the
first operator. Where the file has the work of a device, that of the device counts.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from schedverify.core.errors import Fault, InputError, shown
from schedverify.core.op import Op, pack_step, unpack
from schedverify.formats.profiler_device import device_times
from schedverify.formats.profiler_trace import Event, ProfilerTrace

_ACTION: Final = re.compile(r"PP:(.+)", re.DOTALL)
_OF_A_LOOP: Final = re.compile(r"(Forward|Backward) ([0-9]{1,8})")
_STEP: Final = re.compile(r"ProfilerStep#([0-9]{1,18})")
_COMMUNICATES: Final = re.compile(r"(?:c10d::|gloo:|nccl:|ucc:|mpi:|record_param_comms)")
_SENDS: Final = re.compile(r"(?:c10d::|gloo:|nccl:|ucc:|mpi:)i?send")
_NO_MARK: Final = "the pipeline runtime of torch writes PP:2F0 and the like; Schedule1F1B alone marks nothing"


class Mark(NamedTuple):
    """One action of a rank. Times are nanoseconds of the clock of the rank's host."""

    key: str
    """Where it stands in the file."""
    text: str
    """The step, such as ``2F0``; without the stage, ``F0``, where a loop marked it."""
    start: int
    """When the rank came to it."""
    begun: int
    """When its own work began: behind the wait for what it reads."""
    ended: int
    """When its own work ended."""
    end: int
    """When the rank left it."""
    told: bool
    """Whether the file tells the wait from the work; else ``begun`` is ``start``."""
    on_device: bool
    """Whether ``begun`` and ``ended`` are those of the device."""


class MarkedStep(NamedTuple):
    """What a rank did in one step of training."""

    number: int | None
    """That of ``ProfilerStep``, None where the profiler was not told of steps."""
    repetition: int
    """Which of the pipeline's steps within that one it is, from 0."""
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class MarkedRank:
    """The trace of a rank as the steps of training that it holds, whole or not."""

    trace: ProfilerTrace
    of_a_loop: bool
    """Whether the marks do not tell the stage."""
    steps: tuple[MarkedStep, ...]

    @property
    def stages(self) -> set[int]:
        """The stages that compute on the rank; none where the marks do not tell them."""
        marks = () if self.of_a_loop else (mark for step in self.steps for mark in step.marks)
        return {op.stage for mark in marks for op in operations(mark.text) if op.kind.is_compute}


def operations(text: str) -> tuple[Op, ...]:
    """Return the operations of a step's text."""
    return tuple(map(unpack, pack_step(text)))


def marked_rank(trace: ProfilerTrace) -> MarkedRank:
    """Return what the trace of a rank tells of its actions.

    Raises
    ------
    InputError
        If it marks no action of a pipeline, or one that is none.
    """
    marked = {event: text for event in trace.events if (text := _text(event, _ACTION)) is not None}
    of_a_loop = not marked
    if of_a_loop:
        marked = {event: text for event in trace.events if (text := _text(event, _OF_A_LOOP)) is not None}
        marked = {event: text.replace("Forward ", "F").replace("Backward ", "B") for event, text in marked.items()}
    else:
        _check(marked, trace.source)
    if not marked:
        raise InputError(Fault("traceEvents", "no action of a pipeline is marked in it", _NO_MARK), trace.source)
    marks = _Ranges(trace, marked).marks()
    return MarkedRank(trace, of_a_loop, tuple(_steps(trace, marks)))


def _text(event: Event, pattern: re.Pattern[str]) -> str | None:
    """Return what an event marks by a pattern: what its only group holds, or all of it; None where it marks nothing."""
    found = pattern.fullmatch(event.name) if event.category == "user_annotation" else None
    return None if found is None else found[1] if pattern is _ACTION else found[0]


def _check(marked: Mapping[Event, str], source: str) -> None:
    faults = []
    for event, text in marked.items():
        try:
            operations(text)
        except InputError as error:
            found = f"expected an action such as PP:2F0, found {shown(event.name)}"
            faults.append(Fault(f"{event.key}.name", found, error.faults[0].hint))
    if faults:
        raise InputError(faults[:20], source)


class _Ranges:
    """The marks of a rank, and what stands inside each of them."""

    def __init__(self, trace: ProfilerTrace, marked: Mapping[Event, str]) -> None:
        self.marked = marked
        self.lane = next(iter(marked)).lane
        own = [event for event in trace.events if event.category in ("cpu_op", "user_annotation")]
        communicating = [event for event in own if _COMMUNICATES.match(event.name)]
        self.operators = [
            event.start for event in own
            if event.category == "cpu_op" and event.lane == self.lane and not _COMMUNICATES.match(event.name)
        ]  # fmt: skip
        self.ends = sorted(event.end for event in communicating if not _SENDS.match(event.name))
        self.sends = [event.start for event in communicating if _SENDS.match(event.name)]
        texts = list(marked.values())
        receiving = {text.replace("RECV_", "") for text in texts if "RECV_" in text}
        self.reads = receiving | {text.replace("B", "I") for text in receiving if "B" in text}
        self.device = device_times(trace, list(marked))

    def marks(self) -> list[Mark]:
        """Return the marks in the order in which the rank came to them."""
        return [self._mark(event, text) for event, text in self.marked.items()]

    def _mark(self, event: Event, text: str) -> Mark:
        on_device = self.device.get(event)
        if on_device is not None:
            return Mark(event.key, text, event.start, *on_device, event.end, True, True)
        begun, told = self._begun(event, text)
        ended = event.end
        if event.name != f"PP:{text}":  # the loops send inside of what they mark
            sent = bisect_left(self.sends, begun)
            ended = min(ended, self.sends[sent]) if sent < len(self.sends) else ended
        return Mark(event.key, text, event.start, begun, ended, event.end, told, False)

    def _begun(self, event: Event, text: str) -> tuple[int, bool]:
        """Return when an action began to work, and whether the file tells it."""
        first = self._first(self.operators, event)
        waited = bisect_right(self.ends, event.end if first is None else first) - 1
        if waited >= 0 and self.ends[waited] > event.start:
            return self.ends[waited], True
        reads = event.name != f"PP:{text}" or any(part in self.reads for part in re.findall(r"[0-9]+[FBI][0-9]+", text))
        if not reads:
            return event.start, True
        return (event.start, False) if first is None else (first, True)

    def _first(self, starts: Sequence[int], event: Event) -> int | None:
        at = bisect_left(starts, event.start)
        return starts[at] if at < len(starts) and starts[at] < event.end else None


def _steps(trace: ProfilerTrace, marks: Sequence[Mark]) -> Iterator[MarkedStep]:
    """Yield the marks by step of training: a new one begins with each ``ProfilerStep`` and where a mark comes again."""
    steps = [(event.start, event.end, int(found[1])) for event in trace.events
             if event.category == "user_annotation" and (found := _STEP.fullmatch(event.name))]  # fmt: skip
    starts = [start for start, _, _ in steps]
    current: list[Mark] = []
    number, repetition, seen = None, 0, set[str]()
    for mark in marks:
        at = bisect_right(starts, mark.start) - 1
        inside = at >= 0 and mark.start < steps[at][1]
        own = steps[at][2] if inside else None
        if steps and not inside:
            continue  # begun before the first step, or behind the last
        if current and (own != number or mark.text in seen):
            yield MarkedStep(number, repetition, tuple(current))
            repetition = repetition + 1 if own == number else 0
            current, seen = [], set()
        number = own
        current.append(mark)
        seen.add(mark.text)
    if current:
        yield MarkedStep(number, repetition, tuple(current))
