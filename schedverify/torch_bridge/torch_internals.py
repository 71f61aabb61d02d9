"""Which versions of torch the bridge is tested with: what it uses there is private, and may change with any release."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Final

from schedverify.core.errors import Fault, UnsupportedError

TESTED: Final = ("2.13",)
"""Releases (major and minor) that the tests run with."""


def require_torch() -> Any:
    """Return the module ``torch``, of a version that the bridge is tested with.

    Raises
    ------
    UnsupportedError
        If torch is not installed, or of another version.
    """
    tested = " or ".join(TESTED)
    if importlib.util.find_spec("torch") is None:
        raise UnsupportedError(Fault("torch", "it is not installed", f"pip install 'torch=={tested}.*'"))
    torch = importlib.import_module("torch")
    release = ".".join(str(torch.__version__).split(".")[:2])
    if release not in TESTED:
        found = f"version {torch.__version__}, where the bridge is tested with {tested}"
        hint = f"it uses private names of torch; pip install 'torch=={tested}.*', or use the CSV files"
        raise UnsupportedError(Fault("torch", found, hint))
    return torch
