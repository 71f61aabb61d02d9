"""Environments with another torch, for tests that need one."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]


def interpreter_with(wanted: list[str], folder: Path, variable: str) -> str:
    """Return the interpreter that a variable of the environment names; else that of an environment made here.

    Parameters
    ----------
    wanted
        What pip installs there.
    folder
        Where it is made; of some gigabytes.
    """
    if variable in os.environ:
        return os.environ[variable]
    venv.create(folder, with_pip=True)
    python = str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    # a machine's own pins name another torch
    plain = os.environ | {"PIP_CONFIG_FILE": os.devnull, "PIP_CONSTRAINT": ""}
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True, env=plain, timeout=1500)
    return python
