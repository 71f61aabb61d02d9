"""The values: immutable, without logic beyond their own meaning."""

from __future__ import annotations

import importlib
import sys

TYPE_CHECKING = False  # without typing: what this loads, a command has loaded before it can answer a signal
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final

VERSION: Final = "0.1.0"
"""That of the package, as ``schedverify.__version__``."""


def lazy_names(
    package: str, modules: Mapping[str, str], rooms: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package of which each name is loaded when it is first used.

    Parameters
    ----------
    package
        Its full name.
    modules
        By module of the package, the names that it defines, with spaces between them.
    rooms
        Names of the package that are modules as a whole, with the modules.
    """
    module_of = {name: module for module, names in modules.items() for name in names.split()}

    def load(name: str) -> Any:
        if rooms and name in rooms:
            value: Any = importlib.import_module(f"{package}.{rooms[name]}")
        elif name in module_of:
            value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    return load
