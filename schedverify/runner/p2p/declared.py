"""What a problem declares of its boundaries, in torch's words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from schedverify.core.problem import Boundary, Problem
from schedverify.runner.p2p.messages import DTYPES, MOST_TENSORS, Signature, shown, tags_of
from schedverify.runner.tags import BOUNDARIES


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
