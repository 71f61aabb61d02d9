"""Takes values out of loose data, checks each against its shape, and collects every fault with its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from schedverify.errors import Fault, InputError, nearest
from schedverify.problem.keys import BY_PATH, KEYS, TABLES, Key, names
from schedverify.problem.numbers import LARGEST, decimal_places, exact, size, whole

MAX_FAULTS: Final = 50
Parse = Callable[[Any], int | None]


class Reader:
    """The data of a problem and the faults found in it so far."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        self.faults: list[Fault] = []
        self._check_tables()

    def fault(self, key: str, message: str, hint: str = "") -> None:
        """Add a fault; only the first :data:`MAX_FAULTS` are kept."""
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(key, message, hint))

    def raise_faults(self) -> None:
        """Raise what was found, if anything was."""
        if self.faults:
            raise InputError(self.faults)

    def get(self, path: str) -> Any:
        """Return the raw value of a key, or None where it is absent."""
        table, _, name = path.rpartition(".")
        inside = self.data.get(table) if table else self.data
        return inside.get(name) if isinstance(inside, Mapping) else None

    def count(self, path: str, default: int, most: int = LARGEST) -> int:
        """Take a whole number of at least 1."""
        value = self.get(path)
        return default if value is None else self._number(path, value, whole, 1, most)

    def text(self, path: str, default: str, choices: tuple[str, ...] = ()) -> str:
        """Take a text, one of ``choices`` where there are any."""
        value = self.get(path)
        if value is None:
            return default
        if not isinstance(value, str) or len(value) > 1000:
            self.fault(path, f"expected text, found {shown(value)}")
        elif choices and value not in choices:
            self.fault(path, f"expected one of {', '.join(choices)}, found {shown(value)}", nearest(value, choices))
        else:
            return value
        return default

    def listed(self, path: str, *lengths: int, low: int = 0) -> tuple[int, ...] | None:
        """Take a number for all, or a list of one of ``lengths`` (it repeats up to the last); None where absent."""
        value, parse = self.get(path), self._parse(BY_PATH[path])
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            return (self._number(path, value, parse, low),) * lengths[-1]
        if len(value) not in lengths:
            of = BY_PATH[path].shape.rpartition(" by ")[2]
            self.fault(path, f"expected a number or a list with one for each {of}: {lengths[0]}, found {len(value)}")
            return (low,) * lengths[-1]
        numbers = [self._number(f"{path}[{i}]", item, parse, low) for i, item in enumerate(value)]
        return tuple(numbers) * (lengths[-1] // len(numbers))

    def matrix(self, path: str, ranks: int, low: int) -> tuple[tuple[int, ...], ...] | None:
        """Take a number for every pair of ranks, or a square list; None where absent."""
        value, parse = self.get(path), self._parse(BY_PATH[path])
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            return ((self._number(path, value, parse, low),) * ranks,) * ranks
        rows = [row if isinstance(row, list | tuple) else () for row in value]
        if len(rows) != ranks or any(len(row) != ranks for row in rows):
            self.fault(path, f"expected a number or {ranks} lists of {ranks} numbers, one list for each sending rank")
            return ((low,) * ranks,) * ranks
        return tuple(
            tuple(self._number(f"{path}[{i}][{j}]", item, parse, 0 if i == j else low) for j, item in enumerate(row))
            for i, row in enumerate(rows)
        )

    def flags(self, path: str, *lengths: int) -> tuple[bool, ...]:
        """Take true or false for all, or a list of one of ``lengths``."""
        value = self.get(path)
        items = value if isinstance(value, list | tuple) else [bool(value) if value is None else value] * lengths[-1]
        if len(items) not in lengths or not all(isinstance(item, bool) for item in items):
            self.fault(path, f"expected true, false, or a list with one for each stage, found {shown(value)}")
            return (False,) * lengths[-1]
        return tuple(items) * (lengths[-1] // len(items))

    def index(self, key: str, value: Any, bound: int, what: str) -> int:
        """Check one number from 0 to ``bound`` - 1 that names a ``what``."""
        number = whole(value)
        if number is None or not 0 <= number < bound:
            self.fault(key, f"{what} {shown(value)} is absent", f"{what}s are 0 to {bound - 1}")
            return 0
        return number

    def rows(self, path: str) -> list[Any]:
        """Take a list; anything else is a fault."""
        value = self.get(path)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            self.fault(path, f"expected a list, found {shown(value)}")
            return []
        return list(value)

    def _parse(self, key: Key) -> Parse:
        return size if key.shape.startswith("size") else whole

    def _number(self, key: str, value: Any, parse: Parse, low: int, most: int = LARGEST) -> int:
        number = parse(value)
        if number is not None and low <= number <= most:
            return number
        base = BY_PATH.get(key.partition("[")[0])
        if base is not None and "duration" in base.shape and (places := decimal_places(value)):
            self._off_tick(key, value, places)
        else:
            upper = f" to {most}" if most < LARGEST else " to 2^62"
            kind = 'bytes (a whole number, or text such as "1.5 GiB")' if parse is size else "a whole number"
            self.fault(key, f"expected {kind} from {low}{upper}, found {shown(value)}")
        return max(low, 0)

    def _off_tick(self, key: str, value: Any, places: int) -> None:
        tick = self.data.get("tick")
        tick = tick if isinstance(tick, str) else "tick"
        number = exact(value) or 0
        would = f'tick = "{_tick_text(places)} {tick}" would do, with every duration in it: here {number * 10**places}'
        self.fault(key, f"{shown(value)} is no multiple of the tick ({tick[:40]})", would)

    def _check_tables(self) -> None:
        self._check_names("", self.data)
        for table in TABLES:
            inside = self.data.get(table)
            if isinstance(inside, Mapping):
                self._check_names(table, inside)
            elif inside is not None:
                self.fault(table, f"expected a table, found {shown(inside)}", f"write [{table}] and its keys below")

    def _check_names(self, table: str, inside: Mapping[str, Any]) -> None:
        for name in inside:
            if name in names(table):
                continue
            path = f"{table}.{name}"[:80] if table else str(name)[:80]
            homes = [key.table for key in KEYS if key.name == name and key.table != "boundary"]
            place = f"[{homes[0]}]" if homes and homes[0] else "the top, before every table"
            self.fault(path, "unknown key", f"it belongs in {place}" if homes else nearest(str(name), names(table)))


def _tick_text(places: int) -> str:
    """Return 10^-places as a decimal."""
    return f"0.{'0' * (places - 1)}1"


def shown(value: Any) -> str:
    """Return a short, safe text for a value in a message."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "an integer of more than 60 digits"
    text = repr(value) if isinstance(value, str) else str(value)
    return ascii(text)[1:-1][:60] if not text.isprintable() else text[:60]
