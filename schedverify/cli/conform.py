"""The command ``conform``: a run beside its plan."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from schedverify.cli.app import OK, VIOLATED
from schedverify.cli.delivery import deliver
from schedverify.cli.options import TextOrJson, file, json_taken, said_of
from schedverify.cli.terminal import remark
from schedverify.core.errors import Fault, InputError

if TYPE_CHECKING:
    from schedverify.conformance import Conformance
    from schedverify.core.result import Plan
    from schedverify.core.trace import RunTrace
    from schedverify.drawing import Drawing


def conform(
    plan: Annotated[str, file("The plan that ran.")],
    traces: Annotated[
        list[str],
        Parameter(
            help="The trace of run --trace, those of torch.profiler, or dumps of the flight recorder, one of each rank."
        ),
    ],
    *,
    output: Annotated[
        str | None, file("Problem file for the measured costs, .toml or .json.", "--output", "-o")
    ] = None,
    draw: Annotated[str | None, Parameter(help="Picture of the plan and of what ran, .svg, .html or .txt.")] = None,
    output_format: TextOrJson = "text",
) -> int:
    """Hold a run against its plan: order, hand-overs, in flight; measured times beside predicted ones."""
    from schedverify import conformance, drawing, formats
    from schedverify.cli import conform_recordings
    from schedverify.conformance.run_files import load_runs
    from schedverify.core.problem import Problem
    from schedverify.core.result import Plan
    from schedverify.formats.text_files import source_name

    measured = formats.Destination("--output", output, partial(formats.form_of_file, Problem))
    picture = formats.Destination("--draw", draw, drawing.picture_suffix)
    formats.check_destinations(measured, picture, inputs=(plan, *traces), printed=json_taken(output_format))
    if formats.is_recording(traces[0]):
        return conform_recordings.conform_recordings(plan, traces, output_format, unwanted=output or draw)
    given = formats.load_judged(plan)
    if not isinstance(given, Plan):
        raise InputError(Fault("", "a schedule, where a plan is expected", "give the plan that ran"), plan)
    ran, remarks = load_runs(traces)
    with said_of(", ".join(map(source_name, traces))):
        found = conformance.conform(given, ran)
    for text in remarks:
        remark(text)
    with said_of(", ".join(map(source_name, traces))):
        deliver(
            partial(_show, found, output_format),
            (output, lambda path: formats.save(conformance.measured_problem(given.problem, ran), path)),
            (draw, lambda path: _drawn(given, ran).save(path)),
            rescue=False,
        )
    return OK if found.ok else VIOLATED


def _show(found: Conformance, output_format: str) -> None:
    from schedverify import conformance, formats
    from schedverify.cli.terminal import print_line

    if output_format == "json":
        print(formats.dumps(conformance.data_of(found)))
        return
    for line in _lines(found):
        print_line(line)


def _drawn(plan: Plan, ran: RunTrace) -> Drawing:
    """Return the picture of what was predicted of a plan and of what ran."""
    from schedverify import conformance, drawing
    from schedverify.simulator.engine import simulate

    measured = conformance.timeline_of_run(plan, ran)
    predicted = simulate(measured.schedule, measured.problem)
    ran_picture = drawing.draw(measured, title="what ran, in microseconds")
    return drawing.beside(drawing.draw(predicted, title="predicted"), ran_picture)


def _lines(found: Conformance) -> Iterator[str]:
    """Yield the report as lines of text: departures first, then where the time went, then what each operation took."""
    from schedverify.conformance.bubble_causes import lines_of_ranks
    from schedverify.conformance.measured_costs import line_of_makespan, lines_of_costs
    from schedverify.conformance.time_spent import lines_of
    from schedverify.core.presentation import counted

    steps = counted(len(found.makespans), "step")
    yield f"the run followed the plan in {steps}" if found.ok else "the run did not follow the plan:"
    yield from (f"  {each}" for each in found.departures)
    yield line_of_makespan(found.measured, found.predicted)
    if found.planned is not None:
        yield f"  makespan, planned   {found.planned / 1e6:.3f} ms"
    yield from lines_of(found.spent)
    yield from lines_of_ranks(found.ranks)
    yield f"  bubble              {found.bubble:.4f}, planned {found.planned_bubble:.4f}"
    yield f"  peak in flight      {' '.join(map(str, found.peaks))}, planned {' '.join(map(str, found.allowed))}"
    yield from lines_of_costs(found.costs, found.latency, found.errors, lambda cost: found.units.time(cost.planned))
