"""Models whose blocks share weights, as ``run`` loads them, and their training in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from support import sharing_jobs as jobs

Model = tuple[list[Any], Callable[[int], tuple[Any, Any]], Callable[[Any, Any], Any]]


def batch(step: int) -> tuple[Any, Any]:
    return jobs.batch_of(step, 8)


def layer() -> Any:
    return nn.Linear(jobs.WIDTH, jobs.WIDTH).double()


def with_parts(*blocks: Any) -> Model:
    return list(blocks), batch, jobs.entropy


def tied() -> Model:
    table = jobs.table_of()
    return with_parts(table, layer(), layer(), jobs.Head(table.weight, bias=False))


def with_a_bias() -> Model:
    table = jobs.table_of()
    return with_parts(table, layer(), layer(), jobs.Head(table.weight, bias=True))


def on_all_stages() -> Model:
    table = jobs.table_of()
    return with_parts(table, layer(), jobs.Middle(table.weight), jobs.Head(table.weight, bias=True))


def with_two_weights() -> Model:
    table, scale = nn.Parameter(jobs.table_of().weight.detach()), nn.Parameter(torch.rand(jobs.WIDTH).double())
    return with_parts(
        jobs.Ends(table, scale, first=True), layer(), jobs.Middle(table), jobs.Ends(table, scale, first=False)
    )


def with_a_layer_again() -> Model:
    """Run one layer four times, as ALBERT does, in a Sequential, beside a tied table."""
    table, again = jobs.table_of(), layer()
    blocks = nn.Sequential(table, again, nn.Tanh(), again, again, again, jobs.Head(table.weight, bias=False))
    return blocks, batch, jobs.entropy  # type: ignore[return-value]


def untied() -> Model:
    return with_parts(jobs.table_of(), layer(), layer(), jobs.Head(jobs.table_of().weight, bias=False))


def frozen() -> Model:
    table = jobs.table_of()
    table.weight.requires_grad_(False)
    return with_parts(table, layer(), layer(), jobs.Head(table.weight, bias=True))


MODELS = (tied, with_a_bias, on_all_stages, with_two_weights, with_a_layer_again, untied, frozen)


def losses_of(make: Callable[[], Model], steps: int, rate: float) -> list[float]:
    """Train a model in one process and return the loss of each step."""
    torch.manual_seed(0)
    blocks, batches, loss = make()
    model = blocks if isinstance(blocks, nn.Module) else nn.Sequential(*blocks)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=rate)
    found = []
    for step in range(steps):
        inputs, targets = batches(step)
        optimizer.zero_grad()
        whole = loss(model(inputs), targets)
        whole.backward()
        optimizer.step()
        found.append(float(whole.detach()))
    return found


def run(rank: int, plan: Any, name: str, steps: int, rate: float) -> Any:
    """Run a plan as the command does; return the losses, or the error."""
    from schedverify.core.errors import SchedverifyError
    from schedverify.runner.launch.session import RunSettings, session

    settings = RunSettings(plan, f"support.sharing_models:{name}", steps, rate, 30)
    try:
        return list(session(settings, lambda _: None))
    except SchedverifyError as error:
        return f"{type(error).__name__}: {error}"
