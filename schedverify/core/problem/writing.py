"""A problem as the data of a problem file: in full, as a person would write it, or as short as it can be."""

from __future__ import annotations

from typing import Any

from schedverify.core.errors import InputError
from schedverify.core.problem.expansion import checked_fields
from schedverify.core.problem.fields import Boundary, Matrix, ProblemFields
from schedverify.core.problem.keys import KEYS, TABLES


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
    }
    if problem.partition:
        top["partition"] = [list(layers) for layers in problem.partition]
    if problem.replicas > 1:
        top["replica_of"] = list(problem.replica_of)
    return top | {
        "costs": _costs(problem),
        "links": _links(problem),
        "memory": _memory(problem),
        "limits": _limits(problem),
        "objective": {"minimize": problem.minimize} | ({"then": problem.then} if problem.then else {}),
        "boundary": [_boundary(boundary) for boundary in problem.boundaries],
    }


def brief(problem: ProblemFields) -> dict[str, Any]:
    """Return the data of a problem as a person would write it: a number where all of a list are equal, no empty list.

    An empty ``edges`` stays, since it says that no stage feeds another.
    """
    data = full_data(problem)
    if data["edges"] == [[stage, stage + 1] for stage in range(problem.stages - 1)]:
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


def _costs(problem: ProblemFields) -> dict[str, Any]:
    costs: dict[str, Any] = {"forward": list(problem.forward), "backward": list(problem.backward)}
    if problem.backward_input:
        costs |= {"backward_input": list(problem.backward_input), "backward_weight": list(problem.backward_weight)}
    rows = [{"forward": f, "backward": b, "cost": cost} for f, b, cost in problem.overlapped]
    return costs | {"overlapped": rows}


def _links(problem: ProblemFields) -> dict[str, Any]:
    links: dict[str, Any] = {"latency": _compact(problem.latency), "bytes": list(problem.boundary_bytes)}
    if problem.bandwidth is not None:
        links["bandwidth"] = _compact(problem.bandwidth)
    if problem.buffer is not None:
        links["buffer"] = problem.buffer
    return links


def _memory(problem: ProblemFields) -> dict[str, Any]:
    memory: dict[str, Any] = {
        name: list(getattr(problem, name)) for name in ("activation", "weight_stash", "recompute", "boundary", "static")
    }
    return memory if problem.capacity is None else memory | {"capacity": list(problem.capacity)}


def _limits(problem: ProblemFields) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if problem.in_flight is not None:
        limits["in_flight"] = list(problem.in_flight)
    if problem.in_flight_stage is not None:
        limits["in_flight_stage"] = list(problem.in_flight_stage)
    if problem.makespan_limit is not None:
        limits["makespan"] = problem.makespan_limit
    return limits


def _compact(matrix: Matrix) -> int | list[list[int]]:
    """Return the one value of a matrix whose entries are equal, else the whole of it.

    Rows that are one object, as those of an expanded number are, count once.
    """
    first = matrix[0][0]
    if len(matrix) > 1 and all(set(row) == {first} for row in {id(row): row for row in matrix}.values()):
        return first
    return [list(row) for row in matrix]


def _boundary(boundary: Boundary) -> dict[str, Any]:
    data: dict[str, Any] = {"from": boundary.source, "to": boundary.target}
    if boundary.shape:
        data["shape"] = list(boundary.shape)
    if boundary.dtype:
        data["dtype"] = boundary.dtype
    return data if boundary.bytes is None else data | {"bytes": boundary.bytes}
