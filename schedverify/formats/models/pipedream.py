"""PipeDream's profiles: a layer a line with its times in milliseconds and its bytes, then the edges.

Source: github.com/msr-fiddle/pipedream, ``graph/graph.py`` and the files below ``profiler/``.
"""

from __future__ import annotations

import graphlib
import re
from decimal import Decimal
from typing import Final

from schedverify.core.errors import Fault, InputError, clean
from schedverify.core.model import Layer, Model

_NUMBER: Final = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_NODE: Final = re.compile(
    rf"(node[0-9]{{1,9}}) -- (.*) -- forward_compute_time=({_NUMBER}), backward_compute_time=({_NUMBER}), "
    rf"activation_size=({_NUMBER}|\[{_NUMBER}(?:; {_NUMBER}){{0,99}}\]), parameter_size=({_NUMBER})"
)
_EDGE: Final = re.compile(r"\t(node[0-9]{1,9}) -- (node[0-9]{1,9})")
_MICROSECONDS: Final = 1000


def looks_like_profile(text: str) -> bool:
    """Whether the first line is a node of a profile."""
    return _NODE.fullmatch(text.partition("\n")[0].rstrip("\r")) is not None


def parse_profile(text: str, name: str = "") -> Model:
    """Return the model of a profile, in microseconds; nodes called ``Input`` are left out, with their edges.

    A layer's output, and the bytes that a micro-batch holds of it, are its activation size, summed over its tensors.

    Raises
    ------
    InputError
        With the line of every fault: a line that is no node and no edge, an edge of no node, a cycle.
    """
    nodes: dict[str, Layer | None] = {}
    edges: list[tuple[str, str]] = []
    faults: list[Fault] = []
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if node := _NODE.fullmatch(line.rstrip()):
            nodes[node[1]] = None if node[2].startswith("Input") else _layer(node)
        elif edge := _EDGE.fullmatch(line.rstrip()):
            edges.append((edge[1], edge[2]))
            faults += [Fault(f"line {number}", f"there is no {end}") for end in edge.groups() if end not in nodes]
        elif line.strip():
            expected = "node1 -- what it is -- forward_compute_time=..., or an edge behind a tab"
            faults.append(Fault(f"line {number}", f"{clean(line)!r} is no node and no edge", expected))
    if faults:
        raise InputError(faults[:50])
    kept = {name: layer for name, layer in nodes.items() if layer is not None}
    return _model(name, kept, [(a, b) for a, b in edges if a in kept and b in kept])


def _model(name: str, layers: dict[str, Layer], edges: list[tuple[str, str]]) -> Model:
    sources: dict[str, list[str]] = {node: [] for node in layers}
    for source, target in edges:
        sources[target].append(source)
    try:
        order = list(graphlib.TopologicalSorter(sources).static_order())
    except graphlib.CycleError as error:
        raise InputError(Fault("", f"the edges have a cycle: {' -> '.join(error.args[1])}")) from None
    at = {node: i for i, node in enumerate(order)}
    pairs = tuple(sorted((at[source], at[target]) for source, target in edges))
    return Model(name, tuple(layers[node] for node in order), "us", pairs, unit="MiB")


def _layer(node: re.Match[str]) -> Layer:
    forward, backward = (round(Decimal(node[group]) * _MICROSECONDS) for group in (3, 4))
    active = sum(int(Decimal(part)) for part in node[5].strip("[]").split(";"))
    title = node[2].partition("(")[0].strip()
    called = f"{node[1]} {title}" if title.isprintable() else node[1]
    parameters = int(Decimal(node[6]))
    return Layer(called, forward, backward, activation=active, parameters=parameters, output=active)
