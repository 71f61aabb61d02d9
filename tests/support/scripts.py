"""Scripts of the checkout that stand in no package, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def module_at(path: Path, name: str, monkeypatch: pytest.MonkeyPatch | None = None) -> ModuleType:
    """Return the module in a file; with ``monkeypatch`` it can be imported by its name until the test ends."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if monkeypatch is not None:
        monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module
