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
    slices: int = 1,
    several_ranks: bool = False,
    graph: bool = False,
    tied: bool = False,
    overlapped: bool = False,
    recompute: bool = False,
    waits: bool = False,
    unshard: bool = False,
) -> Problem:
    """Draw a problem that has a valid schedule: training, a fused chain, one stage a rank, no limits, unless asked.

    Examples shrink to few ranks, few micro-batches and costs of 1.

    Parameters
    ----------
    max_ranks, max_microbatches
        The most of each; the least is 1, but 2 ranks where ``several_ranks`` or ``tied`` needs them.
    virtual
        The most stages a rank.
    placements
        The names to choose from: ``loop``, ``v``, and ``any`` for a list in which each stage has any rank.
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
    slices
        The most parts of a sequence; each is a micro-batch. Limits then leave room for one to three whole sequences.
    several_ranks
        Whether stages stand on several ranks at once: some of them, at least one.
    graph
        Whether the stages feed each other as any graph does in which a stage feeds later ones only.
    tied
        Whether two stages or more share weights.
    overlapped
        Whether some overlapped pairs have costs of their own.
    recompute
        Whether stages recompute their activations: some of them, at least one. It brings what ``memory`` does.
    waits
        Whether the sends of a rank that are not yet waited for are limited, to 1 to 3.
    unshard
        Whether the stages of a rank that are unsharded at once are limited, to 1 or 2 (1 leaves no room for an
        overlapped pair of two stages).

    Raises
    ------
    InputError
        If both ``split`` and ``inference`` are asked for.
    """
    if split and inference:
        raise InputError(Fault("split, inference", "a problem has one form", "draw from problems(...) | problems(...)"))
    ranks = draw(st.integers(min(2, max_ranks) if several_ranks or tied else 1, max_ranks))
    parts = draw(st.integers(1, min(slices, max_microbatches)))
    sequences = draw(st.integers(1, max_microbatches // parts))
    stages, copies = ranks * draw(st.integers(1, virtual)), draw(st.integers(1, replicas))
    placement = draw(st.sampled_from(list(placements)))
    data: dict[str, Any] = {
        "ranks": ranks,
        "microbatches": sequences * parts,
        "stages": stages,
        "placement": _any_ranks(draw, ranks, stages, copies) if placement == "any" else placement,
        "replicas": copies,
        "slices": parts,
        "replica_of": [sequence * copies // sequences for sequence in range(sequences) for _ in range(parts)],
        "form": "split" if split else "inference" if inference else "fused",
        "costs": _costs(draw, split, inference, stages * copies if uneven else 0),
        "links": {"latency": draw(st.integers(0, latency))},
    }
    if graph:
        data["edges"] = [(before, after) for after in range(1, stages) for before in draw(_some(after, 0))]
    if tied and stages > 1:
        data["tied"] = [sorted(draw(_some(stages, 2)))]
    if overlapped and not inference:
        data["costs"]["overlapped"] = [_overlapped(draw, *pair) for pair in draw(_pairs(stages * copies))]
    if several_ranks and ranks > 1:
        data["placement"] = _on_several(draw, Problem.of(data))
    if memory or recompute:
        data["memory"] = _memory(draw, Problem.of(data), recompute)
    if limits:
        held = [len(own) * parts for own in Problem.of(data).stages_of]
        data["limits"] = {"in_flight": _multiples(draw, held)}
    if waits:
        data["limits"] = data.get("limits", {}) | {"outstanding_sends": draw(st.integers(1, 3))}
    if unshard:
        data["limits"] = data.get("limits", {}) | {"unsharded": draw(st.integers(1, 2))}
    return Problem.of(data)


def _costs(draw: st.DrawFn, split: bool, inference: bool, stages: int) -> dict[str, Any]:
    """Draw the costs of a form, one number for all stages where ``stages`` is 0."""
    backward = ["backward_input", "backward_weight"] if split else [] if inference else ["backward"]
    return {name: draw(_lists(stages, 1, 4) if stages else st.integers(1, 4)) for name in ("forward", *backward)}


def _lists(length: int, least: int, most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(least, most), min_size=length, max_size=length)


def _some(count: int, least: int) -> st.SearchStrategy[list[int]]:
    """Draw some of the first numbers, at least so many."""
    return st.lists(st.integers(0, count - 1), min_size=least, max_size=count, unique=True)


def _pairs(stages: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    stage = st.integers(0, stages - 1)
    return st.lists(st.tuples(stage, stage), min_size=1, max_size=3, unique=True)


def _overlapped(draw: st.DrawFn, forward: int, backward: int) -> dict[str, int]:
    return {"forward": forward, "backward": backward, "cost": draw(st.integers(1, 8))}


def _by_copy(entries: list[Any], copies: int) -> list[Any]:
    """Return the entries of a placement as a file has them: a list for each copy, where there are several."""
    size = len(entries) // copies
    return [entries[size * copy : size * (copy + 1)] for copy in range(copies)] if copies > 1 else entries


def _any_ranks(draw: st.DrawFn, ranks: int, stages: int, copies: int) -> list[Any]:
    return _by_copy(draw(_lists(stages * copies, 0, ranks - 1)), copies)


def _on_several(draw: st.DrawFn, problem: Problem) -> list[Any]:
    """Return the placement of a problem with other ranks added to at least one stage, behind the one it has."""
    chosen = draw(_some(problem.total_stages, 1))
    entries: list[Any] = [list(on) for on in problem.placement]
    for stage in chosen:
        others = [rank for rank in range(problem.ranks) if rank not in entries[stage]]
        entries[stage] += [others[i] for i in draw(_some(len(others), 1))]
    return _by_copy(entries, problem.replicas)


def _memory(draw: st.DrawFn, problem: Problem, recompute: bool) -> dict[str, Any]:
    """Draw activations and capacities; where stages recompute, what those keep is less than they hold meanwhile."""
    stages = problem.total_stages
    activation = draw(_lists(stages, 1, 3))
    memory: dict[str, Any] = {"activation": activation}
    kept, again = activation, [0] * stages
    if recompute:
        chosen = draw(_some(stages, 1))
        memory["activation"] = activation = [held + 3 * (s in chosen) for s, held in enumerate(activation)]
        memory |= {"recompute": [s in chosen for s in range(stages)], "boundary": kept}
        again = [held - keeps for held, keeps in zip(activation, kept, strict=True)]
    needed = [problem.slices * sum(kept[stage] for stage in own) for own in problem.stages_of]
    room = [max((again[stage] for stage in own), default=0) for own in problem.stages_of]
    memory["capacity"] = [held + more for held, more in zip(_multiples(draw, needed), room, strict=True)]
    return memory


def _multiples(draw: st.DrawFn, needed: list[int]) -> list[int]:
    """Return room for the same few sequences on every rank; a rank without a stage needs none, and gets 1."""
    count = draw(st.integers(1, 3))
    return [max(count * need, 1) for need in needed]
