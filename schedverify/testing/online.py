"""Schedulers that decide step by step: a state machine that asks for one step after another, whatever they last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from schedverify.core.errors import InputError
from schedverify.core.op import Kind, Op, Step
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.testing.checking import SchedulerFault, failure, report_text
from schedverify.testing.orders import reads
from schedverify.testing.shapes import problems
from schedverify.verifier.verification import verify

__tracebackhide__ = True
"""pytest shows the line of the scheduler, not what stands here."""

_MOST_STEPS: Final = 200
"""The most moves that hypothesis draws of one history; default problems need at most 96, waiting left out."""
_LONG: Final = 150
"""The moves of a history from which on it is continued to its end when hypothesis has drawn no more."""


class OnlineScheduler(Protocol):
    """Decides step by step. ``done`` holds the operations that have ended, on all ranks, as texts such as ``0F1``."""

    def next(self, rank: int, done: frozenset[str]) -> str | None:
        """Return the step that a free rank starts now, or None if it shall wait until something else has ended."""


class _OnlineRun:
    """One run of a scheduler for a problem: the steps that each rank was given, and the operations that have ended."""

    def __init__(self, problem: Problem, scheduler: OnlineScheduler) -> None:
        self.problem, self.scheduler = problem, scheduler
        self.reads = reads(problem)
        self.rows: list[list[Step]] = [[] for _ in range(problem.ranks)]
        self.running: dict[int, Step] = {}
        self.waits: set[int] = set()
        """The ranks that have answered None since a step ended last."""
        self.given, self.ended = set[Op](), set[Op]()
        self.done: frozenset[str] = frozenset()
        self.history: list[str] = []
        self.failed = False

    def moves(self) -> list[tuple[bool, int]]:
        """Return the possible moves, the simplest first: a rank's step ends (True), or a rank is asked (False)."""
        ranks = range(self.problem.ranks)
        free = [(False, rank) for rank in ranks if rank not in self.running and rank not in self.waits]
        return [*((True, rank) for rank in sorted(self.running)), *free] if self.unfinished() else []

    def make(self, move: tuple[bool, int]) -> None:
        """Make one of the moves."""
        ends, rank = move
        (self.end if ends else self.ask)(rank)

    def unfinished(self) -> set[Op]:
        """Return the operations that have not ended."""
        return self.reads.keys() - self.ended

    def ask(self, rank: int) -> None:
        """Ask for the next step of a rank, and start it."""
        try:
            text = self.scheduler.next(rank, self.done)
        except Exception as error:
            raise self.fault(f"the scheduler raised {type(error).__name__} for rank {rank}: {error}") from error
        if text is None:
            self.waits.add(rank)
            self.history.append(f"rank {rank} waits")
            if not self.moves():
                left = sorted(self.unfinished())
                raise self.fault(f"every rank waits and nothing runs, while {len(left)} operations are left: {left[0]}")
            return
        self.history.append(f"rank {rank} starts {text}")
        step = self._parsed(text)
        for op in step.ops:
            self._check(rank, op)
        self.rows[rank].append(step)
        self.running[rank] = step
        report = verify(self.schedule(), self.problem, select=("SV101", "SV4"), excerpt=True)
        if not report.ok:
            raise self.fault(report_text(report))

    def end(self, rank: int) -> None:
        """Let the running step of a rank end."""
        step = self.running.pop(rank)
        self.history.append(f"rank {rank} ends {step}")
        self.ended.update(part for op in step.ops for part in self._parts(op))
        self.done |= set(map(str, step.ops))
        self.waits.clear()

    def schedule(self) -> Schedule:
        """Return the order so far."""
        return Schedule.of(self.rows)

    def fault(self, text: str) -> SchedulerFault:
        """Return a fault with the history before it."""
        self.failed = True
        history = "\n".join(self.history) or "nothing yet"
        return failure(f"{text}\n\nWhat happened:\n{history}", self.problem, self.schedule())

    def _parsed(self, text: str) -> Step:
        try:
            (step,) = Schedule.of([[text]]).steps(0)
        except (InputError, TypeError, ValueError) as error:
            raise self.fault(f"{text!r} is no step: {error}") from None
        return step

    def _check(self, rank: int, op: Op) -> None:
        """Object to an operation that is not the rank's, was given before, or whose inputs are not there."""
        parts = self._parts(op)
        if not parts <= self.reads.keys():
            raise self.fault(f"the problem has no operation {op}")
        if rank not in self.problem.placement[op.stage]:
            raise self.fault(f"{op} is not on rank {rank}; stage {op.stage} is on {self.problem.owner_rank[op.stage]}")
        if parts & self.given:
            raise self.fault(f"{op} was given before")
        missing = sorted(set[Op]().union(*(self.reads[part] for part in parts)) - parts - self.ended)
        if missing:
            raise self.fault(f"rank {rank} cannot start {op}: {', '.join(map(str, missing))} has not ended")
        self.given |= parts

    def _parts(self, op: Op) -> set[Op]:
        """Return the parts of an operation: of a full backward in a split problem an I and a W, else itself."""
        if op.kind is Kind.B and self.problem.form == "split":
            return {op._replace(kind=Kind.I), op._replace(kind=Kind.W)}
        return {op}


def scheduler_machine(
    online_scheduler: Callable[[Problem], OnlineScheduler], among: st.SearchStrategy[Problem] | None = None
) -> type[RuleBasedStateMachine]:
    """Return a state machine of hypothesis that property-tests a scheduler which decides step by step.

    It draws a problem, asks the scheduler for steps of free ranks, and lets running steps end, in any order: so every
    duration of the steps is tried; a history of more than about 200 moves then goes on with the lowest rank first. It
    fails when a step is given that cannot be (not the rank's, given before, an input missing, a limit exceeded), or
    when every rank waits, nothing runs, and something is left.

    Parameters
    ----------
    online_scheduler
        Makes the scheduler of a problem: an object with ``next(rank, done)`` that returns the text of the step which
        the free rank starts now, or None. ``done`` is a frozenset of the texts of all operations that have ended. A
        rank that got None is asked again when another step has ended.
    among
        Problems to draw from, none with a stage on several ranks; by default ``problems()``.

    Returns
    -------
    type
        A class of state machines; its ``TestCase`` is what pytest and unittest run. Its failure is a
        :class:`SchedulerFault` that holds the history, which hypothesis makes as short as it can.

    Examples
    --------
    >>> class OneStage:
    ...     def __init__(self, problem):
    ...         self.left = [f"0{kind}{m}" for m in range(problem.microbatches) for kind in "FB"]
    ...
    ...     def next(self, rank, done):
    ...         return self.left.pop(0) if self.left else None
    >>> TestOneStage = scheduler_machine(OneStage, problems(max_ranks=1)).TestCase
    """
    drawn = problems() if among is None else among

    class SchedulerMachine(RuleBasedStateMachine):  # type: ignore[misc, unused-ignore]
        @initialize(problem=drawn)
        def begin(self, problem: Problem) -> None:
            self.run = _OnlineRun(problem, online_scheduler(problem))

        @rule(data=st.data())
        def go_on(self, data: Any) -> None:
            moves = self.run.moves()
            if moves:
                self.run.make(moves[data.draw(st.integers(0, len(moves) - 1))])

        def teardown(self) -> None:
            run: _OnlineRun | None = getattr(self, "run", None)
            while run and not run.failed and len(run.history) >= _LONG and (moves := run.moves()):
                run.make(moves[0])

    SchedulerMachine.TestCase.settings = settings(SchedulerMachine.TestCase.settings, stateful_step_count=_MOST_STEPS)
    return SchedulerMachine
