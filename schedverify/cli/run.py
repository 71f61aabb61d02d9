"""The command ``run``: a verified plan in processes of this machine, or as one process of many under torchrun.

``profile`` starts its processes in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from schedverify.cli.app import OK
from schedverify.cli.options import Backend, ModelFunction, Patience, file, flag, number
from schedverify.core.errors import Fault, InputError


def run(  # noqa: PLR0913 - each is an option
    plan: Annotated[str, file("A plan, as optimize and convert write it.")],
    *,
    model: ModelFunction,
    steps: Annotated[int, number("Steps of training.")] = 1,
    learning_rate: Annotated[float, number("Of plain gradient descent; 0 keeps the weights.", least=0)] = 0.0,
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
) -> int:
    """Run a verified plan on torch.distributed, one process for each rank; a line a step."""
    from schedverify import formats
    from schedverify.cli.terminal import remark
    from schedverify.core.result import Plan

    with needs_torch():
        from schedverify.runner.launch import processes, session
    settings = session.RunSettings(
        plan, model, steps, learning_rate, timeout, unverified, trace, boundaries, forbid_nan, checksums
    )
    job = partial(session.session, settings, _tell)
    if in_torchrun():
        processes.join_torchrun(backend, job)
        return OK
    given = formats.load_judged(plan)
    if not isinstance(given, Plan):
        raise InputError(Fault("", "a schedule, where a plan is expected", "schedverify convert makes one of it"), plan)
    remark(f"{given.problem.ranks} processes over gloo; {Path.cwd()} is on the path of modules")
    processes.launch(job, given.problem.ranks)
    return OK


def _tell(line: str) -> None:
    print(line, flush=True)


_TORCHRUN: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def in_torchrun() -> bool:
    """Whether this process is one of many that torchrun started."""
    return all(name in os.environ for name in _TORCHRUN)


@contextmanager
def needs_torch() -> Iterator[None]:
    """Turn a failing import of torch into an InputError that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(Fault("torch", "it is not installed", "pip install 'schedverify[torch]'")) from None
