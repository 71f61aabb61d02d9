"""The command ``trace``: what ran, without a plan."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from schedverify.cli.app import OK
from schedverify.cli.delivery import deliver
from schedverify.cli.options import TextOrJson, decimal, file, json_taken, said_of
from schedverify.cli.terminal import print_line, progress_on_terminal, remark

if TYPE_CHECKING:
    from schedverify.conformance.observed_run import ObservedRun
    from schedverify.core.result import Plan


def trace(
    traces: Annotated[
        list[str], Parameter(help="The traces of torch.profiler, one of each rank, or that of run --trace.")
    ],
    *,
    output: Annotated[
        str | None, file("Problem file for the measured costs, .toml or .json.", "--output", "-o")
    ] = None,
    schedule: Annotated[str | None, file("File for the order that ran.", "--schedule")] = None,
    time_limit: Annotated[float, decimal("Seconds to look for the best schedule; 0 looks for none.", least=0)] = 5,
    output_format: TextOrJson = "text",
) -> int:
    """Say what ran: the order, what each operation took, what each rank waited for, what the best order would take."""
    from schedverify import conformance, formats
    from schedverify.conformance.observed_run import best_of
    from schedverify.core.problem import Problem
    from schedverify.core.schedule import Schedule
    from schedverify.formats.text_files import source_name

    problem_file = formats.Destination("--output", output, partial(formats.form_of_file, Problem))
    order_file = formats.Destination("--schedule", schedule, partial(formats.form_of_file, Schedule))
    formats.check_destinations(problem_file, order_file, inputs=traces, printed=json_taken(output_format))
    with (
        said_of(", ".join(map(source_name, traces))),
        progress_on_terminal(output_format == "text", time_limit) as told,
    ):
        found = conformance.trace(traces)
        found = found if found.family else replace(found, family=_class_of_torch(found))
        best = best_of(found, time_limit, told) if time_limit > 0 else None
    deliver(
        partial(_show, found, best, output_format),
        (output, partial(formats.save, found.problem)),
        (schedule, partial(formats.save, found.order)),
        rescue=False,
    )
    return OK


def _class_of_torch(found: ObservedRun) -> str:
    """Return the class of torch that runs the order, as ``generate`` takes it; empty where none does."""
    from schedverify.cli.shapes import PREFIX
    from schedverify.torch_bridge import class_that_runs

    name = class_that_runs(found.order, found.problem)
    return PREFIX + name if name else ""


def _show(found: ObservedRun, best: Plan | None, output_format: str) -> None:
    from schedverify import formats
    from schedverify.conformance.observed_run import data_of_observed, observed_lines

    for text in found.remarks:
        remark(text)
    if output_format == "json":
        print(formats.dumps(data_of_observed(found, best)))
        return
    for line in observed_lines(found, best):
        print_line(line)
