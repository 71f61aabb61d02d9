"""Pumpkin, a second solver for the same model: quick to prove that nothing is shorter where durations are small.

It is optional (``pip install schedverify[pumpkin]``). What it says is trusted as CP-SAT is: a schedule is judged by the
verifier, a bound is the solver's word.

It is asked whether there is a schedule of at most so many units, with that as the horizon of every step, and for proofs
that is far quicker than letting it minimize. Measured against CP-SAT, see the page on benchmarks: it pays on one stage
a rank with horizons of up to about a thousand ticks, and loses beyond.

The solver holds the interpreter's lock while it runs, so it runs in a child process, which is ended when the time is
over or the search is stopped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Final

from schedverify.errors import SchedverifyError
from schedverify.optimizer.model import Model
from schedverify.optimizer.orders import measure, rows_of
from schedverify.optimizer.plain_model import NotPlainError, PlainModel, plain_model
from schedverify.optimizer.rules import add_constraints
from schedverify.optimizer.search import Outcome, Settings
from schedverify.optimizer.tasks import Tasks
from schedverify.optimizer.values import OpKey

_POLL: Final = 0.05
"""Seconds between two looks at the clock and the event."""

_PROGRAM: Final = Path(__file__).with_name("pumpkin_child.py")


def installed() -> bool:
    """Whether the solver can be run here."""
    return bool(sys.executable) and importlib.util.find_spec("pumpkin_solver") is not None


def prove(tasks: Tasks, objective: str, best: int, bound: int, seconds: float, settings: Settings) -> Outcome | None:
    """Search for something better than the best known schedule, down to ``bound``, or for a proof that there is none.

    The first question is whether one unit less can be had, since often the best known cannot be beaten; the others
    halve what lies between the bound and the best.

    Parameters
    ----------
    objective
        ``makespan`` or ``span``, as in :class:`~schedverify.optimizer.model.Model`, not anchored.
    best, bound
        Value of the best known schedule and what is proved that none can go below, in units.
    seconds
        For all of it.
    settings
        Seed, the event that ends the search, and whom to tell of better starts (scaled) and higher bounds (units).
        ``workers`` is not used: the solver has one thread, in a process of its own.

    Returns
    -------
    Outcome or None
        ``found`` says whether there was something better. None where the solver is not installed, or the model has what
        it cannot take: a resource of bytes (several stages on a rank), mixed stages, numbers beyond 2^28.
    """
    if not installed():
        return None
    deadline = time.monotonic() + seconds
    found = asked = False
    while bound < best:
        target = (bound + best) // 2 if asked else best - 1
        asked = True
        model = _model(tasks, objective, target)
        try:
            answer = _ask(plain_model(model.cp), deadline, settings)
        except NotPlainError:
            return None
        if answer is None:
            return Outcome(closed=False, found=found, bound=bound)
        if answer["answer"] == "Unsatisfiable":
            bound = target + 1
            settings.on_bound(bound)
            continue
        starts = _starts(model, answer["values"])
        value = measure(tasks, rows_of(tasks.problem, starts), objective) // tasks.unit
        if value >= best:
            return Outcome(closed=False, found=found, bound=bound)
        found, best = True, value
        settings.on_starts(starts)
    return Outcome(closed=True, found=found, bound=bound)


def _model(tasks: Tasks, objective: str, most: int) -> Model:
    """Return the model in which the objective takes at most so many units."""
    horizon = (most + 1) * tasks.fine - 1 if objective == "makespan" else tasks.horizon
    model = Model(tasks, horizon=horizon, objective=objective)
    add_constraints(model)
    model.cp.add(model.value <= most)
    return model


def _starts(model: Model, values: list[int]) -> dict[OpKey, int]:
    """Return the scaled starts of a solution, given as a value for each variable of the model."""
    return model.read(lambda variable: values[variable.index])


def _ask(model: PlainModel, deadline: float, settings: Settings) -> dict[str, Any] | None:
    """Return the solver's answer, or None where it did not come in time or is ``Unknown``.

    Raises
    ------
    SchedverifyError
        If the solver broke down.
    """
    if any(least > most for least, most in model.domains):
        return {"answer": "Unsatisfiable"}
    seconds = deadline - time.monotonic()
    if seconds <= 0 or settings.stopped():
        return None
    question = {**model._asdict(), "seconds": seconds, "seed": settings.seed % (1 << 31)}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as asked:
        json.dump(question, asked)
        asked.seek(0)
        output = _run(asked, deadline, settings)
    if output is None:
        return None
    printed, complaint, code = output
    if code:
        raise SchedverifyError(f"Pumpkin broke down; please report this:\n{complaint.strip()}")
    answer: dict[str, Any] = json.loads(printed)
    return None if answer["answer"] == "Unknown" else answer


def _run(asked: IO[str], deadline: float, settings: Settings) -> tuple[str, str, int] | None:
    """Return what the process prints and its exit code, or None where it is ended before it came to an end.

    The question goes in as a file: a pipe would have to be served while the clock is watched.
    """
    pipe = subprocess.PIPE
    command = [sys.executable, "-P", str(_PROGRAM)]
    with subprocess.Popen(command, stdin=asked, stdout=pipe, stderr=pipe, text=True, encoding="utf-8") as process:  # noqa: S603
        try:
            while time.monotonic() < deadline and not settings.stopped():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return *process.communicate(timeout=_POLL), process.returncode
        finally:
            process.kill()
    return None
