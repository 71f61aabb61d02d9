"""The shape of a problem: ranks, stages, where they stand, the stage graph, copies, slices."""

from __future__ import annotations

from itertools import chain, repeat
from typing import Any, Final, NamedTuple

from schedverify.core.errors import shown
from schedverify.core.op import MAX_MICROBATCHES, MAX_STAGES
from schedverify.core.problem.fields import LETTERS
from schedverify.core.problem.keys import FORMS, OBJECTIVES
from schedverify.core.problem.reader import ProblemReader
from schedverify.core.problem.stage_graph import Edge, Ints, Matrix, chain_edges

MAX_RANKS: Final = MAX_STAGES
MAX_OPERATIONS: Final = 1 << 28
"""The most operations of a whole schedule: two, or split three, of each stage and micro-batch, in inference one."""


class Sizes(NamedTuple):
    """How long lists may be and how far indices reach; 0 and empty where the key that says it is at fault.

    ``stages`` counts one copy; ``by_stage`` holds the lengths of a list by stage: of one copy, of all copies.
    """

    ranks: int
    stages: int
    by_stage: Ints

    @property
    def by_rank(self) -> Ints:
        """The lengths of a list by rank."""
        return (self.ranks,) if self.ranks else ()


def read_shape(reader: ProblemReader) -> tuple[dict[str, Any], Sizes]:
    """Return the fields of a Problem that tell its shape, and the sizes that follow."""
    for key in ("ranks", "microbatches"):
        if key not in reader.data:
            reader.fault(key, "missing", "every problem names it")
    ranks = reader.count("ranks", 1, MAX_RANKS)
    microbatches = reader.count("microbatches", 1, MAX_MICROBATCHES)
    replicas = reader.count("replicas", 1, MAX_STAGES)
    known_ranks = 0 if reader.wrong("ranks") else ranks
    stages, placement = _placement(reader, ranks, known_ranks, replicas)
    form = _form(reader)
    _bounded(reader, stages, microbatches, replicas, form)
    known_stages = 0 if reader.wrong("ranks", "virtual", "stages", "placement", "replicas") else stages
    sizes = Sizes(known_ranks, known_stages, (stages, stages * replicas) if known_stages else ())
    slices = reader.count("slices", 1)
    shape = {
        "name": reader.text("name", ""),
        "tick": reader.text("tick", "tick"),
        "ranks": ranks,
        "microbatches": microbatches,
        "stages": stages,
        "placement": placement,
        "form": form,
        "edges": _edges(reader, known_stages),
        "tied": _tied(reader, known_stages),
        "partition": _partition(reader, known_stages),
        "replicas": replicas,
        "replica_of": _replica_of(reader, microbatches, replicas, slices),
        "slices": slices,
        "minimize": reader.text("objective.minimize", "makespan", OBJECTIVES),
        "then": None if reader.get("objective.then") is None else reader.text("objective.then", "", OBJECTIVES),
    }
    if shape["then"] == shape["minimize"]:
        reader.fault("objective.then", f"{shape['then']} is what is minimized first", "name another, or leave it away")
    return shape, sizes


def _bounded(reader: ProblemReader, stages: int, microbatches: int, replicas: int, form: str) -> None:
    letters = LETTERS[form]
    operations = stages * microbatches * len(letters)
    if stages * replicas > MAX_STAGES:
        reader.fault("stages", f"{stages * replicas} stages over all copies", f"at most {MAX_STAGES}")
    elif operations > MAX_OPERATIONS:
        message = (
            f"{microbatches} micro-batches through {stages} stages make {operations} operations ({', '.join(letters)})"
        )
        reader.fault("microbatches", message, f"a schedule has at most {MAX_OPERATIONS}")


def _placement(reader: ProblemReader, ranks: int, known_ranks: int, replicas: int) -> tuple[int, Matrix]:
    """Return the stages of one copy, and for each stage of all copies its ranks."""
    stages = reader.count("stages", ranks * reader.count("virtual", 1, MAX_STAGES), MAX_STAGES)
    value = "loop" if reader.get("placement") is None else reader.get("placement")
    if value in ("loop", "v"):
        return stages, _named(value, ranks, stages, replicas)
    copies = value if replicas > 1 else [value]
    lists = isinstance(copies, list | tuple) and all(isinstance(copy, list | tuple) for copy in copies)
    if not lists or len(copies) != replicas:
        wanted = f"a list for each of the {replicas} copies" if replicas > 1 else "a list of ranks"
        reader.fault("placement", f'expected "loop", "v" or {wanted}, found {shown(value)}')
        return stages, ()
    expected = stages if reader.get("stages") is not None else max(len(copies[0]), 1)
    rows: list[Ints] = []
    for number, copy in enumerate(copies):
        place = f"placement[{number}]" if replicas > 1 else "placement"
        if len(copy) != expected:
            reader.fault(place, f"expected one entry for each of {expected} stages, found {len(copy)}")
        rows += [_entry(reader, f"{place}[{i}]", entry, known_ranks) for i, entry in enumerate(copy)]
    return expected, tuple(rows)


def _named(name: str, ranks: int, stages: int, replicas: int) -> Matrix:
    """Place by name; every second copy goes the opposite way. Nothing where the stages are too many."""
    rows = []
    for copy in range(replicas if stages * replicas <= MAX_STAGES else 0):
        for stage in range(stages):
            block, rank = divmod(stage, ranks)
            back = (name == "v" and block % 2 == 1) ^ (copy % 2 == 1)
            rows.append((ranks - 1 - rank if back else rank,))
    return tuple(rows)


def _entry(reader: ProblemReader, key: str, entry: Any, ranks: int) -> Ints:
    members = entry if isinstance(entry, list | tuple) else [entry]
    before = reader.found
    placed = tuple(reader.index(key, rank, ranks, "rank") for rank in members)
    if reader.found == before and (not members or len(set(placed)) < len(placed)):
        reader.fault(key, f"expected a rank or a list of different ranks, found {shown(entry)}")
    return placed


def _form(reader: ProblemReader) -> str:
    """Take the form; without one, split where both parts of the backward have a cost, else fused."""
    parts = reader.get("costs.backward_input") is not None and reader.get("costs.backward_weight") is not None
    return reader.text("form", "split" if parts else "fused", FORMS)


def _edges(reader: ProblemReader, stages: int) -> tuple[Edge, ...]:
    if reader.get("edges") is None:
        return chain_edges(stages)
    edges: set[Edge] = set()
    for i, pair in enumerate(reader.rows("edges")):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            reader.fault(f"edges[{i}]", f"expected a pair of stages such as [0, 1], found {shown(pair)}")
            continue
        before = reader.found
        source, target = (reader.index(f"edges[{i}][{side}]", pair[side], stages, "stage") for side in (0, 1))
        if reader.found > before:
            continue
        if source == target:
            reader.fault(f"edges[{i}]", f"{source} -> {target} feeds itself", "the stage graph is a DAG")
        if (source, target) in edges:
            reader.fault(f"edges[{i}]", f"{source} -> {target} stands twice", "give each edge once")
        edges.add((source, target))
    return tuple(sorted(edges))


def _tied(reader: ProblemReader, stages: int) -> tuple[Ints, ...]:
    groups = []
    for i, group in enumerate(reader.rows("tied")):
        members = group if isinstance(group, list | tuple) else []
        before = reader.found
        indices = tuple(reader.index(f"tied[{i}]", stage, stages, "stage") for stage in members)
        if reader.found == before and len(set(indices)) < max(len(members), 2):
            reader.fault(f"tied[{i}]", f"expected a list of at least two different stages, found {shown(group)}")
        groups.append(indices)
    return tuple(groups)


def _partition(reader: ProblemReader, stages: int) -> tuple[tuple[str, ...], ...]:
    """Take the names of each stage's layers; each stands once."""
    rows, seen = reader.rows("partition"), set[str]()
    if rows and stages and len(rows) != stages:
        reader.fault("partition", f"expected a list of layers for each of {stages} stages, found {len(rows)}")
    for i, row in enumerate(rows):
        if not isinstance(row, list | tuple):
            reader.fault(f"partition[{i}]", f"expected a list of names, found {shown(row)}")
            continue
        for j, name in enumerate(row):
            if reader.plain_text(f"partition[{i}][{j}]", name) in seen:
                reader.fault(f"partition[{i}][{j}]", f"{shown(name)} stands twice", "each layer is in one stage")
            seen.add(str(name))
    return () if reader.wrong("partition") else tuple(map(tuple, rows))


def _replica_of(reader: ProblemReader, microbatches: int, replicas: int, slices: int) -> Ints:
    """Take the copy of each micro-batch; by default each copy takes an equal run of whole sequences."""
    known = not reader.wrong("microbatches")
    if reader.get("replica_of") is None:
        if replicas == 1 or not known:
            return (0,) * microbatches
        begins = [-(-copy * microbatches // (slices * replicas)) * slices for copy in range(replicas)]
        ends = (min(end, microbatches) for end in (*begins[1:], microbatches))
        return tuple(
            chain.from_iterable(
                repeat(copy, max(end - begin, 0)) for copy, (begin, end) in enumerate(zip(begins, ends, strict=True))
            )
        )
    rows = reader.rows("replica_of")
    if known and len(rows) != microbatches:
        reader.fault("replica_of", f"expected a copy for each of {microbatches} micro-batches, found {len(rows)}")
    bound = 0 if reader.wrong("replicas") else replicas
    return tuple(reader.index(f"replica_of[{i}]", copy, bound, "copy") for i, copy in enumerate(rows))
