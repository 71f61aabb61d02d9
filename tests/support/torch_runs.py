"""Runs of torch's own pipeline runtime in the processes of a pool, and the gradients of the same model in one process.

A stage is ``tanh(x @ w)``; rows of the batch differ, so that tensors that change places change the gradients.
"""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WIDTH, ROWS = 4, 2
Gradients = dict[int, list[list[float]]]


def stage_module(stage: int) -> Any:
    torch = importlib.import_module("torch")
    generator = torch.Generator().manual_seed(stage)
    linear = torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64))
    return torch.nn.Sequential(linear, torch.nn.Tanh())


def batch(microbatches: int) -> tuple[Any, Any]:
    torch = importlib.import_module("torch")
    generator = torch.Generator().manual_seed(1000)
    return tuple(torch.randn(ROWS * microbatches, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))


def in_one_process(stages: int, microbatches: int) -> Gradients:
    """Return by stage the gradient of its weight, of the mean squared error over the whole batch."""
    torch = importlib.import_module("torch")
    modules = [stage_module(stage) for stage in range(stages)]
    inputs, targets = batch(microbatches)
    torch.nn.functional.mse_loss(torch.nn.Sequential(*modules)(inputs), targets).backward()
    return {stage: module[0].weight.grad.tolist() for stage, module in enumerate(modules)}


def of_a_csv(
    rank: int,
    text: str,
    placement: Sequence[int],
    microbatches: int,
    form: str = "compute_comms",
    budget: int | None = None,
) -> Gradients:
    """Run a CSV, by default with communication, in torch's runtime; return the gradients of this rank's stages.

    The budget is of sends begun and not yet waited for on a rank, which torch has from 2.15 on. A file with
    communication must keep to it as it stands: where torch still moves a wait, it is an error.
    """
    schedules = importlib.import_module("torch.distributed.pipelining.schedules")
    stages = _stages(rank, placement)
    live = schedules._PipelineScheduleRuntime(stages, microbatches, loss_fn=_loss(), **_limited(budget))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "schedule.csv"
        path.write_text(text, encoding="utf-8")
        live._load_csv(str(path), form)
    order = live.pipeline_order_with_comms
    if (
        budget is not None
        and form == "compute_comms"
        and text.splitlines() != [",".join(map(str, order[row])) for row in sorted(order)]
    ):
        raise AssertionError(f"torch runs another order than that of the file: {order}")
    return _stepped(live, stages, microbatches)


def of_a_class(
    rank: int, name: str, placement: Sequence[int], microbatches: int, deferred: bool, budget: int | None = None
) -> Gradients:
    """Run a step of a class of torch with several stages a rank, and return the gradients of this rank's stages.

    The budget is of sends begun and not yet waited for on a rank, which torch has from 2.15 on.
    """
    pipelining = importlib.import_module("torch.distributed.pipelining")
    stages = _stages(rank, placement)
    options = {"defer_pp_recv": deferred, **_limited(budget)}
    live = getattr(pipelining, f"Schedule{name}")(stages, microbatches, loss_fn=_loss(), **options)
    return _stepped(live, stages, microbatches)


def error_of(found: Sequence[Gradients], true: Gradients) -> float:
    """Return the largest relative error of a stage's gradient over all ranks."""
    torch = importlib.import_module("torch")
    errors = [0.0]
    for gradients in found:
        for stage, values in gradients.items():
            if not values:
                return math.inf
            wanted = torch.tensor(true[stage], dtype=torch.float64)
            errors.append(float((torch.tensor(values, dtype=torch.float64) - wanted).norm() / wanted.norm()))
    return max(errors)


def _limited(budget: int | None) -> dict[str, int]:
    return {} if budget is None else {"max_outstanding_sends": budget}


def _stages(rank: int, placement: Sequence[int]) -> list[Any]:
    torch = importlib.import_module("torch")
    pipelining = importlib.import_module("torch.distributed.pipelining")
    own = [stage for stage, home in enumerate(placement) if home == rank]
    return [pipelining.PipelineStage(stage_module(stage), stage, len(placement), torch.device("cpu")) for stage in own]


def _stepped(live: Any, stages: list[Any], microbatches: int) -> Gradients:
    inputs, targets = batch(microbatches)
    given = [inputs] if any(stage.is_first for stage in stages) else []
    live.step(*given, target=targets if any(stage.is_last for stage in stages) else None)
    gradients = {stage.stage_index: stage.submod[0].weight.grad for stage in stages}
    return {stage: [] if gradient is None else gradient.tolist() for stage, gradient in gradients.items()}


def _loss() -> Any:
    return importlib.import_module("torch").nn.functional.mse_loss
