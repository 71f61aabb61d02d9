"""From one form of a schedule to another, and what a command judges when it is given a file."""

from __future__ import annotations

from schedverify import formats
from schedverify.deduction import REMARK, deduce_problem
from schedverify.errors import Fault, InputError
from schedverify.planner import plan_of
from schedverify.problem import Problem
from schedverify.result import Plan
from schedverify.schedule import Schedule, check_ranks
from schedverify.timeline import simulate


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
) -> None:
    """Write a schedule to ``target`` in the form ``to``, or in the form that the target's suffix names.

    A plan is written only after the verifier has passed its schedule, a trace only of a schedule that can run.

    Parameters
    ----------
    layout
        Line ends and idle cells of the CSV that the schedule was read from, for the one that is written.

    Raises
    ------
    InputError
        If the form cannot hold the schedule, or the suffix names none.
    ScheduleError
        If a plan or a trace is asked of a schedule that is not valid.
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
        formats.save(lowered.schedule if lowered else schedule, target, form=form, layout=layout or formats.Layout())


def _form(target: str) -> str:
    for suffix, form in ((".csv", "csv"), (".json", "plan"), (".txt", "text"), ("-", "text")):
        if target.endswith(suffix):
            return form
    raise InputError(
        Fault("", f"no form is known for {target[:80]!r}", "use .txt, .csv or .json, or name it with --to")
    )
