"""Reads the files that a file of a stranger may name: regular ones below one folder, and nothing else.

A pull request can bring a file that names ``/etc/passwd``, a link out of the repository, a pipe or a device, and what a
reader says of a file tells some of its content. So the place is looked at, with all links followed, before anything is
opened.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from schedverify.core.errors import Fault, InputError
from schedverify.formats.text_files import PathLike, naming, read_text, source_name

_GIT, _PROJECT = ".git", "pyproject.toml"
_HINT: Final = "name a regular file below it, without a link that leads out"


def root_of(folder: Path, root: Path | None = None) -> Path:
    """Return the folder below which the files of ``folder`` may name others.

    The nearest one from ``folder`` upwards that has a ``.git`` in it; else ``root``, where ``folder`` is below it; else
    the nearest with a ``pyproject.toml``; else ``folder`` itself.
    """
    above = [folder, *folder.parents]
    repository = next((each for each in above if (each / _GIT).exists()), None)
    given = root if root is not None and root in above else None
    project = next((each for each in above if (each / _PROJECT).is_file()), None)
    return repository or given or project or folder


class ContainedFiles:
    """The regular files below the root of a folder, the repository's own ``.git`` left out.

    Parameters
    ----------
    folder
        A folder, as it was named; its own links are followed.
    root
        A root that is taken where the folder is in no repository, such as that of pytest.
    """

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        self.root = root_of(Path(os.path.realpath(folder)), None if root is None else Path(os.path.realpath(root)))

    def read(self, path: PathLike, expected: str, limit: int) -> str:
        """Return the text of a file, as :func:`~schedverify.formats.text_files.read_text` does.

        Raises
        ------
        InputError
            If it is not below the root or no regular file, before anything of it is read; or as ``read_text`` does.
        """
        path = f".{os.sep}-" if os.fspath(path) == "-" else path  # a file of that name, not standard input
        with naming(path):
            place = self._place(path)
        return read_text(path, expected, limit, place=place)

    def _place(self, path: PathLike) -> Path:
        """Return where a path leads; only where that is below the root is it asked whether there is a file."""
        try:
            place = Path(os.path.realpath(path))
        except ValueError:
            raise InputError(Fault("", "the path is no path", _HINT)) from None
        if not place.is_relative_to(self.root):
            raise InputError(Fault("", f"it leads out of {source_name(self.root)}", _HINT))
        if _GIT in map(str.lower, place.relative_to(self.root).parts):
            raise InputError(Fault("", "it is a file of git's own", _HINT))
        return place
