"""JSON and TOML as data: exact numbers, and every syntax error, duplicate key, NaN and deep nesting with its place."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import PurePath
from typing import Any, Final

from schedverify.core.errors import Fault, InputError, clean, shown
from schedverify.core.problem.numbers import LARGEST
from schedverify.formats.text_files import PathLike

MAX_DEPTH: Final = 32
MAX_BRACKETS: Final = 2_000_000
"""The most lists and tables in a file; it bounds the memory that its data takes."""
_MAX_DIGITS: Final = 60
_MAX_FAULTS: Final = 50
_AT = re.compile(r"\s*\((?:at line ([0-9]+), column ([0-9]+)|at end of document)\)$")
_LONG = re.compile(r"(?<![\w-])(?:0[xob]((?:_?[0-9A-Fa-f]){200,})|([0-9](?:_?[0-9]){200,}))")
_UNIT_BEHIND = re.compile(r"=\s*\[?[^\"#]*[0-9]\s*[A-Za-z]{1,3}\b")
_OF_TOML = re.compile(
    r'''#[^\n]*|"""(?:.*?(?:(?<!\\)(?:\\\\)*"{3,5}|\Z))|"(?:[^"\\\n]+|\\.)*+"?'''
    r"""|'''.*?(?:'{3,5}|\Z)|'[^'\n]*+'?""",
    re.DOTALL,
)
"""A comment or a string of TOML; one that does not end reaches as far as TOML would look for its end.

No lookahead stands in a possessive repeat: that goes wrong in Python 3.11.0 to 3.11.4.
"""
_PIECES = re.compile(r"[^\n=,\[\]{}]+")
_MARKS = re.compile(r'["\\\[\]{}]')


@dataclass(frozen=True)
class LongNumber:
    """Stands in the data for a number with too many digits to be meant; every reader reports it as a fault."""

    digits: int

    def __str__(self) -> str:
        return f"a number of {self.digits} digits"


class DoubledTable(dict[str, Any]):
    """A table in which some keys stand twice; ``doubled`` holds these keys."""

    doubled: tuple[str, ...]


def parse_json(
    text: str, *, most: int = MAX_BRACKETS, kept: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> Any:
    """Return the data of a JSON text: ints, Decimals for all other numbers, LongNumbers for endless ones.

    A table with a key that stands twice is a :class:`DoubledTable`, NaN and Infinity are Decimals; see :func:`unfit`.

    Parameters
    ----------
    most
        The most lists and tables in it.
    kept
        What is kept of a table, called as soon as it is read; by default all of it.

    Raises
    ------
    InputError
        If the text is no JSON, with line and column, or nests or branches beyond the bounds.
    """
    _count_brackets(text, most)
    table = _table if kept is None else lambda pairs: kept(_table(pairs))
    try:
        return json.loads(
            text, parse_int=_integer, parse_float=_decimal, parse_constant=Decimal, object_pairs_hook=table
        )
    except json.JSONDecodeError as error:
        key = f"line {error.lineno}, column {error.colno}"
        raise InputError(Fault(key, f"no JSON: {clean(error.msg)}", "expected one JSON object")) from None
    except RecursionError:
        raise _too_deep(text) from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return the data of a TOML text, with Decimals for floats.

    Raises
    ------
    InputError
        If the text is no TOML (a key that stands twice is none), with line and column, or nests beyond the bounds.
    """
    _count_brackets(text)
    _check_lengths(text)
    try:
        return tomllib.loads(text, parse_float=_decimal)
    except tomllib.TOMLDecodeError as error:
        raise _no_toml(text, str(error)) from None
    except RecursionError:
        raise _too_deep(text) from None
    except ValueError as error:
        raise InputError(Fault("", f"no TOML: {clean(str(error), 200)}")) from None


def parse_either(text: str, path: PathLike) -> Any:
    """Return the data of a text: JSON where the file's name ends so or the text begins with a brace, else TOML."""
    is_json = PurePath(path).suffix == ".json" or text.lstrip().startswith("{")
    return parse_json(text) if is_json else parse_toml(text)


def unfit(data: Any, *, floats: bool = True) -> list[Fault]:
    """Return a fault for each key that stands twice, for each NaN and Infinity, and for too deep nesting.

    Parameters
    ----------
    floats
        Whether numbers that are not whole may stand in the data.
    """
    faults: list[Fault] = []
    for path, depth, value in _walk(data):
        if depth > MAX_DEPTH:
            faults.append(_too_deep_at(path))
        elif isinstance(value, DoubledTable):
            faults += [Fault(_join(path, key), "the key stands twice", "keep one") for key in value.doubled]
        elif isinstance(value, Decimal) and not value.is_finite():
            faults.append(Fault(path, f"expected a number, found {value}", "NaN and infinity are no values"))
        elif isinstance(value, Decimal | LongNumber) and not floats:
            faults.append(Fault(path, f"expected a whole number, found {shown(value)}", 'ratios are text: "15/4"'))
        if len(faults) > _MAX_FAULTS:
            return faults[:_MAX_FAULTS]
    return faults


def long_numbers(path: str, value: Any) -> Iterator[tuple[str, int]]:
    """Yield the place and value of every number beyond 2^62 in data whose depth is bounded."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from long_numbers(f"{path}.{clean(name)}", item)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from long_numbers(f"{path}[{i}]", item)
    elif type(value) is int and abs(value) > LARGEST:
        yield path, value


def place(text: str, offset: int) -> str:
    """Return the line and column of an offset in a text, both from 1."""
    line = text.count("\n", 0, offset) + 1
    return f"line {line}, column {offset - text.rfind(chr(10), 0, offset)}"


def _walk(data: Any) -> Iterator[tuple[str, int, Any]]:
    """Yield a path, a depth and a value for each value in the data that can be a fault, down to the deepest level."""
    stack: list[tuple[str, int, Any]] = [("", 0, data)]
    while stack:
        path, depth, value = stack.pop()
        yield path, depth, value
        if depth <= MAX_DEPTH and isinstance(value, dict):
            stack += [(_join(path, key), depth + 1, item) for key, item in reversed(value.items()) if _branches(item)]
        elif depth <= MAX_DEPTH and isinstance(value, list):
            branches = [(i, item) for i, item in enumerate(value) if _branches(item)]
            stack += [(f"{path}[{i}]", depth + 1, item) for i, item in reversed(branches)]


def _branches(value: Any) -> bool:
    return isinstance(value, (list, dict, Decimal, LongNumber))


def _join(path: str, key: str) -> str:
    return f"{path}.{clean(key)}" if path else clean(key)


def _integer(text: str) -> int | LongNumber:
    return int(text) if len(text) <= _MAX_DIGITS else LongNumber(len(text.lstrip("-")))


def _decimal(text: str) -> Decimal | LongNumber:
    digits = sum(map(str.isdigit, text))
    try:
        return Decimal(text) if digits <= _MAX_DIGITS else LongNumber(digits)
    except InvalidOperation:
        return LongNumber(digits)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) == len(pairs):
        return table
    doubled = DoubledTable(table)
    doubled.doubled = tuple(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return doubled


def _count_brackets(text: str, most: int = MAX_BRACKETS) -> None:
    count = text.count("[") + text.count("{")
    if count > most:
        raise InputError(Fault("", f"{count} lists and tables, at most {most}", "is it the right file?"))


def _check_lengths(text: str) -> None:
    """Refuse keys of too many parts, on which tomllib spends the square of their number, and endless numbers.

    Between two of the marks that part keys from values at most one dot stands, but for the dots of a key.
    """
    bare = _OF_TOML.sub(_filled, text)
    if bare.count(".") >= MAX_DEPTH:
        for piece in _PIECES.finditer(bare):
            if piece[0].count(".") >= MAX_DEPTH:
                raise InputError(_too_deep_at(place(text, piece.start())))
    if (number := _LONG.search(bare)) is not None:
        digits = len((number[1] or number[2]).replace("_", ""))
        raise InputError(Fault(place(text, number.start()), f"a number of {digits} digits", "numbers go up to 2^62"))


def _filled(found: re.Match[str]) -> str:
    """Return as much text as a string or a comment has, without dots, digits and line ends."""
    return ("#" if found[0].startswith("#") else "x") * len(found[0])


def _no_toml(text: str, message: str) -> InputError:
    match = _AT.search(message)
    complaint = clean(message[: match.start()] if match else message, 200)
    key = f"line {match[1]}, column {match[2]}" if match and match[1] else place(text, len(text))
    hint = "a line holds key = value, text in quotes, lists in brackets"
    if match and match[1] and _UNIT_BEHIND.search(text.split("\n")[int(match[1]) - 1]):
        hint = 'a duration is a number of ticks, and tick = "ms" says the unit; bytes with a unit stand in quotes'
    if complaint.startswith(("Cannot overwrite", "Cannot declare")):
        hint = "a key or table stands twice; keep one"
    return InputError(Fault(key, f"no TOML: {complaint}", hint))


def _too_deep(text: str) -> InputError:
    """Return the error for brackets that nest too deeply, with their place; brackets in double quotes do not count."""
    depth, quoted, skip = 0, False, -1
    for match in _MARKS.finditer(text):
        mark = match[0]
        if match.start() == skip:
            continue
        if mark == "\\":
            skip = match.end()
        elif mark == '"':
            quoted = not quoted
        elif not quoted:
            depth += 1 if mark in "[{" else -1
            if depth > MAX_DEPTH:
                return InputError(_too_deep_at(place(text, match.start())))
    return InputError(_too_deep_at(""))


def _too_deep_at(key: str) -> Fault:
    return Fault(key, f"nested deeper than {MAX_DEPTH} levels", "no value needs that")
