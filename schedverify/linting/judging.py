"""Finds the files that hold a schedule with what it is for, loads what each describes, and judges one after another.

A file that cannot be judged is told as such and holds up none of the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from schedverify.core.errors import TOO_LARGE, Fault, InputError, SchedverifyError, shown
from schedverify.core.result import Plan, Report
from schedverify.formats.json_toml import parse_toml
from schedverify.formats.layouts import load_with_lines
from schedverify.formats.loading import load_problem
from schedverify.formats.schedule_dumps import Dump
from schedverify.formats.text_files import PathLike, Reader, naming, read_text, source_name
from schedverify.linting.cases import OPTIONS, SUFFIX, CaseTable, ScheduleCase, check_keys, side_car
from schedverify.linting.contained_files import ContainedFiles

_MAX_BYTES: Final = 1 << 21


class Linted(NamedTuple):
    """What is said of one file.

    Attributes
    ----------
    path
        The file.
    case, report
        The schedule that stands in it, and what the verifier says of it; None where it could not be judged.
    error
        Why it could not be judged; None where it was.
    """

    path: Path
    case: ScheduleCase | None = None
    report: Report | None = None
    error: SchedverifyError | None = None


def lint(files: Iterable[PathLike]) -> Iterator[Linted]:
    """Judge schedules that stand in files with what they are for, one after another, as the command ``lint`` does.

    A file that cannot be judged is told as such, with the file, the key and what was expected, and the next one is
    judged. What a file names is read where it is a regular file below the root of the repository in which the first
    one stands (the nearest folder with a ``.git``, else with a ``pyproject.toml``, else its own), and nothing else is.

    Parameters
    ----------
    files
        Each a ``*.schedule.toml``, a plan, or a CSV with a problem beside it.
    """
    if isinstance(files, str | os.PathLike):
        raise TypeError(f"lint needs files, found a {type(files).__name__}: put it into a list")
    return map(_linted, (Path(os.fspath(path)) for path in files))


def _linted(path: Path) -> Linted:
    try:
        case = load_case(path)
        return Linted(path, case, case.report())
    except SchedverifyError as error:
        return Linted(path, error=error)
    except (MemoryError, RecursionError):
        return Linted(path, error=InputError(TOO_LARGE, source_name(path)))


def is_case(path: Path) -> bool:
    """Whether a file holds a schedule with what it is for: by its name, and by the problem beside a CSV."""
    return path.name.endswith(SUFFIX) or (path.suffix == ".csv" and side_car(path) is not None)


def load_case(path: Path, root: Path | None = None) -> ScheduleCase:
    """Return the schedule of a file with what it is for.

    Parameters
    ----------
    path
        A ``*.schedule.toml``, a plan, or a CSV with a problem beside it; ``-`` is a plan on standard input.
    root
        The folder below which a file may name others, where it is in no repository.

    Raises
    ------
    InputError
        With the file, the key and what was expected.
    """
    if os.fspath(path) == "-":
        return _alone(path, read_text)
    files = ContainedFiles(path.parent, root)
    if path.name.endswith(SUFFIX):
        text = files.read(path, "a schedule and its problem in TOML", _MAX_BYTES)
        with naming(path):
            return CaseTable(parse_toml(text), path, files).case(text)
    beside = side_car(path)
    if beside is None:
        return _alone(path, files.read)
    problem = load_problem(beside, read=files.read)
    loaded, lines = load_with_lines(path, problem, read=files.read)
    subject = loaded.schedule if isinstance(loaded, Dump) else loaded
    return ScheduleCase(path, subject, problem, {}, lines, path)


def _alone(path: Path, read: Reader) -> ScheduleCase:
    """Return the case of a file that says by itself what it is for: a plan, or the dump of a job."""
    subject, _ = load_with_lines(path, read=read)
    if isinstance(subject, Dump):
        return ScheduleCase(path, subject.schedule, subject.problem, {}, (), path)
    if not isinstance(subject, Plan):
        hint = f"put {path.with_suffix('.problem.toml').name} beside it, or both into a file that ends in {SUFFIX}"
        raise InputError(Fault("", "nothing says which problem the schedule is for", hint), source_name(path))
    return ScheduleCase(path, subject, None, {}, (), path)


def configured_cases(pyproject: Path, root: Path | None = None) -> Iterator[tuple[str, Callable[[], ScheduleCase]]]:
    """Yield of each entry of ``[[tool.schedverify.schedules]]`` its name, and a function that loads its case.

    The function raises as :func:`load_case` does; files are named from the folder of the project file.

    Raises
    ------
    InputError
        If there are no such entries; with the file, the key and what was expected.
    """
    files = ContainedFiles(pyproject.parent, root)
    text = files.read(pyproject, "a project file in TOML", _MAX_BYTES)
    with naming(pyproject):
        entries, shared = _configured(parse_toml(text).get("tool", {}).get("schedverify", {}))
    for number, entry in enumerate(entries):
        table = CaseTable(shared | dict(entry), pyproject, files, f"tool.schedverify.schedules[{number}]")
        yield str(entry.get("file", number)), partial(_case_of, table, pyproject)


def _case_of(table: CaseTable, pyproject: Path) -> ScheduleCase:
    with naming(pyproject):
        return table.case()


def is_configured(pyproject: Path) -> bool:
    """Whether a project file has entries of ours; one that cannot be read, or is no TOML, has none."""
    try:
        text = ContainedFiles(pyproject.parent).read(pyproject, "a project file in TOML", _MAX_BYTES)
        return "tool.schedverify" in text and bool(_entries(parse_toml(text)))
    except InputError:
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
    check_keys(table, "tool.schedverify", (*OPTIONS, "problem", "schedules"))
    return entries, {name: value for name, value in table.items() if name != "schedules"}
