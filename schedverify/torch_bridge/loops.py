"""What torch's hand-written loops run: each is run once, on a stage that writes down what it is told to do."""

from __future__ import annotations

import types
from typing import Any

from schedverify.core.errors import Fault, InputError
from schedverify.core.schedule import Schedule
from schedverify.torch_bridge.stand_ins import StandInStage, live_schedule


def torch_loop(name: str, *, ranks: int, microbatches: int) -> Schedule:
    """Return what a class with one stage a rank runs, with communication: of ``GPipe``, ``1F1B`` and ``ForwardOnly``.

    Their loops are written by hand and run no order (``pipeline_order``) that could be imported. So torch's own loop is
    run, once for each rank, with a stage that computes and sends nothing and writes down what it is told. What the loop
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
    live = live_schedule(name, ranks=ranks, microbatches=microbatches)
    if not hasattr(live, "_stage"):
        message = f"{type(live).__name__} has no loop of its own: it runs its order with communication"
        raise InputError(Fault("name", message, "torch_schedule(..., lowered=True)"))
    return Schedule.of(_row(live, _RecordingStage(rank, ranks)) for rank in range(ranks))


class _RecordingStage(StandInStage):
    """A stage that writes down, as the texts of steps, what it is told to do."""

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

    def perform_reduce_grad(self, _: int) -> None:
        self.steps.append(f"{self.stage_index}REDUCE_GRAD")

    def launch(self, batch: list[str]) -> None:
        """Write down a batch of sends and receives."""
        if batch:
            self.steps.append(batch[0] if len(batch) == 1 else f"[{';'.join(batch)}]")


def _row(live: Any, stage: _RecordingStage) -> list[str]:
    """Run the loop on a stage, with functions that write down in place of those that send and receive."""
    live._stage = stage
    live._initialize_stage = lambda *_: None

    def batch_p2p(batch: list[str], **_: Any) -> list[Any]:
        stage.launch(batch)
        return []

    def sorted_batch_p2p(batch: list[str], **_: Any) -> dict[int, list[Any]]:
        stage.launch(batch)
        return {}

    loop = type(live)._step_microbatches
    names = loop.__globals__ | {"_batch_p2p": batch_p2p, "_sorted_batch_p2p": sorted_batch_p2p}
    types.FunctionType(loop.__code__, names, loop.__name__, loop.__defaults__)(live)
    return stage.steps
