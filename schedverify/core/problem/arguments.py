"""A problem as data: from flat keywords to the tables of a problem file, and from a Problem back to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from schedverify.core.errors import Fault, InputError, nearest
from schedverify.core.problem.fields import Boundary, Matrix, Problem
from schedverify.core.problem.keys import KEYS, REMARKS

_TABLE: Final = {key.name: key.table for key in KEYS if key.table != "boundary" and key.name not in REMARKS}


def tables(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Sort flat keywords into the tables of a problem file; absent costs become 1 (``backward`` 2).

    Raises
    ------
    InputError
        If a keyword is no key of the problem file; names the nearest.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    data: dict[str, Any] = {"boundary": given.pop("boundaries")} if "boundaries" in given else {}
    unknown = [Fault(name, "unknown keyword", nearest(name, _TABLE)) for name in given if name not in _TABLE]
    if unknown:
        raise InputError(unknown)
    for name, value in given.items():
        if table := _TABLE[name]:
            data.setdefault(table, {})[name] = value
        else:
            data[name] = value
    return data | {"costs": _with_costs(data)}


def flatten(problem: Problem) -> dict[str, Any]:
    """Return the data of a problem file that gives ``problem``, fully expanded; see :meth:`Problem.to_dict`."""
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


def _with_costs(data: Mapping[str, Any]) -> dict[str, Any]:
    costs = {"forward": 1} | dict(data.get("costs", {}))
    parts = {"backward_input", "backward_weight"}
    if data.get("form") == "split":
        costs = dict.fromkeys(sorted(parts), 1) | costs
    elif not parts <= set(costs) and data.get("form") != "inference":
        costs = {"backward": 2} | costs
    return costs


def _entry(ranks: tuple[int, ...]) -> int | list[int]:
    return ranks[0] if len(ranks) == 1 else list(ranks)


def _costs(problem: Problem) -> dict[str, Any]:
    costs: dict[str, Any] = {"forward": list(problem.forward), "backward": list(problem.backward)}
    if problem.backward_input:
        costs |= {"backward_input": list(problem.backward_input), "backward_weight": list(problem.backward_weight)}
    rows = [{"forward": f, "backward": b, "cost": cost} for f, b, cost in problem.overlapped]
    return costs | {"overlapped": rows}


def _links(problem: Problem) -> dict[str, Any]:
    links: dict[str, Any] = {"latency": _compact(problem.latency), "bytes": list(problem.boundary_bytes)}
    if problem.bandwidth is not None:
        links["bandwidth"] = _compact(problem.bandwidth)
    if problem.buffer is not None:
        links["buffer"] = problem.buffer
    return links


def _memory(problem: Problem) -> dict[str, Any]:
    memory: dict[str, Any] = {
        name: list(getattr(problem, name)) for name in ("activation", "weight_stash", "recompute", "boundary", "static")
    }
    return memory if problem.capacity is None else memory | {"capacity": list(problem.capacity)}


def _limits(problem: Problem) -> dict[str, Any]:
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
