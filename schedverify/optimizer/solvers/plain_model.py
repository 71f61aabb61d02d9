"""A CP-SAT model written out in plain numbers, for a solver of linear rows and of steps that exclude each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

MOST: Final = 1 << 28
"""Numbers beyond this are not written out: the other solver counts in 32 bits, and adds a few of them."""


class NotPlainError(Exception):
    """A model has something that the plain form cannot say."""


class LinearRow(NamedTuple):
    """``sum of coefficient * variable <= most``, always or where a literal holds.

    Attributes
    ----------
    terms
        Pairs of a variable's index and its coefficient.
    premise
        The index of a variable that must be 1, or ``-1 - index`` of one that must be 0; None for always.
    """

    terms: tuple[tuple[int, int], ...]
    most: int
    premise: int | None


class PlainModel(NamedTuple):
    """All of a model but what it minimizes.

    Attributes
    ----------
    domains
        Least and greatest value of each variable; the greatest is below the least where there is none.
    rows
        Everything linear or of booleans.
    exclusive
        Sets of steps that exclude each other: of each step the variable of its start, what to add to it, the duration.
    """

    domains: list[tuple[int, int]]
    rows: list[LinearRow]
    exclusive: list[list[tuple[int, int, int]]]


def plain_model(model: cp_model.CpModel) -> PlainModel:
    """Return the plain form of a model: all of it, but for what it minimizes.

    Raises
    ------
    NotPlainError
        If it has a constraint of another kind, an optional or variable interval, a domain with holes, several premises
        or a known one, or numbers beyond :data:`MOST`.
    """
    proto = model.proto
    domains = [_ends(variable.domain) for variable in proto.variables]
    rows: dict[LinearRow, None] = {}
    exclusive = []
    for constraint in proto.constraints:
        if constraint.has_linear():
            rows |= dict.fromkeys(_rows(constraint))
        elif constraint.has_bool_and():
            premise = _premise(constraint)
            rows |= dict.fromkeys(_one_of([literal], premise) for literal in constraint.bool_and.literals)
        elif constraint.has_bool_or():
            rows[_one_of(constraint.bool_or.literals, _premise(constraint))] = None
        elif constraint.has_no_overlap() and not constraint.enforcement_literal:
            exclusive.append([_step(proto.constraints[index]) for index in constraint.no_overlap.intervals])
        elif not constraint.has_interval():
            raise NotPlainError("a constraint that is neither linear, nor of booleans, nor an exclusion")
    if any(abs(bound) > MOST for domain in domains for bound in domain):
        raise NotPlainError("a domain that is too wide")
    if any(domains[max(row.premise, -1 - row.premise)] != (0, 1) for row in rows if row.premise is not None):
        raise NotPlainError("a premise that is known")
    return PlainModel(domains, [row for row in rows if not _always(row, domains)], exclusive)


def _rows(constraint: Any) -> Iterator[LinearRow]:
    """Yield a linear constraint as one row for each of its sides that has a limit."""
    linear, premise = constraint.linear, _premise(constraint)
    terms = tuple(sorted(zip(linear.vars, linear.coeffs, strict=True)))
    least, most = _ends(linear.domain)
    yield LinearRow(terms, most, premise)
    yield LinearRow(tuple((variable, -coefficient) for variable, coefficient in terms), -least, premise)


def _one_of(literals: Iterable[int], premise: int | None) -> LinearRow:
    """Return the row that says that one of some literals holds."""
    signs = sorted((max(literal, -1 - literal), -1 if literal >= 0 else 1) for literal in literals)
    return LinearRow(tuple(signs), sum(sign == 1 for _, sign in signs) - 1, premise)


def _premise(constraint: Any) -> int | None:
    literals = list(constraint.enforcement_literal)
    if len(literals) > 1:
        raise NotPlainError("a constraint with several premises")
    return literals[0] if literals else None


def _always(row: LinearRow, domains: list[tuple[int, int]]) -> bool:
    """Whether a row says nothing, as each side without a limit does."""
    greatest = sum(max(coefficient * bound for bound in domains[variable]) for variable, coefficient in row.terms)
    if greatest > row.most and abs(row.most) + sum(abs(coefficient) for _, coefficient in row.terms) > MOST:
        raise NotPlainError("a row with numbers that are too large")
    return greatest <= row.most


def _step(constraint: Any) -> tuple[int, int, int]:
    start, size = constraint.interval.start, constraint.interval.size
    if list(constraint.enforcement_literal) or list(size.vars) or list(start.coeffs) != [1]:
        raise NotPlainError("an interval that is optional or of no fixed length")
    return start.vars[0], start.offset, size.offset


def _ends(domain: Any) -> tuple[int, int]:
    least, *holes, most = list(domain) or (1, 0)
    if holes:
        raise NotPlainError("a domain with holes")
    return least, most
