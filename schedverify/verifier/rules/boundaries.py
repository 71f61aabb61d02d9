"""SV306: what crosses a boundary is what the boundary declares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from schedverify.core.problem import Problem
from schedverify.core.problem.stage_graph import Edge
from schedverify.core.result import Violation
from schedverify.verifier.rules.base import Case, NotApplicable, rule, violation_at

if TYPE_CHECKING:
    from schedverify.verifier.matching import Transfers

Tensors = tuple[tuple[tuple[int, ...], str, int | None], ...]
"""Shape, dtype and bytes of each tensor that may cross together."""


@rule("SV306", "what crosses is what is declared")
def as_declared(case: Case) -> Iterator[Violation]:
    """What crosses a boundary is what the boundary declares: shape, dtype, bytes.

    What it checks

    Where a receive meets a send of another tensor, the boundaries of the two declare the same shapes, dtypes and bytes.
    Where a boundary declares the bytes of all that crosses it, they add up to what the problem says that the stage
    sends (`links.bytes`), in each copy of the model. Boundaries that declare nothing admit everything.

    Why it matters

    A receive into a buffer of another shape fails, or, where only the bytes fit, goes on with tensors of the wrong
    shape. With SV302 violated and this one not, training goes on in silence.

    Example

    Boundary 0 to 1 declares the shape 4 x 8, boundary 1 to 2 the shape 4 x 4. A receive of the one that meets a send of
    the other gets 16 numbers where it wants 32.

    Formally

    Let d(e) be the tensors that the rows of edge e declare, if there are any; a gradient has the edge of its
    activation. For a send and a receive that meet (by number, or by name under `tagged`), of the edges e and f:
    d(e) = d(f) where both are declared. If any stage has bytes > 0: for every edge (s, t), of any copy, that is crossed
    and declared with bytes in all of its rows, the rows' bytes add up to bytes(s).
    """
    transfers = case.transfers
    declared = _declared(case.problem)
    if not declared:
        raise NotApplicable("the problem declares no boundary", "[[boundary]] in the problem declares one")
    yield from _differing(case, declared)
    yield from _missized(transfers, declared)


def _declared(problem: Problem) -> dict[Edge, Tensors]:
    """Return by edge of one copy what its boundary declares."""
    declared: dict[Edge, Tensors] = {}
    for row in problem.boundaries:
        edge = row.source, row.target
        declared[edge] = (*declared.get(edge, ()), (row.shape, row.dtype, row.bytes))
    return declared


def _differing(case: Case, declared: dict[Edge, Tensors]) -> Iterator[Violation]:
    transfers, graph = case.transfers, case.events
    wrong = transfers.name[graph.send] != transfers.name[graph.receive]
    for send, receive in zip(graph.send[wrong].tolist(), graph.receive[wrong].tolist(), strict=True):
        sent, wanted = (declared.get(_within_copy(_edge(transfers, entry), case.problem)) for entry in (send, receive))
        if sent is not None and wanted is not None and sent != wanted:
            text = f"what arrives is {_shown(sent)}, not {_shown(wanted)}"
            yield violation_at("SV306", *transfers.place(receive), text, str(transfers.op(send)))


def _missized(transfers: Transfers, declared: dict[Edge, Tensors]) -> Iterator[Violation]:
    """Yield the first message over each edge, of any copy, whose bytes are not those that its boundary declares."""
    if not any(transfers.problem.boundary_bytes):
        return
    sends = np.flatnonzero(transfers.is_send & transfers.sound)
    seen: set[Edge] = set()
    _, first = np.unique(transfers.name[sends] >> 24, return_index=True)
    for entry in sends[np.sort(first)].tolist():
        edge, size = _edge(transfers, entry), int(transfers.size[entry])
        within = _within_copy(edge, transfers.problem)
        bytes_of = [tensor[2] for tensor in declared.get(within, ())]
        if edge in seen or not bytes_of or None in bytes_of:
            continue
        seen.add(edge)
        total = sum(count or 0 for count in bytes_of)
        if total != size:
            sent, declares = transfers.problem.units.values("peak-memory", size, total)
            text = f"it sends {sent}; boundary {within[0]} to {within[1]} declares {declares}"
            yield violation_at("SV306", *transfers.place(entry), text)


def _edge(transfers: Transfers, entry: int) -> Edge:
    """Return the edge that the tensor of an entry crosses; a gradient crosses that of its activation."""
    backward, source, target, _ = transfers.tensor(int(transfers.name[entry]))
    return (target, source) if backward else (source, target)


def _within_copy(edge: Edge, problem: Problem) -> Edge:
    """Return an edge as one copy of the model has it: so boundaries name theirs."""
    return edge[0] % problem.stages, edge[1] % problem.stages


def _shown(tensors: Tensors) -> str:
    parts = []
    for shape, dtype, count in tensors:
        words = [dtype, " x ".join(map(str, shape)), "" if count is None else f"{count} bytes"]
        parts.append(" ".join(word for word in words if word) or "undeclared")
    return ", ".join(parts)
