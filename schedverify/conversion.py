"""From one form of a schedule to another, and what a command judges when it is given a file."""

from __future__ import annotations

from typing import Final

from schedverify import formats
from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.core.schedule import Schedule, check_ranks
from schedverify.planner.export import for_torch
from schedverify.planner.plans import plan_of
from schedverify.simulator.engine import simulate
from schedverify.verifier.infer_problem import REMARK, deduce_problem

CSV_FORMS: Final = ("csv", "torch-csv", "torch-comms-csv")


def subject(given: Schedule | Plan, problem: Problem | None) -> tuple[Schedule, Problem, str]:
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
    if problem is None:
        return given, deduce_problem(given), REMARK
    check_ranks(given, problem.ranks)
    return given, problem, ""


def convert(
    given: Schedule | Plan,
    problem: Problem | None,
    target: str,
    to: str | None = None,
    layout: formats.Layout | None = None,
    profile: str | None = "torch",
) -> None:
    """Write a schedule to ``target`` in the form ``to``, or in the form that the target's suffix names.

    A plan is written only after the verifier has passed its schedule, a trace only of a schedule that can run.

    Parameters
    ----------
    layout
        Line ends and idle cells of the CSV that the schedule was read from, for the one that is written.
    profile
        The runtime that PyTorch's CSV is for; see :func:`schedverify.planner.export.for_torch`. None writes what
        stands.

    Raises
    ------
    InputError
        If the form cannot hold the schedule, or the suffix names none.
    ScheduleError
        If a plan or a trace is asked of a schedule that is not valid, or a CSV of one that the profile does not admit.
    """
    schedule, known, _ = subject(given, problem)
    form = to or _form(target)
    if form == "plan":
        keep = isinstance(given, Plan) and problem is None
        formats.save(given if keep else plan_of(schedule, known), target, form="plan")
    elif form == "trace":
        formats.save(simulate(schedule, known), target, form="trace")
    else:
        lowered = given.lowered if isinstance(given, Plan) and form == "torch-comms-csv" else None
        order = lowered.schedule if lowered else schedule
        if profile is not None and form in CSV_FORMS:
            order = for_torch(order, known, profile=profile, comms=form != "torch-csv")
        formats.save(order, target, form=form, layout=layout or formats.Layout())


def write(schedule: Schedule, problem: Problem, target: str) -> None:
    """Write a schedule in the form that the target's suffix names; PyTorch's CSV as its runtime may have it.

    Raises
    ------
    ScheduleError
        If the target is a CSV, and PyTorch's runtime could not run the schedule.
    """
    formats.save(for_torch(schedule, problem) if target.endswith(".csv") else schedule, target)


def _form(target: str) -> str:
    for suffix, form in ((".csv", "csv"), (".json", "plan"), (".txt", "text"), ("-", "text")):
        if target.endswith(suffix):
            return form
    raise InputError(
        Fault("", f"no form is known for {target[:80]!r}", "use .txt, .csv or .json, or name it with --to")
    )
