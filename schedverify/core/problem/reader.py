"""Takes values out of the loose data of a file, checks each against the shape of its key, and collects every fault."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from schedverify.core.errors import Faults, clean, clean_key, nearest, shown
from schedverify.core.problem.keys import BY_PATH, KEYS, TABLES, Key, names, table_of
from schedverify.core.problem.numbers import LARGEST, decimal_places, exact, finer_tick, size, whole
from schedverify.core.problem.stage_graph import Ints, Matrix
from schedverify.core.units import SIZES, unit_of

_LONGEST_TEXT: Final = 1000
_INDEX: Final = re.compile(r"\[[0-9]+\]")
_DURATION: Final = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*(ns|us|ms|s|ticks?|)\s*")
_PAIR_COST: Final = Key("costs.overlapped", "cost", "duration", "", "ticks of the overlapped pair")


class TableReader(Faults):
    """The data of a file of any kind, checked by a table of its keys, and the faults found in it so far.

    A place is the path to a value, ``layer[2].forward``; without its indices it is the path of a key.
    """

    def __init__(self, data: Mapping[str, Any], keys: Iterable[Key]) -> None:
        super().__init__()
        self.data = data
        self._keys = {key.path: key for key in keys}
        self._decimals: int | None = None
        self._sized: dict[str, str] = {}
        """The unit of the first size given as text, by key."""

    def key_at(self, place: str) -> Key | None:
        """Return what the table of keys says of a place; None where it knows no such key."""
        return self._keys.get(_INDEX.sub("", place))

    def number(self, place: str, value: Any, low: int, most: int = LARGEST) -> int:
        """Check one number from ``low`` to ``most``; where its key takes a size, it may have a unit."""
        if type(value) is int and low <= value <= most:
            return value
        key = self.key_at(place)
        sized = key is not None and key.shape.startswith("size")
        number = size(value) if sized else whole(value)
        if number is not None and low <= number <= most:
            if key is not None and (unit := unit_of(value)):
                self._sized.setdefault(key.path, unit)
            return number
        if key is not None and key.shape.startswith("duration") and decimal_places(value):
            self._off_tick(place, value)
            return low
        upper = str(most) if most < LARGEST else "2^62"
        kind = 'bytes (a whole number, or text such as "1.5 GiB")' if sized else "a whole number"
        message = f"expected {kind} from {low} to {upper}, found {shown(value)}"
        self.fault(place, message, self._meaning(key, value) if key else "")
        return low

    def unit(self, place: str, value: Any, *first: str) -> str:
        """Take the unit that sizes are told in; by default that of the first of these keys, else the largest given.

        What is read before counts: this is to be taken last.
        """
        if value is not None:
            return str(value) if self.is_one_of(place, value, tuple(SIZES)) else ""
        units = [self._sized[key] for key in first if key in self._sized]
        return units[0] if units else max(self._sized.values(), key=SIZES.__getitem__, default="")

    def _meaning(self, key: Key, value: Any) -> str:
        """Return what a key means, and of a duration with a unit where its unit belongs."""
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None or not key.shape.startswith("duration"):
            return key.meaning
        unit = f', and tick = "{match[2]}" says the unit of all' if match[2] else ""
        return f"{key.meaning}: {match[1]} without quotes{unit}"

    def plain_text(self, place: str, value: Any) -> str:
        """Check a text: of bounded length, without control characters."""
        if isinstance(value, str) and len(value) <= _LONGEST_TEXT and value.isprintable():
            return value
        kind = f"a line of text of at most {_LONGEST_TEXT} printable characters"
        self.fault(place, f"expected {kind}, found {shown(value)}")
        return ""

    def items(self, place: str, value: Any, hint: str = "") -> Sequence[Any]:
        """Check that a value is a list."""
        if isinstance(value, list | tuple):
            return value
        self.fault(place, f"expected a list, found {shown(value)}", hint)
        return ()

    def table(self, name: str) -> Mapping[str, Any]:
        """Take a table, which may be absent."""
        inside = self.data.get(name)
        if isinstance(inside, Mapping):
            return inside
        if name in self.data:
            self.fault(name, f"expected a table, found {shown(inside)}", f"write [{name}] and its keys below")
        return {}

    def _off_tick(self, place: str, value: Any) -> None:
        """Say which one tick would do for every duration of the file."""
        tick = self.data.get("tick")
        tick = clean(tick) if isinstance(tick, str) else "tick"
        if self._decimals is None:
            self._decimals = max(map(decimal_places, self._durations()))
        rescaled = (exact(value) or 0) * 10**self._decimals
        finer = finer_tick(tick, self._decimals)
        would = f'tick = "{finer}" would do, with every duration in it: here {shown(rescaled)}'
        self.fault(place, f"{shown(value)} is no multiple of the tick ({tick})", would)

    def _durations(self) -> Iterator[Any]:
        """Yield what stands where a duration belongs."""
        left: list[tuple[str, Any]] = [("", self.data)]
        while left:
            path, value = left.pop()
            if isinstance(value, Mapping):
                left += [(f"{path}.{name}" if path else str(name), item) for name, item in value.items()]
            elif isinstance(value, list | tuple):
                left += [(path, item) for item in value]
            elif path in self._keys and self._keys[path].shape.startswith("duration"):
                yield value


class ProblemReader(TableReader):
    """The data of a problem and the faults found in it so far.

    Where a length or a bound is not known, because the key that gives it is itself at fault, an empty tuple or 0
    stands for it, and values are checked as far as they can be.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__(data, (*KEYS, _PAIR_COST))
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

    def matrix(self, path: str, ranks: int, low: int) -> Matrix | None:
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
            path = f"{table}.{clean_key(name)}" if table else clean_key(name)
            if name not in names(table):
                self.fault(path, "unknown key", "" if self.more else _known(str(name), table))
            elif value is None:
                self.fault(path, "expected a value, found null", "leave the key out")


@lru_cache(maxsize=8)
def uniform(value: int, ranks: int) -> Matrix:
    """Return the matrix that holds one value for every pair of ranks; its rows are one object, shared."""
    return ((value,) * ranks,) * ranks


def _known(name: str, table: str) -> str:
    """Say where a key belongs, or the nearest one that is known, or those that are."""
    listed = f"{f'[{table}]' if table else 'a problem'} takes {', '.join(names(table))}"
    return table_of(name) or nearest(name, names(table)) or listed
