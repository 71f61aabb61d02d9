"""What can go wrong with an input, and how it is told: file, key, what was expected, what would do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple


class SchedverifyError(Exception):
    """The root of every error that schedverify raises on purpose."""


class Fault(NamedTuple):
    """One thing that is wrong with an input.

    ``key`` is the place inside the input (``costs.forward[2]``, ``row 3, column 5``), empty for the whole;
    ``message`` says what was expected and what was found; ``hint`` says what would do.
    """

    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.key}: {self.message}" if self.key else self.message
        return f"{text} ({self.hint})" if self.hint else text


class InputError(SchedverifyError, ValueError):
    """An input that cannot be read: every fault of it at once, each with its place and a hint.

    Parameters
    ----------
    faults
        What is wrong; at least one.
    source
        The file's name, or empty for a value made in Python.
    """

    def __init__(self, faults: Iterable[Fault] | Fault | str, source: str = "") -> None:
        if isinstance(faults, str):
            faults = Fault("", faults)
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        self.source = source
        super().__init__(str(self))

    def __str__(self) -> str:
        prefix = f"{self.source}: " if self.source else ""
        return "\n".join(f"{prefix}{fault}" for fault in self.faults)

    def within(self, source: str) -> InputError:
        """Return the same error, said of the file ``source``."""
        return type(self)(self.faults, source)


class UnknownNameError(InputError):
    """A name that is not among the known ones; says the nearest."""

    @classmethod
    def among(cls, what: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """Make the error for ``name``, which is no ``what`` (``family``, ``property``, ``discipline``)."""
        names = sorted(known)
        return cls(Fault("", f"unknown {what} {name[:80]!r}", nearest(name, names) or "known: " + ", ".join(names)))


class UnsupportedError(InputError):
    """A right input that this version cannot take yet; names what it cannot take."""


class InfeasibleError(InputError):
    """A right input of which it is proved that nothing keeps its limits."""


class UndecidedError(InputError):
    """A right input for which nothing was found in the time, nor a proof that there is nothing."""


class ScheduleError(SchedverifyError):
    """A schedule that cannot do what was asked of it, such as a timeline of one that deadlocks."""


for _error in (
    SchedverifyError, InputError, UnknownNameError, UnsupportedError, InfeasibleError, UndecidedError, ScheduleError,
):  # fmt: skip
    _error.__module__ = "schedverify"  # a traceback names them as they are imported


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the known name nearest to ``name``, or an empty string."""
    close = difflib.get_close_matches(name[:80], list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""
