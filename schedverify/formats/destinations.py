"""Files that a command will write, looked at before the work.

Each has a form that fits what it will hold, a folder that takes it, and is none that the command reads. What can be
known before a search is said before it, so that none ends without a place for its answer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.formats.text_files import PathLike, check_writable, naming


class Destination(NamedTuple):
    """A file that will be written."""

    option: str
    """The option that names it, such as ``--output``."""
    path: PathLike | None
    """The file; ``-`` is standard output, None where the option is not given."""
    check: Callable[[PathLike], object] = os.fspath
    """Raises an InputError where what is written has no form for a file of that name."""
    size: int = 0
    """About how many bytes it will have."""


_Identity = tuple[int, int] | str


def check_destinations(*wanted: Destination, inputs: Iterable[PathLike | None] = (), printed: str = "") -> None:
    """Raise an InputError for the first file that could not be written, or should not be.

    Parameters
    ----------
    inputs
        The files that are read; ``-`` is standard input, and None is none. No destination may be one of them, by
        whatever name or link.
    printed
        What goes to standard output besides, such as ``--format json``; empty where a destination may have it.

    Raises
    ------
    InputError
        With the file's name and what would do.
    """
    read = {identity: path for path in inputs if path is not None and (identity := _identity_of_input(path))}
    taken: dict[_Identity, str] = {"-": printed} if printed else {}
    with suppress(OSError):
        if (identity := _of_status(os.fstat(1))) is not None:
            taken[identity] = "standard output"
    for each in wanted:
        if each.path is None:
            continue
        identity = _identity(each.path)
        if identity == "-" and identity in taken:
            raise InputError(Fault(each.option, f"{taken[identity]} has standard output", "name a file"))
        with naming(each.path):
            if identity in taken:
                raise InputError(Fault(each.option, f"{taken[identity]} writes the same file", "name another"))
            if identity in read:
                raise InputError(Fault(each.option, "the file is read by this command", "name another to be written"))
            if identity is not None:
                taken[identity] = each.option
            each.check(each.path)
            if identity != "-":
                check_writable(each.path, each.size)


def plan_size(problem: Problem) -> int:
    """Return about how many bytes a plan of a problem has, rather too few than too many."""
    kinds = {"inference": 1, "fused": 2}.get(problem.form, 3)
    return 2048 + 40 * kinds * problem.total_stages * problem.microbatches


def _identity(path: PathLike) -> _Identity | None:
    """Return what tells a file that will be written from others: None for devices and pipes, which take any text."""
    name = os.fspath(path)
    if name == "-":
        return name
    with suppress(OSError, ValueError):
        return _of_status(os.stat(name))  # noqa: PTH116 - a name that need not be a path
    with suppress(OSError, ValueError):
        return os.path.realpath(name)
    return None


def _identity_of_input(path: PathLike) -> _Identity | None:
    """Return what tells a file that is read from others; None where there is no such file, for pipes and devices."""
    with suppress(OSError, ValueError):
        return _of_status(os.fstat(0) if os.fspath(path) == "-" else os.stat(path))  # noqa: PTH116
    return None


def _of_status(status: os.stat_result) -> tuple[int, int] | None:
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
