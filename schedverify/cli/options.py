"""What several commands share: their arguments, and the files that these name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

if TYPE_CHECKING:
    from schedverify.core.problem import Problem

Count = validators.Number(gte=1)
ScheduleFile = Annotated[
    str, Parameter(allow_leading_hyphen=True, help="Schedule: text, PyTorch's CSV or a plan; - for standard input.")
]
ProblemOption = Annotated[
    str | None, Parameter(name=["--problem", "-p"], allow_leading_hyphen=True, help="Problem file, TOML or JSON.")
]
ProblemFile = Annotated[
    str, Parameter(allow_leading_hyphen=True, help="Problem file, TOML or JSON; - for standard input.")
]
Output = Annotated[
    str | None,
    Parameter(name=["--output", "-o"], allow_leading_hyphen=True, help="File to write; - for standard output."),
]
TargetFile = Annotated[str, Parameter(allow_leading_hyphen=True, help="File to write; - for standard output.")]
TextOrJson = Annotated[Literal["text", "json"], Parameter(name="--format", help="What is printed.")]
DisciplineName = Literal["tagged", "buffered", "edge", "pair", "rank", "block"]
DisciplineOption = Annotated[DisciplineName, Parameter(help="What blocks what below a schedule with communication.")]
EagerBytes = Annotated[
    int,
    Parameter(
        validator=validators.Number(gte=0), help="Messages of at most so many bytes do not wait for their receive."
    ),
]


def given_problem(path: str | None) -> Problem | None:
    """Return the problem in the file that ``--problem`` names, or None where the option is not given."""
    from schedverify import formats

    return None if path is None else formats.load_problem(path)
