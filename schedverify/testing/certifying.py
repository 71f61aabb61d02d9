"""Small-scope certainty: a scheduler on every shape up to a bound, in parallel, and a statement of what was checked."""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import platform
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from schedverify.core import VERSION
from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.formats.plan_files import canonical
from schedverify.formats.text_files import PathLike, check_writable, write_text
from schedverify.sweeping import bar
from schedverify.testing.checking import Scheduler, SchedulerFault, check_scheduler
from schedverify.testing.statements import Shape, Statement, load_part, rising, to_text
from schedverify.testing.workers import interrupts_later, worker_processes

SAVED_EVERY: Final = 32
"""The number of shapes after which the results so far are saved."""


def certify(  # noqa: PLR0913 - each is a choice of its own
    scheduler: Scheduler,
    *,
    ranks: int,
    microbatches: int,
    virtual: int = 1,
    takes: Callable[[Problem], bool] | None = None,
    properties: Iterable[str] | None = None,
    at_least_as_good_as: str | None = None,
    path: PathLike | None = None,
    workers: int | None = None,
    **problem: Any,
) -> Statement:
    """Check a scheduler on every shape up to a bound, the smallest first, as ``check_scheduler`` does.

    Processes are started afresh and import the scheduler: a script calls this under ``if __name__ == "__main__"``. On a
    terminal, standard error shows how far it is.

    Parameters
    ----------
    scheduler
        Takes a problem and returns its schedule. One that cannot be sent to another process (a lambda, or a function
        in a function) runs in this one.
    ranks, microbatches, virtual
        The most of each, and of stages a rank.
    takes
        Says whether the scheduler takes a problem; the others are counted as skipped. By default it takes all.
    properties, at_least_as_good_as
        As for ``check_scheduler``.
    path
        File for the statement. While it is made, ``<path>.part`` holds what is done; called again after an
        interruption, it goes on from there. The part is gone after a failure, and with the end.
    workers
        Processes; by default one for each core.
    **problem
        Keywords of ``Problem.chain`` for every problem, such as ``form="split"`` or ``latency=1``.

    Returns
    -------
    Statement
        What was checked. It is the same, to the byte, whatever the number of workers and of interruptions. After
        Ctrl-C it is the statement so far, whose ``complete`` is False, and a warning says so.

    Raises
    ------
    SchedulerFault
        For the smallest shape that fails.
    InputError
        If a bound or keyword is none, if the part was left by other checks or another version of the scheduler's file,
        or a process ended by itself.

    Examples
    --------
    >>> import schedverify as sv
    >>> certify(lambda problem: sv.generate("1f1b", problem), ranks=3, microbatches=4).counts
    {'checked': 12, 'skipped': 0}
    """
    bounds = {"ranks": ranks, "virtual": virtual, "microbatches": microbatches}
    _refuse_bad(bounds, workers)
    selected = None if properties is None else list(properties)
    options = {"at_least_as_good_as": at_least_as_good_as, "problem": problem, "properties": selected}
    options["takes"] = None if takes is None else _name(takes)
    versions = {"python": platform.python_version(), "schedverify": VERSION}
    nothing = Statement(_name(scheduler), _source(scheduler), bounds, options, versions, ())
    to_text(nothing)
    if path is not None:
        check_writable(path)
    part = None if path is None else Path(f"{os.fspath(path)}.part")
    job = partial(_checked, scheduler, problem, selected, at_least_as_good_as)
    done = _resumed(nothing, part)
    shapes = list(done.shapes)

    def so_far() -> Statement:
        return replace(done, shapes=tuple(shapes))

    try:
        with ExitStack() as stack:
            wanted = rising(bounds)[len(shapes) :]
            left = [(shape, takes is None or bool(takes(_problem(shape, problem)))) for shape in wanted]
            pool = stack.enter_context(_pool(job, workers))
            shown = stack.enter_context(bar())
            found = shown.track(_results(pool, job, left), total=len(left), description="certifying")
            _gather(shapes, found, so_far, part)
    except KeyboardInterrupt:
        told = f"interrupted: {len(shapes)} of {len(rising(bounds))} shapes are checked"
        warnings.warn(told if path is None else f"{told}; called again, it goes on from there", stacklevel=2)
        return so_far()
    statement = so_far()
    if path is not None:
        write_text(path, to_text(statement))
    if part is not None:
        part.unlink(missing_ok=True)
    return statement


def _gather(
    shapes: list[tuple[int, int, int, str | None]],
    found: Iterable[tuple[Shape, str | None]],
    so_far: Callable[[], Statement],
    part: Path | None,
) -> None:
    """Add results one by one; what is done is saved at intervals and at an interruption, and deleted at a failure."""
    try:
        for shape, text in found:
            shapes.append((*shape, text))
            if part is not None and len(shapes) % SAVED_EVERY == 0:
                write_text(part, to_text(so_far()))
    except SchedulerFault:
        if part is not None:
            part.unlink(missing_ok=True)
        raise
    except BaseException:
        if part is not None and shapes:
            write_text(part, to_text(so_far()))
        raise


def _results(
    pool: Executor | None, job: Callable[[Shape], str], left: list[tuple[Shape, bool]]
) -> Iterator[tuple[Shape, str | None]]:
    """Yield each shape with its schedule's digest, in rising order; the rest is called off if one fails."""
    taken = [shape for shape, is_taken in left if is_taken]
    with interrupts_later():  # processes start with the first job
        # Not pool.map: at Ctrl-C it cancels futures here, while the pool's thread says that its processes are gone.
        futures = [] if pool is None else [pool.submit(job, each) for each in taken]
        digests = map(job, taken) if pool is None else (future.result() for future in futures)
    try:
        for shape, is_taken in left:
            yield shape, next(digests) if is_taken else None
    except BrokenProcessPool:
        hint = 'call certify under if __name__ == "__main__"; workers=1 runs all in this process'
        raise InputError(Fault("scheduler", "a process ended by itself", hint)) from None


def _checked(
    scheduler: Scheduler, problem: dict[str, Any], properties: list[str] | None, family: str | None, shape: Shape
) -> str:
    """Check one shape, and return the digest of its schedule."""
    schedule = check_scheduler(scheduler, _problem(shape, problem), properties=properties, at_least_as_good_as=family)
    return hashlib.sha256(canonical(schedule.strings()).encode()).hexdigest()


def _problem(shape: Shape, options: dict[str, Any]) -> Problem:
    ranks, virtual, microbatches = shape
    return Problem.chain(ranks=ranks, virtual=virtual, microbatches=microbatches, **options)


def _refuse_bad(bounds: dict[str, int], workers: int | None) -> None:
    numbers = bounds if workers is None else bounds | {"workers": workers}
    faults = [
        Fault(name, f"expected a whole number from 1 on, found {value!r}", "the most there shall be")
        for name, value in numbers.items()
        if type(value) is not int or value < 1
    ]
    if faults:
        raise InputError(faults)


def _name(function: Callable[..., Any]) -> str:
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _source(scheduler: Scheduler) -> str | None:
    """Return the SHA-256 of the file that defines a scheduler, so that nothing is resumed with another one."""
    try:
        file = inspect.getsourcefile(scheduler if inspect.isroutine(scheduler) else type(scheduler))
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return None


def _resumed(nothing: Statement, part: Path | None) -> Statement:
    """Return what an interrupted run of the same checks left, or nothing."""
    if part is None or not part.exists():
        return nothing
    left = load_part(part)
    wanted, found = (vars(statement) | {"shapes": None} for statement in (nothing, left))
    other = [name for name in wanted if canonical(wanted[name]) != canonical(found[name])]
    if [shape[:3] for shape in left.shapes] != rising(nothing.bounds)[: len(left.shapes)]:
        other.append("shapes")
    if other:
        fault = Fault(", ".join(other), "not those of these checks", "delete the file to start anew")
        raise InputError(fault, str(part))
    return left


def _pool(job: Callable[[Shape], str], workers: int | None) -> AbstractContextManager[Executor | None]:
    """Return processes for the job; None where it runs in this one."""
    try:
        pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError):
        return nullcontext()
    if (count := workers or os.cpu_count() or 1) == 1:
        return nullcontext()
    return worker_processes(count)
