"""Schedules that stand in files to be judged: ``*.schedule.toml``, CSV with a problem beside it, entries of pyproject.

Each file says, or stands beside, what its schedule is for, so that it can be judged without further arguments: by
pytest, by pre-commit, by ``schedverify lint``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from schedverify.core.errors import Fault, InputError, clean, nearest, shown
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Report
from schedverify.core.schedule import Schedule
from schedverify.formats.json_toml import parse_toml
from schedverify.formats.loading import load_judged, load_problem, load_schedule
from schedverify.formats.outputs import annotations_at, lines_of
from schedverify.formats.problem_files import problem_from
from schedverify.formats.text_files import PathLike, naming, read_text
from schedverify.verifier.verification import verify

SUFFIX: Final = ".schedule.toml"
_OPTIONS: Final = ("select", "ignore", "discipline", "eager_bytes", "excerpt", "profile")
_KEYS: Final = ("about", "schedule", "file", "problem", *_OPTIONS)
_MAX_BYTES: Final = 1 << 21


@dataclasses.dataclass(frozen=True)
class ScheduleCase:
    """A schedule in a file, what it is for, and how it is judged.

    Attributes
    ----------
    path
        The file in which the schedule stands.
    subject
        The schedule, or a plan with its claims.
    problem
        None for a plan, which brings its own.
    options
        Keywords of :func:`schedverify.verify`.
    lines
        By rank the line of ``path`` in which its order stands; empty where it stands in no line of its own.
    """

    path: Path
    subject: Schedule | Plan
    problem: Problem | None
    options: Mapping[str, Any]
    lines: tuple[int, ...]

    def report(self) -> Report:
        """Return what the verifier says."""
        return verify(self.subject, self.problem, **self.options)

    def annotations(self, report: Report) -> str:
        """Return the workflow commands of GitHub for a report, each violation at the line of its rank."""
        return annotations_at(report, str(self.path), self.lines)


class Linted(NamedTuple):
    """A schedule that stands in a file, and what the verifier says of it."""

    case: ScheduleCase
    report: Report


def lint(files: Iterable[PathLike]) -> Iterator[Linted]:
    """Judge schedules that stand in files with what they are for, one after another, as the command ``lint`` does.

    Parameters
    ----------
    files
        Each a ``*.schedule.toml``, a plan, or a CSV with a problem beside it.

    Raises
    ------
    InputError
        When the turn of a file comes that is none of these; with the key and what was expected.
    """
    if isinstance(files, str | os.PathLike):
        raise TypeError(f"lint needs files, found a {type(files).__name__}: put it into a list")
    cases = (load_case(Path(os.fspath(path))) for path in files)
    return (Linted(case, case.report()) for case in cases)


def side_car(path: Path) -> Path | None:
    """Return the problem file beside a CSV (``x.problem.toml`` or ``x.problem.json``), or None where there is none."""
    return next((p for suffix in ("toml", "json") if (p := path.with_suffix(f".problem.{suffix}")).is_file()), None)


def is_case(path: Path) -> bool:
    """Whether a file holds a schedule with what it is for: by its name, and by the problem beside a CSV."""
    return path.name.endswith(SUFFIX) or (path.suffix == ".csv" and side_car(path) is not None)


def load_case(path: Path) -> ScheduleCase:
    """Return the schedule of a file with what it is for.

    Parameters
    ----------
    path
        A ``*.schedule.toml``, a plan, or a CSV with a problem beside it.

    Raises
    ------
    InputError
        With the file, the key and what was expected.
    """
    if path.name.endswith(SUFFIX):
        text = read_text(path, "a schedule and its problem in TOML", _MAX_BYTES)
        with naming(path):
            return _from_table(parse_toml(text), path, path.parent, text)
    beside = side_car(path)
    if beside is not None:
        problem = load_problem(beside)
        return ScheduleCase(path, load_schedule(path, problem), problem, {}, tuple(lines_of(str(path))))
    subject = load_judged(path)
    if not isinstance(subject, Plan):
        hint = f"put {path.with_suffix('.problem.toml').name} beside it, or both into a file that ends in {SUFFIX}"
        raise InputError(Fault("", "nothing says which problem the schedule is for", hint), str(path))
    return ScheduleCase(path, subject, None, {}, ())


def configured_cases(pyproject: Path) -> Iterator[tuple[str, ScheduleCase]]:
    """Yield the name and the case of each entry of ``[[tool.schedverify.schedules]]``; files are beside pyproject.

    Raises
    ------
    InputError
        With the file, the key and what was expected.
    """
    data = parse_toml(read_text(pyproject, "a project file in TOML", _MAX_BYTES))
    with naming(pyproject):
        entries, shared = _configured(data.get("tool", {}).get("schedverify", {}))
        cases = [
            _from_table(shared | dict(entry), pyproject, pyproject.parent, "", f"tool.schedverify.schedules[{i}]")
            for i, entry in enumerate(entries)
        ]
    yield from ((str(entry.get("file", i)), case) for i, (entry, case) in enumerate(zip(entries, cases, strict=True)))


def is_configured(pyproject: Path) -> bool:
    """Whether a project file has entries of ours; a file that is no TOML has none."""
    try:
        text = pyproject.read_text(encoding="utf-8")
        return "tool.schedverify" in text and bool(_entries(parse_toml(text)))
    except (OSError, UnicodeDecodeError, InputError):
        return False


def _entries(data: Mapping[str, Any]) -> Any:
    tool = data.get("tool")
    table = tool.get("schedverify") if isinstance(tool, Mapping) else None
    return table.get("schedules") if isinstance(table, Mapping) else None


def _configured(table: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
    """Return the entries, and the options that hold for all of them."""
    entries = table.get("schedules", [])
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        fault = Fault("tool.schedverify.schedules", f"expected tables, found {shown(entries)}")
        raise InputError(fault._replace(hint="write [[tool.schedverify.schedules]] and its keys below"))
    _check_keys(table, "tool.schedverify", (*_OPTIONS, "problem", "schedules"))
    return entries, {name: value for name, value in table.items() if name != "schedules"}


def _from_table(table: Mapping[str, Any], path: Path, folder: Path, text: str, key: str = "") -> ScheduleCase:
    """Return the case that a table describes; ``text`` is that of the file, for the lines of its schedule."""
    _check_keys(table, key, _KEYS)
    options = {name: _option(name, table[name], key) for name in _OPTIONS if name in table}
    if "file" in table:
        where = folder / _text(table["file"], f"{key}.file".lstrip("."))
        problem = _problem(table, folder, key)
        subject = load_judged(where, problem)
        if problem is None and not isinstance(subject, Plan):
            beside = side_car(where)
            problem = load_problem(beside) if beside else _missing(f"{key}.problem".lstrip("."))
        return ScheduleCase(where, subject, problem, options, tuple(lines_of(str(where))))
    order = _text(table.get("schedule", ""), f"{key}.schedule".lstrip("."))
    problem = _problem(table, folder, key) or _missing(f"{key}.problem".lstrip("."))
    return ScheduleCase(path, Schedule.parse(order), problem, options, _lines_within(text, order))


def _problem(table: Mapping[str, Any], folder: Path, key: str) -> Problem | None:
    given = table.get("problem")
    if isinstance(given, str):
        return load_problem(folder / given)
    if given is None:
        return None
    try:
        return problem_from(given)
    except InputError as error:
        inside = f"{key}.problem".lstrip(".")
        raise InputError([fault._replace(key=f"{inside}.{fault.key}".rstrip(".")) for fault in error.faults]) from None


def _missing(key: str) -> Problem:
    raise InputError(Fault(key, "missing", "a problem file, or a [problem] table"))


def _option(name: str, value: Any, key: str) -> Any:
    wanted = {"select": list, "ignore": list, "eager_bytes": int, "excerpt": bool}.get(name, str)
    listed = wanted is list and isinstance(value, list) and all(isinstance(code, str) for code in value)
    if listed or (wanted is not list and type(value) is wanted):
        return value
    kind = {list: "a list of codes", int: "a whole number", bool: "true or false", str: "a name in quotes"}[wanted]
    raise InputError(Fault(f"{key}.{name}".lstrip("."), f"expected {kind}, found {shown(value)}"))


def _text(value: Any, key: str) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise InputError(Fault(key, f"expected text, found {shown(value)}", "schedule holds the order, or file names it"))


def _check_keys(table: Mapping[str, Any], key: str, known: tuple[str, ...]) -> None:
    faults = [
        Fault(f"{key}.{clean(name)}".lstrip("."), "unknown key", nearest(name, known) or f"known: {', '.join(known)}")
        for name in table
        if name not in known
    ]
    if faults:
        raise InputError(faults)


def _lines_within(text: str, order: str) -> tuple[int, ...]:
    """Return the line of each row of an order in the file whose text holds it, as far as it stands there as it is."""
    begin = text.find(order)
    if begin < 0:
        return ()
    first = text.count("\n", 0, begin) + 1
    rows = enumerate(order.split("\n"), first)
    return tuple(number for number, row in rows if row.partition("#")[0].strip())
