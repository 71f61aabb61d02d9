"""Takes values out of the loose data of a problem, checks each against its shape, and collects every fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from schedverify.core.errors import nearest
from schedverify.core.problem.keys import BY_PATH, KEYS, TABLES, Key, home, names
from schedverify.core.problem.numbers import LARGEST, whole
from schedverify.core.problem.showing import clean, shown
from schedverify.core.problem.values import Values

_PAIR: Final = Key("costs.overlapped", "cost", "duration", "", "ticks of the overlapped pair")
Ints = tuple[int, ...]


class Reader(Values):
    """The data of a problem and the faults found in it so far.

    Where a length or a bound is not known, because the key that gives it is itself at fault, an empty tuple or 0
    stands for it, and values are checked as far as they can be.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__(data, (*KEYS, _PAIR))
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
        if choices:
            return str(value) if self.is_one_of(path, value, choices) else default
        return self.plain_text(path, value)

    def listed(self, path: str, lengths: Ints, low: int = 0) -> Ints | None:
        """Take a number for all, or a list of one of ``lengths`` (it repeats up to the last); None where absent."""
        value = self.get(path)
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            return (self.number(path, value, low),) * (lengths[-1] if lengths else 1)
        if lengths and len(value) not in lengths:
            of = BY_PATH[path].shape.rpartition(" by ")[2]
            wanted = " or ".join(map(str, dict.fromkeys(lengths)))
            self.fault(path, f"expected a number or a list with one for each {of}: {wanted}, found {len(value)}")
            return (low,) * lengths[-1]
        numbers = self._numbers(path, value, low)
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
        rows = tuple(self._numbers(f"{path}[{i}]", row, 0) for i, row in enumerate(square))
        for i, row in enumerate(rows if low else ()):
            for j, number in enumerate(row):
                if i != j:
                    self.number(f"{path}[{i}][{j}]", number, low)
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
        hint = "write [[boundary]] and its keys below" if path == "boundary" else ""
        return () if value is None else self.items(path, value, hint)

    def row_names(self, key: str, row: Mapping[str, Any], needed: Sequence[str], known: Sequence[str]) -> bool:
        """Check the keys of one table in a list of tables; returns whether every needed one is there."""
        self.check_keys(key, row, known, needed=needed, missing=f"each row names {' and '.join(needed)}")
        return set(needed) <= set(row)

    def _numbers(self, path: str, values: Sequence[Any], low: int) -> Ints:
        if all(type(value) is int and low <= value <= LARGEST for value in values):
            return tuple(values)
        return tuple(self.number(f"{path}[{i}]", value, low) for i, value in enumerate(values))

    def _check_tables(self) -> None:
        self._check_names("", self.data)
        for table in TABLES:
            self._check_names(table, self.table(table))

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
