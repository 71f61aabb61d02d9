"""The commands ``generate``, ``families``, ``lower``, ``convert`` and ``new``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from schedverify.cli.options import (
    DisciplineName,
    EagerBytes,
    Output,
    ProblemOption,
    ScheduleFile,
    TargetFile,
    TextOrJson,
)
from schedverify.core.errors import Fault, InputError

if TYPE_CHECKING:
    from schedverify.core.problem import Problem


def generate(  # noqa: PLR0913 - each is an option of the command line
    family: Annotated[str, Parameter(help="The name of a family; schedverify families lists them.")],
    *,
    problem: ProblemOption = None,
    ranks: Annotated[int | None, Parameter(help="Devices of the pipeline.")] = None,
    microbatches: Annotated[int | None, Parameter(help="Micro-batches of a step.")] = None,
    virtual: Annotated[int | None, Parameter(help="Stages per rank.")] = None,
    forward: Annotated[int | None, Parameter(help="Ticks of F.")] = None,
    backward: Annotated[int | None, Parameter(help="Ticks of B.")] = None,
    backward_input: Annotated[int | None, Parameter(help="Ticks of I.")] = None,
    backward_weight: Annotated[int | None, Parameter(help="Ticks of W.")] = None,
    output: Output = None,
) -> int:
    """Make the schedule of a family, for a problem file or for a number of ranks and micro-batches."""
    from schedverify import conversion, generators

    costs = {"forward": forward, "backward": backward, "backward_input": backward_input,
             "backward_weight": backward_weight}  # fmt: skip
    shape = {"ranks": ranks, "microbatches": microbatches, "virtual": virtual}
    given = {name: value for name, value in (shape | costs).items() if value is not None}
    known = _problem_for(family, problem, given)
    conversion.write(generators.generate(family, known), known, output or "-")
    return 0


def families(*, output_format: TextOrJson = "text") -> int:
    """List the families: source, placement, the shapes they take."""
    from schedverify import formats, generators

    known = generators.families()
    if output_format == "json":
        names = ("name", "source", "placement", "shapes", "exclusions")
        print(formats.dumps({"families": [{name: getattr(family, name) for name in names} for family in known]}))
        return 0
    for family in known:
        print(f"{family.name}\n  source: {family.source}\n  placement: {family.placement}\n  shapes: {family.shapes}")
        for exclusion in family.exclusions:
            print(f"  not: {exclusion}")
    return 0


def lower(
    schedule: ScheduleFile,
    *,
    problem: ProblemOption = None,
    discipline: Annotated[
        DisciplineName | None,
        Parameter(help="Try the safe orders, and keep the fastest that is proved under it; else the default order."),
    ] = None,
    eager_bytes: EagerBytes = 0,
    unshard: Annotated[
        bool, Parameter(negative="", help="Add UNSHARD and RESHARD around the uses of a stage.")
    ] = False,
    reduce_grad: Annotated[bool, Parameter(negative="", help="Add REDUCE_GRAD behind the last backward.")] = False,
    output: Output = None,
) -> int:
    """Put every send and receive into a compute order, so that nothing hangs."""
    from schedverify import conversion, formats, lowering
    from schedverify.cli.console import remark
    from schedverify.planner import proved_lowering

    given = formats.load_problem(problem) if problem is not None else None
    order, known, note = conversion.subject(formats.load_judged(schedule, given), given)
    lowered = proved_lowering.lower(order, known, discipline=discipline, eager_bytes=eager_bytes)
    lowered = lowering.add_sharding(lowered, known) if unshard else lowered
    lowered = lowering.add_reduction(lowered) if reduce_grad else lowered
    conversion.write(lowered, known, output or "-")
    if note:
        remark(f"note: {note}")
    free = f"proved free of deadlock under {discipline}" if discipline else "free of deadlock under every discipline"
    remark(f"{free}; schedverify verify --discipline {discipline or 'block'} checks it again")
    return 0


def convert(
    source: ScheduleFile,
    target: TargetFile,
    *,
    problem: ProblemOption = None,
    to: Annotated[
        Literal["text", "torch-csv", "torch-comms-csv", "trace", "plan"] | None,
        Parameter(help="The form to write; by the suffix of the target where it is left away."),
    ] = None,
    grammar: Annotated[
        Literal["torch-2.5-csv"] | None,
        Parameter(
            name="--from",
            help="torch-2.5-csv: a CSV of PyTorch until 2.5, with B for the input part of the backward, BW for all.",
        ),
    ] = None,
    profile: Annotated[
        Literal["torch", "torchtitan", "none"] | None,
        Parameter(help="The runtime that PyTorch's CSV must suit: torch, with --from none, which writes what stands."),
    ] = None,
) -> int:
    """Turn a schedule into another form: text, PyTorch's CSV, a trace for Perfetto, a verified plan."""
    from schedverify import conversion, formats

    given = formats.load_problem(problem) if problem is not None else None
    conversion.convert(source, target, problem=given, to=to, grammar=grammar, profile=profile)
    return 0


def new(*, output: Output = None) -> int:
    """Write a commented problem file to begin with."""
    from schedverify import formats

    formats.write_text(output or "-", formats.new())
    return 0


def _problem_for(family: str, path: str | None, given: dict[str, int]) -> Problem:
    """Return the problem of a file, or the family's own for the numbers that are given."""
    from schedverify import formats, generators

    if path is not None:
        if given:
            raise InputError(Fault(f"--{next(iter(given)).replace('_', '-')}", "stands beside --problem", "give one"))
        return formats.load_problem(path)
    if not {"ranks", "microbatches"} <= set(given):
        raise InputError("generate takes --problem FILE, or --ranks P and --microbatches M")
    return generators.family(family).problem(**given)
