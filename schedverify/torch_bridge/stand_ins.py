"""Objects of torch's schedule classes without a process group, and what their hand-written loops run.

Stand-in stages have what a constructor reads of a stage, and no more. A loop is run once on a stage that writes down
what it is called for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Unpack

from schedverify.core.errors import Fault, InputError, UnknownNameError
from schedverify.core.schedule import MAX_RANKS, Schedule
from schedverify.torch_bridge import torch_internals
from schedverify.torch_bridge.lowering_options import LoweringOptions, keywords_for
from schedverify.torch_bridge.torch_internals import is_single
from schedverify.torch_bridge.versions import require_torch, unsupported

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
        If torch is not installed, or lacks what the bridge uses.
    """
    require_torch("orders")
    from torch.distributed import pipelining

    base = torch_internals.schedule_base()
    kinds = [value for value in vars(pipelining).values() if isinstance(value, type) and issubclass(value, base)]
    return {short_name(kind.__name__): kind for kind in sorted(kinds, key=lambda kind: kind.__name__)}


def torch_class(name: str) -> Any:
    """Return a schedule class by its name, with or without ``Schedule`` before it.

    Raises
    ------
    UnknownNameError
        If there is no such class; with the nearest.
    """
    known = torch_classes()
    kind = known.get(short_name(name))
    if kind is None:
        raise UnknownNameError.among("torch schedule class", name, known)
    return kind


def short_name(name: str) -> str:
    """Return a class name without ``Schedule`` before it."""
    return name.removeprefix("_").removeprefix("Schedule")


def live_schedule(
    name: str, *, ranks: int, microbatches: int, virtual: int = 1, **options: Unpack[LoweringOptions]
) -> Any:
    """Return an object of one of torch's schedule classes on stand-in stages: its orders are there, it cannot run.

    Parameters
    ----------
    name
        The class, such as ``ScheduleZBVZeroBubble`` or ``ZBVZeroBubble``; see :func:`torch_classes`.
    ranks, microbatches
        Ranks of the pipeline, and micro-batches of a step.
    virtual
        Stages a rank. The single-stage classes take 1, those in a v take 2.
    options
        What is asked of torch's lowering (:class:`LoweringOptions`), which several-stage classes have.

    Raises
    ------
    InputError
        If there is no such class, this torch has no such option, or it refuses the shape; then with torch's own words.
    """
    kind = torch_class(name)
    shape = {"ranks": ranks, "microbatches": microbatches, "virtual": virtual}
    _check(shape)
    single = torch_internals.is_single_class(kind)
    if single and virtual != 1:
        hint = "virtual=1, or a class with several stages, such as Interleaved1F1B"
        raise InputError(Fault("virtual", f"{kind.__name__} has one stage a rank; found {virtual}", hint))
    stages = _stages(ranks, virtual)
    return _built(kind, shape, stages[0] if single else stages, **keywords_for(kind, options))


def lowered_by_torch(
    compute: dict[int, list[Any]], *, ranks: int, microbatches: int, **options: Unpack[LoweringOptions]
) -> Any:
    """Return torch's runtime on stand-in stages, one a rank, with a compute order that its own passes have lowered.

    Raises
    ------
    InputError
        If torch refuses the order; then with torch's own words.
    """
    shape = {"ranks": ranks, "microbatches": microbatches, "virtual": 1}
    kind = torch_internals.runtime_class()
    runtime = _built(kind, shape, _stages(ranks, 1), **keywords_for(kind, options))
    try:
        torch_internals.lower_order(runtime, compute)
    except _REFUSALS as error:
        raise InputError(_refusal("torch's lowering", shape, error)) from None
    return runtime


def _built(kind: Any, shape: dict[str, int], stages: Any, **keywords: Any) -> Any:
    """Make an object of a schedule class; a refusal of torch becomes an InputError with the shape."""
    with _asked_of_a_stage():
        try:
            return kind(stages, shape["microbatches"], **keywords)
        except _REFUSALS as error:
            raise InputError(_refusal(kind.__name__, shape, error)) from None


@contextmanager
def _asked_of_a_stage() -> Iterator[None]:
    """Refuse a torch that asks a stage for something that the stand-in does not have, by its name."""
    try:
        yield
    except AttributeError as error:
        if not isinstance(error.obj, StandInStage):
            raise
        raise unsupported(f"asks a stage for {error.name}, which the bridge does not know") from None


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


def torch_loop(name: str, *, ranks: int, microbatches: int) -> Schedule:
    """Return what a class with one stage a rank runs, with communication: of ``GPipe``, ``1F1B`` and ``ForwardOnly``.

    Their loops are written by hand and run no order (``pipeline_order``) that could be imported. So torch's own loop is
    run, once for each rank, with a stage that computes and sends nothing and writes down its calls. What the loop
    launches as one batch is a group of the schedule. That it also waits for a batch before it goes on is not in the
    schedule; the discipline ``block``, under which every send and receive is waited for, is stricter.

    Parameters
    ----------
    name
        The class, such as ``Schedule1F1B`` or ``1F1B``.
    ranks, microbatches
        Ranks of the pipeline, and micro-batches of a step.

    Raises
    ------
    InputError
        If there is no such class, it refuses the shape, or it has several stages a rank.

    Examples
    --------
    >>> print(torch_loop("1F1B", ranks=2, microbatches=2))
    0F0 0SEND_F0 0F1 [0SEND_F1;0RECV_B0] 0B0 0RECV_B1 0B1 0REDUCE_GRAD
    1RECV_F0 1F0 1B0 [1SEND_B0;1RECV_F1] 1F1 1B1 1SEND_B1 1REDUCE_GRAD
    """
    require_torch("loops")
    live = live_schedule(name, ranks=ranks, microbatches=microbatches)
    if not is_single(live):
        message = f"{type(live).__name__} has no loop of its own: it runs its order with communication"
        raise InputError(Fault("name", message, "torch_schedule(..., lowered=True)"))
    recorded = [_RecordingStage(rank, ranks) for rank in range(ranks)]
    for stage in recorded:
        with _asked_of_a_stage():
            torch_internals.run_loop(live, stage, stage.launch)
    return Schedule.of(stage.steps for stage in recorded)


class _RecordingStage(StandInStage):
    """A stage that writes down, as the texts of steps, the calls of its methods."""

    def __init__(self, stage: int, stages: int) -> None:
        super().__init__(stage, stages, stages, group_rank=stage)
        self.steps: list[str] = []

    def get_fwd_recv_ops(self, microbatch: int) -> list[str]:
        return [] if self.is_first else [f"{self.stage_index}RECV_F{microbatch}"]

    def get_fwd_send_ops(self, microbatch: int) -> list[str]:
        return [] if self.is_last else [f"{self.stage_index}SEND_F{microbatch}"]

    def get_bwd_recv_ops(self, microbatch: int) -> list[str]:
        return [] if self.is_last else [f"{self.stage_index}RECV_B{microbatch}"]

    def get_bwd_send_ops(self, microbatch: int) -> list[str]:
        return [] if self.is_first else [f"{self.stage_index}SEND_B{microbatch}"]

    def forward_one_chunk(self, microbatch: int, *_: Any, **__: Any) -> None:
        self.steps.append(f"{self.stage_index}F{microbatch}")

    def backward_one_chunk(self, microbatch: int, **_: Any) -> None:
        self.steps.append(f"{self.stage_index}B{microbatch}")

    def release_fwd_send_outputs(self, _: int) -> None:
        """Let go of nothing: it holds no tensors. Since torch 2.15 the loops call it when a send is complete."""

    def perform_reduce_grad(self, _: int) -> None:
        self.steps.append(f"{self.stage_index}REDUCE_GRAD")

    def launch(self, batch: list[str]) -> None:
        """Write down a batch of sends and receives."""
        if batch:
            self.steps.append(batch[0] if len(batch) == 1 else f"[{';'.join(batch)}]")
