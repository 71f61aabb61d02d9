"""The keys of a cluster file: where each belongs, what it takes, what it means. Reader and schema follow it."""

from __future__ import annotations

from typing import Final

from schedverify.core.problem.keys import Key
from schedverify.formats.models.model_keys import MODEL_KEYS

CLUSTER_KEYS: Final = (
    Key("", "version", "version", "1", "the version of this file form"),
    Key("", "name", "text", '""', "what the cluster is called"),
    Key("", "source", "remark", "", "where the figures come from; for the reader, not part of the cluster"),
    Key("", "nodes", "count", "", "equal nodes"),
    Key("", "devices", "count", "", "equal devices of a node"),
    Key("", "batch", "count", "", "sequences of a step, over all copies of the model"),
    *(key for key in MODEL_KEYS if key.table == "device"),
    Key("choices", "tensor_parallel", "count by choice", "all divisors", "devices that share each layer"),
    Key("choices", "pipeline_parallel", "count by choice", "all divisors", "ranks of the pipeline"),
    Key("choices", "data_parallel", "count by choice", "all divisors", "copies of the model"),
    Key("choices", "virtual", "count by choice", "[1, 2, 4]", "stages on a rank"),
    Key("choices", "microbatch_size", "count by choice", "[1, 2, 4, 8]", "sequences of a micro-batch"),
    Key("choices", "recompute", "recompute by choice", '["selective", "full"]', "what the backward computes again"),
)
CLUSTER_TABLES: Final = ("device", "choices")


def cluster_names(table: str) -> tuple[str, ...]:
    """Return the names of the keys of one table (empty for the top, where the tables' own names stand too)."""
    own = tuple(key.name for key in CLUSTER_KEYS if key.table == table)
    return own if table else (*own, *CLUSTER_TABLES)
