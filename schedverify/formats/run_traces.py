"""The trace of a run: one file for all ranks, which Perfetto and chrome://tracing show, and which reads back exactly.

It is a Chrome trace: a process for each rank, with threads for what computes, sends and receives. ``otherData`` holds
the digest of the plan, the number of ranks and steps, and the error of each rank's clock; ``args`` of each event its
place and its nanoseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from schedverify.errors import Fault, InputError
from schedverify.formats.data import parse_json, unfit
from schedverify.formats.reading import PathLike, read_text, source_name
from schedverify.formats.writing import write_text
from schedverify.op import pack_step, unpack
from schedverify.problem.faults import Faults
from schedverify.problem.numbers import LARGEST
from schedverify.problem.showing import shown
from schedverify.ran import Ran, RunTrace

VERSION: Final = 1
MAX_BYTES: Final = 1 << 28
_ARGS: Final = ("step", "position", "start", "end")
_ABOUT: Final = ("format", "version", "plan", "ranks", "steps", "errors")
_FORMAT: Final = "schedverify run"


def save_run(trace: RunTrace, path: PathLike) -> None:
    """Write the trace of a run; an existing file is replaced as a whole, or not at all.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    about = {"format": _FORMAT, "version": VERSION, "plan": trace.plan, "ranks": trace.ranks,
             "steps": len(trace.steps), "errors": list(trace.errors)}  # fmt: skip
    first = min((ran.start for step in trace.steps for ran in step), default=0)
    events = ",\n".join(map(_dumps, _events(trace, first)))
    write_text(path, f'{{"displayTimeUnit":"ms","otherData":{_dumps(about)},"traceEvents":[\n{events}\n]}}\n')


def load_run(path: PathLike) -> RunTrace:
    """Return the trace of a run.

    Raises
    ------
    InputError
        If the file holds none; with every fault and its place.
    """
    text = read_text(path, "the trace of a run (JSON)", MAX_BYTES)
    try:
        return _trace_from(parse_json(text))
    except InputError as error:
        raise error.within(source_name(path)) from None


def _events(trace: RunTrace, first: int) -> Iterator[dict[str, Any]]:
    for rank in range(trace.ranks):
        yield {"name": "process_name", "ph": "M", "pid": rank, "tid": 0, "args": {"name": f"rank {rank}"}}
    for number, step in enumerate(trace.steps):
        for ran in step:
            start, end = ran.start - first, ran.end - first
            place = {
                "ph": "X",
                "pid": ran.rank,
                "tid": _thread(ran.step),
                "ts": start / 1000,
                "dur": (end - start) / 1000,
            }
            yield {"name": ran.step, **place, "args": dict(zip(_ARGS, (number, ran.position, start, end), strict=True))}


def _thread(step: str) -> int:
    """Return 0 for compute, 1 for sends, 2 for receives and groups with one."""
    kinds = [unpack(word).kind for word in pack_step(step)]
    transfers = [kind for kind in kinds if kind.is_transfer]
    return 0 if not transfers else 1 if all(kind.is_send for kind in transfers) else 2


def _trace_from(data: Any) -> RunTrace:
    if not isinstance(data, Mapping) or not isinstance(data.get("otherData"), Mapping):
        raise InputError(Fault("", f"expected the trace of a run, found {shown(data)}", "as run --trace writes it"))
    reader = _Reader(data)
    for fault in unfit(data):
        reader.fault(*fault)
    trace = reader.trace()
    reader.raise_faults()
    return trace


class _Reader(Faults):
    """The data of a trace and the faults found in it so far."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__()
        self.data, self.about = data, data["otherData"]

    def trace(self) -> RunTrace:
        if self.about.get("format") != _FORMAT:
            hint = "a trace that convert writes is what a plan predicts, not what ran"
            self.fault("otherData.format", f"expected {_FORMAT!r}, found {shown(self.about.get('format'))}", hint)
            self.raise_faults()
        if self.about.get("version") != VERSION:
            self.fault("otherData.version", f"expected {VERSION}, found {shown(self.about.get('version'))}")
        for name in self.about:
            if name not in _ABOUT:
                self.fault(f"otherData.{name[:60]!r}", "unknown key", f"known: {', '.join(_ABOUT)}")
        ranks = self._whole("otherData.ranks", self.about.get("ranks"), 1, 65_535)
        steps = self._whole("otherData.steps", self.about.get("steps"), 0, 1_000_000)
        plan = self.about.get("plan")
        if not isinstance(plan, str) or len(plan) != 64:
            self.fault("otherData.plan", f"expected the digest of a plan, found {shown(plan)}")
            plan = ""
        return RunTrace(plan, ranks, self._steps(ranks, steps), self._errors(ranks))

    def _errors(self, ranks: int) -> tuple[int, ...]:
        errors = self.about.get("errors")
        if not isinstance(errors, list) or len(errors) != ranks:
            self.fault("otherData.errors", f"expected one number for each of {ranks} ranks, found {shown(errors)}")
            return (0,) * ranks
        return tuple(self._whole(f"otherData.errors[{i}]", each, 0) for i, each in enumerate(errors))

    def _steps(self, ranks: int, steps: int) -> tuple[tuple[Ran, ...], ...]:
        events = self.data.get("traceEvents")
        found: list[list[Ran]] = [[] for _ in range(steps)]
        if not isinstance(events, list):
            self.fault("traceEvents", f"expected a list, found {shown(events)}")
            return ()
        for i, event in enumerate(events):
            if not isinstance(event, Mapping) or event.get("ph") == "M":
                continue
            number, ran = self._ran(f"traceEvents[{i}]", event, ranks, steps)
            if not self.found:
                found[number].append(ran)
        return tuple(tuple(sorted(step, key=lambda ran: (ran.rank, ran.position))) for step in found)

    def _ran(self, key: str, event: Mapping[str, Any], ranks: int, steps: int) -> tuple[int, Ran]:
        args = event.get("args")
        if not isinstance(args, Mapping):
            self.fault(f"{key}.args", f"expected a table, found {shown(args)}")
            args = {}
        rank = self._whole(f"{key}.pid", event.get("pid"), 0, ranks - 1)
        number = self._whole(f"{key}.args.step", args.get("step"), 0, steps - 1)
        position = self._whole(f"{key}.args.position", args.get("position"), 0)
        start = self._whole(f"{key}.args.start", args.get("start"), -LARGEST)
        end = self._whole(f"{key}.args.end", args.get("end"), start)
        return number, Ran(rank, position, self._step(f"{key}.name", event.get("name")), start, end)

    def _step(self, key: str, name: Any) -> str:
        try:
            pack_step(name if isinstance(name, str) else "")
        except InputError:
            self.fault(key, f"expected a step such as 2F0 or 0SEND_F1, found {shown(name)}")
        return str(name)

    def _whole(self, key: str, value: Any, low: int, high: int = LARGEST) -> int:
        if type(value) is int and low <= value <= high:
            return value
        self.fault(key, f"expected a whole number from {low} to {high}, found {shown(value)}")
        return max(low, 0)


def _dumps(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=True)
