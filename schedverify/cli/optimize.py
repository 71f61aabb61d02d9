"""The command ``optimize``: search with progress, end in good order, show what was found beside its rivals."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from schedverify.cli.app import OK, UNDECIDED, VIOLATED
from schedverify.cli.delivery import deliver
from schedverify.cli.options import Output, ProblemFile, TextOrJson, flag, json_taken, number, said_of
from schedverify.cli.signals import stop_at_signal
from schedverify.cli.terminal import line_width, out, progress_on_terminal, remark
from schedverify.core.errors import ScheduleError

if TYPE_CHECKING:
    from schedverify.core.explanation import Explanation
    from schedverify.core.result import Plan


def optimize(  # noqa: PLR0913 - each is an option of the command line
    problem: ProblemFile,
    *,
    output: Output = None,
    objective: Annotated[
        Literal["makespan", "span", "peak-memory"] | None,
        Parameter(help="What is minimized; the problem's own by default."),
    ] = None,
    then: Annotated[
        Literal["makespan", "span", "peak-memory"] | None,
        Parameter(help="What is minimized next, among the best: peak-memory behind a time, or a time behind it."),
    ] = None,
    time_limit: Annotated[float, Parameter(help="Seconds.")] = 60,
    seed: Annotated[int, number("One worker and a seed give the same plan.", least=None)] = 0,
    workers: Annotated[int | None, number("Threads of the search; all cores by default.", least=None)] = None,
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
    from schedverify.core.result import Plan
    from schedverify.planner import plans

    given = formats.load_problem(problem)
    target = formats.Destination("--output", output, partial(formats.form_of_file, Plan), formats.plan_size(given))
    formats.check_destinations(target, inputs=(problem, hint), printed=json_taken(output_format))
    limits: dict[str, Any] = {"time_limit": time_limit, "workers": workers, "solver_memory": _bytes(solver_memory)}
    start = formats.load_schedule(hint, given) if hint is not None else None
    stop, named = stop_at_signal(), said_of(problem, "time_limit", "workers", "solver_memory", "seed", "hint")
    with named, progress_on_terminal(output_format == "text", time_limit) as progress:
        goal: dict[str, Any] = {"objective": objective, "then": then, "hint": start, "seed": seed}
        plan = plans.optimize(given, **goal, **limits, progress=progress, stop=stop)
        explanation = _explained(plan, stop, limits) if explain else None
    if parts:
        _tell_parts(plan)
    file = output if plan.schedule is not None or plan.status == "infeasible" else None
    show = partial(_show, plan, explanation, output_format)
    deliver(show if file != "-" else _nothing, (file, partial(_save_plan, plan)), rescue=output_format == "text")
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


def _save_plan(plan: Plan, path: str) -> None:
    """Write a plan, and say so."""
    from schedverify import formats

    if plan.schedule is not None and plan.lowered is None:
        raise ScheduleError(f"no plan is written: {plan.reason}")
    formats.save(plan, path)
    if path != "-":
        remark(f"plan written to {path}; schedverify verify {path} checks it again")


def _nothing() -> None:
    """Print nothing: the plan has standard output."""


def _show(plan: Plan, explanation: Explanation | None, output_format: str) -> None:
    from schedverify import formats
    from schedverify.cli.report_text import print_lines
    from schedverify.core.plan import outcome_line, plan_remarks, plan_table
    from schedverify.drawing import draw

    if output_format == "json":
        print(formats.dumps(formats.search_data(plan, explanation)))
        return
    if plan.schedule is not None:
        out().print(draw(plan))
        print_lines(plan_table(plan, line_width()))
    print_lines([outcome_line(plan)])
    for text in plan_remarks(plan):
        remark(text)
    if explanation is not None:
        print(explanation)
