"""How a command ends: its answer is printed, then written, and what fails there keeps nothing else from being done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from schedverify.cli.terminal import remark
from schedverify.core.errors import Fault, InputError, SchedverifyError
from schedverify.formats.text_files import source_name

Save = Callable[[str], None]
"""Writes an answer to the file of a name; ``-`` is standard output."""
_RESCUED: Final = Fault("", "what it should hold stands on standard output")


def deliver(show: Callable[[], None], *files: tuple[str | None, Save], rescue: bool = True) -> None:
    """Print an answer, then write each of its files; errors are told when all of it was tried, the last one is raised.

    Parameters
    ----------
    show
        Prints the answer.
    files
        Names of files and what writes each; nothing is written where the name is None.
    rescue
        Whether a file that cannot be written goes to standard output instead, since what was printed does not hold it.

    Raises
    ------
    InputError
        If a file cannot be written.
    """
    errors: list[BaseException] = []
    with _kept(errors):
        show()
        sys.stdout.flush()
    printed = not errors
    for path, save in files:
        if path is not None:
            with _kept(errors):
                _write(path, save, rescue=rescue and printed)
    for error in errors[:-1]:
        for line in str(error).splitlines():
            remark(line)
    if errors:
        raise errors[-1]


def _write(path: str, save: Save, *, rescue: bool) -> None:
    try:
        save(path)
    except InputError as error:
        if not rescue or path == "-":
            raise
        save("-")
        raise InputError([*error.faults, _RESCUED], error.source or source_name(path)) from None


@contextmanager
def _kept(errors: list[BaseException]) -> Iterator[None]:
    """Keep what ends the printing or writing of an answer: a refusal, a full disk, a reader that hung up, Ctrl-C."""
    try:
        yield
    except (SchedverifyError, OSError, SystemExit, KeyboardInterrupt) as error:
        errors.append(error)
