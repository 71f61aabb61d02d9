"""Which torch the bridge works with: by what it is tested with, and by whether the pieces that it uses are there.

A version that is not tested is warned of. One in which a piece is missing is refused where that piece is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from functools import cache
from typing import Any, Final

from schedverify.core.errors import Fault, UnsupportedError

TESTED: Final = ("2.13", "2.14", "2.15")
"""Releases (major and minor) that the tests run with."""
_HOW: Final = "in a checkout of schedverify: pip install '.[torch]'"
_OR_FILES: Final = f"{_HOW}, or use the CSV files"
_SCHEDULES: Final = "torch.distributed.pipelining.schedules"
_ORDERS: Final = (
    f"{_SCHEDULES}:_PipelineSchedule", f"{_SCHEDULES}:PipelineScheduleSingle",
    f"{_SCHEDULES}:_PipelineScheduleRuntime._prepare_schedule_with_comms",
)  # fmt: skip
_LOOPS: Final = (f"{_SCHEDULES}:_batch_p2p", f"{_SCHEDULES}:_sorted_batch_p2p", f"{_SCHEDULES}:_wait_batch_p2p")
_RUNTIME: Final = (
    f"{_SCHEDULES}:_PipelineScheduleRuntime._load_csv", f"{_SCHEDULES}:_PipelineScheduleRuntime._dump_csv",
    f"{_SCHEDULES}:record_function", f"{_SCHEDULES}:_batch_p2p", f"{_SCHEDULES}:_wait_batch_p2p",
    "torch.distributed.distributed_c10d:_set_pg_timeout",
)  # fmt: skip
PIECES: Final = {"orders": _ORDERS, "loops": _ORDERS + _LOOPS, "runtime": _ORDERS + _RUNTIME}
"""By what the bridge does, the names that it uses for it: importing orders, the loops written by hand, a run."""


def require_torch(use: str = "orders") -> Any:
    """Return the module ``torch``, once what the bridge uses of it is known to be there.

    Parameters
    ----------
    use
        What the bridge is about to do, a key of ``PIECES``.

    Raises
    ------
    UnsupportedError
        If torch is not installed, or lacks a piece; with its name.

    Warns
    -----
    UserWarning
        If all pieces are there, but the version is none that the bridge is tested with.
    """
    if importlib.util.find_spec("torch") is None:
        raise UnsupportedError(Fault("torch", "it is not installed", _HOW))
    torch = importlib.import_module("torch")
    found = str(torch.__version__)
    absent = [piece for piece in PIECES[use] if not _has(piece)]
    if absent:
        raise unsupported(f"has no {absent[0].replace(':', '.')}, which is used")
    if _release(found) not in TESTED:
        _warn(found)
    return torch


def unsupported(what: str, *, key: str = "torch", hint: str = _OR_FILES) -> UnsupportedError:
    """Return the refusal of the torch that is installed, for what it lacks or asks for; a key names who needs it."""
    torch = importlib.import_module("torch")
    text = f"torch {torch.__version__} {what}; the bridge is tested with {_tested()}"
    return UnsupportedError(Fault(key, text, hint))


def _release(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _tested() -> str:
    return f"{', '.join(TESTED[:-1])} and {TESTED[-1]}"


def _has(piece: str) -> bool:
    module, _, names = piece.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        return False
    for name in names.split("."):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


@cache
def _warn(version: str) -> None:
    """Warn once of a version."""
    text = f"torch {version} is not tested with this schedverify, which is tested with {_tested()}; what it uses of it"
    warnings.warn(f"{text} is there, but may mean something else", stacklevel=3)
