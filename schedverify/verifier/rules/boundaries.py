"""SV306: what crosses a boundary is what the boundary declares."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from schedverify.core.problem import Problem
from schedverify.core.result import Violation
from schedverify.verifier.matching import unpacked_name
from schedverify.verifier.rules.base import Case, NotApplicable, rule

Edge = tuple[int, int]
Tensors = tuple[tuple[tuple[int, ...], str, int | None], ...]
"""Shape, dtype and bytes of each tensor that may cross together."""


@rule("SV306", "what crosses is what is declared")
def as_declared(case: Case) -> Iterator[Violation]:
    """What crosses a boundary is what the boundary declares: shape, dtype, bytes.

    What it checks

    Where a receive meets a send of another tensor, the boundaries of the two declare the same shapes, dtypes and bytes.
    Where a boundary declares the bytes of all that crosses it, they add up to what the problem says that the stage
    sends (`links.bytes`). Boundaries that declare nothing admit everything.

    Why it matters

    A receive into a buffer of another shape fails, or, where only the bytes fit, goes on with tensors of the wrong
    shape. With SV302 violated and this one not, training goes on in silence.

    Example

    Boundary 0 to 1 declares the shape 4 x 8, boundary 1 to 2 the shape 4 x 4. A receive of the one that meets a send of
    the other gets 16 numbers where it wants 32.

    Formally

    Let d(e) be the tensors that the rows of edge e declare, if there are any; a gradient has the edge of its
    activation. For a send and a receive that meet (by number, or by name under `tagged`), of the edges e and f:
    d(e) = d(f) where both are declared. For every declared edge (s, t) that is crossed, with bytes in all of its rows
    and bytes(s) > 0: the rows' bytes add up to bytes(s).
    """
    if not case.transfers.any:
        raise NotApplicable("no send and no receive stands in the schedule")
    declared = _declared(case.problem)
    if not declared:
        raise NotApplicable("the problem declares no boundary")
    yield from _met(case, declared)
    yield from _sized(case, declared)


def _declared(problem: Problem) -> dict[Edge, Tensors]:
    """Return by edge of one copy what its boundary declares."""
    declared: dict[Edge, Tensors] = {}
    for row in problem.boundaries:
        edge = row.source, row.target
        declared[edge] = (*declared.get(edge, ()), (row.shape, row.dtype, row.bytes))
    return declared


def _met(case: Case, declared: dict[Edge, Tensors]) -> Iterator[Violation]:
    transfers, graph = case.transfers, case.events
    wrong = transfers.name[graph.send] != transfers.name[graph.receive]
    for send, receive in zip(graph.send[wrong].tolist(), graph.receive[wrong].tolist(), strict=True):
        edges = [_edge(case.problem, int(transfers.name[entry])) for entry in (send, receive)]
        sent, wanted = map(declared.get, edges)
        if sent is not None and wanted is not None and sent != wanted:
            rank, position, op = int(transfers.rank[receive]), int(transfers.position[receive]), transfers.op(receive)
            message = f"rank {rank}, position {position} ({op}): what arrives is {_shown(sent)}, not {_shown(wanted)}"
            yield Violation("SV306", message, rank, position, (str(op), str(transfers.op(send))))


def _sized(case: Case, declared: dict[Edge, Tensors]) -> Iterator[Violation]:
    transfers = case.transfers
    sends = np.flatnonzero(transfers.is_send & (transfers.flaw == 0))
    crossing = partial(_edge, case.problem)
    seen: set[Edge] = set()
    names = transfers.name[sends]
    _, first = np.unique(names >> 24, return_index=True)
    for entry in sends[np.sort(first)].tolist():
        edge, size = crossing(int(transfers.name[entry])), int(transfers.size[entry])
        bytes_of = [tensor[2] for tensor in declared.get(edge, ())]
        if edge in seen or not bytes_of or None in bytes_of or not size:
            continue
        seen.add(edge)
        total = sum(count or 0 for count in bytes_of)
        if total != size:
            rank, position, op = int(transfers.rank[entry]), int(transfers.position[entry]), transfers.op(entry)
            message = f"rank {rank}, position {position} ({op}): it sends {size} bytes; boundary {edge[0]} to {edge[1]}"
            yield Violation("SV306", f"{message} declares {total}", rank, position, (str(op),))


def _edge(problem: Problem, name: int) -> Edge:
    """Return the edge, of one copy, that a tensor crosses; a gradient crosses that of its activation."""
    backward, source, target, _ = unpacked_name(name)
    edge = (target, source) if backward else (source, target)
    return edge[0] % problem.stages, edge[1] % problem.stages


def _shown(tensors: Tensors) -> str:
    parts = []
    for shape, dtype, count in tensors:
        words = [dtype, " x ".join(map(str, shape)), "" if count is None else f"{count} bytes"]
        parts.append(" ".join(word for word in words if word) or "undeclared")
    return ", ".join(parts)
