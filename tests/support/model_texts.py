"""Model files that several tests read: of layers, and of a decoder by its shape."""

MODEL = """
name = "small"
tick = "us"
tied = [["embedding", "head"]]

[[layer]]
name = "embedding"
kind = "embedding"
forward = 10
backward_input = 5
backward_weight = 15
parameters = "2 MiB"
output = 100

[[layer]]
name = "t"
kind = "decoder"
repeat = 6
forward = 100
backward_input = 110
backward_weight = 90
activation = 64
weight_stash = 32
parameters = 10
output = 100

[[layer]]
name = "head"
kind = "loss"
forward = 180
backward_input = 180
backward_weight = 180
"""

DECODER = """
name = "mine"
tick = "0.1 us"

[decoder]
like = "llama-2-7b"
layers = 4

[training]
sequence = 2048
tensor_parallel = 2

[device]
like = "h100-80gb"
memory_bandwidth = "2 TB"

[devices]
bandwidth = 77

[partition]
alone = ["head"]
"""
