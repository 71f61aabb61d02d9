"""Arguments and options that several commands share, and the problem that ``--problem`` names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from schedverify.core.errors import InputError
from schedverify.formats.text_files import source_name

if TYPE_CHECKING:
    from cyclopts import Token

    from schedverify.core.problem import Problem


def flag(text: str) -> Parameter:
    """Return the parameter of a switch, which is off unless it is given; ``text`` is its help."""
    return Parameter(negative="", help=text)


def number(text: str, *, least: int | None = 1) -> Parameter:
    """Return the parameter of a whole number that is at least ``least``; ``text`` is its help."""
    return Parameter(converter=_whole, validator=() if least is None else _at_least(least), help=text)


def decimal(text: str, *, least: int) -> Parameter:
    """Return the parameter of a number that is at least ``least``; ``text`` is its help."""
    return Parameter(validator=_at_least(least), help=text)


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    text = tokens[0].value
    if not re.fullmatch(r"[+-]?[0-9]{1,40}", text):
        raise ValueError("expected a whole number")
    return int(text)


def _at_least(least: int) -> Callable[[Any, Any], None]:
    def check(_: Any, value: float | None) -> None:
        if value is not None and not value >= least:
            raise ValueError(f"expected {least} or more")

    return check


def _above_zero(_: Any, value: float) -> None:
    if not value > 0:
        raise ValueError("expected more than 0")


def file(text: str, *names: str) -> Parameter:
    """Return the parameter of a file's name, which may be ``-``: an argument, or an option with the given names.

    ``text`` is its help.
    """
    return Parameter(name=names or None, allow_leading_hyphen=True, help=text)


ScheduleFile = Annotated[str, file("Schedule: text, PyTorch's CSV or a plan; - for standard input.")]
ProblemOption = Annotated[str | None, file("Problem file, TOML or JSON.", "--problem", "-p")]
ProblemFile = Annotated[str, file("Problem file, TOML or JSON; - for standard input.")]
Output = Annotated[str | None, file("File to write; - for standard output.", "--output", "-o")]
TargetFile = Annotated[str, file("File to write; - for standard output.")]
ModelFunction = Annotated[
    str, Parameter(help="MODULE:FUNCTION, which returns the model; the current folder is on the path.")
]
Patience = Annotated[float, Parameter(validator=_above_zero, help="Seconds that a rank waits for another.")]
Backend = Annotated[Literal["gloo", "nccl"], Parameter(help="Of torch.distributed, under torchrun.")]
TextOrJson = Annotated[Literal["text", "json"], Parameter(name="--format", help="What is printed.")]
Verbose = Annotated[bool, Parameter(name=("--verbose", "-v"), negative="", help="A line for each property.")]
DisciplineName = Literal["tagged", "buffered", "edge", "pair", "rank", "block"]
DisciplineOption = Annotated[DisciplineName, Parameter(help="What blocks what below a schedule with communication.")]
EagerBytes = Annotated[int, number("Messages of at most so many bytes do not wait for their receive.", least=0)]


@contextmanager
def said_of(path: str, *options: str) -> Iterator[None]:
    """Name a file in an InputError that is raised within, unless that has a source or is about one of the options."""
    try:
        yield
    except InputError as error:
        raise error.about(source_name(path), options) from None


def json_taken(output_format: str) -> str:
    """Return what has standard output for itself, as :func:`schedverify.formats.check_destinations` takes it."""
    return "--format json" if output_format == "json" else ""


def given_problem(path: str | None) -> Problem | None:
    """Return the problem in the file that ``--problem`` names, or None where the option is not given."""
    from schedverify import formats

    return None if path is None else formats.load_problem(path)
