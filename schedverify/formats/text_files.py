"""Reads and writes whole text files, or standard input and output.

A file is read as UTF-8, and never more of it than a limit. It is written whole or not at all: into a new file beside
it that then takes its name. Whether it could be written is known before.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from schedverify.core.errors import Fault, InputError, printable

_FIRST: Final = 1 << 16
_AS_IT_IS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
"""How a regular file is opened, so that a link or a pipe that took its place is neither followed nor waited for."""

_MOST_TRIED: Final = 1 << 24
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

PathLike = str | os.PathLike[str]
Reader = Callable[[PathLike, str, int], str]
"""Takes a path, what is expected and a limit as :func:`read_text` does, and returns the text."""


def read_text(path: PathLike, expected: str, limit: int, *, place: PathLike | None = None) -> str:
    """Return the text of a file; ``-`` is standard input.

    Parameters
    ----------
    expected
        What the file should hold, as messages say it: ``a problem in TOML or JSON``.
    limit
        The most bytes that are read.
    place
        Where the path leads, if that is known: then nothing but a regular file is read, and the one that is there.

    Raises
    ------
    InputError
        If there is no such file, or it is a folder, empty, binary, no UTF-8, or larger than ``limit``; it names the
        file.
    """
    with naming(path):
        content = _content(path, expected, limit) if place is None else _regular_content(place, expected, limit)
        return decoded(content, expected)


def source_name(path: PathLike) -> str:
    """Return how messages call a file; characters that could steer a terminal are escaped."""
    name = os.fspath(path)
    return "standard input" if name == "-" else printable(name) or "''"


@contextmanager
def naming(path: PathLike) -> Iterator[None]:
    """Name a file in an InputError that is raised within and names none."""
    try:
        yield
    except InputError as error:
        raise error if error.source else error.within(source_name(path)) from None


def check_size(found: int, expected: str, limit: int) -> None:
    """Raise an InputError where a file has more than ``limit`` bytes."""
    if found > limit:
        message = f"{found} bytes or more, where {expected} has at most {limit}"
        raise InputError(Fault("", message, "is it the right file? a large problem is written as JSON"))


def _content(path: PathLike, expected: str, limit: int) -> bytes:
    if os.fspath(path) == "-":
        return _bounded(sys.stdin.buffer, expected, limit)
    with told(expected), Path(path).open("rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            check_size(status.st_size, expected, limit)
        return _bounded(file, expected, limit)


def _regular_content(place: PathLike, expected: str, limit: int) -> bytes:
    """Return the bytes of a regular file; a pipe or a device is not even opened, nor waited for if it comes between."""
    with told(expected):
        _check_regular(Path(place).stat().st_mode, expected)
        with os.fdopen(os.open(place, _AS_IT_IS), "rb") as file:
            status = os.fstat(file.fileno())
            _check_regular(status.st_mode, expected)
            check_size(status.st_size, expected, limit)
            return _bounded(file, expected, limit)


def _check_regular(mode: int, expected: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError
    if not stat.S_ISREG(mode):
        raise InputError(Fault("", f"no regular file; expected {expected}", "a pipe or a device is not read"))


@contextmanager
def told(expected: str) -> Iterator[None]:
    """Turn what the system says of a file that cannot be read into an InputError."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(Fault("", f"no such file; expected {expected}", "check the path")) from None
    except IsADirectoryError:
        raise InputError(Fault("", f"a folder; expected {expected}", "name a file in it")) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the path is no path"
        raise InputError(Fault("", f"cannot be read: {reason}", f"expected {expected}")) from None


def _bounded(file: BinaryIO, expected: str, limit: int) -> bytes:
    """Return the text of a stream, or raise; most binary files are refused by their first bytes alone."""
    first = file.read(_FIRST)
    if b"\0" in first:
        raise _binary(expected)
    rest = file.read(limit + 1 - len(first)) if len(first) == _FIRST else b""
    check_size(len(first) + len(rest), expected, limit)
    return first + rest if rest else first


def decoded(content: bytes, expected: str) -> str:
    """Return the text of a file's bytes, or raise an InputError where they are none."""
    if not content:
        raise InputError(Fault("", f"empty; expected {expected}", "it was perhaps never written"))
    if b"\0" in content:
        raise _binary(expected)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(Fault(f"byte {error.start}", f"no UTF-8; expected {expected}", "save it as UTF-8")) from None


def _binary(expected: str) -> InputError:
    return InputError(Fault("", f"a binary file; expected {expected}", "UTF-8 text"))


def write_text(path: PathLike, text: str) -> None:
    r"""Write UTF-8 text with ``\n`` line ends; ``-`` is standard output. An old file stays until the new one is whole.

    Raises
    ------
    InputError
        If it cannot be written; it names the file.
    """
    if os.fspath(path) == "-":
        _print(text)
        return
    try:
        _write(_resolved(path), text.encode("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(_unwritable(path, error), source_name(path)) from None


def append_text(path: PathLike, text: str) -> None:
    """Add UTF-8 text to the end of a file, which is made where there is none.

    Raises
    ------
    InputError
        If it cannot be written; it names the file.
    """
    try:
        with _resolved(path).open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except (OSError, ValueError) as error:
        raise InputError(_unwritable(path, error), source_name(path)) from None


def check_writable(path: PathLike, size: int = 0) -> None:
    """Try whether a file can be written: its folder takes a file of so many bytes, and what stands there may go.

    The trial stands beside the file and is gone afterwards. Devices and pipes are not tried. Of a very large file the
    first 16 MiB are.

    Raises
    ------
    InputError
        If it cannot be written; it names the file and why.
    """
    try:
        target = _resolved(path)
        if not _replaces(target):
            return
        beside = _written_beside(target, bytes(min(size, _MOST_TRIED)))
        beside.unlink()
    except (OSError, ValueError) as error:
        raise InputError(_unwritable(path, error), source_name(path)) from None


def _print(text: str) -> None:
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        sys.stdout.write(text)
    else:
        buffer.write(text.encode("utf-8"))
        buffer.flush()


def _resolved(path: PathLike) -> Path:
    """Return the file that a path leads to; one that ends like the name of a folder is none.

    A pipe or device keeps the name that leads to it: what ``/dev/fd/63`` is linked to need not be a name at all.
    """
    name = os.fspath(path)
    if not name or name.endswith(("/", os.sep)):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    with suppress(OSError):
        mode = Path(name).stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            return Path(name)
    return Path(os.path.realpath(name))


def _replaces(target: Path) -> bool:
    """Whether a new file takes the place of the target, rather than text going into a device or pipe."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return stat.S_ISREG(mode)


def _write(target: Path, content: bytes) -> None:
    if not _replaces(target):
        with target.open("wb") as file:
            file.write(content)
        return
    beside = _written_beside(target, content)
    try:
        if target.exists():
            beside.chmod(stat.S_IMODE(target.stat().st_mode))
        beside.replace(target)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def _written_beside(target: Path, content: bytes) -> Path:
    """Write a new file into the folder of the target and return it; what cannot be written whole leaves none."""
    beside = target.with_name(f".schedverify-{os.urandom(8).hex()}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(content)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    return beside


def _unwritable(path: PathLike, error: OSError | ValueError) -> Fault:
    """Return the fault of a file that cannot be written."""
    if isinstance(error, IsADirectoryError):
        return Fault("", "cannot be written: it is a folder", "name a file in it")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        folder = printable(os.path.dirname(os.path.realpath(path)))  # noqa: PTH120 - of a path that need not be one
        return Fault("", f"cannot be written: there is no folder {folder}", "make it first, or name another")
    number = getattr(error, "errno", None)
    if number in _NO_SPACE:
        return Fault("", f"cannot be written: {os.strerror(number)}", "make room, or name a file on another disk")
    reason = "the path is no path" if number is None else os.strerror(number)
    return Fault("", f"cannot be written: {reason}", "name a file in a folder that exists and is yours")
