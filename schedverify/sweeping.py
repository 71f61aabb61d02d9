"""One task on many configurations, on any executor: results as they come, failures beside what failed, resumable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, as_completed
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from schedverify.formats.reading import PathLike
from schedverify.formats.result_files import Results, open_results

if TYPE_CHECKING:
    from rich.progress import Progress


C = TypeVar("C")
R = TypeVar("R")


class Outcome(NamedTuple, Generic[C, R]):
    """What came of one configuration: a value, or the error that ended its task."""

    configuration: C
    value: R | None = None
    error: Exception | None = None


def sweep(
    task: Callable[[C], R],
    configurations: Iterable[C],
    *,
    executor: Executor | None = None,
    path: PathLike | None = None,
) -> Iterator[Outcome[C, R]]:
    """Run a task on many configurations, and yield each outcome as it comes.

    A task that fails ends nothing: its outcome holds the configuration and the error. On a terminal, standard error
    shows how many are done. What has not begun is called off where the caller stops asking.

    Parameters
    ----------
    task
        Takes a configuration. For an executor of processes both must be such as ``pickle`` takes.
    configurations
        Anything: numbers, problems, tables of options.
    executor
        Of ``concurrent.futures``, or one that keeps to it, such as that of a Dask client; it is not shut down. Without
        one the tasks run in this process, in turn.
    path
        File to which each value is added as it comes, a line of JSON each. Called again, what stands there is yielded
        first, from the file, and is not run again; what failed is. Configurations must be problems or, like the values,
        what JSON holds.

    Raises
    ------
    InputError
        If the file holds something else, or a configuration or value is none that it can hold.

    Examples
    --------
    >>> import schedverify as sv
    >>> def makespan(ranks):
    ...     problem = sv.Problem.chain(ranks=ranks, microbatches=8)
    ...     return sv.simulate(sv.generate("1f1b", problem), problem).makespan
    >>> [(done.configuration, done.value) for done in sv.sweep(makespan, [2, 4])]
    [(2, 27), (4, 33)]
    """
    if not callable(task):
        raise TypeError(f"sweep needs a function, found a {type(task).__name__}: it is sweep(task, configurations)")
    given = list(configurations)
    if path is None:
        return _shown(_outcomes(task, given, executor), len(given))
    results = open_results(Path(os.fspath(path)))
    keys = [results.key(configuration) for configuration in given]
    known = [Outcome[C, R](c, results.values[key]) for c, key in zip(given, keys, strict=True) if key in results.values]
    left = [c for c, key in zip(given, keys, strict=True) if key not in results.values]
    return _shown(chain(known, _kept(_outcomes(task, left, executor), results)), len(given))


def _shown(outcomes: Iterator[Outcome[C, R]], total: int) -> Iterator[Outcome[C, R]]:
    with bar() as shown:
        yield from shown.track(outcomes, total=total, description="sweeping")


def _kept(outcomes: Iterator[Outcome[C, R]], results: Results) -> Iterator[Outcome[C, R]]:
    for outcome in outcomes:
        if outcome.error is None:
            results.add(outcome.configuration, outcome.value)
        yield outcome


def _outcomes(task: Callable[[C], R], configurations: list[C], executor: Executor | None) -> Iterator[Outcome[C, R]]:
    if executor is None:
        yield from (_outcome(configuration, partial(task, configuration)) for configuration in configurations)
        return
    futures = {executor.submit(task, configuration): configuration for configuration in configurations}
    try:
        for future in as_completed(futures):
            yield _outcome(futures[future], future.result)
    finally:
        for future in futures:
            future.cancel()


def _outcome(configuration: C, result: Callable[[], R]) -> Outcome[C, R]:
    try:
        return Outcome(configuration, result())
    except Exception as error:
        return Outcome(configuration, error=error)


def bar() -> Progress:
    """Return a progress bar that is gone when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
