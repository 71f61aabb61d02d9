"""Refuses arguments of a wrong type by one sentence: which type is needed, which was found, and the cure."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final

Wanted = tuple[object, *tuple[type, ...]]
"""The value of an argument, and the types that it may have, the usual one first."""

_FILE: Final = re.compile(r"[^\s;]*(?:/[^\s;]*|\.(?:txt|csv|json|toml))")
_LOAD: Final = "sv.load(path) reads it"
_MAKE_PROBLEM: Final = "Problem.chain(ranks=..., microbatches=...) makes one"
_MAKE_SCHEDULE: Final = "sv.generate(family, problem) makes one"
_CURES: Final = {
    ("Schedule", "text"): "Schedule.parse(text) makes one of text",
    ("Schedule", "rows"): "Schedule.of(rows) makes one of rows of steps",
    ("Schedule", "Plan"): "plan.schedule is its order",
    ("Schedule", "Timeline"): "timeline.schedule is its order",
    ("Schedule", "Problem"): _MAKE_SCHEDULE,
    ("Schedule", "None"): _MAKE_SCHEDULE,
    ("Problem", "file"): _LOAD,
    ("Problem", "text"): _LOAD,
    ("Problem", "mapping"): "Problem.of(data) makes one of a mapping",
    ("Problem", "Plan"): "plan.problem is its own",
    ("Problem", "Timeline"): "timeline.problem is its own",
    ("Problem", "DiGraph"): "Problem.from_graph(graph) makes one",
    ("Problem", ""): _MAKE_PROBLEM,
    ("Plan", "Schedule"): "sv.plan_of(schedule, problem) makes one",
    ("Plan", "Problem"): "sv.optimize(problem) finds one",
    ("Timeline", "Schedule"): "sv.simulate(schedule, problem) makes one",
    ("Timeline", "Plan"): "sv.simulate(plan.schedule, plan.problem) makes one",
    ("Model", "file"): "sv.models.load_model(path) reads it",
    ("Model", "text"): "sv.models.load_model(path) reads it",
    ("RunTrace", "file"): "sv.conformance.load_run(path) reads it",
    ("RunTrace", "text"): "sv.conformance.load_run(path) reads it",
    ("Drawing", "Schedule"): "sv.draw(schedule, problem) makes one",
    ("Drawing", "Plan"): "sv.draw(plan) makes one",
    ("Drawing", "Timeline"): "sv.draw(timeline) makes one",
    ("DiGraph", "Schedule"): "sv.dependency_graph(problem, schedule) makes one",
    ("DiGraph", "Problem"): "sv.dependency_graph(problem) makes one",
    ("Kind", "text"): "Kind.F is a kind, and Op('2F0') reads an operation",
    ("str", "rows"): "Schedule.of(rows) makes a schedule of rows of steps",
}


def check_types(function: str, **arguments: Wanted) -> None:
    """Raise a TypeError where an argument has none of the types that it may have.

    Parameters
    ----------
    function
        The name that the caller knows.
    arguments
        By name, in the order of the signature: the value, and the types that it may have, the usual one first.
    """
    for value, *wanted in arguments.values():
        if not isinstance(value, tuple(wanted)):
            raise TypeError(_sentence(function, value, wanted[0], arguments))


def _sentence(function: str, value: object, wanted: type, arguments: Mapping[str, Wanted]) -> str:
    found = type(value).__name__
    needed = {"str": "text", "PathLike": "a path"}.get(wanted.__name__, _with_article(wanted.__name__))
    sentence = f"{function} needs {needed}, found {'None' if value is None else _with_article(found)}"
    if _swapped(value, arguments):
        return f"{sentence}: the arguments are swapped, it is {function}({', '.join(arguments)})"
    kinds = (_kind(value) or found, found, "")
    cure = next((_CURES[wanted.__name__, kind] for kind in kinds if (wanted.__name__, kind) in _CURES), "")
    if not cure and _kind(value) == "file":
        cure = _LOAD
    return f"{sentence}: {cure}" if cure else sentence


def _swapped(value: object, arguments: Mapping[str, Wanted]) -> bool:
    """Whether a value has the type of another argument, whose value has a wrong type."""
    return any(isinstance(value, tuple(types)) and not isinstance(other, tuple(types))
               for other, *types in arguments.values())  # fmt: skip


def _kind(value: object) -> str:
    """Return what a value is for those who choose a cure."""
    if value is None:
        return "None"
    if isinstance(value, os.PathLike) or (isinstance(value, str) and _FILE.fullmatch(value)):
        return "file"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "mapping"
    return "rows" if isinstance(value, Iterable) and type(value).__module__ == "builtins" else ""


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
