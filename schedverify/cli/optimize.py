"""The command ``optimize``: search with progress, end in good order, show what was found beside 1F1B."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from schedverify.cli.app import OK, UNDECIDED, VIOLATED
from schedverify.cli.options import Output, ProblemFile, TextOrJson, flag
from schedverify.cli.terminal import interruptible, line_width, out, progress_on_terminal, remark
from schedverify.core.errors import ScheduleError

if TYPE_CHECKING:
    from schedverify.core.explanation import Explanation
    from schedverify.core.result import Plan


def optimize(  # noqa: PLR0913 - each is an option of the command line
    problem: ProblemFile,
    *,
    output: Output = None,
    objective: Annotated[
        Literal["makespan", "span", "period", "peak-memory"] | None,
        Parameter(help="What is minimized; the problem's own by default."),
    ] = None,
    then: Annotated[
        Literal["makespan", "span", "peak-memory"] | None,
        Parameter(help="What is minimized next, among the best: peak-memory behind a time, or a time behind it."),
    ] = None,
    time_limit: Annotated[float, Parameter(help="Seconds.")] = 60,
    seed: Annotated[int, Parameter(help="One worker and a seed give the same plan.")] = 0,
    workers: Annotated[int | None, Parameter(help="Threads of the search; all cores by default.")] = None,
    solver_memory: Annotated[
        str | None, Parameter(help='What the process may hold while the solver runs, such as "4 GiB"; no cap.')
    ] = None,
    hint: Annotated[str | None, Parameter(help="A valid schedule to begin with.")] = None,
    explain: Annotated[bool, flag("Say what binds the plan or which limits clash, in the time that is left.")] = False,
    parts: Annotated[bool, flag("Say what each part of the search gave, and when, on standard error.")] = False,
    output_format: TextOrJson = "text",
) -> int:
    """Find the best schedule of a problem, prove how good it is, and write a verified plan."""
    from schedverify import formats
    from schedverify.planner import plans

    given = formats.load_problem(problem)
    limits: dict[str, Any] = {"time_limit": time_limit, "workers": workers, "solver_memory": _bytes(solver_memory)}
    start = formats.load_schedule(hint, given) if hint is not None else None
    with interruptible() as stop, progress_on_terminal(output_format == "text") as progress:
        goal: dict[str, Any] = {"objective": objective, "then": then, "hint": start, "seed": seed}
        plan = plans.optimize(given, **goal, **limits, progress=progress, stop=stop)
        explanation = _explained(plan, stop, limits) if explain else None
    if parts:
        _tell_parts(plan)
    if output is not None and plan.schedule is not None:
        if plan.lowered is None:
            raise ScheduleError(f"no plan is written: {plan.reason}")
        formats.save(plan, output)
    if output_format == "json":
        print(formats.dumps(formats.search_data(plan, explanation)))
    elif output != "-":
        _show(plan, output)
        if explanation is not None:
            print(explanation)
    return {"optimal": OK, "feasible": OK, "infeasible": VIOLATED, "unknown": UNDECIDED}[plan.status.value]


def _explained(plan: Plan, stop: threading.Event, limits: dict[str, Any]) -> Explanation:
    """Explain a plan in the time that is left; ``limits`` are time limit and workers of the search, by keyword."""
    from schedverify.planner.explanation import explain

    return explain(plan, **limits | {"time_limit": max(0.0, limits["time_limit"] - plan.seconds)}, stop=stop)


def _bytes(text: str | None) -> int | None:
    """Return the bytes that a text such as ``4 GiB`` means."""
    from schedverify.core.errors import Fault, InputError
    from schedverify.core.problem.numbers import size

    found = None if text is None else size(text)
    if text is not None and found is None:
        raise InputError(Fault("--solver-memory", f"expected bytes, found {text[:40]!r}", 'such as "4 GiB"'))
    return found


def _tell_parts(plan: Plan) -> None:
    """Print for each part of the search the best value and the bound that were known when it ended."""
    for part in plan.parts:
        told = partial(plan.problem.units.value, plan.objective)
        value, bound = ("-" if known is None else told(known) for known in (part.value, part.bound))
        remark(f"{part.began + part.seconds:.1f} s  {part.name}: {plan.objective} {value}, bound {bound}")


def _show(plan: Plan, output: str | None) -> None:
    from schedverify.cli.report_text import print_lines
    from schedverify.core.plan import outcome_line, plan_remarks, plan_table
    from schedverify.drawing import draw

    if plan.schedule is not None:
        out().print(draw(plan))
        print_lines(plan_table(plan, line_width()))
    print_lines([outcome_line(plan)])
    for text in plan_remarks(plan):
        remark(text)
    if output is not None and plan.schedule is not None:
        remark(f"plan written to {output}; schedverify verify {output} checks it again")
