"""The keys of a problem: where each belongs, what it takes, what it means. Readers, schema and ``new`` follow it."""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple


class Key(NamedTuple):
    """One key: its table (empty for the top), its name, the shape of its value, its default as text, its meaning."""

    table: str
    name: str
    shape: str
    default: str
    meaning: str

    @property
    def path(self) -> str:
        """The key with its table."""
        return f"{self.table}.{self.name}" if self.table else self.name


KEYS: Final = (
    Key("", "version", "version", "1", "the version of this file form"),
    Key("", "name", "text", '""', "what the problem is called"),
    Key("", "source", "remark", "", "where the figures come from; for the reader, not part of the problem"),
    Key("", "ranks", "count", "", "devices of the pipeline group"),
    Key("", "microbatches", "count", "", "micro-batches of a step"),
    Key("", "virtual", "count", "1", "stages per rank"),
    Key("", "stages", "count", "ranks * virtual", "stages of one copy of the model"),
    Key("", "placement", "placement", '"loop"', '"loop", "v", or the rank (or list of ranks) of each stage'),
    Key("", "form", "form", "by the costs", '"fused" (F and B), "split" (B, or I and W) or "inference" (F alone)'),
    Key("", "tick", "text", '"tick"', "the unit of every duration"),
    Key("", "edges", "edges", "a chain", "which stage feeds which, pairs"),
    Key("", "tied", "groups", "[]", "groups of stages that share weights"),
    Key("", "partition", "layers", "unknown", "names of each stage's layers; a plan repeats them"),
    Key("", "replicas", "count", "1", "copies of the model"),
    Key("", "replica_of", "by micro-batch", "floor(m * replicas / microbatches)", "the copy of each micro-batch"),
    Key("", "slices", "count", "1", "parts of one sequence, in causal order; microbatches counts parts"),
    Key("", "expected", "remarks", "", "a table of known results, for tests; not part of the problem"),
    Key("costs", "forward", "durations by stage", "", "ticks of F"),
    Key("costs", "backward", "durations by stage", "backward_input + backward_weight", "ticks of B"),
    Key("costs", "backward_input", "durations by stage", "", "ticks of I"),
    Key("costs", "backward_weight", "durations by stage", "", "ticks of W"),
    Key("costs", "overlapped", "pairs", "the sum", "ticks of an overlapped pair of stages"),
    Key("links", "latency", "durations by link", "0", "ticks of pure lag between two ranks"),
    Key("links", "bytes", "sizes by stage", "0", "bytes of the tensor that leaves a stage"),
    Key("links", "bandwidth", "counts by link", "no limit", "bytes per tick"),
    Key("links", "buffer", "count", "no limit", "messages that a channel can hold"),
    Key("memory", "unit", "unit", "that of sizes given as text", "what bytes are told in; numbers count bytes then"),
    Key("memory", "activation", "sizes by stage", "1", "held from the start of F"),
    Key("memory", "weight_stash", "sizes by stage", "0", "of it, held from the end of I to the end of W"),
    Key("memory", "recompute", "flags by stage", "false", "whether the stage recomputes its forward"),
    Key("memory", "boundary", "sizes by stage", "0", "what a recomputing stage keeps"),
    Key("memory", "static", "sizes by rank", "0", "held all the time"),
    Key("memory", "capacity", "sizes by rank", "no limit", "what a rank has"),
    Key("limits", "in_flight", "counts by rank", "no limit", "micro-batches in flight on a rank, over its stages"),
    Key("limits", "in_flight_stage", "counts by stage", "no limit", "micro-batches in flight on a stage"),
    Key("limits", "makespan", "duration", "no limit",
        "the most ticks that the whole may take; what peak-memory is traded against"),
    Key("limits", "outstanding_sends", "whole by rank", "no limit", "sends of a rank begun and not yet waited for"),
    Key("limits", "unsharded", "counts by rank", "no limit", "stages of a rank that are unsharded at once"),
    Key("objective", "minimize", "objective", '"makespan"', "what the optimizer minimizes"),
    Key("objective", "then", "objective", "no second one", "what it minimizes next, among the best by the first"),
    Key("boundary", "from", "index", "", "the stage that sends"),
    Key("boundary", "to", "index", "", "the stage that receives"),
    Key("boundary", "shape", "shape", "", "the shape of the tensor"),
    Key("boundary", "dtype", "text", "", "the dtype of the tensor"),
    Key("boundary", "bytes", "size", "", "the bytes of the tensor"),
)  # fmt: skip

REMARKS: Final = tuple(key.name for key in KEYS if key.shape.startswith("remark"))
"""Keys that a file may hold and a Problem does not."""
TABLES: Final = ("costs", "links", "memory", "limits", "objective")
BY_PATH: Final = {key.path: key for key in KEYS}
FORMS: Final = ("fused", "split", "inference")
OBJECTIVES: Final = ("makespan", "span", "period", "peak-memory")


@cache
def names(table: str) -> tuple[str, ...]:
    """Return the names of the keys of one table (empty for the top, where the tables' own names stand too)."""
    own = tuple(key.name for key in KEYS if key.table == table)
    return own if table else (*own, *TABLES, "boundary")


def table_of(name: str) -> str:
    """Return where a key belongs as the text of a hint; empty where no table knows it."""
    tables = [key.table for key in KEYS if key.name == name]
    if not tables:
        return ""
    if not tables[0]:
        return "it belongs at the top, before every table"
    return f"it belongs in {'[[boundary]]' if tables[0] == 'boundary' else f'[{tables[0]}]'}"
