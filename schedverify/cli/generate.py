"""The commands ``generate`` and ``families``, and ``new``, which writes a problem to generate for."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from schedverify import formats
from schedverify.cli.options import Output, ProblemOption, TextOrJson, flag, given_problem, said_of
from schedverify.cli.shapes import PREFIX, ShapeOptions, TorchOptions, of_class, refuse_beside
from schedverify.core.errors import Fault, InputError
from schedverify.formats.text_files import source_name

if TYPE_CHECKING:
    from schedverify.core.problem import Problem


MOST_WRITTEN: Final = 1 << 23
"""The most operations of a schedule that is written: a longer one would be no text that is read again."""
MOST_CHECKED: Final = 1 << 20
"""The most of one that is written as CSV, which the verifier judges before."""


def generate(
    family: Annotated[str, Parameter(help="A family, which schedverify families lists, or torch:CLASS of PyTorch.")],
    *,
    problem: ProblemOption = None,
    shape: ShapeOptions | None = None,
    of_torch: TorchOptions | None = None,
    output: Output = None,
) -> int:
    """Make the schedule of a family or a PyTorch class, for a problem file or a number of ranks and micro-batches."""
    from schedverify import conversion, generators
    from schedverify.core.schedule import Schedule

    target = formats.Destination("--output", output, partial(formats.form_of_file, Schedule))
    formats.check_destinations(target, inputs=(problem,))
    if family.startswith(PREFIX):
        given = given_problem(problem)
        with said_of(problem) if problem is not None else nullcontext():
            made, _ = of_class(family, given, shape, of_torch, "generate")
        formats.save(made, output or "-")
        return 0
    refuse_beside("the name of a family", of_torch)
    known = _problem_for(family, problem, shape.given if shape else {})
    with said_of(problem) if problem is not None else nullcontext():
        check_written(known, output or "-")
        made = generators.generate(family, known)
    conversion.write(made, known, output or "-")
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


def new(
    *,
    output: Output = None,
    force: Annotated[bool, flag("Replace a file that is there.")] = False,
) -> int:
    """Write a commented problem file to begin with."""
    from pathlib import Path

    from schedverify.core.problem import Problem

    formats.check_destinations(formats.Destination("--output", output, partial(formats.form_of_file, Problem)))
    if output not in (None, "-") and Path(output).is_file() and not force:
        raise InputError(Fault("", "the file is there already", "--force replaces it"), source_name(output))
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
    made = generators.family(family)
    if not {"ranks", "microbatches"} <= set(given):
        raise InputError("generate takes --problem FILE, or --ranks P and --microbatches M")
    return made.problem(**given)
