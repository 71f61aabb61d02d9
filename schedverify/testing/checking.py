"""What a scheduler must do for a problem, and the fault with a picture that is raised where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import partial

from schedverify.core.errors import SchedverifyError
from schedverify.core.problem import Problem
from schedverify.core.result import Report
from schedverify.core.schedule import Schedule
from schedverify.drawing import draw
from schedverify.formats.problem_files import to_toml
from schedverify.generators import generate
from schedverify.planner.plans import optimize
from schedverify.simulator.engine import simulate
from schedverify.verifier.verification import verify

__tracebackhide__ = True
"""pytest shows the line of the test, not what stands here."""

Scheduler = Callable[[Problem], Schedule]


class SchedulerFault(AssertionError, SchedverifyError):  # noqa: N818 - pytest and hypothesis show it as a failed assertion
    """A scheduler failed a check; the message holds the problem as a file, the schedule and the counterexample."""


def check_scheduler(
    scheduler: Scheduler,
    problem: Problem,
    *,
    properties: Iterable[str] | None = None,
    at_least_as_good_as: str | None = None,
    max_gap: Fraction | float | None = None,
    time_limit: float = 10,
) -> Schedule:
    """Check what a scheduler makes of a problem: complete, valid, within the limits, and the same a second time.

    Parameters
    ----------
    scheduler
        Takes a problem and returns its schedule.
    properties
        Codes or beginnings of codes that must hold, of which one at least applies; by default every property that
        applies.
    at_least_as_good_as
        A family whose makespan (or span, or peak memory, as the problem minimizes) must not be lower.
    max_gap
        The most that ``(value - bound) / bound`` may be, for a bound that the optimizer proves. It takes a solver:
        give hypothesis a deadline that allows it.
    time_limit
        Seconds that the optimizer may take for the bound.

    Returns
    -------
    Schedule
        What the scheduler made, for further checks.

    Raises
    ------
    SchedulerFault
        An AssertionError that tells what is wrong, with the problem as a file, the schedule and a picture. An exception
        of the scheduler is its cause.
    InputError
        If a property or family is unknown, or the family does not suit the problem.

    Examples
    --------
    >>> problem = Problem.chain(ranks=2, microbatches=2)
    >>> print(check_scheduler(lambda problem: generate("1f1b", problem), problem))
    0F0 0F1 0B0 0B1
    1F0 1B0 1F1 1B1
    """
    fault = partial(failure, problem=problem)
    make = partial(made_by, "scheduler", scheduler, problem, fault=fault, hint=" (see Schedule.of)")
    schedule = make()
    if schedule.ranks != problem.ranks:
        raise failure(f"it has {schedule.ranks} rows for {problem.ranks} ranks", problem, schedule)
    report = verify(schedule, problem, select=properties)
    if not report.ok:
        raise failure(report_text(report), problem, schedule, report)
    again = make()
    if again != schedule:
        raise failure(f"it is not deterministic; called again, it returns\n{again}", problem, schedule)
    if at_least_as_good_as is not None:
        _compare(schedule, problem, at_least_as_good_as)
    if max_gap is not None:
        _measure_gap(schedule, problem, max_gap, time_limit)
    return schedule


def made_by(
    what: str, make: Callable[..., Schedule], *given: object, fault: Callable[[str], SchedulerFault], hint: str = ""
) -> Schedule:
    """Return the schedule that a scheduler or lowering makes.

    Parameters
    ----------
    what
        What makes it, in a word.
    make, given
        The scheduler or lowering, and what it is called with.
    fault
        Takes a text that tells what is wrong, and returns the fault that is raised.

    Raises
    ------
    SchedulerFault
        If it raises an exception, which is the cause, or returns something else.
    """
    try:
        schedule = make(*given)
    except Exception as error:
        raise fault(f"the {what} raised {type(error).__name__}: {error}") from error
    if not isinstance(schedule, Schedule):
        raise fault(f"the {what} returned {type(schedule).__name__}, not Schedule{hint}")
    return schedule


def _compare(schedule: Schedule, problem: Problem, family: str) -> None:
    own, other = _value(schedule, problem), _value(generate(family, problem), problem)
    if own > other:
        has, less = problem.units.values(problem.minimize, own, other)
        raise failure(f"its {problem.minimize} is {has}, that of {family} {less}", problem, schedule)


def _measure_gap(schedule: Schedule, problem: Problem, max_gap: Fraction | float, time_limit: float) -> None:
    own, bound = _value(schedule, problem), optimize(problem, hint=schedule, time_limit=time_limit, workers=1).bound
    if bound is None or own - bound > max_gap * bound:
        has, *least = problem.units.values(problem.minimize, own, *(() if bound is None else (bound,)))
        proved = f"the proved bound {least[0]}" if least else "no bound is proved"
        raise failure(f"its {problem.minimize} is {has}, {proved}", problem, schedule)


def _value(schedule: Schedule, problem: Problem) -> int:
    measures = simulate(schedule, problem).measures
    value = measures.value(problem.minimize)
    return measures.makespan if value is None else value


def report_text(report: Report) -> str:
    """Return a line for each violation, its counterexample under it, and for each property that is open the reason."""
    lines = []
    for violation in report.violations:
        lines += [str(violation), *(f"    {line}" for line in violation.counterexample)]
    lines += [result.rest for result in report.properties if result.more]
    return "\n".join([*lines, *report.unsettled])


def failure(
    fault: str, problem: Problem, schedule: Schedule | None = None, report: Report | None = None
) -> SchedulerFault:
    """Return a fault that tells the problem as a file, and of a schedule its text and a picture."""
    parts = [fault, f"The problem:\n{to_toml(problem, defaults=False).strip()}"]
    if schedule is not None:
        parts.append(f"The schedule:\n{schedule}")
        if schedule.ranks == problem.ranks:
            parts.append(draw(schedule, problem, report=report).text(width=100))
    return SchedulerFault("\n\n".join(parts))


def warm_up() -> None:
    """Load what examples use, so that none of them exceeds hypothesis' deadline with an import.

    It verifies and draws a right schedule, one that waits in a circle, and one with communication.
    """
    problem = Problem.chain(ranks=2, microbatches=2)
    texts = ["0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1", "0F0 0B0 0F1 0B1\n1F1 1B1 1F0 1B0", "0F0 0SEND_F0\n1RECV_F0 1F0"]
    for schedule in (generate("1f1b", problem), *map(Schedule.parse, texts)):
        draw(schedule, problem, report=verify(schedule, problem)).text()
