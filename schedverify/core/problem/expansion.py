"""From what a person writes to the fields of a problem: numbers become lists, defaults are filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from schedverify.core.errors import Fault, InputError, check_version, nearest, shown
from schedverify.core.problem.fields import Boundary
from schedverify.core.problem.keys import KEYS, REMARKS, names
from schedverify.core.problem.reader import ProblemReader, uniform
from schedverify.core.problem.shape import Sizes, read_shape
from schedverify.core.problem.stage_graph import Ints

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


def checked_fields(data: Mapping[str, Any]) -> tuple[dict[str, Any], ProblemReader]:
    """Return the fields of the problem that the data of a problem file describe, and the reader that took them.

    Raises
    ------
    InputError
        With every fault of single keys; what must hold between them is looked at in ``checks``.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"expected a table of keys, found {shown(data)}")
    check_version("version", data.get("version", 1), 1, "write version = 1, or leave it out")
    reader = ProblemReader(data)
    shape, sizes = read_shape(reader)
    _check_remarks(reader)
    costs = _costs(reader, sizes, shape["form"])
    rest = _links(reader, sizes) | _memory(reader, sizes) | _limits(reader, sizes)
    rest["unit"] = reader.unit("memory.unit", reader.get("memory.unit"), "memory.capacity", "memory.static")
    reader.raise_faults()
    return shape | costs | rest, reader


def _check_remarks(reader: ProblemReader) -> None:
    """Check the keys that a file may hold and a Problem does not: ``source`` and ``[expected]``."""
    reader.text("source", "")
    expected = reader.get("expected")
    if expected is not None and not isinstance(expected, Mapping):
        reader.fault("expected", f"expected a table, found {shown(expected)}", "write [expected] and its keys below")


def _with_costs(data: Mapping[str, Any]) -> dict[str, Any]:
    costs = {"forward": 1} | dict(data.get("costs", {}))
    parts = {"backward_input", "backward_weight"}
    if data.get("form") == "split":
        costs = dict.fromkeys(sorted(parts), 1) | costs
    elif not parts <= set(costs) and data.get("form") != "inference":
        costs = {"backward": 2} | costs
    return costs


def _costs(reader: ProblemReader, sizes: Sizes, form: str) -> dict[str, Any]:
    given = ("forward", "backward", "backward_input", "backward_weight")
    forward, backward, inputs, weights = (reader.listed(f"costs.{name}", sizes.by_stage) for name in given)
    _missing_costs(reader, form)
    zeros = _filled(0, sizes.by_stage)
    parts = (inputs or zeros, weights or zeros) if inputs is not None and weights is not None else ((), ())
    summed = tuple(map(sum, zip(*parts, strict=False))) or zeros
    return {
        "forward": forward or zeros,
        "backward": summed if backward is None else backward,
        "backward_input": parts[0],
        "backward_weight": parts[1],
        "overlapped": _overlapped(reader, sizes.by_stage[-1] if sizes.by_stage else 0),
    }


def _missing_costs(reader: ProblemReader, form: str) -> None:
    """Add a fault for each cost that the form needs and the file lacks."""
    table = reader.get("costs")
    given = set(table) if isinstance(table, Mapping) else set()
    if "forward" not in given:
        reader.fault("costs.forward", "missing", "ticks of F, a number or a list with one for each stage")
    if reader.wrong("form", "costs"):
        return
    parts = {"backward_input", "backward_weight"}
    if form == "split" or len(given & parts) == 1:
        why = "a split problem needs both parts of the backward" if form == "split" else "the two parts go together"
        for name in sorted(parts - given):
            reader.fault(f"costs.{name}", "missing", why)
    elif form == "fused" and not given & {"backward", *parts}:
        reader.fault("costs.backward", "missing", "a fused problem needs it, or both of its parts")


def _overlapped(reader: ProblemReader, stages: int) -> tuple[tuple[int, int, int], ...]:
    costs: dict[tuple[int, int], int] = {}
    for i, row in enumerate(reader.rows("costs.overlapped")):
        key, needed = f"costs.overlapped[{i}]", ("forward", "backward", "cost")
        if not isinstance(row, Mapping):
            reader.fault(key, f"expected {{ forward = stage, backward = stage, cost = ticks }}, found {shown(row)}")
        elif reader.row_names(key, row, needed, needed):
            before = reader.found
            forward = reader.index(f"{key}.forward", row["forward"], stages, "stage")
            backward = reader.index(f"{key}.backward", row["backward"], stages, "stage")
            cost = reader.number(f"{key}.cost", row["cost"], 0)
            if reader.found == before and (forward, backward) in costs:
                reader.fault(key, f"the pair of stages {forward} and {backward} stands twice", "give each pair once")
            costs[forward, backward] = cost
    return tuple((forward, backward, cost) for (forward, backward), cost in sorted(costs.items()))


def _links(reader: ProblemReader, sizes: Sizes) -> dict[str, Any]:
    return {
        "latency": reader.matrix("links.latency", sizes.ranks, 0) or uniform(0, max(sizes.ranks, 1)),
        "boundary_bytes": reader.listed("links.bytes", sizes.by_stage) or _filled(0, sizes.by_stage),
        "bandwidth": reader.matrix("links.bandwidth", sizes.ranks, 1),
        "buffer": None if reader.get("links.buffer") is None else reader.count("links.buffer", 1),
    }


def _memory(reader: ProblemReader, sizes: Sizes) -> dict[str, Any]:
    return {
        "activation": reader.listed("memory.activation", sizes.by_stage) or _filled(1, sizes.by_stage),
        "weight_stash": reader.listed("memory.weight_stash", sizes.by_stage) or _filled(0, sizes.by_stage),
        "recompute": reader.flags("memory.recompute", sizes.by_stage),
        "boundary": reader.listed("memory.boundary", sizes.by_stage) or _filled(0, sizes.by_stage),
        "static": reader.listed("memory.static", sizes.by_rank) or _filled(0, sizes.by_rank),
        "capacity": reader.listed("memory.capacity", sizes.by_rank),
    }


def _limits(reader: ProblemReader, sizes: Sizes) -> dict[str, Any]:
    return {
        "in_flight": reader.listed("limits.in_flight", sizes.by_rank, low=1),
        "in_flight_stage": reader.listed("limits.in_flight_stage", sizes.by_stage, low=1),
        "makespan_limit": None if reader.get("limits.makespan") is None else reader.count("limits.makespan", 1),
        "outstanding_sends": reader.listed("limits.outstanding_sends", sizes.by_rank),
        "unsharded": reader.listed("limits.unsharded", sizes.by_rank, low=1),
        "boundaries": _boundaries(reader, sizes.stages),
    }


def _filled(value: int, lengths: Ints) -> Ints:
    return (value,) * (lengths[-1] if lengths else 1)


def _boundaries(reader: ProblemReader, stages: int) -> tuple[Boundary, ...]:
    rows = []
    for i, row in enumerate(reader.rows("boundary")):
        key = f"boundary[{i}]"
        if not isinstance(row, Mapping):
            reader.fault(key, f"expected a table with from and to, found {shown(row)}")
        elif reader.row_names(key, row, ("from", "to"), names("boundary")):
            rows.append(_boundary(reader, key, row, stages))
    return tuple(rows)


def _boundary(reader: ProblemReader, key: str, row: Mapping[str, Any], stages: int) -> Boundary:
    sides = row.get("shape", ())
    if not isinstance(sides, list | tuple):
        reader.fault(f"{key}.shape", f"expected a list of whole numbers, found {shown(sides)}", "such as [4, 1024]")
        sides = ()
    count = row.get("bytes")
    return Boundary(
        source=reader.index(f"{key}.from", row["from"], stages, "stage"),
        target=reader.index(f"{key}.to", row["to"], stages, "stage"),
        shape=tuple(reader.number(f"{key}.shape[{j}]", side, 1) for j, side in enumerate(sides)),
        dtype=reader.plain_text(f"{key}.dtype", row.get("dtype", "")),
        bytes=None if count is None else reader.number(f"{key}.bytes", count, 0),
    )
