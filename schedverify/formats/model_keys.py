"""The keys of a model file: where each belongs, what it takes, what it means. Reader and schema follow it."""

from __future__ import annotations

from typing import Final

from schedverify.problem.keys import Key

MODEL_KEYS: Final = (
    Key("", "version", "version", "1", "the version of this file form"),
    Key("", "name", "text", '""', "what the model is called"),
    Key("", "source", "remark", "", "where the figures come from; for the reader, not part of the model"),
    Key("", "tick", "text", '"tick"', "the unit of every duration"),
    Key("", "edges", "names", "a chain", "which layer feeds which, pairs of names"),
    Key("", "tied", "names", "[]", "groups of layers that share weights, lists of names"),
    Key("layer", "name", "text", "layer and its number", "what the layer is called"),
    Key("layer", "repeat", "count", "1", "how many equal layers these are; they are numbered from 0"),
    Key("layer", "forward", "duration", "0", "ticks of the forward of one micro-batch"),
    Key("layer", "backward", "duration", "backward_input + backward_weight", "ticks of the whole backward"),
    Key("layer", "backward_input", "duration", "unknown", "ticks of its input part"),
    Key("layer", "backward_weight", "duration", "unknown", "ticks of its weight part"),
    Key("layer", "activation", "size", "0", "bytes held from the forward to the backward"),
    Key("layer", "weight_stash", "size", "0", "of it, held from the input part to the weight part"),
    Key("layer", "parameters", "size", "0", "bytes of the weights"),
    Key("layer", "state", "size", "0", "bytes of gradients and optimizer state"),
    Key("layer", "kind", "text", '""', "embedding, decoder, mtp or loss, for Megatron's layout"),
    Key("layer", "output", "size", "0", "bytes of the tensor that leaves the layer"),
    Key("devices", "memory", "sizes by rank", "no limit", "bytes of a rank"),
    Key("devices", "slowness", "counts by rank", "1", "factor on every duration of a rank"),
    Key("devices", "latency", "duration", "0", "ticks of pure lag between two ranks"),
    Key("devices", "bandwidth", "count", "no limit", "bytes per tick between two ranks"),
    Key("partition", "pinned", "pins", "[]", "pairs of a layer and its stage; -1 is the last one"),
    Key("partition", "together", "names", "[]", "groups of layers that no cut may part, lists of names"),
    Key("partition", "alone", "names", "[]", "layers that are a stage of their own"),
)
MODEL_TABLES: Final = ("devices", "partition")


def model_names(table: str) -> tuple[str, ...]:
    """Return the names of the keys of one table (empty for the top, where the tables' own names stand too)."""
    own = tuple(key.name for key in MODEL_KEYS if key.table == table)
    return own if table else (*own, "layer", *MODEL_TABLES)
