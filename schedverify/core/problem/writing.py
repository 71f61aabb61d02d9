"""A problem as the data of a problem file: in full, as a person would write it, or as short as it can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from schedverify.core.errors import InputError
from schedverify.core.problem.expansion import checked_fields
from schedverify.core.problem.fields import Boundary, ProblemFields
from schedverify.core.problem.keys import KEYS, TABLES
from schedverify.core.problem.stage_graph import Matrix, chain_edges

_MEMORY: Final = ("activation", "weight_stash", "recompute", "boundary", "static", "capacity")
_LIMITS: Final = {
    "in_flight": "in_flight",
    "in_flight_stage": "in_flight_stage",
    "makespan": "makespan_limit",
    "outstanding_sends": "outstanding_sends",
    "unsharded": "unsharded",
}
"""The keys of the table, and the names of the fields."""


def full_data(problem: ProblemFields) -> dict[str, Any]:
    """Return the data of a problem file that gives a problem, with a value for each stage, rank and micro-batch."""
    placement: list[Any] = [_entry(ranks) for ranks in problem.placement]
    if problem.replicas > 1:
        size = problem.stages
        placement = [placement[copy * size : (copy + 1) * size] for copy in range(problem.replicas)]
    top = {
        "version": 1,
        "name": problem.name,
        "ranks": problem.ranks,
        "microbatches": problem.microbatches,
        "stages": problem.stages,
        "placement": placement,
        "form": problem.form,
        "tick": problem.tick,
        "edges": [list(edge) for edge in problem.edges],
        "tied": [list(group) for group in problem.tied],
        "replicas": problem.replicas,
        "slices": problem.slices,
        "partition": [list(layers) for layers in problem.partition] or None,
        "replica_of": problem.replica_of if problem.replicas > 1 else None,
    }
    return _present(top) | {
        "costs": _costs(problem),
        "links": _links(problem),
        "memory": _present({"unit": problem.unit or None} | {name: getattr(problem, name) for name in _MEMORY}),
        "limits": _present({name: getattr(problem, field) for name, field in _LIMITS.items()}),
        "objective": _present({"minimize": problem.minimize, "then": problem.then or None}),
        "boundary": [_boundary(boundary) for boundary in problem.boundaries],
    }


def brief(problem: ProblemFields) -> dict[str, Any]:
    """Return the data of a problem as a person would write it: a number where all of a list are equal, no empty list.

    An empty ``edges`` stays, since it says that no stage feeds another.
    """
    data = full_data(problem)
    if problem.edges == chain_edges(problem.stages):
        del data["edges"]
    if data["placement"] == [stage % problem.ranks for stage in range(problem.stages)]:
        data["placement"] = "loop"
    for key in (key for key in KEYS if key.table != "boundary"):
        inside = data.get(key.table, {}) if key.table else data
        value = inside.get(key.name)
        if value == [] and key.name != "edges":
            del inside[key.name]
        elif isinstance(value, list) and key.shape.endswith((" by stage", " by rank")):
            inside[key.name] = value[0] if len(set(value)) == 1 else value
    empty = [name for name in (*TABLES, "boundary") if not data[name]]
    return {name: value for name, value in data.items() if name not in empty}


def shortest(problem: ProblemFields) -> dict[str, Any]:
    """Return the data of a problem without every key that says what its absence says; made for small problems."""
    data = brief(problem)
    paths = [(name, key) for name, value in data.items() for key in (value if name in TABLES else ("",))]
    named = data | {"placement": "v"}
    data = named if data["placement"] != "loop" and _makes(named, problem) else data
    for path in paths:
        shorter = _without(data, *path)
        data = shorter if _makes(shorter, problem) else data
    return {name: value for name, value in data.items() if value != {}}


def _without(data: dict[str, Any], name: str, key: str) -> dict[str, Any]:
    if key:
        return data | {name: {other: value for other, value in data[name].items() if other != key}}
    return {other: value for other, value in data.items() if other != name}


def _makes(data: dict[str, Any], problem: ProblemFields) -> bool:
    """Whether reading the data gives the fields of the problem."""
    try:
        fields, _ = checked_fields(data)
    except InputError:
        return False
    return all(getattr(problem, name) == value for name, value in fields.items())


def _entry(ranks: tuple[int, ...]) -> int | list[int]:
    return ranks[0] if len(ranks) == 1 else list(ranks)


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not None, with tuples as lists."""
    present = {name: value for name, value in values.items() if value is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in present.items()}


def _costs(problem: ProblemFields) -> dict[str, Any]:
    parts = {name: getattr(problem, name) or None for name in ("backward_input", "backward_weight")}
    rows = [{"forward": f, "backward": b, "cost": cost} for f, b, cost in problem.overlapped]
    return _present({"forward": problem.forward, "backward": problem.backward, **parts, "overlapped": rows})


def _links(problem: ProblemFields) -> dict[str, Any]:
    bandwidth = None if problem.bandwidth is None else _compact(problem.bandwidth)
    links = {"latency": _compact(problem.latency), "bytes": problem.boundary_bytes}
    return _present({**links, "bandwidth": bandwidth, "buffer": problem.buffer})


def _compact(matrix: Matrix) -> int | list[list[int]]:
    """Return the one value of a matrix whose entries are equal, else the whole of it.

    Rows that are one object, as those of an expanded number are, count once.
    """
    first = matrix[0][0]
    if len(matrix) > 1 and all(set(row) == {first} for row in {id(row): row for row in matrix}.values()):
        return first
    return [list(row) for row in matrix]


def _boundary(boundary: Boundary) -> dict[str, Any]:
    crosses = {"shape": boundary.shape or None, "dtype": boundary.dtype or None, "bytes": boundary.bytes}
    return _present({"from": boundary.source, "to": boundary.target, **crosses})
