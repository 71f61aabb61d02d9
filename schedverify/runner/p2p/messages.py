"""Messages between stages: their names and tags, the dtypes and shapes of their tensors, and what a problem declares.

A message is named by an edge of the stage graph, a direction and a micro-batch. It may have a header (where its shapes
are not those of the last step), up to 14 tensors, and their checksums; over gloo each part has a tag of its own::

    tag     0        1          2               n          n + 1             16       17
          header | tensor 0 | tensor 1 | ... tensor n-1 | checksums | ... | header | tensor 0 | ...
          |<---------------- micro-batch 0 of an edge ------------------->|<-- micro-batch 1 --
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import torch

from schedverify.core.op import Kind, Op
from schedverify.core.problem import Boundary, Problem
from schedverify.runner.compute.batches import Tensors

MOST_TENSORS: Final = 14
"""The most tensors that may cross together."""
_PARTS: Final = MOST_TENSORS + 2
"""Tags of one message: of its header, its tensors, and its checksums, whose tag follows that of the last tensor."""

BOUNDARY_TAGS: Final = (1 << 31) - 8
"""How many tags there are for messages between stages; the others, which follow, are the highest that gloo takes."""
UNUSED_TAG: Final = BOUNDARY_TAGS
"""No message has it: a receive with it ends by its timeout alone."""
COLLECT_TAG: Final = BOUNDARY_TAGS + 1
"""Of texts that every rank sends to rank 0."""
SUM_TAG: Final = BOUNDARY_TAGS + 2
"""Of sums of gradients, which go in one order on each pair of ranks."""
EXCHANGE_TAG: Final = BOUNDARY_TAGS + 3
"""Of texts that every rank sends to every other one."""
NOTICE_TAG: Final = BOUNDARY_TAGS + 4
"""Of what a rank that fails sends to the others."""

DTYPES: Final = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
"""The dtypes that may cross."""

Signature = tuple[tuple[Any, tuple[int, ...]], ...]
"""Dtype and shape of each tensor that crosses together."""


class Crossing(NamedTuple):
    """Tensors at a boundary: what a hook sees of each message, before it is sent and after it has come."""

    source: int
    """The stage, of all copies, that makes them."""
    target: int
    """The stage that reads them: for a gradient the one that fed ``source``."""
    microbatch: int
    backward: bool
    """Whether they are gradients."""
    outgoing: bool
    """Whether they are about to leave ``source``; else they have reached ``target``."""
    local: bool
    """Whether both stages stand on one rank: then no message is sent."""
    tensors: Tensors

    def __str__(self) -> str:
        return str(Name(*self[:4]))


class Name(NamedTuple):
    """Which message it is: where it comes from and goes to, by stages of all copies."""

    source: int
    target: int
    microbatch: int
    backward: bool

    @property
    def forward(self) -> tuple[int, int, int]:
        """Edge and micro-batch of the activation, for a gradient too."""
        return (self.target, self.source, self.microbatch) if self.backward else self[:3]

    def __str__(self) -> str:
        what = "gradient of micro-batch" if self.backward else "micro-batch"
        return f"boundary {self.source} to {self.target}, {what} {self.microbatch}"


def name_of(op: Op) -> Name:
    """Return which message a send or receive moves, or a wait waits for; its peer must be named."""
    ends = op.stage, op.peer or 0
    source, target = ends[::-1] if op.kind in (Kind.RECV_F, Kind.RECV_B) else ends
    return Name(source, target, op.microbatch or 0, op.kind in (Kind.SEND_B, Kind.RECV_B, Kind.WAIT_SEND_B))


class Tags:
    """The tags of messages: of each edge the activations of all micro-batches, then their gradients; 16 a message."""

    def __init__(self, problem: Problem) -> None:
        self._microbatches = problem.microbatches
        edges = ((s, t) for s, targets in enumerate(problem.successors) for t in targets)
        self._edges = {edge: number for number, edge in enumerate(edges)}

    def first(self, name: Name) -> int:
        """Return the tag of a message's header; those of its tensors and checksums follow."""
        source, target, m = name.forward
        return ((self._edges[source, target] * 2 + name.backward) * self._microbatches + m) * _PARTS


def tags_of(problem: Problem) -> int:
    """Return how many tags the messages of a problem need: 16 for each edge, direction and micro-batch."""
    return sum(map(len, problem.successors)) * 2 * problem.microbatches * _PARTS


def signature(tensors: Tensors) -> Signature:
    """Return the dtype and shape of each tensor."""
    return tuple([(tensor.dtype, tensor.shape) for tensor in tensors])


def contiguous(tensor: Any) -> Any:
    """Return a tensor whose numbers lie in memory one after the other, none of them conjugated or negated lazily.

    A tensor of which this is so already comes back without being copied.
    """
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


@cache
def is_differentiable(dtype: Any) -> bool:
    """Whether tensors of a dtype have gradients."""
    return bool(dtype.is_floating_point or dtype.is_complex)


def signature_text(members: Signature) -> str:
    """Return a signature as text, such as ``float32 4 x 8``."""
    return ", ".join(f"{str(dtype)[6:]} {' x '.join(map(str, shape)) or 'scalar'}" for dtype, shape in members)


def declared_signatures(problem: Problem) -> dict[tuple[int, int], Signature]:
    """Return by edge, of all copies of the model, the signature that its rows of ``[[boundary]]`` declare.

    An edge is left out unless it has rows and each of them has a dtype and a shape.
    """
    found: dict[tuple[int, int], Signature] = {}
    for (source, target), rows in boundary_rows(problem).items():
        if all(row.dtype and row.shape for row in rows):
            declared = tuple((dtype_of(row), row.shape) for row in rows)
            copies = range(0, problem.total_stages, problem.stages)
            found |= {(source + first, target + first): declared for first in copies}
    return found


def dtype_of(row: Boundary) -> Any:
    """Return the dtype that a row of ``[[boundary]]`` names; None where torch has none of that name that may cross."""
    found = getattr(torch, row.dtype, None)
    return found if found in DTYPES else None


def broken_declaration(rows: Sequence[Boundary], members: Signature) -> str:
    """Return as text what rows of ``[[boundary]]`` declare, where a signature is not that; empty where it is.

    A row without shape, dtype or bytes admits every shape, dtype or size.
    """
    if len(rows) == len(members) and all(map(_admits, rows, members)):
        return ""
    return ", ".join(map(_row_text, rows))


def transfer_objection(problem: Problem, *, tagged: bool) -> str:
    """Return why the messages of a problem cannot be transferred; empty where they can.

    Parameters
    ----------
    tagged
        Whether the backend matches messages by tags. If it does not, every boundary must be declared, since no header
        may go ahead of a message.
    """
    for row in problem.boundaries:
        if row.dtype and dtype_of(row) is None:
            return f"boundary {row.source} to {row.target} declares the dtype {row.dtype!r}, which torch does not send"
    for edge, rows in boundary_rows(problem).items():
        if len(rows) > MOST_TENSORS:
            return f"boundary {edge[0]} to {edge[1]} declares {len(rows)} tensors, at most {MOST_TENSORS} may cross"
    if tagged:
        needed = tags_of(problem)
        return f"its messages need {needed} tags, there are {BOUNDARY_TAGS}" if needed > BOUNDARY_TAGS else ""
    known = declared_signatures(problem)
    unknown = [f"{source} to {target}" for source, target in problem.edges if (source, target) not in known]
    text = "without tags every boundary must be declared with dtype and shape; undeclared: "
    return text + ", ".join(unknown) if unknown else ""


def boundary_rows(problem: Problem) -> dict[tuple[int, int], list[Boundary]]:
    """Return by edge of one copy of the model its rows of ``[[boundary]]``; edges without rows are left out."""
    rows: dict[tuple[int, int], list[Boundary]] = {}
    for row in problem.boundaries:
        rows.setdefault((row.source, row.target), []).append(row)
    return rows


def _admits(row: Boundary, member: tuple[Any, tuple[int, ...]]) -> bool:
    dtype, shape = member
    fits = (not row.dtype or dtype == dtype_of(row)) and (not row.shape or shape == row.shape)
    return fits and row.bytes in (None, dtype.itemsize * math.prod(shape))


def _row_text(row: Boundary) -> str:
    size = "" if row.bytes is None else f"{row.bytes} bytes"
    if row.dtype and row.shape:
        return f"{signature_text(((dtype_of(row), row.shape),))}{size and f' ({size})'}"
    return " ".join(filter(None, [row.dtype, " x ".join(map(str, row.shape)), size])) or "any tensor"
