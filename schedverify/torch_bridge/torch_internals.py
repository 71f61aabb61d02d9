"""What the bridge uses of torch beside its public names.

Private names may change with any release, so all of them stand here, behind functions that say what they are for;
:mod:`schedverify.torch_bridge.versions` asks for them by name before they are used.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from schedverify.torch_bridge.versions import unsupported


def _schedules() -> Any:
    return importlib.import_module("torch.distributed.pipelining.schedules")


# Classes and objects of schedules


def schedule_base() -> Any:
    """Return the class of which all schedule classes are subclasses."""
    return _schedules()._PipelineSchedule


def runtime_class() -> Any:
    """Return the class of torch's runtime, which runs an order that it was given."""
    return _schedules()._PipelineScheduleRuntime


def is_single_class(kind: Any) -> bool:
    """Whether a schedule class has one stage a rank, and a loop written by hand."""
    return issubclass(kind, _schedules().PipelineScheduleSingle)


def is_single(live: Any) -> bool:
    """Whether a schedule object has one stage a rank, and a loop written by hand."""
    return hasattr(live, "_stage")


def counts_of(live: Any) -> tuple[int, int]:
    """Return the numbers of stages and of micro-batches of a schedule object."""
    return _read(live, "_num_stages"), _read(live, "_n_microbatches")


def knows_waits() -> bool:
    """Whether this torch has actions that wait for a send and for a reduction, and asks for them where it loads one."""
    return hasattr(_schedules()._ComputationType, "WAIT_SEND_F")


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
    return bool(_read(runtime, "_stages_forward_initialized"))


def has_edge_communicators(stage: Any) -> bool:
    """Whether the sends of a stage go over a communicator for each directed pair of ranks, as they may since 2.15."""
    return bool(getattr(stage, "p2p_per_edge", False))


def is_bound(group: Any) -> bool:
    """Whether a process group is bound to a device: NCCL then has its one communicator at once, and none for pairs."""
    return getattr(group, "bound_device_id", None) is not None


def limit_waits(group: Any, limit: timedelta) -> None:
    """Have the waits of a process group end after some time."""
    importlib.import_module("torch.distributed").distributed_c10d._set_pg_timeout(limit, group)


def _read(live: Any, name: str) -> Any:
    """Return an attribute of a schedule object, or refuse a torch whose objects do not have it."""
    try:
        return getattr(live, name)
    except AttributeError:
        raise unsupported(f"has no {type(live).__name__}.{name}, which the bridge uses") from None


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
