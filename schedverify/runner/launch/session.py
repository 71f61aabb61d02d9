"""One process of a run: joins the others, runs the steps, and reports the loss of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from schedverify.core.result import Plan
from schedverify.formats import save_boundaries, save_run
from schedverify.formats.plan_files import plan_digest
from schedverify.runner.control.clock_sync import read_clock
from schedverify.runner.control.run_logs import gather_log, gather_trace
from schedverify.runner.launch.shared_blocks import shared_by_blocks
from schedverify.runner.launch.source import Source, load_source, parts_of, stages_of
from schedverify.runner.runner import Runner


class RunSettings(NamedTuple):
    """The options of a run.

    Attributes
    ----------
    plan
        The plan, or its file.
    model
        ``MODULE:FUNCTION``.
    learning_rate
        Step of plain gradient descent after each step; 0 leaves the weights as they are.
    timeout
        Seconds that a rank waits for another.
    """

    plan: Plan | str
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
    seed: int = 0
    """Of the model's first weights, and of what it draws in steps."""


def session(settings: RunSettings, report: Callable[[tuple[int, float]], None]) -> tuple[float, ...]:
    """Run a plan in this process of the default process group.

    Parameters
    ----------
    report
        Called on rank 0 behind each step of training, with the number of the step and its loss.

    Returns
    -------
    tuple of float
        The loss of each step, the mean over its whole batch, the same on every rank; empty in inference.

    Raises
    ------
    RefusedError, RunError, InputError
        As :class:`schedverify.runner.Runner` and :meth:`~schedverify.runner.Runner.step` do.
    """
    sources: list[Source] = []

    def stages(plan: Plan) -> dict[int, Any]:
        sources.append(load_source(settings.model, plan.problem.microbatches, settings.seed))
        return stages_of(plan, sources[0].blocks, dist.get_rank())

    runner = Runner(
        settings.plan, stages,
        lambda output, target: sources[0].loss(output, target),  # noqa: PLW0108 - there is no source yet
        unverified=settings.unverified, timeout=settings.timeout, forbid_nan=settings.forbid_nan,
        checksums=settings.checksums, seed=settings.seed,
        shared=lambda plan: shared_by_blocks(plan.problem, parts_of(plan, sources[0].blocks)),
    )  # fmt: skip
    weights = list({id(w): w for module in runner.modules.values() for w in module.parameters()}.values())
    before = read_clock(runner.control, settings.timeout) if settings.trace else None
    ran, crossed, losses = [], [], []
    for step in range(settings.steps):
        inputs, targets = sources[0].batch(step)
        result = runner.step(inputs, targets)
        if settings.trace:
            ran.append(result.ran)
        if settings.boundaries:
            crossed.append(result.crossed)
        loss = runner.whole_loss(result)
        _descend(weights, settings.learning_rate)
        if runner.problem.form != "inference":
            losses.append(loss)
            if runner.rank == 0:
                report((step, loss))
    if settings.trace:
        readings = before, read_clock(runner.control, settings.timeout)
        trace = gather_trace(plan_digest(runner.plan), ran, readings, runner.control, settings.timeout)
        if trace is not None:
            save_run(trace, settings.trace)
    if settings.boundaries:
        _save_boundaries(runner, crossed, settings)
    return tuple(losses)


def _save_boundaries(runner: Runner, crossed: list[Any], settings: RunSettings) -> None:
    """Write on rank 0 what crossed between stages on all ranks; every rank calls it."""
    log = gather_log(plan_digest(runner.plan), crossed, runner.control, settings.timeout)
    if log is not None and settings.boundaries:
        save_boundaries(log, settings.boundaries)


def _descend(weights: Iterable[Any], learning_rate: float) -> None:
    """Move weights against their gradients, and forget these."""
    with torch.no_grad():
        for weight in weights:
            if weight.grad is not None and learning_rate:
                weight.sub_(weight.grad, alpha=learning_rate)
            weight.grad = None
