"""When the device of a rank worked for each range that its program marked.

The profiler gives the range of the program a range on the device, from the first to the last piece of work that it
launched on one stream. Work that another thread launched meanwhile, as autograd does in a backward, is not in it: that
is found by the call that launched it. Both count. Of what computes the stream that computes most counts, of what sends
or receives that on which it does.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from schedverify.formats.profiler_trace import DEVICE_WORK, Event, ProfilerTrace

_CARRIES: Final = re.compile(r"nccl|rccl", re.IGNORECASE)
_TRANSFER: Final = re.compile(r"PP:[0-9]+(?:SEND|RECV)_[FB]")
_COMPUTE: Final = re.compile(r"PP:(?:[0-9]+[FBIW][0-9]+|\()|(?:Forward|Backward) [0-9]+")


def device_times(trace: ProfilerTrace, marked: Sequence[Event]) -> dict[Event, tuple[int, int]]:
    """Return by marked range when the device began and ended to work for it; none for those without work of a device.

    Parameters
    ----------
    marked
        The ranges of the program, in the order of their start; they do not overlap.
    """
    work: dict[Event, list[Event]] = defaultdict(list)
    for mark, done in (*_ranges(trace, marked), *_launched(trace, marked)):
        work[mark].append(done)
    stream = _computing_stream(work)
    times = {}
    for mark, found in work.items():
        counted: list[Event] = []
        if _COMPUTE.match(mark.name):
            counted = [each for each in found if each.lane == stream and not _CARRIES.search(each.name)]
        elif _TRANSFER.match(mark.name):
            counted = [each for each in found if each.category != "kernel" or _CARRIES.search(each.name)]
        if counted:
            times[mark] = min(each.start for each in counted), max(each.end for each in counted)
    return times


def _ranges(trace: ProfilerTrace, marked: Sequence[Event]) -> Iterator[tuple[Event, Event]]:
    """Yield each marked range with its ranges on the device: those of its name, the n-th on a stream for the n-th."""
    by_external = {(mark.name, mark.external): mark for mark in marked}
    by_name: dict[str, list[Event]] = defaultdict(list)
    for mark in marked:
        by_name[mark.name].append(mark)
    seen: Counter[tuple[str, tuple[str, str]]] = Counter()
    for event in trace.events:
        if event.category != "gpu_user_annotation" or event.name not in by_name:
            continue
        which = seen[event.name, event.lane]
        seen[event.name, event.lane] += 1
        own = by_external.get((event.name, event.external))
        if own is not None and event.external is not None:
            yield own, event
        elif which < len(by_name[event.name]):
            yield by_name[event.name][which], event


def _launched(trace: ProfilerTrace, marked: Sequence[Event]) -> Iterator[tuple[Event, Event]]:
    """Yield each marked range with the device's work that was launched meanwhile, by whatever thread."""
    starts = [mark.start for mark in marked]
    launches = {event.correlation: event.start for event in trace.events if event.is_launch}
    for event in trace.events:
        traced = event.category in DEVICE_WORK and event.correlation is not None
        launched = launches.get(event.correlation) if traced else None
        at = -1 if launched is None else bisect_right(starts, launched) - 1
        if launched is not None and at >= 0 and launched < marked[at].end:
            yield marked[at], event


def _computing_stream(work: dict[Event, list[Event]]) -> tuple[str, str] | None:
    """Return the stream with most work of what computes; kernels count where there are some, ranges otherwise."""
    computing = [each for mark, found in work.items() if _COMPUTE.match(mark.name) for each in found]
    kernels = [each for each in computing if each.category == "kernel" and not _CARRIES.search(each.name)]
    taken: Counter[tuple[str, str]] = Counter()
    for each in kernels or computing:
        taken[each.lane] += each.end - each.start
    return max(sorted(taken), key=taken.__getitem__, default=None)
