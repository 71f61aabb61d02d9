"""A schedule in a file, with what it is for and how it is judged, as a table says it, with the files that it names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from schedverify.core.discipline import Discipline, check_eager_bytes
from schedverify.core.errors import Fault, InputError, clean_key, nearest, shown
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Report
from schedverify.core.row_text import text_rows
from schedverify.core.schedule import Schedule, check_ranks
from schedverify.formats.layouts import load_with_lines
from schedverify.formats.loading import load_problem
from schedverify.formats.outputs import annotations_at
from schedverify.formats.problem_files import problem_from
from schedverify.formats.schedule_dumps import Dump
from schedverify.formats.text_files import PathLike, Reader, naming, source_name
from schedverify.linting.contained_files import ContainedFiles
from schedverify.verifier.runtimes import profile_of
from schedverify.verifier.verification import check_codes, verify

SUFFIX: Final = ".schedule.toml"
OPTIONS: Final = ("select", "ignore", "discipline", "eager_bytes", "excerpt", "profile")
_KEYS: Final = ("about", "schedule", "file", "problem", *OPTIONS)
_ORDER: Final = re.compile(r"^[ \t]*([\"']?)schedule\1[ \t]*=", re.MULTILINE)
_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "select": check_codes,
    "ignore": check_codes,
    "discipline": Discipline.of,
    "eager_bytes": check_eager_bytes,
    "profile": profile_of,
}
"""What raises an InputError for a value of an option that is of the right type and stands for nothing."""


@dataclass(frozen=True)
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
    source
        The file that says how the schedule is judged: ``path``, or the one that names it.
    """

    path: Path
    subject: Schedule | Plan
    problem: Problem | None
    options: Mapping[str, Any]
    lines: tuple[int, ...]
    source: Path

    def report(self) -> Report:
        """Return what the verifier says."""
        with naming(self.source):
            return verify(self.subject, self.problem, **self.options)

    def annotations(self, report: Report) -> str:
        """Return the workflow commands of GitHub for a report, each violation at the line of its rank."""
        return annotations_at(report, str(self.path), self.lines)


def side_car(path: Path) -> Path | None:
    """Return the problem file beside a CSV (``x.problem.toml`` or ``x.problem.json``), or None where there is none."""
    return next((p for suffix in ("toml", "json") if (p := path.with_suffix(f".problem.{suffix}")).is_file()), None)


class CaseTable:
    """A table with a schedule, or the file of one, its problem, and options.

    Parameters
    ----------
    table
        The table.
    path
        The file in which it stands.
    files
        What it may name.
    key
        The key of the table in its file; empty for the top.
    """

    def __init__(self, table: Mapping[str, Any], path: Path, files: ContainedFiles, key: str = "") -> None:
        self._table, self._path, self._files = table, path, files
        self._prefix = f"{key}." if key else ""

    def case(self, text: str = "") -> ScheduleCase:
        """Return the case that the table describes.

        Parameters
        ----------
        text
            That of the file, for the lines of its schedule.

        Raises
        ------
        InputError
            With the key of what is wrong in the table or cannot be read of what it names.
        """
        options = self._options()
        problem = self._problem()
        if "file" in self._table:
            return self._named(self._path.parent / self._text("file"), problem, options)
        order = self._text("schedule")
        if problem is None:
            raise self._missing()
        with self._within("schedule"):
            schedule = Schedule.parse(order)
            check_ranks(schedule, problem.ranks)
        return ScheduleCase(self._path, schedule, problem, options, lines_within(text, order), self._path)

    def _named(self, where: Path, problem: Problem | None, options: Mapping[str, Any]) -> ScheduleCase:
        """Return the case of a schedule in a file of its own; without a problem, one beside that file is taken."""
        loaded, lines = load_with_lines(where, problem, read=self._reader("file"))
        subject, problem = loaded if isinstance(loaded, Dump) else (loaded, problem)
        if problem is None and isinstance(subject, Schedule):
            beside = side_car(where)
            if beside is None:
                raise self._missing()
            problem = load_problem(beside, read=self._reader("file"))
            with self._within("file"):
                check_ranks(subject, problem.ranks)
        return ScheduleCase(where, subject, problem, options, lines, self._path)

    def _options(self) -> dict[str, Any]:
        check_keys(self._table, self._prefix[:-1], _KEYS)
        given = {name: self._table[name] for name in OPTIONS if name in self._table}
        faults: list[Fault] = []
        for name, value in given.items():
            try:
                self._check_option(name, value)
            except InputError as error:
                faults += error.faults
        if faults:
            raise InputError(faults)
        return given

    def _check_option(self, name: str, value: Any) -> None:
        wanted = {"select": list, "ignore": list, "eager_bytes": int, "excerpt": bool}.get(name, str)
        listed = wanted is list and isinstance(value, list) and all(isinstance(code, str) for code in value)
        if not listed and (wanted is list or type(value) is not wanted):
            kinds = {list: "a list of codes", int: "a whole number", bool: "true or false", str: "a name in quotes"}
            raise InputError(Fault(self._prefix + name, f"expected {kinds[wanted]}, found {shown(value)}"))
        if name in _CHECKS:
            with self._within(name):
                _CHECKS[name](value)

    def _problem(self) -> Problem | None:
        given = self._table.get("problem")
        if given is None:
            return None
        if isinstance(given, str):
            return load_problem(self._path.parent / given, read=self._reader("problem"))
        with self._within("problem"):
            return problem_from(given)

    def _missing(self) -> InputError:
        return InputError(Fault(f"{self._prefix}problem", "missing", "a problem file, or a [problem] table"))

    def _text(self, key: str) -> str:
        value = self._table.get(key, "")
        if isinstance(value, str) and value.strip():
            return value
        hint = "schedule holds the order, or file names it"
        raise InputError(Fault(self._prefix + key, f"expected text, found {shown(value)}", hint))

    def _reader(self, key: str) -> Reader:
        """Return what reads the file that a key names; what cannot be read is told of that key."""

        def read(path: PathLike, expected: str, limit: int) -> str:
            try:
                return self._files.read(path, expected, limit)
            except InputError as error:
                told = [Fault(self._prefix + key, f"{error.source}: {fault}") for fault in error.faults]
                raise InputError(told, source_name(self._path)) from None

        return read

    @contextmanager
    def _within(self, name: str) -> Iterator[None]:
        """Say of what is wrong within that it is so at a key of the table."""
        try:
            yield
        except InputError as error:
            key = self._prefix + name
            between = "." if name == "problem" else ", "
            faults = [fault._replace(key=f"{key}{between if fault.key else ''}{fault.key}") for fault in error.faults]
            raise InputError(faults) from None


def check_keys(table: Iterable[str], key: str, known: tuple[str, ...]) -> None:
    """Raise an InputError for the keys of a table that are not known."""
    faults = [
        Fault(
            f"{key}.{clean_key(name)}".lstrip("."), "unknown key", nearest(name, known) or f"known: {', '.join(known)}"
        )
        for name in table
        if name not in known
    ]
    if faults:
        raise InputError(faults)


def lines_within(text: str, order: str) -> tuple[int, ...]:
    """Return the line of each row of an order in the TOML file that holds it, as far as it stands there as it is."""
    text = text.replace("\r\n", "\n")  # as TOML's reader does
    for match in _ORDER.finditer(text):
        begin = text.find(order, match.end())
        if begin >= 0 and not text[match.end() : begin].strip(" \t\n\"'"):
            first = text.count("\n", 0, begin)
            return tuple(first + number for number, _ in text_rows(order))
    return ()
