"""One task on many configurations, on any executor: results as they come, failures beside what failed, resumable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, as_completed
from decimal import Decimal
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.formats.json_toml import parse_json, unfit
from schedverify.formats.plan_files import canonical
from schedverify.formats.text_files import PathLike, append_text, naming, read_text, write_text

if TYPE_CHECKING:
    from rich.progress import Progress

C = TypeVar("C")
R = TypeVar("R")
MAX_BYTES: Final = 1 << 28
_FIELDS: Final = {"configuration", "value"}


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
    return _shown(chain(known, _recorded(_outcomes(task, left, executor), results)), len(given))


def _shown(outcomes: Iterator[Outcome[C, R]], total: int) -> Iterator[Outcome[C, R]]:
    with bar() as shown:
        yield from shown.track(outcomes, total=total, description="sweeping")


def _recorded(outcomes: Iterator[Outcome[C, R]], results: Results) -> Iterator[Outcome[C, R]]:
    for outcome in outcomes:
        try:
            if outcome.error is None:
                results.add(outcome.configuration, outcome.value)
        except InputError:
            yield outcome  # what was found is not lost with the file
            raise
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


class Results(NamedTuple):
    """A file and what stands in it: values by the canonical text of their configuration."""

    path: Path
    values: dict[str, Any]

    def key(self, configuration: Any) -> str:
        """Return the text that a configuration is known by; problems are written out.

        Raises
        ------
        InputError
            If JSON cannot hold it.
        """
        return _written(configuration.to_dict() if isinstance(configuration, Problem) else configuration)

    def add(self, configuration: Any, value: Any) -> None:
        """Add a line to the file; raises an InputError where JSON cannot hold the value, or the file takes no more."""
        line = f'{{"configuration":{self.key(configuration)},"value":{_written(value)}}}\n'
        append_text(self.path, line)


def open_results(path: Path) -> Results:
    """Return what a file holds; nothing where there is none. A last line that was cut off is taken away.

    Raises
    ------
    InputError
        With file and line, if a line is no result.
    """
    if not path.exists() or not path.stat().st_size:
        append_text(path, "")
        return Results(path, {})
    whole, end, rest = read_text(path, "results, a line of JSON each", MAX_BYTES).rpartition("\n")
    with naming(path):
        read = [_result(number, line) for number, line in enumerate(whole.split("\n"), 1)]
    if rest:
        write_text(path, whole + end)
    return Results(path, dict(read))


def _result(number: int, line: str) -> tuple[str, Any]:
    try:
        data = parse_json(line)
        if isinstance(data, dict) and set(data) == _FIELDS and not unfit(data):
            plain = _plain(data)
            _written(plain)
            return _written(plain["configuration"]), plain["value"]
        message = "no result"
    except InputError as error:
        message = error.faults[0].message
    raise InputError(Fault(f"line {number}", message, "a line holds configuration and value; name a new file"))


def _plain(value: Any) -> Any:
    """Return data with floats for decimals."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value


def _written(value: Any) -> str:
    try:
        return canonical(value)
    except (TypeError, ValueError) as error:
        message = f"a file cannot hold {type(value).__name__}: {error}"
        raise InputError(Fault("", message, "numbers, text, lists and tables of them")) from None
