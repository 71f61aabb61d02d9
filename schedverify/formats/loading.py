"""Loads and saves problems, plans and schedules, in the form that the file's name or its content shows.

Readers and writers of each form are imported where a file has it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError, ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.core.schedule import Schedule, check_ranks
from schedverify.core.timeline import Timeline
from schedverify.formats.schedule_forms import form_of_text, parse_schedule
from schedverify.formats.text_files import PathLike, Reader, check_size, naming, read_text, source_name, write_text

if TYPE_CHECKING:
    from schedverify.formats.schedule_dumps import Dump
    from schedverify.formats.torch_csv import Layout

Value = Problem | Plan | Schedule
MAX_BYTES: Final = {
    "text": 1 << 27,
    "csv": 1 << 27,
    "json": 1 << 26,
    "toml": 1 << 21,
    "printed": 1 << 26,
    "megatron": 1 << 24,
}
"""The most bytes of a file by its form: some ten million operations; TOML's reader is slow and takes 2 MiB."""
_SUFFIXES: Final = {".csv": "csv", ".json": "json", ".toml": "toml"}
COMMS_FORMS: Final = ("torch-comms-csv", "torch-2.15-comms-csv")
"""PyTorch's CSV with communication, as it was until 2.14 and since 2.15, where waits stand in it."""
_SCHEDULE_FORMS: Final = ("text", "csv", "torch-csv", *COMMS_FORMS)
_FORMS: Final = {
    Problem: ("toml", "json"),
    Plan: ("plan", *_SCHEDULE_FORMS),
    Timeline: ("trace", *_SCHEDULE_FORMS),
    Schedule: _SCHEDULE_FORMS,
}
"""The forms of each value, its usual one first."""
_PLAN_KEYS: Final = frozenset(("digest", "problem", "schedule", "verdicts"))


def load(path: PathLike) -> Value | Dump:
    """Return what a file holds: a problem (TOML or JSON), a plan (JSON), or a schedule (PyTorch's CSV, or text).

    The suffix says the form: ``.toml``, ``.json``, ``.csv``, anything else is text. Where there is none (standard
    input, ``-``, too), the content does. Text is also the table that PyTorch prints of an order, and Megatron's orders
    of chunks. The dump of a job (JSON) is a pair: ``schedule, problem = load("dump.json")``.

    Raises
    ------
    InputError
        With the file's name and every fault in it.
    """
    check_types("load", path=(path, os.PathLike, str))
    return read_value(path, "a problem, a plan or a schedule")[0]


def load_problem(path: PathLike, *, read: Reader = read_text) -> Problem:
    """Return the problem in a file; a plan and a dump give their own.

    Parameters
    ----------
    read
        What reads the file.

    Raises
    ------
    InputError
        If the file holds no problem; with every fault.
    """
    value = read_value(path, "a problem in TOML or JSON", read=read)[0]
    if isinstance(value, Schedule):
        raise InputError(Fault("", "a schedule, where a problem is expected", "TOML or JSON"), source_name(path))
    return value if isinstance(value, Problem) else value.problem


def load_schedule(path: PathLike, problem: Problem | None = None) -> Schedule:
    """Return the schedule in a file; a plan and a dump give their own.

    Parameters
    ----------
    problem
        What the schedule is for, where that is known.

    Raises
    ------
    InputError
        If the file holds no schedule, or one of another number of ranks; with every fault.
    """
    value = load_judged(path, problem)
    if isinstance(value, Schedule):
        return value
    if value.schedule is None:
        raise InputError(Fault("schedule", "the plan has none", "give a plan with a schedule"), source_name(path))
    return value.schedule


def load_judged(path: PathLike, problem: Problem | None = None) -> Schedule | Plan | Dump:
    """Return the schedule in a file, alone, with its problem, or as a plan; see :func:`load_schedule`."""
    return judged(read_value(path, "a schedule or a plan", ranks=_ranks_of(problem))[0], path, problem)


def save(value: Value | Timeline, path: PathLike, *, form: str | None = None, layout: Layout | None = None) -> None:
    r"""Write a problem, plan, schedule or timeline; ``-`` is standard output.

    Parameters
    ----------
    form
        ``toml`` or ``json`` of a problem, ``plan`` of a plan, ``trace`` of a timeline, and of a schedule (or a plan's)
        ``text``, ``csv`` (PyTorch's, with communication where the schedule has it), ``torch-csv`` (without),
        ``torch-comms-csv`` (with) or ``torch-2.15-comms-csv`` (with, and with waits). By default what the suffix says.
    layout
        Line ends and idle cells of a CSV, as :func:`load_with_layout` returns them; ``\n`` and none by default.

    Raises
    ------
    InputError
        If the form cannot hold the value, or the file cannot be written.
    ScheduleError
        If the plan has no schedule, or PyTorch's CSV cannot hold the schedule's groups or waits.
    """
    check_types("save", value=(value, Schedule, Plan, Problem, Timeline), path=(path, os.PathLike, str))
    with naming(path):
        kind = next(kind for kind in _FORMS if isinstance(value, kind))
        form = form or form_of_file(kind, path)
        _check_form(kind, form)
        text = _text(value, form, layout)
    write_text(path, text)


def read_value(
    path: PathLike,
    expected: str,
    rewrite: Callable[[str, str], str] | None = None,
    read: Reader = read_text,
    ranks: int | None = None,
) -> tuple[Value | Dump, str, str]:
    """Return what a file holds, its text, which ``rewrite`` takes with its form and makes today's, and its form.

    ``ranks`` is how many the problem has, where that is known and a schedule may need it.
    """
    form = _form_of(path)
    text = read(path, expected, MAX_BYTES.get(form, max(MAX_BYTES.values())))
    with naming(path):
        form = form_of_text(text, form)
        check_size(len(text), expected, MAX_BYTES[form])
        text = rewrite(text, form) if rewrite else text
        return _parse(text, form, expected, ranks), text, form


def _ranks_of(problem: Problem | None) -> int | None:
    return None if problem is None else problem.ranks


def judged(value: Value | Dump, path: PathLike, problem: Problem | None) -> Schedule | Plan | Dump:
    """Return what can be judged; raise an InputError for a problem, or a schedule of another number of ranks.

    A dump is its schedule alone where the problem is known without it.
    """
    if isinstance(value, Problem):
        hint = "a schedule is text, PyTorch's CSV or a plan; a problem stands behind --problem"
        raise InputError(Fault("", "a problem, where a schedule or a plan is expected", hint), source_name(path))
    if problem is None or isinstance(value, Plan):
        return value
    schedule = value if isinstance(value, Schedule) else value.schedule
    with naming(path):
        check_ranks(schedule, problem.ranks)
    return schedule


def _form_of(path: PathLike) -> str:
    """Return the form that a file's name shows; empty where it has no suffix."""
    name = os.fspath(path)
    suffix = "" if name == "-" else PurePath(name).suffix.lower()
    return _SUFFIXES.get(suffix, "text") if suffix else ""


def _parse(text: str, form: str, expected: str, ranks: int | None) -> Value | Dump:
    if form not in ("toml", "json"):
        return parse_schedule(text, form, ranks)
    from schedverify.formats.file_kinds import DUMP, PLAN, PROBLEM, check_kind
    from schedverify.formats.json_toml import parse_json, parse_toml

    data = parse_toml(text) if form == "toml" else parse_json(text)
    check_kind(data, expected, PROBLEM, *([PLAN, DUMP] if form == "json" else ()))
    if form == "json" and isinstance(data, dict) and data.keys() >= DUMP.marks:
        from schedverify.formats.schedule_dumps import dump_from

        return dump_from(data)
    if form == "json" and isinstance(data, dict) and not _PLAN_KEYS.isdisjoint(data):
        from schedverify.formats.plan_reader import plan_from

        return plan_from(data)
    from schedverify.formats.problem_files import problem_from

    return problem_from(data)


def form_of_file(kind: type[Value | Timeline], path: PathLike) -> str:
    """Return the form in which a value is saved: that of the file's suffix, else the usual form of the value.

    Raises
    ------
    InputError
        If values of that kind have no such form.
    """
    own = _FORMS[kind][0]
    form = _form_of(path) or own
    form = own if form == "json" and kind in (Plan, Timeline) else form
    _check_form(kind, form)
    return form


def _check_form(kind: type[Value | Timeline], form: str) -> None:
    if form not in _FORMS[kind]:
        forms = {Problem: ".toml or .json", Schedule: ".txt or .csv"}
        hint = f"save it as {forms.get(kind, '.json, or .txt or .csv for its schedule')}"
        raise InputError(Fault("", f"a {kind.__name__.lower()} has no form {form!r}", hint))


def _text(value: Value | Timeline, form: str, layout: Layout | None) -> str:
    """Return the text of a value in a form that is one of its own."""
    if isinstance(value, Problem):
        from schedverify.formats import problem_files

        return problem_files.to_toml(value) if form == "toml" else problem_files.to_json(value)
    if isinstance(value, Plan) and form == "plan":
        from schedverify.formats.plan_files import to_json

        return to_json(value)
    if isinstance(value, Timeline) and form == "trace":
        from schedverify.formats.trace_files import trace

        return trace(value)
    schedule = value.schedule if isinstance(value, Plan | Timeline) else value
    if schedule is None:
        raise ScheduleError("the plan has no schedule")
    return _schedule_text(schedule, form, layout)


def _schedule_text(schedule: Schedule, form: str, layout: Layout | None) -> str:
    if form == "text":
        return f"{schedule}\n"
    from schedverify.formats.torch_csv import PLAIN, to_csv

    comms = form in COMMS_FORMS or (form == "csv" and schedule.lowered)
    return to_csv(schedule, comms=comms, waits=form != "torch-comms-csv", layout=layout or PLAIN)
