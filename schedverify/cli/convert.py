"""The command ``convert``."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from schedverify.cli.options import ProblemOption, ScheduleFile, TargetFile, given_problem


def convert(
    source: ScheduleFile,
    target: TargetFile,
    *,
    problem: ProblemOption = None,
    to: Annotated[
        Literal["text", "torch-csv", "torch-comms-csv", "torch-2.15-comms-csv", "trace", "plan"] | None,
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
        Literal["torch", "torch-2.15", "torchtitan", "none"] | None,
        Parameter(
            help="The runtime that PyTorch's CSV must suit, or none; by default torch, torch-2.15 where waits stand."
        ),
    ] = None,
) -> int:
    """Turn a schedule into another form: text, PyTorch's CSV, a trace for Perfetto, a verified plan."""
    from schedverify import conversion, formats

    formats.check_destinations(formats.Destination("target", target), inputs=(problem,))
    given = given_problem(problem)
    conversion.convert(source, target, problem=given, to=to, grammar=grammar, profile=profile)
    return 0
