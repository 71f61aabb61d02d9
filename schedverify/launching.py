"""What the commands ``run`` and ``profile`` do with torch, in processes that they start or that torchrun started.

Nothing imports torch before it is called, so that ``schedverify.run`` and ``schedverify.profile`` are light names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError
from schedverify.core.result import Plan
from schedverify.formats.destinations import Destination, check_destinations
from schedverify.formats.loading import load_judged
from schedverify.formats.text_files import PathLike

if TYPE_CHECKING:
    from schedverify.profiling import ModelProfile, ProfileSettings

_SEEDS: Final = 1 << 64
_TORCHRUN: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def run(  # noqa: PLR0913 - each is an option of the command line
    plan: Plan | PathLike,
    model: str,
    *,
    steps: int = 1,
    learning_rate: float = 0.0,
    timeout: float = 60.0,
    unverified: bool = False,
    trace: PathLike | None = None,
    boundaries: PathLike | None = None,
    forbid_nan: bool = False,
    checksums: bool = False,
    backend: str = "gloo",
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[float, ...]:
    """Run a verified plan on torch.distributed, as the command ``run`` does, and return the loss of each step.

    It starts a process of this machine for each rank, over gloo; under torchrun, which starts the processes, it is one
    of them and every process calls it. The processes import the script that calls it, which therefore calls it behind
    ``if __name__ == "__main__":``.

    Parameters
    ----------
    plan
        A plan, or its file.
    model
        ``MODULE:FUNCTION``, which returns the model; the current folder is on the path of modules.
    steps
        Steps of training, or of inference.
    learning_rate
        Of plain gradient descent after each step; 0 keeps the weights.
    timeout
        Seconds that a rank waits for another.
    unverified
        Whether a plan runs that the verifier was not asked about. It may hang.
    trace, boundaries
        Files to write: what ran and when on all ranks, for :func:`schedverify.conform`, and everything that crossed
        from one stage to another.
    forbid_nan, checksums
        Whether all ranks stop where a NaN is about to cross from a stage to another, or where what reaches a stage is
        not what left the other.
    backend
        ``gloo`` or ``nccl``, under torchrun.
    seed
        Of the model's first weights and of what it draws in steps, such as masks of dropout; the plan has no part in
        either.
    progress
        Called behind each step of training with its number and its loss; under torchrun on rank 0 alone.

    Returns
    -------
    tuple of float
        The loss of each step, the mean over its whole batch; empty for a plan of inference.

    Raises
    ------
    InputError
        If torch is not installed, or the plan, the model or an argument has a fault.
    RunError
        If a rank fails; names rank, position and operation.
    """
    check_types("run", plan=(plan, Plan, os.PathLike, str), model=(model, str))
    _check_least(steps=(steps, 1), learning_rate=(learning_rate, 0), seed=(seed, 0))
    if seed >= _SEEDS:
        raise InputError(Fault("seed", f"{seed} is too large", "below 2^64"))
    _check_processes(timeout, backend)
    outputs = (Destination("trace", trace), Destination("boundaries", boundaries))
    check_destinations(*outputs, inputs=() if isinstance(plan, Plan) else (plan,))
    with _needs_torch():
        from schedverify.runner.launch import processes, session
    settings = session.RunSettings(
        plan if isinstance(plan, Plan) else os.fspath(plan), model, steps, learning_rate, timeout, unverified,
        _text_of(trace), _text_of(boundaries), forbid_nan, checksums, seed,
    )  # fmt: skip
    job, listen = partial(session.session, settings), _listener(progress)
    if in_torchrun():
        losses: tuple[float, ...] = processes.join_torchrun(backend, job, listen)
        return losses
    loaded = plan if isinstance(plan, Plan) else load_plan(plan)
    return tuple(processes.launch(job, loaded.problem.ranks, listen)[0])


def profile(  # noqa: PLR0913 - each is an option of the command line
    model: str,
    *,
    microbatches: int = 1,
    ranks: int | None = None,
    rounds: int = 20,
    warmup: int = 3,
    fused: bool = False,
    timeout: float = 60.0,
    backend: str = "gloo",
    progress: Callable[[int, int], None] | None = None,
) -> ModelProfile | None:
    """Measure the blocks of a model, and links between ranks, as the command ``profile`` does.

    It measures in this process, or in ``ranks`` processes that it starts; under torchrun it is one of torchrun's
    processes, and every process calls it. A script that starts processes calls it behind
    ``if __name__ == "__main__":``, since they import the script.

    Parameters
    ----------
    model
        ``MODULE:FUNCTION``, which returns the model; the current folder is on the path of modules.
    microbatches
        Micro-batches of the batch that the model brings; one of them is measured.
    ranks
        Processes that measure at the same time, and the links between them; None for this process alone.
    rounds, warmup
        Rounds that count, and rounds before them that do not.
    fused
        Whether the whole backward alone is measured, not its input and weight part.
    timeout
        Seconds that a rank waits for another.
    backend
        ``gloo`` or ``nccl``, under torchrun.
    progress
        Called behind each round with the number of rounds that are done and of all rounds; under torchrun on rank 0.

    Returns
    -------
    ModelProfile or None
        The figures, in nanoseconds and bytes; its ``as_model`` makes the model that :func:`schedverify.partition`
        takes. None on the ranks of torchrun other than rank 0.

    Raises
    ------
    InputError
        If torch is not installed, an argument has a fault, or a block of the model fails; names the block.
    RunError
        If a process fails in another way.
    """
    check_types("profile", model=(model, str))
    least = {"microbatches": (microbatches, 1), "rounds": (rounds, 1), "warmup": (warmup, 0)}
    _check_least(**least, **({} if ranks is None else {"ranks": (ranks, 1)}))
    _check_processes(timeout, backend)
    with _needs_torch():
        from schedverify.profiling import ProfileSettings
        from schedverify.runner.launch import processes
    settings = ProfileSettings(model, microbatches, rounds, warmup, fused, timeout)
    job, listen = partial(_measured, settings), _listener(progress)
    if in_torchrun():
        found: ModelProfile | None = processes.join_torchrun(backend, job, listen, timeout)
        return found
    return job(listen) if ranks is None else processes.launch(job, ranks, listen)[0]


def load_plan(path: PathLike) -> Plan:
    """Return the plan in a file.

    Raises
    ------
    InputError
        If the file cannot be read, or holds a schedule without its problem.
    """
    found = load_judged(path)
    if not isinstance(found, Plan):
        hint = "schedverify convert makes one of it"
        raise InputError(Fault("", "a schedule, where a plan is expected", hint), os.fspath(path))
    return found


def in_torchrun() -> bool:
    """Whether this process is one of many that torchrun started."""
    return all(name in os.environ for name in _TORCHRUN)


def _measured(settings: ProfileSettings, send: Callable[[tuple[int, int]], None]) -> ModelProfile | None:
    """Measure in this process, and send after each round the numbers of rounds that are done and of all rounds."""
    from schedverify.profiling import measure

    return measure(settings, lambda done, total: send((done, total)))


def _listener(progress: Callable[..., None] | None) -> Callable[[tuple[Any, ...]], None]:
    """Return a function that calls ``progress``, where there is one, with the members of a tuple as its arguments."""
    return lambda figures: None if progress is None else progress(*figures)


def _text_of(path: PathLike | None) -> str | None:
    return None if path is None else os.fspath(path)


def _check_least(**numbers: tuple[float, float]) -> None:
    """Raise an InputError where a number, the first of its pair, is below the least that it may be, the second."""
    faults = [Fault(name, f"{value} is too small", f"at least {least}")
              for name, (value, least) in numbers.items() if not value >= least]  # fmt: skip
    if faults:
        raise InputError(faults)


def _check_processes(timeout: float, backend: str) -> None:
    if not timeout > 0:
        raise InputError(Fault("timeout", f"{timeout} is too small", "more than 0 seconds"))
    if backend not in ("gloo", "nccl"):
        raise InputError(Fault("backend", f"{backend!r} is no backend", "gloo or nccl"))


@contextmanager
def _needs_torch() -> Iterator[None]:
    """Turn a failing import of torch into an InputError that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        hint = "in a checkout of schedverify: pip install '.[torch]'"
        raise InputError(Fault("torch", "it is not installed", hint)) from None
