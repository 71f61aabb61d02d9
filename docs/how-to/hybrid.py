"""Writes the tables of hybrid.md: where the rules of thumb for hybrid parallelism turn.

``python docs/how-to/hybrid.py`` writes them; with ``--check`` it writes nothing and fails where one is not current.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from schedverify.models import Priced, advise, cluster_from, load_decoder

PAGE = Path(__file__).with_suffix(".md")
BANDWIDTHS = (3, 25, 100, 300)
"""GB/s between nodes, each way; inside a node it is 300."""


def main(arguments: Sequence[str]) -> int:
    """Write the tables, or say whether they are current."""
    page = current = PAGE.read_text(encoding="utf-8")
    for name, lines in (("tensor", tensor()), ("pipeline", pipeline()), ("data", data())):
        part = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = "\n".join(lines)
        page = part.sub(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page)
    if "--check" in arguments:
        sys.stdout.write("" if page == current else f"out of date: {PAGE}\n")
        return int(page != current)
    PAGE.write_text(page, encoding="utf-8", newline="\n")
    return 0


def tensor() -> Iterator[str]:
    """Yield the rows for a model of 22 billion on two nodes: a layer within a node, or over both."""
    yield "| GB/s between nodes | best within a node | step | best over both nodes | step | of it all-reduces |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for bandwidth in BANDWIDTHS:
        inside = best("megatron-22b", 2, 16, 2048, bandwidth, tensor_parallel=[1, 2, 4, 8])
        over = best("megatron-22b", 2, 16, 2048, bandwidth, tensor_parallel=16)
        yield f"| {bandwidth} | {told(inside)} | {told(over)} | {float(over.sharing):.0%} |"


def pipeline() -> Iterator[str]:
    """Yield the rows for a model of 7 billion on four nodes: with a pipeline or without."""
    yield "| GB/s between nodes | best without a pipeline | step | of it gradients | best with a pipeline | step |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for bandwidth in BANDWIDTHS:
        without = best("llama-2-7b", 4, 128, 4096, bandwidth, pipeline_parallel=1)
        several = best("llama-2-7b", 4, 128, 4096, bandwidth, pipeline_parallel=[2, 4, 8, 16, 32])
        share = f"{without.reducing / without.step:.0%}"
        yield f"| {bandwidth} | {told(without)} | {share} | {told(several)} |"


def data() -> Iterator[str]:
    """Yield the rows for a model of 7 billion on more and more nodes, with as many sequences for each device."""
    yield "| nodes | best | step |"
    yield "| --- | --- | --- |"
    for nodes in (1, 2, 4, 8, 16):
        yield f"| {nodes} | {told(best('llama-2-7b', nodes, 32 * nodes, 4096, 25))} |"


def best(model: str, nodes: int, batch: int, sequence: int, bandwidth: int, **choices: Any) -> Priced:
    """Return the fastest set-up on nodes of eight A100 with the distributed optimizer."""
    device = {"like": "a100-80gb", "between_bandwidth": bandwidth * 10**9}
    choices = {"microbatch_size": [1, 2, 4], **choices}
    there = cluster_from({"nodes": nodes, "devices": 8, "batch": batch, "device": device, "choices": choices})
    decoder = load_decoder(model, {"training": {"sequence": sequence, "distributed_optimizer": True}})
    return advise(decoder.shape, decoder.training, there, top=1).ranked[0]


def told(priced: Priced) -> str:
    """Return the cells of a set-up: tensor x pipeline x data degrees, and the seconds of a step."""
    setup = priced.setup
    degrees = f"{setup.tensor_parallel} x {setup.pipeline_parallel} x {setup.data_parallel}"
    near = ", pipeline next" if setup.inner == "pipeline" else ""
    return f"{degrees}{near} | {priced.step / 1e6:.3f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
