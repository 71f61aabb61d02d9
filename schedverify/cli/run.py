"""The command ``run``: a verified plan in processes of this machine, or as one process of many under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from schedverify.cli.app import OK
from schedverify.cli.options import Backend, ModelFunction, Patience, decimal, file, flag, number


def run(  # noqa: PLR0913 - each is an option
    plan: Annotated[str, file("A plan, as optimize and convert write it.")],
    *,
    model: ModelFunction,
    steps: Annotated[int, number("Steps of training.")] = 1,
    learning_rate: Annotated[float, decimal("Of plain gradient descent; 0 keeps the weights.", least=0)] = 0.0,
    timeout: Patience = 60.0,
    unverified: Annotated[bool, flag("Run a plan that the verifier was not asked about. It may hang.")] = False,
    trace: Annotated[
        str | None, Parameter(help="File for what ran and when, of all ranks; conform holds it against the plan.")
    ] = None,
    boundaries: Annotated[
        str | None, Parameter(help="File for everything that crossed from one stage to another, held at both ends.")
    ] = None,
    forbid_nan: Annotated[bool, flag("Stop all ranks where a NaN is about to cross from a stage to another.")] = False,
    checksums: Annotated[bool, flag("Stop all ranks where what reaches a stage is not what left the other.")] = False,
    backend: Backend = "gloo",
    seed: Annotated[int, number("Of the model's first weights and of what it draws in steps.", least=0)] = 0,
) -> int:
    """Run a verified plan on torch.distributed, one process for each rank; a line a step."""
    from schedverify import launching
    from schedverify.cli.terminal import remark

    if not launching.in_torchrun():
        ranks = launching.load_plan(plan).problem.ranks
        remark(f"{ranks} processes over gloo; {Path.cwd()} is on the path of modules")
    launching.run(
        plan, model, steps=steps, learning_rate=learning_rate, timeout=timeout, unverified=unverified, trace=trace,
        boundaries=boundaries, forbid_nan=forbid_nan, checksums=checksums, backend=backend, seed=seed,
        progress=_print_loss,
    )  # fmt: skip
    return OK


def _print_loss(step: int, loss: float) -> None:
    print(f"step {step} loss {loss:.8f}", flush=True)
