"""The commands ``generate`` and ``families``, and ``new``, which writes a problem to generate for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from schedverify import formats
from schedverify.cli.options import Output, ProblemOption, TextOrJson
from schedverify.core.errors import Fault, InputError

if TYPE_CHECKING:
    from schedverify.core.problem import Problem


MOST_WRITTEN: Final = 1 << 23
"""The most operations of a schedule that is written: a longer one would be no text that is read again."""
MOST_CHECKED: Final = 1 << 20
"""The most of one that is written as CSV, which the verifier judges before."""


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
    check_written(known, output or "-")
    conversion.write(generators.generate(family, known), known, output or "-")
    return 0


def families(*, output_format: TextOrJson = "text") -> int:
    """List the families: source, placement, the shapes they take."""
    from schedverify import generators

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


def new(*, output: Output = None) -> int:
    """Write a commented problem file to begin with."""
    formats.write_text(output or "-", formats.new())
    return 0


def check_written(problem: Problem, target: str) -> None:
    """Refuse a problem whose schedule is too long for a file, before it is made.

    Raises
    ------
    InputError
        With how many operations it would have, and the most.
    """
    most = MOST_CHECKED if target.endswith(".csv") else MOST_WRITTEN
    operations = problem.most_operations
    if operations > most:
        message = f"{problem.microbatches} micro-batches through {problem.stages} stages make {operations} operations"
        hint = f"a file is written of at most {most}; sv.generate in Python makes longer schedules"
        raise InputError(Fault("microbatches", message, hint))


def _problem_for(family: str, path: str | None, given: dict[str, int]) -> Problem:
    """Return the problem of a file, or the family's own for the numbers that are given."""
    from schedverify import generators

    if path is not None:
        if given:
            raise InputError(Fault(f"--{next(iter(given)).replace('_', '-')}", "stands beside --problem", "give one"))
        return formats.load_problem(path)
    if not {"ranks", "microbatches"} <= set(given):
        raise InputError("generate takes --problem FILE, or --ranks P and --microbatches M")
    return generators.family(family).problem(**given)
