"""The keys of model and cluster files: where each belongs, what it takes, what it means. Readers and schemas follow."""

from __future__ import annotations

from typing import Final

from schedverify.core.problem.keys import Key

MODEL_KEYS: Final = (
    Key("", "version", "version", "1", "the version of this file form"),
    Key("", "name", "text", '""', "what the model is called"),
    Key("", "source", "remark", "", "where the figures come from; for the reader, not part of the model"),
    Key("", "tick", "text", '"tick"', "the unit of every duration"),
    Key("", "unit", "unit", "that of sizes given as text", "what bytes are told in; numbers count bytes then"),
    Key("", "edges", "names", "a chain", "which layer feeds which, pairs of names"),
    Key("", "tied", "ties", "[]", "what layers share: weights with their layers, or groups of layers, lists of names"),
    Key("tied", "layers", "names", "", "the layers that have the weight, by name"),
    Key("tied", "weights", "names", "[]", "what it is called in each of them"),
    Key(
        "tied",
        "parameters",
        "size",
        "0",
        "bytes of the weight, which each of these layers counts and a rank holds once",
    ),
    Key("tied", "state", "size", "0", "bytes of its gradient and optimizer state, likewise"),
    Key("layer", "name", "text", "layer and its number", "what the layer is called"),
    Key("layer", "repeat", "count", "1", "how many equal layers these are; they are numbered from 0"),
    Key("layer", "forward", "duration", "0", "ticks of the forward of one micro-batch"),
    Key("layer", "backward", "duration", "backward_input + backward_weight", "ticks of the whole backward"),
    Key("layer", "backward_input", "duration", "unknown", "ticks of its input part"),
    Key("layer", "backward_weight", "duration", "unknown", "ticks of its weight part"),
    Key("layer", "activation", "size", "0", "bytes held from the forward to the backward"),
    Key("layer", "entry", "size", "0", "of it, held only where a stage begins with the layer"),
    Key("layer", "weight_stash", "size", "0", "of it, held from the input part to the weight part"),
    Key("layer", "parameters", "size", "0", "bytes of the weights"),
    Key("layer", "state", "size", "0", "bytes of gradients and optimizer state"),
    Key("layer", "spread", "remarks", "", "quartiles of what was measured; for the reader, not part of the model"),
    Key("layer", "kind", "text", '""', "embedding, decoder, mtp or loss, for Megatron's layout"),
    Key("layer", "output", "size", "0", "bytes of the tensor that leaves the layer"),
    Key("devices", "memory", "sizes by rank", "no limit", "bytes of a rank"),
    Key("devices", "slowness", "counts by rank", "1", "factor on every duration of a rank"),
    Key("devices", "latency", "duration", "0", "ticks of pure lag between two ranks"),
    Key("devices", "bandwidth", "count", "no limit", "bytes per tick between two ranks"),
    Key("decoder", "like", "text", "", "a model that comes with schedverify, for the keys that are not given"),
    Key("decoder", "layers", "count", "", "transformer layers"),
    Key("decoder", "hidden", "count", "", "width"),
    Key("decoder", "heads", "count", "", "attention heads"),
    Key("decoder", "vocabulary", "count", "", "rows of the embedding"),
    Key("decoder", "kv_heads", "count", "heads", "heads of keys and values"),
    Key("decoder", "head_size", "count", "hidden / heads", "width of a head"),
    Key("decoder", "ffn", "count", "4 * hidden", "width of the feed-forward network, or of each expert"),
    Key("decoder", "gated", "flag", "false", "whether it has a gate beside its first matrix (SwiGLU)"),
    Key("decoder", "biases", "flag", "false", "whether linear maps and norms have biases"),
    Key("decoder", "dropout", "flag", "false", "whether attention and residuals have dropout"),
    Key("decoder", "positions", "whole", "0", "rows of a learned position embedding"),
    Key("decoder", "experts", "count", "1", "feed-forward networks of a layer"),
    Key("decoder", "top_k", "count", "1", "how many of them each token goes through"),
    Key("decoder", "tied", "flag", "false", "whether embedding and output layer share their weights"),
    Key("training", "sequence", "count", "", "tokens of a sequence"),
    Key("training", "microbatch_size", "count", "1", "sequences of a micro-batch"),
    Key("training", "dtype", "dtype", '"bf16"', "of weights and activations"),
    Key("training", "tensor_parallel", "count", "1", "devices that share each layer"),
    Key("training", "sequence_parallel", "flag", "true", "whether they share norms and residuals too"),
    Key("training", "recompute", "recompute", '"selective"', "what the backward computes again"),
    Key("training", "bytes_per_parameter", "whole", "18, or 16 in fp32", "weight, gradient and Adam's state together"),
    Key("training", "data_parallel", "count", "1", "copies of the model"),
    Key("training", "distributed_optimizer", "flag", "false", "whether they deal out the optimizer's state"),
    Key("device", "like", "text", "", "a device that comes with schedverify, for the keys that are not given"),
    Key("device", "peak", "rate", "", "FLOP per second of matrix products in the dtype"),
    Key("device", "efficiency", "share", "1", "the part of it that they reach"),
    Key("device", "memory", "size", "no limit", "bytes"),
    Key("device", "reserved", "size", "0", "bytes of it that hold no tensors"),
    Key("device", "memory_bandwidth", "rate", "no limit", "bytes per second"),
    Key("device", "inside_bandwidth", "rate", "no limit", "bytes per second, one way, to a device of the same node"),
    Key("device", "inside_latency", "seconds", "0", "seconds to a device of the same node"),
    Key("device", "between_bandwidth", "rate", "no limit", "bytes per second, one way, to a device of another node"),
    Key("device", "between_latency", "seconds", "0", "seconds to a device of another node"),
    Key("partition", "pinned", "pins", "[]", "pairs of a layer and its stage; -1 is the last one"),
    Key("partition", "together", "names", "[]", "groups of layers that no cut may part, lists of names"),
    Key("partition", "alone", "names", "[]", "layers that are a stage of their own"),
)
DECODER_TABLES: Final = ("decoder", "training", "device")
MODEL_TABLES: Final = ("devices", *DECODER_TABLES, "partition")


def model_names(table: str) -> tuple[str, ...]:
    """Return the names of the keys of one table (empty for the top, where the tables' own names stand too)."""
    own = tuple(key.name for key in MODEL_KEYS if key.table == table)
    return own if table else (*own, "layer", *MODEL_TABLES)


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
