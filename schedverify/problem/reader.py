"""Takes values out of loose data, checks each against its shape, and collects every fault with its key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from schedverify.errors import nearest
from schedverify.problem.faults import Faults
from schedverify.problem.keys import BY_PATH, KEYS, TABLES, Key, home, names
from schedverify.problem.numbers import LARGEST, decimal_places, exact, finer_tick, size, whole
from schedverify.problem.showing import clean, shown

_LONGEST_TEXT: Final = 1000
_INDEX: Final = re.compile(r"\[[0-9]+\]")
Parse = Callable[[Any], int | None]
Ints = tuple[int, ...]


class Reader(Faults):
    """The data of a problem and the faults found in it so far.

    Where a length or a bound is not known, because the key that gives it is itself at fault, an empty tuple or 0
    stands for it, and values are checked as far as they can be.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__()
        self.data = data
        self._places: int | None = None
        self._check_tables()

    def get(self, path: str) -> Any:
        """Return the raw value of a key, or None where it is absent."""
        table, _, name = path.rpartition(".")
        inside = self.data.get(table) if table else self.data
        return inside.get(name) if isinstance(inside, Mapping) else None

    def count(self, path: str, default: int, most: int = LARGEST) -> int:
        """Take a whole number of at least 1."""
        value = self.get(path)
        return default if value is None else self.number(path, value, 1, most)

    def text(self, path: str, default: str, choices: tuple[str, ...] = ()) -> str:
        """Take a text, one of ``choices`` where there are any."""
        value = self.get(path)
        if value is None:
            return default
        if choices and value not in choices:
            hint = nearest(value, choices) if isinstance(value, str) else ""
            self.fault(path, f"expected one of {', '.join(choices)}, found {shown(value)}", hint)
            return default
        return self.plain_text(path, value)

    def plain_text(self, key: str, value: Any) -> str:
        """Check a text: of bounded length, without control characters."""
        if isinstance(value, str) and len(value) <= _LONGEST_TEXT and value.isprintable():
            return value
        kind = f"a line of text of at most {_LONGEST_TEXT} printable characters"
        self.fault(key, f"expected {kind}, found {shown(value)}")
        return ""

    def listed(self, path: str, lengths: Ints, low: int = 0) -> Ints | None:
        """Take a number for all, or a list of one of ``lengths`` (it repeats up to the last); None where absent."""
        value, parse = self.get(path), _parse(BY_PATH[path])
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            return (self.number(path, value, low, parse=parse),) * (lengths[-1] if lengths else 1)
        if lengths and len(value) not in lengths:
            of = BY_PATH[path].shape.rpartition(" by ")[2]
            wanted = " or ".join(map(str, dict.fromkeys(lengths)))
            self.fault(path, f"expected a number or a list with one for each {of}: {wanted}, found {len(value)}")
            return (low,) * lengths[-1]
        numbers = self._numbers(path, value, low, parse)
        return numbers * (lengths[-1] // len(numbers)) if lengths else numbers

    def matrix(self, path: str, ranks: int, low: int) -> tuple[Ints, ...] | None:
        """Take a number for every pair of ranks, or a square list; None where absent. The diagonal may be 0."""
        value = self.get(path)
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            return uniform(self.number(path, value, low), max(ranks, 1))
        square = [row if isinstance(row, list | tuple) else () for row in value]
        side = ranks or max(len(square), 1)
        if len(square) != side or any(len(row) != side for row in square):
            wanted = f"{ranks} lists of {ranks} numbers" if ranks else "a square of numbers"
            self.fault(path, f"expected a number or {wanted}, one list for each sending rank, found {shown(value)}")
            return uniform(low, side)
        rows = tuple(self._numbers(f"{path}[{i}]", row, 0, whole) for i, row in enumerate(square))
        for i, row in enumerate(rows if low else ()):
            for j, number in enumerate(row):
                if number < low and i != j:
                    self._no_number(f"{path}[{i}][{j}]", number, low, LARGEST, whole)
        return rows

    def flags(self, path: str, lengths: Ints) -> tuple[bool, ...]:
        """Take true or false for all, or a list of one of ``lengths``."""
        value = self.get(path)
        most = lengths[-1] if lengths else 1
        items = value if isinstance(value, list | tuple) else [value is not None and value] * most
        if (lengths and len(items) not in lengths) or not all(isinstance(item, bool) for item in items):
            self.fault(path, f"expected true, false, or a list with one for each stage, found {shown(value)}")
            return (False,) * most
        return tuple(items) * (most // len(items) if lengths else 1)

    def index(self, key: str, value: Any, bound: int, what: str) -> int:
        """Check one number from 0 to ``bound`` - 1 that names a ``what``."""
        number = value if type(value) is int else whole(value)
        if number is not None and number >= 0 and (number < bound or not bound):
            return number
        if number is None:
            self.fault(key, f"expected a {what}, found {shown(value)}", f"{what}s are whole numbers from 0")
        else:
            self.fault(key, f"{what} {shown(value)} is absent", f"{what}s are 0 to {bound - 1}" if bound else "")
        return 0

    def rows(self, path: str) -> Sequence[Any]:
        """Take a list; anything else is a fault."""
        value = self.get(path)
        if value is None or isinstance(value, list | tuple):
            return value or ()
        hint = "write [[boundary]] and its keys below" if path == "boundary" else ""
        self.fault(path, f"expected a list, found {shown(value)}", hint)
        return ()

    def number(self, key: str, value: Any, low: int, most: int = LARGEST, parse: Parse = whole) -> int:
        """Check one number from ``low`` to ``most``."""
        number = value if type(value) is int else parse(value)
        if number is not None and low <= number <= most:
            return number
        self._no_number(key, value, low, most, parse)
        return low

    def row_names(self, key: str, row: Mapping[str, Any], needed: Sequence[str], known: Sequence[str]) -> bool:
        """Check the keys of one table in a list of tables; returns whether every needed one is there."""
        for name in row:
            if name not in known:
                hint = nearest(str(name), known) or f"a row takes {', '.join(known)}"
                self.fault(f"{key}.{clean(str(name))}", "unknown key", hint)
        for name in needed:
            if name not in row:
                self.fault(f"{key}.{name}", "missing", f"each row names {' and '.join(needed)}")
        return set(needed) <= set(row)

    def _numbers(self, path: str, values: Sequence[Any], low: int, parse: Parse) -> Ints:
        if all(type(value) is int and low <= value <= LARGEST for value in values):
            return tuple(values)
        return tuple(self.number(f"{path}[{i}]", value, low, parse=parse) for i, value in enumerate(values))

    def _no_number(self, key: str, value: Any, low: int, most: int, parse: Parse) -> None:
        if _is_duration(key) and decimal_places(value):
            self._off_tick(key, value)
            return
        upper = str(most) if most < LARGEST else "2^62"
        kind = 'bytes (a whole number, or text such as "1.5 GiB")' if parse is size else "a whole number"
        base = BY_PATH.get(_INDEX.sub("", key))
        self.fault(key, f"expected {kind} from {low} to {upper}, found {shown(value)}", base.meaning if base else "")

    def _off_tick(self, key: str, value: Any) -> None:
        """Say which one tick would do for every duration of the file."""
        tick = self.get("tick")
        tick = clean(tick) if isinstance(tick, str) else "tick"
        if self._places is None:
            self._places = max(map(decimal_places, self._durations()))
        here = (exact(value) or 0) * 10**self._places
        would = f'tick = "{finer_tick(tick, self._places)}" would do, with every duration in it: here {shown(here)}'
        self.fault(key, f"{shown(value)} is no multiple of the tick ({tick})", would)

    def _durations(self) -> list[Any]:
        values = [self.get(key.path) for key in KEYS if "duration" in key.shape]
        for row in _members(self.get("costs.overlapped")):
            values.append(row.get("cost") if isinstance(row, Mapping) else None)
        return [number for value in values for row in _members(value) for number in _members(row)]

    def _check_tables(self) -> None:
        self._check_names("", self.data)
        for table in TABLES:
            inside = self.data.get(table)
            if isinstance(inside, Mapping):
                self._check_names(table, inside)
            elif inside is not None:
                self.fault(table, f"expected a table, found {shown(inside)}", f"write [{table}] and its keys below")

    def _check_names(self, table: str, inside: Mapping[str, Any]) -> None:
        for name, value in inside.items():
            path = f"{table}.{clean(str(name))}" if table else clean(str(name))
            if name not in names(table):
                self.fault(path, "unknown key", "" if self.more else _known(str(name), table))
            elif value is None:
                self.fault(path, "expected a value, found null", "leave the key out")


@lru_cache(maxsize=8)
def uniform(value: int, ranks: int) -> tuple[Ints, ...]:
    """Return the matrix that holds one value for every pair of ranks; its rows are one object, shared."""
    return ((value,) * ranks,) * ranks


def _known(name: str, table: str) -> str:
    """Say where a key belongs, or the nearest one that is known, or those that are."""
    listed = f"[{table}] takes {', '.join(names(table))}" if table else ""
    return home(name) or nearest(name, names(table)) or listed


def _members(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _parse(key: Key) -> Parse:
    return size if key.shape.startswith("size") else whole


def _is_duration(key: str) -> bool:
    base = _INDEX.sub("", key)
    return base == "costs.overlapped.cost" or (base in BY_PATH and "duration" in BY_PATH[base].shape)
