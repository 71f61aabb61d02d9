"""Reads a text file that gzip may have packed, and never more of it than a limit, unpacked or not."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from schedverify.core.errors import Fault, InputError
from schedverify.formats.text_files import PathLike, check_size, decoded, naming, told

_GZIP: Final = b"\x1f\x8b"


def read_packed_text(path: PathLike, expected: str, limit: int) -> str:
    """Return the text of a file as :func:`~schedverify.formats.text_files.read_text` does, packed by gzip or not.

    Parameters
    ----------
    expected
        What the file should hold, as messages say it.
    limit
        The most bytes of the file, and the most that they unpack to.

    Raises
    ------
    InputError
        As ``read_text`` does; also if what is packed ends too soon or is damaged.
    """
    with naming(path):
        with told(expected), nullcontext(sys.stdin.buffer) if os.fspath(path) == "-" else Path(path).open("rb") as file:
            content = file.read(limit + 1)
        check_size(len(content), expected, limit)
        if content.startswith(_GZIP):
            content = _unpacked(content, expected, limit)
            check_size(len(content), expected, limit)
        return decoded(content, expected)


def _unpacked(content: bytes, expected: str, limit: int) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            return file.read(limit + 1)
    except EOFError:
        found = "ends too soon"
    except (OSError, zlib.error):
        found = "is damaged"
    hint = "it was perhaps copied while it was being written"
    raise InputError(Fault("", f"what gzip packed {found}; expected {expected}", hint))
