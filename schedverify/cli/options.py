"""The arguments that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter, validators

ScheduleFile = Annotated[
    str, Parameter(allow_leading_hyphen=True, help="Schedule: text, PyTorch's CSV or a plan; - for standard input.")
]
ProblemOption = Annotated[
    str | None,
    Parameter(name=["--problem", "-p"], allow_leading_hyphen=True, help="Problem file, TOML or JSON."),
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
DisciplineOption = Annotated[
    DisciplineName,
    Parameter(help="What blocks what below a schedule with communication."),
]
EagerBytes = Annotated[
    int,
    Parameter(
        validator=validators.Number(gte=0),
        help="Messages of at most so many bytes do not wait for their receive.",
    ),
]
