"""Reads the Chrome trace that torch.profiler writes of one rank: what it says of the rank, and the events that count.

Whatever else a profiler writes down (stacks of Python, flows, memory, names of threads) is passed over as it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, NamedTuple

from schedverify.core.errors import Faults, clean, shown
from schedverify.core.problem.numbers import LARGEST
from schedverify.formats.json_toml import DoubledTable

EXPECTED: Final = "a trace of torch.profiler (Chrome trace, JSON, also packed by gzip)"
MAX_RANK: Final = 1 << 24
_WRITER: Final = "prof.export_chrome_trace(f'rank{rank}.json.gz') writes it"
_LAUNCHES: Final = ("cuda_runtime", "cuda_driver")
DEVICE_WORK: Final = ("kernel", "gpu_memcpy", "gpu_memset")
_READ: Final = frozenset(("user_annotation", "gpu_user_annotation", "cpu_op", *_LAUNCHES, *DEVICE_WORK))
_PASSED_OVER: Final[dict[str, Any]] = {}


class Event(NamedTuple):
    """Something that took time on a thread of a rank or on a stream of its device.

    Times are nanoseconds of the clock of the rank's host.
    """

    number: int
    """Its place among ``traceEvents``."""
    category: str
    name: str
    lane: tuple[str, str]
    """The process and thread, or the device and stream."""
    start: int
    end: int
    correlation: int | None
    """What work of a device has in common with the call that launched it."""
    external: int | None
    """What a range of a device has in common with that of the program."""

    @property
    def key(self) -> str:
        """Where it stands in the file."""
        return f"traceEvents[{self.number}]"

    @property
    def is_launch(self) -> bool:
        """Whether it launches work of a device."""
        return self.category in _LAUNCHES


@dataclass(frozen=True)
class ProfilerTrace:
    """What torch.profiler wrote of one rank.

    Attributes
    ----------
    source
        The name of the file.
    rank
        The rank in the whole job, None where the file does not say it.
    host
        The name of the host, empty where the file does not say it.
    backend
        What carries messages, such as ``gloo``; empty where the file does not say it.
    groups
        The ranks of each process group that the file tells.
    events
        In the order of their start, at one start the longer ones first.
    """

    source: str
    rank: int | None
    host: str
    backend: str
    groups: tuple[tuple[int, ...], ...]
    events: tuple[Event, ...]


def kept_of(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table of the file, or an empty one in place of an event that nothing here reads."""
    passed = "ph" in table and "cat" in table and (table["ph"] != "X" or table["cat"] not in _READ)
    return _PASSED_OVER if passed else table


def profiler_trace_from(data: Any, source: str) -> ProfilerTrace:
    """Return the trace that parsed JSON describes; ``source`` is the name of its file.

    Raises
    ------
    InputError
        With every fault (the first 50): no list of events; an event that counts without name, start or duration; a
        rank, a host or a base of times that is none.
    """
    reader = _Reader(data)
    trace = reader.trace(source)
    reader.raise_faults()
    return trace


class _Reader(Faults):
    """The data of a trace and the faults found in it so far."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.data: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
        if not isinstance(data, Mapping):
            self.fault("", f"expected {EXPECTED}, found {shown(data)}", _WRITER)

    def trace(self, source: str) -> ProfilerTrace:
        about = self.data.get("distributedInfo", {})
        if not isinstance(about, Mapping):
            self.fault("distributedInfo", f"expected a table, found {shown(about)}", _WRITER)
            about = {}
        rank = self._whole("distributedInfo.rank", about.get("rank"), 0, MAX_RANK)
        base = self._whole("baseTimeNanoseconds", self.data.get("baseTimeNanoseconds"), 0, LARGEST) or 0
        events = sorted(self._events(base), key=lambda event: (event.start, -event.end, event.number))
        host, backend = self.data.get("host_name"), about.get("backend")
        return ProfilerTrace(
            source, rank, host if isinstance(host, str) else "", backend if isinstance(backend, str) else "",
            tuple(_groups(about.get("pg_config"))), tuple(events),
        )  # fmt: skip

    def _events(self, base: int) -> Iterator[Event]:
        events = self.data.get("traceEvents")
        if not isinstance(events, list):
            if not self.found:
                found = "missing" if events is None else f"expected a list, found {shown(events)}"
                self.fault("traceEvents", found, _WRITER)
            return
        for number, event in enumerate(events):
            if isinstance(event, Mapping) and event.get("cat") in _READ and event.get("ph") == "X":
                before, key = self.found, f"traceEvents[{number}]"
                read = self._event(key, number, event, base)
                if self.found == before:
                    yield read

    def _event(self, key: str, number: int, event: Mapping[str, Any], base: int) -> Event:
        if isinstance(event, DoubledTable):
            self.fault(f"{key}.{clean(event.doubled[0])}", "the key stands twice", "keep one")
        name, args = event.get("name"), event.get("args")
        if not isinstance(name, str):
            self.fault(f"{key}.name", f"expected a text, found {shown(name)}", _WRITER)
        start = base + self._nanoseconds(f"{key}.ts", event.get("ts"))
        took = self._nanoseconds(f"{key}.dur", event.get("dur"))
        if took < 0:
            self.fault(f"{key}.dur", f"expected 0 or more, found {shown(event.get('dur'))}", "microseconds")
        args = args if isinstance(args, Mapping) else {}
        numbers = (args.get("correlation"), args.get("External id"))
        correlation, external = (each if type(each) is int else None for each in numbers)
        lane = str(event.get("pid")), str(event.get("tid"))
        return Event(number, str(event.get("cat")), str(name), lane, start, start + took, correlation, external)

    def _nanoseconds(self, key: str, value: Any) -> int:
        """Return microseconds of the file, exact to the nanosecond."""
        finite = type(value) is int or (isinstance(value, Decimal) and value.is_finite())
        if finite and abs(value) < LARGEST // 1000:
            nanoseconds: int = round(value * 1000)
            return nanoseconds
        self.fault(key, f"expected microseconds, found {shown(value)}", _WRITER)
        return 0

    def _whole(self, key: str, value: Any, low: int, high: int) -> int | None:
        if value is None or (type(value) is int and low <= value <= high):
            return value
        self.fault(key, f"expected a whole number from {low} to {high}, found {shown(value)}", _WRITER)
        return None


def _groups(config: Any) -> Iterator[tuple[int, ...]]:
    """Yield the ranks of each process group that is told in full."""
    for group in config if isinstance(config, list) else ():
        ranks = group.get("ranks") if isinstance(group, Mapping) else None
        if isinstance(ranks, list) and ranks and all(type(rank) is int for rank in ranks):
            yield tuple(ranks)
