"""Writes a file whole or not at all: into a new file beside it that then takes its name."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from pathlib import Path

from schedverify.core.errors import Fault, InputError
from schedverify.formats.text_files import PathLike, source_name


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
        _write(Path(path), text.encode("utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the path is no path"
        fault = Fault("", f"cannot be written: {reason}", "name a file in a folder that exists and is yours")
        raise InputError(fault, source_name(path)) from None


def _print(text: str) -> None:
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        sys.stdout.write(text)
    else:
        buffer.write(text.encode("utf-8"))
        buffer.flush()


def _write(path: Path, content: bytes) -> None:
    target = path.resolve()
    mode = target.stat().st_mode if target.exists() else None
    if mode is not None and not stat.S_ISREG(mode):
        with target.open("wb") as file:
            file.write(content)
        return
    beside = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(content)
        if mode is not None:
            beside.chmod(stat.S_IMODE(mode))
        beside.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
