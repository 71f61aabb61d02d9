"""Reads the trace of a run: takes no unknown key, needs every known one, compares times with those in ``args``."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from schedverify.core.errors import Fault, Faults, InputError, check_version, shown
from schedverify.core.problem.numbers import LARGEST
from schedverify.core.trace import RunTrace, StepSpan
from schedverify.formats import trace_files as traces
from schedverify.formats.file_kinds import RUN, check_kind
from schedverify.formats.json_toml import parse_json, unfit
from schedverify.formats.plan_files import DIGEST
from schedverify.formats.text_files import PathLike, naming, read_text

MAX_BYTES: Final = 1 << 28
_WRITER: Final = "schedverify run --trace writes it"


def load_run(path: PathLike) -> RunTrace:
    """Return the trace of a run.

    Raises
    ------
    InputError
        If the file holds none; with every fault (the first 50) and its place.
    """
    text = read_text(path, "the trace of a run (JSON)", MAX_BYTES)
    with naming(path):
        data = parse_json(text)
        check_kind(data, "the trace of a run", RUN)
        return run_from(data)


def run_from(data: Any) -> RunTrace:
    """Return the trace of a run that parsed JSON describes.

    Whether the run followed its plan is not asked here: a step at a wrong place, or twice at one, is no fault.

    Raises
    ------
    InputError
        With every fault (the first 50): a newer version; a key that is unknown or missing, of the file, of an event or
        of its ``args``; an event that is no table or of another kind; a thread, ``ts`` or ``dur`` that is not the one
        of the step and of the times in its ``args``; a rank without a name.
    """
    about = data.get("otherData") if isinstance(data, Mapping) else None
    if not isinstance(about, Mapping):
        key, found = ("otherData", about) if isinstance(data, Mapping) else ("", data)
        raise InputError(Fault(key, f"expected the trace of a run, found {shown(found)}", _WRITER))
    if about.get("format") != traces.RUN_FORMAT:
        hint = "a trace that convert writes is what a plan predicts, not what ran"
        message = f"expected {traces.RUN_FORMAT!r}, found {shown(about.get('format'))}"
        raise InputError(Fault("otherData.format", message, hint))
    check_version("otherData.version", about.get("version"), traces.RUN_VERSION, _WRITER)
    reader = _RunReader(data, about)
    for fault in unfit(data):
        reader.fault(*fault)
    return reader.trace()


class _RunReader(Faults):
    """The data of a trace and the faults found in it so far."""

    def __init__(self, data: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        super().__init__()
        self.data, self.about = data, about
        bounds = {"ranks": (1, traces.MAX_RANKS), "steps": (0, traces.MAX_STEPS)}
        self.counts = {name: self._count(name, *limits) for name, limits in bounds.items()}
        """How many there are; None where that is itself at fault."""

    def trace(self) -> RunTrace:
        """Check every key and every event, and return what they tell."""
        self.check_keys("", self.data, traces.TOP, needed=traces.TOP, missing=_WRITER)
        self.check_keys("otherData", self.about, traces.ABOUT, needed=traces.ABOUT, missing=_WRITER)
        self._expect("displayTimeUnit", self.data.get("displayTimeUnit"), traces.UNIT, _WRITER)
        plan, errors, steps = self._plan(), self._errors(), self._steps()
        self.raise_faults()
        return RunTrace(plan, self.counts["ranks"] or 0, steps, errors)

    def _count(self, name: str, low: int, high: int) -> int | None:
        key = f"otherData.{name}"
        count = self._whole(key, self.about.get(name), low, high)
        return None if self.wrong(key) else count

    def _plan(self) -> str:
        plan = self.about.get("plan")
        if not isinstance(plan, str) or not DIGEST.fullmatch(plan):
            message = f"expected the digest of a plan, 64 hexadecimal digits in lower case, found {shown(plan)}"
            self.fault("otherData.plan", message, "a plan has it under digest")
        return str(plan)

    def _errors(self) -> tuple[int, ...]:
        errors, ranks = self.about.get("errors"), self.counts["ranks"]
        if not isinstance(errors, list) or ranks not in (None, len(errors)):
            expected = f"expected one number for each of {ranks or 'the'} ranks"
            self.fault("otherData.errors", f"{expected}, found {shown(errors)}", "nanoseconds; 0 for rank 0")
            return ()
        return tuple(self._whole(f"otherData.errors[{i}]", each, 0) for i, each in enumerate(errors))

    def _steps(self) -> tuple[tuple[StepSpan, ...], ...]:
        found: list[list[StepSpan]] = [[] for _ in range(self.counts["steps"] or 0)]
        named: set[int] = set()
        for i, event in enumerate(self._events()):
            key = f"traceEvents[{i}]"
            if not isinstance(event, Mapping):
                self.fault(key, f"expected a table, found {shown(event)}", "a step that ran, or the name of a rank")
            elif event.get("ph") == "M":
                self._naming(key, event, named)
            elif event.get("ph") == "X":
                number, ran = self._running(key, event)
                if not self.found:
                    found[number].append(ran)
            else:
                message = f'expected "X", a step that ran, or "M", the name of a rank, found {shown(event.get("ph"))}'
                self.fault(f"{key}.ph", message, _WRITER)
        self._all_named(named)
        return tuple(tuple(sorted(step, key=lambda ran: (ran.rank, ran.position))) for step in found)

    def _events(self) -> list[Any]:
        events = self.data.get("traceEvents")
        if isinstance(events, list):
            return events
        self.fault("traceEvents", f"expected a list, found {shown(events)}", _WRITER)
        return []

    def _naming(self, key: str, event: Mapping[str, Any], named: set[int]) -> None:
        """Read the event that names the process of a rank."""
        self.check_keys(key, event, traces.NAMING, needed=traces.NAMING, missing=_WRITER)
        args = self._args(key, event, traces.NAMING_ARGS)
        rank = self._index(f"{key}.pid", event.get("pid"), "ranks")
        if rank in named:
            self.fault(f"{key}.pid", f"rank {rank} is named twice", "once for each rank")
        named.add(rank)
        hint = f"this event names the process of rank {rank}"
        self._expect(f"{key}.name", event.get("name"), traces.RANK_NAME, hint)
        self._expect(f"{key}.tid", event.get("tid"), 0, hint)
        self._expect(f"{key}.args.name", args.get("name"), traces.rank_name(rank), hint)

    def _all_named(self, named: set[int]) -> None:
        absent = next((rank for rank in range(self.counts["ranks"] or 0) if rank not in named), None)
        if absent is not None:
            hint = f'expected an event "{traces.RANK_NAME}" of each rank'
            self.fault("traceEvents", f"rank {absent} has no name", hint)

    def _running(self, key: str, event: Mapping[str, Any]) -> tuple[int, StepSpan]:
        """Read the event of a step of the schedule that ran, and return it with the number of its step of training."""
        before = self.found
        self.check_keys(key, event, traces.RUNNING, needed=traces.RUNNING, missing=_WRITER)
        args = self._args(key, event, traces.ARGS)
        rank = self._index(f"{key}.pid", event.get("pid"), "ranks")
        number, position, start, end = self._place(f"{key}.args", args) if args else (0, 0, 0, 0)
        on = self._thread(f"{key}.name", event.get("name"))
        if self.found == before:
            self._expect(f"{key}.tid", event["tid"], on, "what computes is on 0, sends are on 1, receives on 2")
            self._near(f"{key}.ts", event["ts"], traces.microseconds(start), "args.start in microseconds")
            took = traces.microseconds(end - start)
            self._near(f"{key}.dur", event["dur"], took, "args.end - args.start in microseconds")
        return number, StepSpan(rank, position, str(event.get("name")), start, end)

    def _place(self, key: str, args: Mapping[str, Any]) -> tuple[int, int, int, int]:
        """Read from ``args`` the step of training, the position, and the start and end in nanoseconds."""
        start = self._whole(f"{key}.start", args.get("start"), 0)
        return (
            self._index(f"{key}.step", args.get("step"), "steps"),
            self._whole(f"{key}.position", args.get("position"), 0),
            start,
            self._whole(f"{key}.end", args.get("end"), start, hint="nanoseconds; no step ends before its start"),
        )

    def _args(self, key: str, event: Mapping[str, Any], known: tuple[str, ...]) -> Mapping[str, Any]:
        args = event.get("args")
        if not isinstance(args, Mapping):
            self.fault(f"{key}.args", f"expected a table, found {shown(args)}", f"with {', '.join(known)}")
            return {}
        self.check_keys(f"{key}.args", args, known, needed=known, missing=_WRITER)
        return args

    def _thread(self, key: str, name: Any) -> int:
        try:
            return traces.thread(name if isinstance(name, str) else "")
        except InputError as error:
            self.fault(key, f"expected a step such as 2F0 or 0SEND_F1, found {shown(name)}", error.faults[0].hint)
            return 0

    def _expect(self, key: str, value: Any, expected: str | int, hint: str) -> None:
        if type(value) is not type(expected) or value != expected:
            self.fault(key, f"expected {expected!r}, found {shown(value)}", hint)

    def _near(self, key: str, value: Any, expected: float, hint: str) -> None:
        """Check that a number of the file is the float nearest to another number."""
        if type(value) not in (int, Decimal) or float(value) != expected:
            self.fault(key, f"expected {expected}, found {shown(value)}", hint)

    def _index(self, key: str, value: Any, what: str) -> int:
        """Read the number of a rank or of a step, which is below the count in ``otherData``."""
        count = self.counts[what]
        hint = f"otherData.{what} is {count}"
        return self._whole(key, value, 0, LARGEST if count is None else count - 1, hint=hint)

    def _whole(self, key: str, value: Any, low: int, high: int = LARGEST, hint: str = _WRITER) -> int:
        if type(value) is int and low <= value <= high:
            return value
        upper = "2^62" if high == LARGEST else str(high)
        self.fault(key, f"expected a whole number from {low} to {upper}, found {shown(value)}", hint)
        return low
