"""One process of a run: joins the others, runs the steps, and tells the loss of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from schedverify.core.result import Plan
from schedverify.formats import save_boundaries, save_run
from schedverify.formats.plan_files import digest, plan_data
from schedverify.runner.control.clock_sync import read_clock
from schedverify.runner.control.run_logs import gather_log, gather_trace
from schedverify.runner.launch.source import Source, load_source, stages_of
from schedverify.runner.runner import Runner


class RunSettings(NamedTuple):
    """What a run is asked to do.

    Attributes
    ----------
    plan
        The plan's file.
    model
        ``MODULE:FUNCTION``.
    learning_rate
        Step of plain gradient descent after each step; 0 leaves the weights as they are.
    timeout
        Seconds that a rank waits for another.
    """

    plan: str
    model: str
    steps: int = 1
    learning_rate: float = 0.0
    timeout: float = 60.0
    unverified: bool = False
    trace: str | None = None
    """The file for what ran."""
    boundaries: str | None = None
    """The file for what crossed between stages."""
    forbid_nan: bool = False
    checksums: bool = False


def session(settings: RunSettings, tell: Callable[[str], None]) -> None:
    """Run a plan in this process of the default process group; rank 0 tells a line for each step.

    Raises
    ------
    RefusedError, RunError, InputError
        As :class:`schedverify.runner.Runner` and :meth:`~schedverify.runner.Runner.step` do.
    """
    sources: list[Source] = []

    def stages(plan: Plan) -> dict[int, Any]:
        sources.append(load_source(settings.model, plan.problem.microbatches))
        return stages_of(plan, sources[0].blocks, dist.get_rank())

    runner = Runner(
        settings.plan, stages,
        lambda output, target: sources[0].loss(output, target),  # noqa: PLW0108 - there is no source yet
        unverified=settings.unverified, timeout=settings.timeout, forbid_nan=settings.forbid_nan,
        checksums=settings.checksums,
    )  # fmt: skip
    weights = list({id(w): w for module in runner.modules.values() for w in module.parameters()}.values())
    before = read_clock(runner.control, settings.timeout) if settings.trace else None
    ran, crossed = [], []
    for step in range(settings.steps):
        inputs, targets = sources[0].batch(step)
        result = runner.step(inputs, targets)
        if settings.trace:
            ran.append(result.ran)
        if settings.boundaries:
            crossed.append(result.crossed)
        loss = runner.whole_loss(result)
        _descend(weights, settings.learning_rate)
        if runner.rank == 0 and runner.problem.form != "inference":
            tell(f"step {step} loss {loss:.8f}")
    if settings.trace:
        readings = before, read_clock(runner.control, settings.timeout)
        trace = gather_trace(digest(plan_data(runner.plan)), ran, readings, runner.control, settings.timeout)
        if trace is not None:
            save_run(trace, settings.trace)
    if settings.boundaries:
        log = gather_log(digest(plan_data(runner.plan)), crossed, runner.control, settings.timeout)
        if log is not None:
            save_boundaries(log, settings.boundaries)


def _descend(weights: Iterable[Any], learning_rate: float) -> None:
    """Move weights against their gradients, and forget these."""
    with torch.no_grad():
        for weight in weights:
            if weight.grad is not None and learning_rate:
                weight.sub_(weight.grad, alpha=learning_rate)
            weight.grad = None
