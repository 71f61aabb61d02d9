"""From one form of a schedule to another, and what a command judges when it is given a file."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Final

from schedverify import formats
from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.core.schedule import Schedule, check_ranks
from schedverify.core.timeline import Timeline
from schedverify.formats.schedule_dumps import Dump
from schedverify.formats.text_files import PathLike, naming
from schedverify.planner.export import WITH_WAITS, for_torch, profile_for
from schedverify.planner.plans import plan_of
from schedverify.planner.proved_lowering import lower
from schedverify.simulator.engine import simulate
from schedverify.verifier.infer_problem import REMARK, deduce_problem

FORM_WITH_WAITS: Final = "torch-2.15-comms-csv"
CSV_FORMS: Final = ("csv", "torch-csv", "torch-comms-csv", FORM_WITH_WAITS)
MOST_RANKS_OF_A_PLAN: Final = 2048
"""A plan of more would hold more than four million latencies."""


def subject(given: Schedule | Plan | Dump, problem: Problem | None) -> tuple[Schedule, Problem, str]:
    """Return the schedule, the problem it is for, and a remark where that is read off the schedule.

    Raises
    ------
    InputError
        If a plan has no schedule, or the problem has another number of ranks.
    """
    if isinstance(given, Plan):
        if given.schedule is None:
            raise InputError("the plan has no schedule")
        return given.schedule, problem or given.problem, ""
    if isinstance(given, Dump):
        return given.schedule, given.problem, ""
    if problem is None:
        return given, deduce_problem(given), REMARK
    check_ranks(given, problem.ranks)
    return given, problem, ""


def subject_in(path: PathLike, problem: Problem | None) -> tuple[Schedule, Problem, str]:
    """Return what :func:`subject` does of a schedule or plan in a file, which every refusal names."""
    given = formats.load_judged(path, problem)
    with naming(path):
        return subject(given, problem)


def convert(
    source: Schedule | Plan | PathLike,
    target: PathLike,
    *,
    problem: Problem | None = None,
    to: str | None = None,
    grammar: str | None = None,
    profile: str | None = None,
) -> Schedule | Plan | Timeline:
    """Write a schedule to a file in another form, as the command ``convert`` does, and return what was written.

    A plan is written only after the verifier has passed its schedule, a trace only of a schedule that can run.

    Parameters
    ----------
    source
        A schedule or a plan, or the file of one. Line ends and idle cells of a CSV are written again.
    target
        The file; ``-`` is standard output.
    problem
        What the schedule is for, where that is known.
    to
        ``text``, ``torch-csv``, ``torch-comms-csv``, ``torch-2.15-comms-csv``, ``trace`` or ``plan``; by the suffix of
        the target where it is left away. For ``torch-2.15-comms-csv`` an order without communication is lowered.
    grammar
        ``torch-2.5-csv`` of a file in the grammar that PyTorch had until 2.5.
    profile
        The runtime that PyTorch's CSV must suit, ``torch`` (until 2.14), ``torch-2.15`` or ``torchtitan``; ``none``
        writes what stands. By default ``torch``, where waits stand or are to stand ``torch-2.15``, with a grammar
        ``none``.

    Raises
    ------
    InputError
        If the form cannot hold the schedule, or the suffix names none.
    ScheduleError
        If a plan or a trace is asked of a schedule that is not valid, or a CSV of one that the profile does not admit.
    """
    check_types("convert", source=(source, Schedule, Plan, os.PathLike, str), target=(target, os.PathLike, str))
    with naming(target):
        form = to or _form(os.fspath(target))
    inputs = () if isinstance(source, Schedule | Plan) else (source,)
    formats.check_destinations(formats.Destination("target", target), inputs=inputs)
    given, layout = (
        (source, formats.Layout())
        if isinstance(source, Schedule | Plan)
        else formats.load_with_layout(source, problem, grammar)
    )
    with nullcontext() if isinstance(source, Schedule | Plan) else naming(source):
        schedule, known, _ = subject(given, problem)
    written: Schedule | Plan | Timeline
    if form == "plan":
        check_links(known)
        written = given if isinstance(given, Plan) and problem is None else plan_of(schedule, known)
    elif form == "trace":
        written = simulate(schedule, known)
    else:
        lowered = given.lowered if isinstance(given, Plan) and form in ("torch-comms-csv", FORM_WITH_WAITS) else None
        written = lowered.schedule if lowered else schedule
        if form in CSV_FORMS:
            written = _suited(written, known, form, profile or ("none" if grammar else None))
    formats.save(written, target, form=form, layout=layout)
    return written


def _suited(schedule: Schedule, problem: Problem, form: str, profile: str | None) -> Schedule:
    """Return a schedule as a form of PyTorch's CSV may hold it for a runtime, by default for that of the form."""
    if profile == "none":
        return schedule
    if form == FORM_WITH_WAITS and not schedule.lowered:
        schedule = lower(schedule, problem)
    usual = {FORM_WITH_WAITS: WITH_WAITS, "csv": profile_for(schedule)}.get(form, "torch")
    return for_torch(schedule, problem, profile=profile or usual, comms=form != "torch-csv")


def check_links(problem: Problem) -> None:
    """Refuse a problem whose plan would be too long, before that is made: it holds a number for each pair of ranks.

    Raises
    ------
    InputError
        If the problem has more than :data:`MOST_RANKS_OF_A_PLAN` ranks.
    """
    if problem.ranks > MOST_RANKS_OF_A_PLAN:
        message = f"a plan holds a latency for each pair of {problem.ranks} ranks, which are {problem.ranks**2}"
        raise InputError(Fault("ranks", message, f"a plan has at most {MOST_RANKS_OF_A_PLAN} ranks"))


def write(schedule: Schedule, problem: Problem, target: str) -> None:
    """Write a schedule in the form that the target's suffix names; PyTorch's CSV as its runtime may have it.

    Raises
    ------
    ScheduleError
        If the target is a CSV, and PyTorch's runtime could not run the schedule.
    """
    if target.endswith(".csv"):
        schedule = for_torch(schedule, problem, profile=profile_for(schedule))
    formats.save(schedule, target)


def _form(target: str) -> str:
    for suffix, form in ((".csv", "csv"), (".json", "plan"), (".txt", "text"), ("-", "text")):
        if target.endswith(suffix):
            return form
    raise InputError(
        Fault("", "no form is known for a file of that name", "use .txt, .csv or .json, or name it with --to")
    )
