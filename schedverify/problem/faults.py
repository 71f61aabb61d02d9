"""Collects what is wrong with an input, so that all of it is told at once."""

from __future__ import annotations

from typing import Final, NoReturn

from schedverify.errors import Fault, InputError

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
