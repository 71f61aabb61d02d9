"""Problems to test a scheduler on: small, and plain unless a keyword asks for more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem


@st.composite
def problems(  # noqa: PLR0913 - each is a feature of its own
    draw: st.DrawFn,
    *,
    max_ranks: int = 4,
    max_microbatches: int = 6,
    virtual: int = 1,
    placements: Sequence[str] = ("loop",),
    split: bool = False,
    inference: bool = False,
    latency: int = 0,
    memory: bool = False,
    limits: bool = False,
    uneven: bool = False,
    replicas: int = 1,
) -> Problem:
    """Draw a problem that has a valid schedule: training, a fused chain, one stage a rank, no limits, unless asked.

    Examples shrink to few ranks, few micro-batches and costs of 1.

    Parameters
    ----------
    max_ranks, max_microbatches
        The most of each; the least is 1.
    virtual
        The most stages a rank.
    placements
        The names to choose from: ``loop``, ``v``.
    split, inference
        Whether every problem has the backward in two parts, or none at all; by default it is fused.
    latency
        The most ticks between two ranks.
    memory
        Whether activations differ and every rank has a capacity, enough for one to three micro-batches at a time.
    limits
        Whether every rank has an in-flight limit, enough for one to three micro-batches at a time.
    uneven
        Whether each stage has costs of its own.
    replicas
        The most copies of the model.

    Raises
    ------
    InputError
        If both ``split`` and ``inference`` are asked for.
    """
    if split and inference:
        raise InputError(Fault("split, inference", "a problem has one form", "draw from problems(...) | problems(...)"))
    ranks, microbatches = draw(st.integers(1, max_ranks)), draw(st.integers(1, max_microbatches))
    stages, copies = ranks * draw(st.integers(1, virtual)), draw(st.integers(1, replicas))
    data: dict[str, Any] = {
        "ranks": ranks,
        "microbatches": microbatches,
        "stages": stages,
        "placement": draw(st.sampled_from(list(placements))),
        "replicas": copies,
        "form": "split" if split else "inference" if inference else "fused",
        "costs": _costs(draw, split, inference, stages * copies if uneven else 0),
        "links": {"latency": draw(st.integers(0, latency))},
    }
    if memory:
        data["memory"] = {"activation": draw(_lists(stages * copies, 1, 3))}
    plain = Problem.of(data)
    if memory:
        needed = [sum(plain.activation[stage] for stage in own) for own in plain.stages_of]
        data["memory"]["capacity"] = _multiples(draw, needed)
    if limits:
        data["limits"] = {"in_flight": _multiples(draw, [len(own) for own in plain.stages_of])}
    return Problem.of(data)


def _costs(draw: st.DrawFn, split: bool, inference: bool, stages: int) -> dict[str, Any]:
    """Draw the costs of a form, one number for all stages where ``stages`` is 0."""
    backward = ["backward_input", "backward_weight"] if split else [] if inference else ["backward"]
    return {name: draw(_lists(stages, 1, 4) if stages else st.integers(1, 4)) for name in ("forward", *backward)}


def _lists(length: int, least: int, most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(least, most), min_size=length, max_size=length)


def _multiples(draw: st.DrawFn, needed: list[int]) -> list[int]:
    """Return room for the same few micro-batches on every rank; a rank without a stage needs none, and gets 1."""
    count = draw(st.integers(1, 3))
    return [max(count * need, 1) for need in needed]
