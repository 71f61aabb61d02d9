"""From what a person writes to a Problem: scalars become lists, defaults are filled in, every fault is collected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from schedverify.errors import InputError
from schedverify.op import MAX_MICROBATCHES, MAX_STAGES
from schedverify.problem.checks import check
from schedverify.problem.keys import FORMS, OBJECTIVES, names
from schedverify.problem.numbers import size, whole
from schedverify.problem.reader import Reader, shown
from schedverify.problem.value import Boundary, Ints, Matrix, Problem

MAX_RANKS: Final = MAX_STAGES
MAX_PAIRS: Final = 100_000_000
"""The most (stage, micro-batch) pairs: what fits into memory."""


def expand(data: Mapping[str, Any]) -> Problem:
    """Return the problem that the data of a problem file describes.

    Raises
    ------
    InputError
        With every fault of the data, each with its key, what was expected, what was found, and a hint.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"expected a table of keys, found {shown(data)}")
    reader = Reader(data)
    _version(reader)
    for key in ("ranks", "microbatches"):
        if key not in data:
            reader.fault(key, "missing", "every problem names it")
    shape = _shape(reader)
    reader.raise_faults()
    problem = Problem(**shape, **_costs(reader, shape), **_links(reader, shape), **_memory(reader, shape))
    reader.raise_faults()
    check(problem, reader)
    reader.raise_faults()
    return problem


def _version(reader: Reader) -> None:
    version = reader.get("version")
    if version is not None and whole(version) != 1:
        newer = whole(version) is not None and whole(version) > 1  # type: ignore[operator]
        hint = "a newer schedverify wrote it; update schedverify" if newer else ""
        reader.fault("version", f"expected 1, found {shown(version)}", hint)


def _shape(reader: Reader) -> dict[str, Any]:
    ranks = reader.count("ranks", 1, MAX_RANKS)
    microbatches = reader.count("microbatches", 1, MAX_MICROBATCHES)
    virtual, replicas = reader.count("virtual", 1, MAX_STAGES), reader.count("replicas", 1, MAX_STAGES)
    stages, placement = _placement(reader, ranks, virtual, replicas)
    if stages * replicas > MAX_STAGES:
        reader.fault("stages", f"{stages * replicas} stages over all copies", f"at most {MAX_STAGES}")
    if stages * microbatches > MAX_PAIRS:
        reader.fault("microbatches", f"{stages} stages x {microbatches} micro-batches", f"at most {MAX_PAIRS} pairs")
        microbatches = 1
    return {
        "name": reader.text("name", ""),
        "tick": reader.text("tick", "tick"),
        "ranks": ranks,
        "microbatches": microbatches,
        "stages": stages,
        "placement": placement,
        "form": _form(reader),
        "edges": _edges(reader, stages),
        "tied": _tied(reader, stages),
        "replicas": replicas,
        "replica_of": _replica_of(reader, microbatches, replicas),
        "slices": reader.count("slices", 1),
        "minimize": reader.text("objective.minimize", "makespan", OBJECTIVES),
    }


def _placement(reader: Reader, ranks: int, virtual: int, replicas: int) -> tuple[int, Matrix]:
    value = reader.get("placement")
    value = "loop" if value is None else value
    stages = reader.count("stages", ranks * virtual, MAX_STAGES)
    if isinstance(value, str):
        if value not in ("loop", "v"):
            reader.fault("placement", f'expected "loop", "v" or a list, found {shown(value)}')
        return stages, _named_placement(value, ranks, min(stages, MAX_STAGES), min(replicas, MAX_STAGES))
    copies = value if replicas > 1 else [value]
    if not isinstance(copies, list | tuple) or len(copies) != replicas or not all(isinstance(c, list | tuple) for c in copies):
        wanted = f"a list for each of the {replicas} copies" if replicas > 1 else "a list of ranks"
        reader.fault("placement", f'expected "loop", "v" or {wanted}, found {shown(value)}')
        return stages, ()
    expected = stages if reader.get("stages") is not None else len(copies[0])
    for copy, row in enumerate(copies):
        if len(row) != expected or not row:
            place = f"placement[{copy}]" if replicas > 1 else "placement"
            reader.fault(place, f"expected one entry for each of {max(expected, 1)} stages, found {len(row)}")
    rows = [
        _entry(reader, f"placement[{copy}][{i}]" if replicas > 1 else f"placement[{i}]", entry, ranks)
        for copy, row in enumerate(copies)
        for i, entry in enumerate(row)
    ]
    return expected, tuple(rows)


def _named_placement(name: str, ranks: int, stages: int, replicas: int) -> Matrix:
    """Place by name; every second copy goes the opposite way."""
    rows = []
    for copy in range(replicas if stages * replicas <= MAX_STAGES else 1):
        for stage in range(stages):
            block, rank = divmod(stage, ranks)
            back = (name == "v" and block % 2 == 1) ^ (copy % 2 == 1)
            rows.append((ranks - 1 - rank if back else rank,))
    return tuple(rows)


def _entry(reader: Reader, key: str, entry: Any, ranks: int) -> Ints:
    members = entry if isinstance(entry, list | tuple) else [entry]
    placed = tuple(reader.index(key, rank, ranks, "rank") for rank in members)
    if not placed or len(set(placed)) < len(placed):
        reader.fault(key, "expected a rank or a list of different ranks, found " + shown(entry))
    return placed


def _form(reader: Reader) -> str:
    """Take the form; without one, split where both parts of the backward have a cost, else fused."""
    parts = reader.get("costs.backward_input") is not None and reader.get("costs.backward_weight") is not None
    return reader.text("form", "split" if parts else "fused", FORMS)


def _edges(reader: Reader, stages: int) -> tuple[tuple[int, int], ...]:
    if reader.get("edges") is None:
        return tuple((stage, stage + 1) for stage in range(stages - 1))
    edges = []
    for i, pair in enumerate(reader.rows("edges")):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            reader.fault(f"edges[{i}]", f"expected a pair of stages such as [0, 1], found {shown(pair)}")
            continue
        source, target = (reader.index(f"edges[{i}]", stage, stages, "stage") for stage in pair)
        if source == target or (source, target) in edges:
            reader.fault(f"edges[{i}]", f"{source} -> {target} {'is a loop' if source == target else 'stands twice'}")
        edges.append((source, target))
    return tuple(sorted(edges))


def _tied(reader: Reader, stages: int) -> tuple[Ints, ...]:
    groups = []
    for i, group in enumerate(reader.rows("tied")):
        members = group if isinstance(group, list | tuple) else []
        if len(members) < 2:
            reader.fault(f"tied[{i}]", f"expected a list of at least two stages, found {shown(group)}")
        groups.append(tuple(reader.index(f"tied[{i}]", stage, stages, "stage") for stage in members))
    return tuple(groups)


def _replica_of(reader: Reader, microbatches: int, replicas: int) -> Ints:
    value = reader.get("replica_of")
    if value is None:
        return (0,) * microbatches if replicas == 1 else tuple(m * replicas // microbatches for m in range(microbatches))
    rows = reader.rows("replica_of")
    if len(rows) != microbatches:
        reader.fault("replica_of", f"expected a copy for each of {microbatches} micro-batches, found {len(rows)}")
    return tuple(reader.index(f"replica_of[{i}]", copy, replicas, "copy") for i, copy in enumerate(rows))


def _costs(reader: Reader, shape: Mapping[str, Any]) -> dict[str, Any]:
    lengths = (shape["stages"], shape["stages"] * shape["replicas"])
    form = shape["form"]
    zeros = (0,) * lengths[-1]
    forward = reader.listed("costs.forward", *lengths)
    backward = reader.listed("costs.backward", *lengths)
    inputs = reader.listed("costs.backward_input", *lengths)
    weights = reader.listed("costs.backward_weight", *lengths)
    if forward is None:
        reader.fault("costs.forward", "missing", "ticks of F, a number or a list with one for each stage")
    if form == "split" and (inputs is None or weights is None):
        absent = "backward_input" if inputs is None else "backward_weight"
        reader.fault(f"costs.{absent}", "missing", "a split problem needs both parts of the backward")
    if form == "fused" and backward is None and (inputs is None or weights is None):
        reader.fault("costs.backward", "missing", "a fused problem needs it, or both of its parts")
    if inputs is None or weights is None:
        inputs = weights = ()
    summed = tuple(map(sum, zip(inputs, weights, strict=True))) or zeros
    return {
        "forward": forward or zeros,
        "backward": summed if backward is None else backward,
        "backward_input": inputs,
        "backward_weight": weights,
        "overlapped": _overlapped(reader, lengths[-1]),
    }


def _overlapped(reader: Reader, stages: int) -> tuple[tuple[int, int, int], ...]:
    rows = []
    for i, row in enumerate(reader.rows("costs.overlapped")):
        key = f"costs.overlapped[{i}]"
        if not isinstance(row, Mapping) or set(row) != {"forward", "backward", "cost"}:
            reader.fault(key, "expected { forward = stage, backward = stage, cost = ticks }, found " + shown(row))
            continue
        pair = [reader.index(f"{key}.{side}", row[side], stages, "stage") for side in ("forward", "backward")]
        cost = whole(row["cost"])
        if cost is None or cost < 0:
            reader.fault(f"{key}.cost", f"expected a whole number of ticks, found {shown(row['cost'])}")
        rows.append((pair[0], pair[1], cost or 0))
    if len({row[:2] for row in rows}) < len(rows):
        reader.fault("costs.overlapped", "a pair of stages stands twice")
    return tuple(sorted(rows))


def _links(reader: Reader, shape: Mapping[str, Any]) -> dict[str, Any]:
    ranks, lengths = shape["ranks"], (shape["stages"], shape["stages"] * shape["replicas"])
    return {
        "latency": reader.matrix("links.latency", ranks, 0) or ((0,) * ranks,) * ranks,
        "boundary_bytes": reader.listed("links.bytes", *lengths) or (0,) * lengths[-1],
        "bandwidth": reader.matrix("links.bandwidth", ranks, 1),
        "buffer": None if reader.get("links.buffer") is None else reader.count("links.buffer", 1),
    }


def _memory(reader: Reader, shape: Mapping[str, Any]) -> dict[str, Any]:
    ranks, lengths = shape["ranks"], (shape["stages"], shape["stages"] * shape["replicas"])
    makespan = reader.get("limits.makespan")
    return {
        "activation": reader.listed("memory.activation", *lengths) or (1,) * lengths[-1],
        "weight_stash": reader.listed("memory.weight_stash", *lengths) or (0,) * lengths[-1],
        "recompute": reader.flags("memory.recompute", *lengths),
        "boundary": reader.listed("memory.boundary", *lengths) or (0,) * lengths[-1],
        "static": reader.listed("memory.static", ranks) or (0,) * ranks,
        "capacity": reader.listed("memory.capacity", ranks),
        "in_flight": reader.listed("limits.in_flight", ranks, low=1),
        "in_flight_stage": reader.listed("limits.in_flight_stage", *lengths, low=1),
        "makespan_limit": None if makespan is None else reader.count("limits.makespan", 1),
        "boundaries": _boundaries(reader, shape["stages"]),
    }


def _boundaries(reader: Reader, stages: int) -> tuple[Boundary, ...]:
    rows = []
    for i, row in enumerate(reader.rows("boundary")):
        key = f"boundary[{i}]"
        if not isinstance(row, Mapping) or not {"from", "to"} <= set(row) <= set(names("boundary")):
            reader.fault(key, "expected from, to, and of shape, dtype and bytes what is declared, found " + shown(row))
            continue
        ends = [reader.index(f"{key}.{side}", row[side], stages, "stage") for side in ("from", "to")]
        shape, dtype, count = row.get("shape", ()), row.get("dtype", ""), row.get("bytes")
        if not isinstance(shape, list | tuple) or not all((whole(side) or -1) >= 1 for side in shape):
            reader.fault(f"{key}.shape", f"expected a list of whole numbers from 1, found {shown(shape)}")
            shape = ()
        if not isinstance(dtype, str):
            reader.fault(f"{key}.dtype", f"expected text such as \"float32\", found {shown(dtype)}")
        if count is not None and (size(count) is None or size(count) < 0):  # type: ignore[operator]
            reader.fault(f"{key}.bytes", f"expected bytes, found {shown(count)}")
        rows.append(Boundary(ends[0], ends[1], tuple(map(int, shape)), str(dtype), None if count is None else size(count)))
    return tuple(rows)
