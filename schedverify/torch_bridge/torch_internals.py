"""What the bridge uses of torch beside its public names, and the releases in which it is known to be there.

Private names may change with any release, so all of them stand here, behind functions that say what they are for.
"""

from __future__ import annotations

import importlib
import importlib.util
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, NamedTuple

from schedverify.core.errors import Fault, UnsupportedError

TESTED: Final = ("2.13",)
"""Releases (major and minor) that the tests run with."""
_HOW: Final = "in a checkout of schedverify: pip install '.[torch]'"


def require_torch() -> Any:
    """Return the module ``torch``, of a version that the bridge is tested with.

    Raises
    ------
    UnsupportedError
        If torch is not installed, or of another version.
    """
    tested = " or ".join(TESTED)
    if importlib.util.find_spec("torch") is None:
        raise UnsupportedError(Fault("torch", "it is not installed", _HOW))
    torch = importlib.import_module("torch")
    release = ".".join(str(torch.__version__).split(".")[:2])
    if release not in TESTED:
        found = f"version {torch.__version__}, where the bridge is tested with {tested}"
        hint = f"it uses private names of torch; {_HOW}, or use the CSV files"
        raise UnsupportedError(Fault("torch", found, hint))
    return torch


def _schedules() -> Any:
    return importlib.import_module("torch.distributed.pipelining.schedules")


# Classes and objects of schedules


def schedule_base() -> Any:
    """Return the class of which all schedule classes are subclasses."""
    return _schedules()._PipelineSchedule


def runtime_class() -> Any:
    """Return the class of torch's runtime, which runs an order that it was given."""
    return _schedules()._PipelineScheduleRuntime


def is_single(live: Any) -> bool:
    """Whether a schedule object has one stage a rank, and a loop written by hand."""
    return hasattr(live, "_stage")


def counts_of(live: Any) -> tuple[int, int]:
    """Return the numbers of stages and of micro-batches of a schedule object."""
    return live._num_stages, live._n_microbatches


def lower_order(runtime: Any, compute: dict[int, list[Any]]) -> None:
    """Have a runtime put communication into a compute order, actions by rank, and hold what results."""
    runtime._prepare_schedule_with_comms(compute)


def load_order(runtime: Any, path: str) -> None:
    """Have a runtime load a CSV file of an order with communication."""
    runtime._load_csv(path, "compute_comms")


def dump_order(runtime: Any, path: str) -> None:
    """Have a runtime write its order with communication to a CSV file."""
    runtime._dump_csv(path, "compute_comms")


def has_exchanged_shapes(runtime: Any) -> bool:
    """Whether the ranks of a runtime know the shapes of messages, as from the first step on."""
    return bool(runtime._stages_forward_initialized)


def limit_waits(group: Any, limit: timedelta) -> None:
    """Have the waits of a process group end after some time."""
    importlib.import_module("torch.distributed").distributed_c10d._set_pg_timeout(limit, group)


# Functions that stand in for torch's while something runs


def run_loop(live: Any, stage: Any, launch: Callable[[list[Any]], None]) -> None:
    """Run the hand-written loop of a schedule object on a stage, with another function for batches of transfers.

    Parameters
    ----------
    live
        An object of a class with one stage a rank; it is changed.
    stage
        Has the methods of ``PipelineStage`` that the loop calls.
    launch
        Called with each batch of transfers, in place of what begins and waits for it.
    """
    live._stage = stage
    live._initialize_stage = lambda *_: None

    def batch_p2p(batch: list[Any], **_: Any) -> list[Any]:
        launch(batch)
        return []

    def sorted_batch_p2p(batch: list[Any], **_: Any) -> dict[int, list[Any]]:
        launch(batch)
        return {}

    loop = type(live)._step_microbatches
    names = loop.__globals__ | {"_batch_p2p": batch_p2p, "_sorted_batch_p2p": sorted_batch_p2p}
    types.FunctionType(loop.__code__, names, loop.__name__, loop.__defaults__)(live)


class RuntimeHooks(NamedTuple):
    """The three functions by which torch's runtime acts."""

    record: Any
    """Takes a name such as ``PP:0F1`` and returns a context around the action."""
    begin: Any
    """Begins transfers and returns their handles."""
    wait: Any
    """Waits for the transfers that ``begin`` began together."""


def runtime_hooks() -> RuntimeHooks:
    """Return the functions by which torch's runtime acts now."""
    schedules = _schedules()
    return RuntimeHooks(schedules.record_function, schedules._batch_p2p, schedules._wait_batch_p2p)


@contextmanager
def replaced_hooks(hooks: RuntimeHooks) -> Iterator[None]:
    """Have torch's runtime act by other functions within this context: it has no hooks for sends and receives."""
    schedules, before = _schedules(), runtime_hooks()
    schedules.record_function, schedules._batch_p2p, schedules._wait_batch_p2p = hooks
    try:
        yield
    finally:
        schedules.record_function, schedules._batch_p2p, schedules._wait_batch_p2p = before
