"""Side inputs: keyword arguments of a stage that its rank is given in each step, so that they need not travel."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.runner.compute.batches import Feed, by_stage
from schedverify.runner.compute.microbatches import keywords_of, rows_in
from schedverify.runner.compute.parcels import Parcel, takes_one


def with_side_inputs(feed: Feed, problem: Problem, modules: Mapping[int, Any], given: Any, batch: Any) -> Feed:
    """Return what a step is fed with the side inputs of this rank's stages.

    Parameters
    ----------
    modules
        By stage of all copies, those of this rank.
    given, batch
        As :meth:`schedverify.runner.Runner.step` takes them.

    Raises
    ------
    InputError
        If there is no such stage, its module has no such arguments, or its tensors cannot be cut.
    """
    if not given and not any(_are_keywords(parts) for parts in feed.inputs.values()):
        return feed
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise InputError(Fault("side_inputs", f"expected a mapping by stage, found {type(given).__name__}", _HINT))
    unknown = [stage for stage in given if stage not in range(problem.stages)]
    if unknown:
        raise InputError(Fault("side_inputs", f"there is no stage {unknown[0]!r}", f"0 to {problem.stages - 1}"))
    module_of = {number % problem.stages: module for number, module in modules.items()}
    whole = by_stage(batch, list(feed.inputs))
    rows = {rows for value in whole.values() if (rows := rows_in(value)) is not None}
    sides: dict[int, list[Parcel]] = {}
    for stage in sorted(module_of.keys() & given.keys()):
        expected = next(iter(rows)) if len(rows) == 1 else None
        place = f"side_inputs[{stage}]"
        sides[stage] = keywords_of(given[stage], problem.microbatches, place, expected)
        _check_names({name for each in sides[stage] for name in _names(each)}, module_of[stage], place)
    for stage, parts in feed.inputs.items():
        if _are_keywords(parts) and not takes_one(module_of[stage]):
            names = {name for each in parts for name in _names(each)}
            _check_names(names, module_of[stage], "batch")
            twice = sorted(names & {name for each in sides.get(stage, []) for name in _names(each)})
            if twice:
                raise InputError(Fault(f"side_inputs[{stage}]", f"{twice[0]!r} is in the batch too", "give it once"))
    return feed._replace(sides=sides)


_HINT = "such as {1: {'mask': mask}}"


def _are_keywords(parts: list[Parcel]) -> bool:
    return any(each.structure[0] == "dict" for each in parts)


def _names(parcel: Parcel) -> Iterable[str]:
    """Return the names in a dict; none of what is no dict."""
    return parcel.structure[1::2] if parcel.structure[0] == "dict" else ()


def _check_names(names: Iterable[str], module: Any, place: str) -> None:
    """Raise an InputError where a module's ``forward`` takes no argument of a name."""
    parameters = inspect.signature(module.forward).parameters.values()
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
        return
    taken = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    unknown = sorted(set(names) - set(taken))
    if unknown:
        message = f"the stage's {type(module).__name__} takes no {unknown[0]!r}"
        raise InputError(Fault(place, message, f"one of {', '.join(taken)}" if taken else ""))
