"""Pumpkin, a second solver for the same model: quick to prove that nothing is shorter where durations are small.

It is optional (the extra ``pumpkin``). What it says is trusted as CP-SAT is: a schedule is judged by the
verifier, a bound is the solver's word.

It is asked whether there is a schedule of at most so many units, with that as the horizon of every step; for proofs
that is far quicker than letting it minimize. It pays where the best known schedule cannot be beaten and durations are
small (the page on benchmarks has it beside CP-SAT), and loses where better ones are still to be found, and as durations
grow.

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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Final, NamedTuple

from schedverify.core.ending import Check, go_on
from schedverify.core.errors import SchedverifyError
from schedverify.optimizer.model.rules import add_constraints
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.orders import measure, rows_of
from schedverify.optimizer.solvers.cp_sat import SolverOutcome, SolverSettings
from schedverify.optimizer.solvers.plain_model import NotPlainError, PlainModel, plain_model
from schedverify.optimizer.tasks import Tasks

_POLL: Final = 0.05
"""Seconds between two looks at the clock and the event."""

PROGRAM: Final = Path(__file__).with_name("pumpkin_child.py")
"""The script that puts one question to the solver."""


KnownValues = Callable[[], tuple[int, int]]
"""Returns the value of the best known schedule, and what is proved that none can go below, in units."""


class PumpkinAnswer(NamedTuple):
    """The solver's answer: ``Satisfiable`` with a value for each variable, ``Unsatisfiable`` or ``Unknown``."""

    verdict: str
    values: list[int]


def installed() -> bool:
    """Whether the solver can be run here."""
    return bool(sys.executable) and importlib.util.find_spec("pumpkin_solver") is not None


def prove(
    tasks: Tasks,
    known: KnownValues,
    seconds: float,
    settings: SolverSettings,
    program: Path | None = None,
    check: Check = go_on,
) -> SolverOutcome | None:
    """Search for something better than the best known schedule, down to the known bound, or for a proof of none.

    The first question is whether one unit less can be had, since often the best known cannot be beaten. After a yes the
    others halve what lies between the bound and the best. It may run beside another search: where that finds a better
    schedule or a higher bound that settles the question, the question is dropped, and one unit less is asked for anew.

    Parameters
    ----------
    known
        Returns what is known at the moment; called again and again.
    seconds
        The time for all questions together.
    settings
        Its callbacks are called in the caller's thread. ``workers`` is not used: the solver has one thread, in a
        process of its own.
    program
        A script that answers in the solver's place, as a test needs one; :data:`PROGRAM` by default.
    check
        Called while a question is made.

    Returns
    -------
    SolverOutcome or None
        ``found`` says whether it found something better. None where the solver is not installed, or the model has what
        it cannot take: resources with a level, mixed stages, numbers beyond 2^28.

    Raises
    ------
    SchedverifyError
        If the solver broke down.
    """
    if program is None and not installed():
        return None
    try:
        return _Prover(tasks, known, seconds, settings, program or PROGRAM, check).run()
    except NotPlainError:
        return None


class _Prover:
    """The best value and the bound while one question follows another, in units.

    ``halving`` says whether questions halve what lies between the two, or ask for one unit less than the best.
    """

    def __init__(
        self,
        tasks: Tasks,
        known: KnownValues,
        seconds: float,
        settings: SolverSettings,
        program: Path,
        check: Check,
    ) -> None:
        self.tasks, self.known, self.settings, self.program, self.check = tasks, known, settings, program, check
        self.deadline = time.monotonic() + seconds
        self.best, self.bound = known()
        self.found = self.halving = False

    def run(self) -> SolverOutcome:
        """Ask until the best and the bound meet, or there is no answer."""
        while self.bound < self.best:
            target = (self.bound + self.best) // 2 if self.halving else self.best - 1
            model = self._model(target)
            is_moot = partial(self._is_moot, target)
            answer = _ask(plain_model(model.cp), self.deadline, self.settings.seed, is_moot, self.program)
            if not self._learn(answer, target, model):
                break
        return SolverOutcome(closed=self.bound >= self.best, found=self.found, bound=self.bound)

    def _model(self, most: int) -> OrderModel:
        """Return the model in which the objective takes at most so many units."""
        tasks = self.tasks
        horizon = most * tasks.subticks + tasks.instant if tasks.objective == "makespan" else tasks.horizon
        model = OrderModel(tasks, horizon=horizon, check=self.check)
        add_constraints(model)
        model.cp.add(model.value <= most)
        return model

    def _is_moot(self, target: int) -> bool:
        """Whether the answer is of no use any more."""
        return self.settings.stopped() or self._settled(target)

    def _settled(self, target: int) -> bool:
        best, bound = self.known()
        return best <= target or bound > target

    def _learn(self, answer: PumpkinAnswer, target: int, model: OrderModel) -> bool:
        """Take over an answer, and what other searches found meanwhile; return whether to go on."""
        best, bound = self.known()
        self.halving = self.halving and best >= self.best
        self.best, self.bound = min(self.best, best), max(self.bound, bound)
        if answer.verdict == "Unsatisfiable":
            self.bound = max(self.bound, target + 1)
            self.settings.on_bound(target + 1)
            return True
        if answer.verdict == "Satisfiable":
            starts = model.read(lambda variable: answer.values[variable.index])
            value = measure(self.tasks, rows_of(self.tasks.problem, starts)) // self.tasks.unit
            self.settings.on_starts(starts)
            self.found = self.halving = True
            self.best = min(self.best, value)
            return True
        return self._settled(target)


def _ask(model: PlainModel, deadline: float, seed: int, is_moot: Callable[[], bool], program: Path) -> PumpkinAnswer:
    """Return the solver's answer; unknown where the time is over, or the question becomes moot, before it has one.

    Raises
    ------
    SchedverifyError
        If the solver broke down.
    """
    if any(least > most for least, most in model.domains):
        return PumpkinAnswer("Unsatisfiable", [])
    question = {**model._asdict(), "seconds": max(0.01, deadline - time.monotonic()), "seed": seed % (1 << 31)}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as stdin:
        json.dump(question, stdin)
        stdin.seek(0)
        done = _run(stdin, deadline, is_moot, program)
    if done is None:
        return PumpkinAnswer("Unknown", [])
    printed, complaint, code = done
    if code:
        raise SchedverifyError(f"Pumpkin broke down; please report this:\n{complaint.strip()}")
    return PumpkinAnswer(**json.loads(printed))


def _run(stdin: IO[str], deadline: float, is_moot: Callable[[], bool], program: Path) -> tuple[str, str, int] | None:
    """Return what the process prints and its exit code, or None where it is ended before it came to an end.

    The question goes in as a file: a pipe would have to be served while the clock is watched.
    """
    pipe = subprocess.PIPE
    command = [sys.executable, "-P", str(program)]
    with subprocess.Popen(  # noqa: S603
        command, stdin=stdin, stdout=pipe, stderr=pipe, text=True, encoding="utf-8",
        start_new_session=True,  # Ctrl-C in a terminal is for this process, which then ends that one
    ) as process:  # fmt: skip
        try:
            while time.monotonic() < deadline and not is_moot():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return *process.communicate(timeout=_POLL), process.returncode
        finally:
            process.kill()
    return None
