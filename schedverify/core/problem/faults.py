"""Collects what is wrong with an input, so that all of it is told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from schedverify.core.errors import Fault, InputError, nearest
from schedverify.core.problem.showing import clean, shown

MAX_FAULTS: Final = 50
_MAX_COUNTED: Final = 10_000


class Faults:
    """The faults found so far, one for each place.

    The first :data:`MAX_FAULTS` are kept, the rest counted, and a flood ends the reading.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.more = 0
        self._wrong: set[str] = set()
        self._told: set[str] = set()

    def fault(self, key: str, message: str, hint: str = "") -> None:
        """Add a fault; a second one at the same place says nothing new and is left out."""
        if key in self._told:
            return
        self._wrong.add(key.partition("[")[0])
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(key, message, hint))
            self._told.add(key)
            return
        self.more += 1
        if self.more == _MAX_COUNTED:
            self._raise()

    def check_keys(
        self, place: str, table: Mapping[str, Any], known: Sequence[str], *, needed: Sequence[str], missing: str
    ) -> None:
        """Add a fault for each key of a table that is not known, and for each needed one that is not there.

        Parameters
        ----------
        place
            The key of the table, empty for the top.
        missing
            The hint for what is not there.
        """
        prefix = f"{place}." if place else ""
        for name in table:
            if name not in known:
                hint = nearest(str(name), known) or f"known: {', '.join(known)}"
                self.fault(prefix + clean(str(name)), "unknown key", hint)
        for name in needed:
            if name not in table:
                self.fault(prefix + name, "missing", missing)

    def is_one_of(self, key: str, value: Any, choices: Sequence[str]) -> bool:
        """Check that a value is one of some texts."""
        if value in choices:
            return True
        hint = nearest(value, map(str, choices)) if isinstance(value, str) else ""
        self.fault(key, f"expected one of {', '.join(choices)}, found {shown(value)}", hint)
        return False

    @property
    def found(self) -> int:
        """How many faults were found so far."""
        return len(self.faults) + self.more

    def wrong(self, *keys: str) -> bool:
        """Whether any of these keys has a fault."""
        return not self._wrong.isdisjoint(keys)

    def raise_faults(self) -> None:
        """Raise what was found, if anything was."""
        if self.faults:
            self._raise()

    def _raise(self) -> NoReturn:
        rest = f"and {self.more} more" if self.more < _MAX_COUNTED else f"and at least {self.more} more"
        raise InputError([*self.faults, Fault("", rest)] if self.more else self.faults)


def check_version(key: str, found: Any, known: int, hint: str) -> None:
    """Refuse a file of another version.

    Parameters
    ----------
    hint
        What would do, where ``found`` is no newer version.

    Raises
    ------
    InputError
        If ``found`` is not ``known``.
    """
    if found == known and type(found) is int:
        return
    newer = type(found) is int and found > known
    would = "a newer schedverify wrote it; update schedverify" if newer else hint
    raise InputError(Fault(key, f"expected {known}, found {shown(found)}", would))
