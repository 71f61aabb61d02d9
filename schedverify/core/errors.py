"""What can go wrong with an input: the exceptions, its faults collected, and values as short text for a message."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

Known = TypeVar("Known")


TOO_LARGE: Final = "the input is too large or too deeply nested for this machine's memory"
"""What is said where reading an input took all memory, or nested too deeply for Python."""


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
        return "\n".join(printable(f"{prefix}{fault}") for fault in self.faults)

    def about(self, source: str, options: Collection[str]) -> InputError:
        """Return the same error, said of a file unless it has a source, or its first fault is that of an option."""
        return self if self.source or self.faults[0].key in options else self.within(source)

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


def look_up(what: str, name: str, known: Mapping[str, Known]) -> Known:
    """Return what a name stands for among the known ones.

    Parameters
    ----------
    what
        What it names, in the singular, such as ``family``.

    Raises
    ------
    UnknownNameError
        If it is none of them; says the nearest.
    """
    if name not in known:
        raise UnknownNameError.among(what, name, known)
    return known[name]


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


_NEAR: Final = 0.7
_MOST_BEGUN: Final = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the known name nearest to ``name``, or an empty string where none is near.

    Capitals, blanks and underscores count for nothing, and a beginning stands for up to three names that have it.
    """
    folded = {each: _folded(each) for each in known}
    asked = _folded(name[:80])
    same = [each for each, plain in folded.items() if plain == asked]
    begun = [each for each, plain in folded.items() if len(asked) > 1 and plain.startswith(asked)]
    close = difflib.get_close_matches(asked, folded.values(), n=1, cutoff=_NEAR)
    near = same[:1] or (begun if len(begun) <= _MOST_BEGUN else []) or [e for e in folded if folded[e] in close][:1]
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def _folded(name: str) -> str:
    return name.casefold().replace("_", "-").replace(" ", "-")


_LONGEST: Final = 60


def shown(value: Any) -> str:
    """Return a short, safe text for a value in a message."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 200:
        return "an integer of more than 60 digits"
    if isinstance(value, str):
        return clean(repr(value[:_LONGEST]))
    return clean(str(value))


def clean(text: str, longest: int = _LONGEST) -> str:
    """Return the beginning of a text, with everything escaped that could steer a terminal."""
    return printable(text[:longest])[:longest]


def clean_key(name: object) -> str:
    """Return the name of a key as a fault shows it: clean, and in quotes where there is nothing of it to see."""
    return clean(str(name)).strip() or repr(str(name)[:_LONGEST])


_COMMAND: Final = re.compile(r"(?<!\S)::|##(?=\[)")
"""The beginning of a command to a runner of GitHub: a word at the beginning of a line, or a mark anywhere in it."""


def printable(text: str) -> str:
    """Return a text on one line, with everything escaped that its reader would obey, such as a line's end.

    A terminal obeys control characters and those that turn the direction of letters; a runner of GitHub obeys lines
    that begin with ``::error`` and the like. What is told of a file passes here before it is shown, whoever wrote the
    sentence: no file, and no file's name, prints a line of its own.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return _COMMAND.sub(lambda found: f"\\x{ord(found[0][0]):02x}{found[0][1:]}", text)


MAX_FAULTS: Final = 50
_MAX_COUNTED: Final = 10_000


class Faults:
    """The faults found so far, one for each place.

    The first :data:`MAX_FAULTS` are stored, the rest are counted, and a flood ends the reading.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.more = 0
        self._wrong: set[str] = set()
        self._places_at_fault: set[str] = set()

    def fault(self, key: str, message: str, hint: str = "") -> None:
        """Add a fault; a second one at the same place says nothing new and is left out."""
        if key in self._places_at_fault:
            return
        self._wrong.add(key.partition("[")[0])
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(key, message, hint))
            self._places_at_fault.add(key)
            return
        self.more += 1
        if self.more == _MAX_COUNTED:
            self.raise_faults()

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
                self.fault(prefix + clean_key(name), "unknown key", hint)
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
            rest = f"and {self.more} more" if self.more < _MAX_COUNTED else f"and at least {self.more} more"
            raise InputError([*self.faults, Fault("", rest)] if self.more else self.faults)


def check_version(key: str, found: Any, known: int, hint: str, *, oldest: int | None = None) -> None:
    """Refuse a file of another version.

    Parameters
    ----------
    hint
        What would do, where ``found`` is no newer version.
    oldest
        The oldest version that is read, where more than ``known`` is.

    Raises
    ------
    InputError
        If ``found`` is not ``known``, nor one from ``oldest`` on.
    """
    if type(found) is int and (oldest or known) <= found <= known:
        return
    newer = type(found) is int and found > known
    would = "a newer schedverify wrote it; update schedverify" if newer else hint
    raise InputError(Fault(key, f"expected {known}, found {shown(found)}", would))
