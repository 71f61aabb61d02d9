"""What crosses between two stages, and under which name: edge of the stage graph, direction, micro-batch, tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch

from schedverify.core.op import Kind, Op
from schedverify.core.problem import Boundary, Problem
from schedverify.runner.compute.batches import Tensors

MOST_TENSORS: Final = 14
"""The most tensors that may cross together."""
_PARTS: Final = MOST_TENSORS + 2

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
        what = "gradient of micro-batch" if self.backward else "micro-batch"
        return f"boundary {self.source} to {self.target}, {what} {self.microbatch}"


class Name(NamedTuple):
    """Which message it is: where it comes from and goes to, by stages of all copies."""

    source: int
    target: int
    microbatch: int
    backward: bool

    @property
    def forward(self) -> tuple[int, int, int]:
        """Edge and micro-batch of the activation, for a gradient too."""
        return (self.target, self.source, self.microbatch) if self.backward else (*self[:2], self.microbatch)


def name_of(op: Op) -> Name:
    """Return which message a send or receive moves; its peer must be named."""
    ends = op.stage, op.peer or 0
    source, target = ends if op.kind.is_send else ends[::-1]
    return Name(source, target, op.microbatch or 0, op.kind in (Kind.SEND_B, Kind.RECV_B))


class Tags:
    """The tags of each message: the first is for its header, then follow its tensors and its checksums."""

    def __init__(self, problem: Problem) -> None:
        self._microbatches = problem.microbatches
        edges = ((s, t) for s, targets in enumerate(problem.successors) for t in targets)
        self._edges = {edge: number for number, edge in enumerate(edges)}

    def first(self, name: Name) -> int:
        """Return the tag of a message's header; those of its tensors and checksums follow."""
        source, target, m = name.forward
        return ((self._edges[source, target] * 2 + name.backward) * self._microbatches + m) * _PARTS


def tags_of(problem: Problem) -> int:
    """Return how many tags the messages of a problem need."""
    return sum(map(len, problem.successors)) * 2 * problem.microbatches * _PARTS


def signature(tensors: Tensors) -> Signature:
    """Return dtypes and shapes."""
    return tuple((tensor.dtype, tuple(tensor.shape)) for tensor in tensors)


def plain(tensor: Any) -> Any:
    """Return a tensor whose numbers lie in memory one after the other as they are, for a view that is not so a copy."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def gradients_of(forward: Signature) -> Signature:
    """Return what comes back for what went: a gradient for each tensor that can have one."""
    return tuple(member for member in forward if is_differentiable(member[0]))


def is_differentiable(dtype: Any) -> bool:
    """Whether tensors of a dtype have gradients."""
    return bool(dtype.is_floating_point or dtype.is_complex)


def shown(members: Signature) -> str:
    """Return a signature as text, such as ``float32 4 x 8``."""
    return ", ".join(f"{str(dtype)[6:]} {' x '.join(map(str, shape)) or 'scalar'}" for dtype, shape in members)


# Headers: the number of tensors, then for each its dtype, its dimensions and its shape.

MOST_DIMENSIONS: Final = 8
HEADER: Final = 1 + MOST_TENSORS * (2 + MOST_DIMENSIONS)
DTYPES: Final = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def unfit(members: Signature) -> str:
    """Return why a header cannot hold a signature; empty where it can."""
    if len(members) > MOST_TENSORS:
        return f"{len(members)} tensors, at most {MOST_TENSORS} may cross together"
    for dtype, shape in members:
        if dtype not in DTYPES:
            return f"tensors of {dtype} do not cross"
        if len(shape) > MOST_DIMENSIONS:
            return f"a tensor of {len(shape)} dimensions, at most {MOST_DIMENSIONS} may cross"
    return ""


def written(members: Signature) -> Any:
    """Return the header of a signature, a tensor of whole numbers."""
    words = [len(members)]
    for dtype, shape in members:
        words += [DTYPES.index(dtype), len(shape), *shape, *[0] * (MOST_DIMENSIONS - len(shape))]
    return torch.tensor(words + [0] * (HEADER - len(words)))


def read(header: Any) -> Signature:
    """Return the signature that a header holds."""
    words = header.tolist()
    rows = [words[1 + i * (2 + MOST_DIMENSIONS) :][: 2 + MOST_DIMENSIONS] for i in range(words[0])]
    return tuple((DTYPES[dtype], tuple(shape[:dimensions])) for dtype, dimensions, *shape in rows)


BOUNDARIES: Final = (1 << 31) - 8
"""How many tags there are for what crosses boundaries."""
NEVER: Final = BOUNDARIES
"""No message has it."""
COLLECTED: Final = BOUNDARIES + 1
SUMS: Final = BOUNDARIES + 2
"""Sums of gradients go in one order on each pair of ranks."""
EXCHANGED: Final = BOUNDARIES + 3
LAST_WORDS: Final = BOUNDARIES + 4


def declared(problem: Problem) -> dict[tuple[int, int], Signature]:
    """Return by edge of all copies what crosses it, where every row of ``[[boundary]]`` of it has dtype and shape."""
    found: dict[tuple[int, int], Signature] = {}
    for (source, target), rows in rows_of(problem).items():
        if all(row.dtype and row.shape for row in rows):
            crosses = tuple((dtype_of(row), row.shape) for row in rows)
            firsts = range(0, problem.total_stages, problem.stages)
            found |= {(source + first, target + first): crosses for first in firsts}
    return found


def dtype_of(row: Boundary) -> Any:
    """Return the dtype that a row of ``[[boundary]]`` names; None where torch has none of that name that may cross."""
    found = getattr(torch, row.dtype, None)
    return found if found in DTYPES else None


def refuted(rows: Sequence[Boundary], members: Signature) -> str:
    """Return what is declared, where what is there is something else; empty where it may cross.

    A row without shape, dtype or bytes admits every one.
    """
    if len(rows) == len(members) and all(map(_fits, rows, members)):
        return ""
    return ", ".join(map(_text, rows))


def nameless(problem: Problem, *, tagged: bool) -> str:
    """Return why messages cannot be told apart, or shapes not be known in advance; empty where they can."""
    for row in problem.boundaries:
        if row.dtype and dtype_of(row) is None:
            return f"boundary {row.source} to {row.target} declares the dtype {row.dtype!r}, which torch does not send"
    for edge, rows in rows_of(problem).items():
        if len(rows) > MOST_TENSORS:
            return f"boundary {edge[0]} to {edge[1]} declares {len(rows)} tensors, at most {MOST_TENSORS} may cross"
    if tagged:
        needed = tags_of(problem)
        return f"its messages need {needed} tags, there are {BOUNDARIES}" if needed > BOUNDARIES else ""
    known = declared(problem)
    unknown = [f"{source} to {target}" for source, target in problem.edges if (source, target) not in known]
    text = "without tags every boundary must be declared with dtype and shape; undeclared: "
    return text + ", ".join(unknown) if unknown else ""


def rows_of(problem: Problem) -> dict[tuple[int, int], list[Boundary]]:
    """Return by edge of one copy what is declared of it, of the edges that have rows."""
    rows: dict[tuple[int, int], list[Boundary]] = {}
    for row in problem.boundaries:
        rows.setdefault((row.source, row.target), []).append(row)
    return rows


def _fits(row: Boundary, member: tuple[Any, tuple[int, ...]]) -> bool:
    dtype, shape = member
    return (
        (not row.dtype or dtype == dtype_of(row))
        and (not row.shape or shape == row.shape)
        and (row.bytes is None or row.bytes == dtype.itemsize * math.prod(shape))
    )


def _text(row: Boundary) -> str:
    size = "" if row.bytes is None else f"{row.bytes} bytes"
    if row.dtype and row.shape:
        return f"{shown(((dtype_of(row), row.shape),))}{size and f' ({size})'}"
    return " ".join(filter(None, [row.dtype, " x ".join(map(str, row.shape)), size])) or "any tensor"
