"""Objects of torch's schedule classes without a process group: what their constructors ask of a stage, and no more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from schedverify.core.errors import Fault, InputError, UnknownNameError
from schedverify.core.schedule import MAX_RANKS
from schedverify.torch_bridge.versions import require_torch

_REFUSALS: Final = (ValueError, AssertionError, RuntimeError, IndexError, KeyError)
"""What torch's constructors raise on a shape that they do not take."""


@dataclass
class StandInStage:
    """What a schedule's constructor asks of a ``PipelineStage``; it has no module, no device and no group."""

    stage_index: int
    num_stages: int
    group_size: int
    group_rank: int = 0
    submod: None = None
    stage_index_to_group_rank: dict[int, int] = field(default_factory=dict)

    @property
    def is_first(self) -> bool:
        """Whether it is stage 0."""
        return self.stage_index == 0

    @property
    def is_last(self) -> bool:
        """Whether no stage follows."""
        return self.stage_index == self.num_stages - 1


def torch_classes() -> dict[str, Any]:
    """Return the schedule classes that ``torch.distributed.pipelining`` has, by name.

    The names are those of the classes without ``Schedule``, which is also how ``get_schedule_class`` and torchtitan
    call them: ``GPipe``, ``1F1B``, ``Interleaved1F1B``, ``LoopedBFS``, ``InterleavedZeroBubble``, ``ZBVZeroBubble``,
    ``DualPipeV``, and ``ForwardOnly`` for ``_ScheduleForwardOnly``.

    Raises
    ------
    UnsupportedError
        If torch is not installed, or of a version that the bridge is not tested with.
    """
    require_torch()
    from torch.distributed import pipelining
    from torch.distributed.pipelining import schedules

    found = [value for value in vars(pipelining).values() if isinstance(value, type)]
    kinds = sorted((kind for kind in found if issubclass(kind, schedules._PipelineSchedule)), key=lambda k: k.__name__)
    return {short_name(kind.__name__): kind for kind in kinds}


def short_name(name: str) -> str:
    """Return a class name without ``Schedule`` before it."""
    return name.removeprefix("_").removeprefix("Schedule")


def live_schedule(name: str, *, ranks: int, microbatches: int, virtual: int = 1, defer_receives: bool = False) -> Any:
    """Return an object of one of torch's schedule classes on stand-in stages: its orders are there, it cannot run.

    Parameters
    ----------
    name
        The class, such as ``ScheduleZBVZeroBubble`` or ``ZBVZeroBubble``; see :func:`torch_classes`.
    ranks, microbatches
        Ranks of the pipeline, and micro-batches of a step.
    virtual
        Stages a rank. The single-stage classes take 1, those in a v take 2.
    defer_receives
        Whether torch's lowering defers receives (``defer_pp_recv=True``); of several-stage classes only.

    Raises
    ------
    InputError
        If there is no such class, or it refuses the shape; then with torch's own words.
    """
    known = torch_classes()
    kind = known.get(short_name(name))
    if kind is None:
        raise UnknownNameError.among("torch schedule class", name, known)
    shape = {"ranks": ranks, "microbatches": microbatches, "virtual": virtual}
    _check(shape)
    from torch.distributed.pipelining.schedules import PipelineScheduleSingle

    single = issubclass(kind, PipelineScheduleSingle)
    if single and virtual != 1:
        message = f"{kind.__name__} has one stage a rank; found {virtual}"
        raise InputError(
            Fault("virtual", message, "virtual=1, or a class with several stages, such as Interleaved1F1B")
        )
    if single:
        return _built(kind, shape, _stages(ranks, 1)[0])
    return _built(kind, shape, _stages(ranks, virtual), defer_pp_recv=defer_receives)


def lowered_by_torch(compute: dict[int, list[Any]], *, ranks: int, microbatches: int, defer_receives: bool) -> Any:
    """Return torch's runtime on stand-in stages, one a rank, with a compute order that its own passes have lowered.

    Raises
    ------
    InputError
        If torch refuses the order; then with torch's own words.
    """
    from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

    shape = {"ranks": ranks, "microbatches": microbatches, "virtual": 1}
    runtime = _built(_PipelineScheduleRuntime, shape, _stages(ranks, 1), defer_pp_recv=defer_receives)
    try:
        runtime._prepare_schedule_with_comms(compute)
    except _REFUSALS as error:
        raise InputError(_refusal("torch's lowering", shape, error)) from None
    return runtime


def _built(kind: Any, shape: dict[str, int], stages: Any, **keywords: Any) -> Any:
    """Make an object of a schedule class; a refusal of torch is told as an InputError with the shape."""
    try:
        return kind(stages, shape["microbatches"], **keywords)
    except _REFUSALS as error:
        raise InputError(_refusal(kind.__name__, shape, error)) from None


def _stages(ranks: int, virtual: int) -> list[StandInStage]:
    """Return the stages of rank 0; a constructor computes the orders of all ranks from them."""
    return [StandInStage(stage * ranks, ranks * virtual, ranks) for stage in range(virtual)]


def _refusal(who: str, shape: dict[str, int], error: Exception) -> Fault:
    place = ", ".join(f"{key}={value}" for key, value in shape.items())
    said = " ".join(str(error).split()) or type(error).__name__
    return Fault(place, f"{who} refuses it: {said}", "choose another shape")


def _check(shape: dict[str, int]) -> None:
    faults = [
        Fault(key, f"expected a whole number from 1 to {MAX_RANKS}, found {value!r}")
        for key, value in shape.items()
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RANKS
    ]
    if faults:
        raise InputError(faults)
