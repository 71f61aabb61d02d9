"""A problem as a job shop of PyJobShop: ranks are machines, and memory is held by tasks that may last longer."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from schedverify import Problem, Schedule, simulate, verify
from schedverify.core.op import Kind


class Answer(NamedTuple):
    """What a solver found in its time: the value of its schedule, whether that is proved the least, and seconds."""

    value: int | None
    proved: bool
    seconds: float


def solve(problem: Problem, seconds: float, workers: int) -> Answer:
    """Minimize the makespan with PyJobShop, and have our verifier judge the schedule that it finds.

    Micro-batches go first in, first out, as in our own model. What a micro-batch holds is a task without a duration of
    its own that is allowed to idle, from the start of F to the end of B or I, and with a split backward another one
    from there to the end of W; a renewable resource for each limit of each rank bounds them.
    """
    shop = Shop(problem)
    began = time.perf_counter()
    result = shop.model.solve(time_limit=seconds, num_workers=workers, display=False)
    taken = time.perf_counter() - began
    if not result.best.tasks:
        return Answer(None, False, taken)
    starts = {key: result.best.tasks[place].start for key, place in shop.places.items()}
    return Answer(judged(problem, starts), result.status.value == "Optimal", taken)


def judged(problem: Problem, starts: dict[tuple[str, int, int], int]) -> int:
    """Return the makespan of the order of these starts, once the verifier has passed it."""
    rows: list[list[str]] = [[] for _ in range(problem.ranks)]
    for kind, stage, m in sorted(starts, key=lambda key: starts[key]):
        rows[problem.owner_rank[stage]].append(f"{stage}{kind}{m}")
    schedule = Schedule.of(rows)
    verify(schedule, problem).raise_for_violations()
    return simulate(schedule, problem).makespan


class Shop:
    """The model of a problem, and where each operation stands among its tasks."""

    def __init__(self, problem: Problem) -> None:
        from pyjobshop import Model

        self.problem = problem
        self.model = Model()
        self.tasks: dict[tuple[str, int, int], Any] = {}
        self.places: dict[tuple[str, int, int], int] = {}
        self.machines = [self.model.add_machine() for _ in range(problem.ranks)]
        self.rooms = [self._limits(rank) for rank in range(problem.ranks)]
        self.kinds = "FIW" if problem.form == "split" else "FB"
        for stage in range(problem.total_stages):
            for m in range(problem.microbatches):
                self._microbatch(stage, m)
        self._flow()

    def _limits(self, rank: int) -> list[tuple[str, Any]]:
        """Return the limits of a rank by name, each as a renewable resource."""
        problem, limits = self.problem, []
        if problem.capacity is not None:
            room = problem.capacity[rank] - problem.static[rank]
            limits.append(("bytes", self.model.add_renewable(room)))
        if problem.in_flight is not None:
            limits.append(("in flight", self.model.add_renewable(problem.in_flight[rank])))
        return limits

    def _microbatch(self, stage: int, m: int) -> None:
        """Add the steps of a micro-batch on a stage and what it holds."""
        rank = self.problem.owner_rank[stage]
        for kind in self.kinds:
            self.places[kind, stage, m] = len(self.model.tasks)
            task = self.tasks[kind, stage, m] = self.model.add_task()
            self.model.add_mode(task, self.machines[rank], self.problem.duration(int(Kind[kind]), stage))
        gradient = self.tasks[self.kinds[1], stage, m]
        amounts = {"bytes": self.problem.saved_activation_bytes[stage], "in flight": 1}
        if held := self._hold(rank, amounts):
            self.model.add_start_at_start(self.tasks["F", stage, m], held)
            self.model.add_end_at_end(gradient, held)
        left = {"bytes": self.problem.weight_stash[stage], "in flight": 0}
        if self.kinds == "FIW" and (held := self._hold(rank, left)):
            self.model.add_end_at_start(gradient, held)
            self.model.add_end_at_end(self.tasks["W", stage, m], held)

    def _hold(self, rank: int, amounts: dict[str, int]) -> Any:
        """Add a task that holds something of the rank's limits as long as it is made to; None for nothing."""
        held = [(room, amounts[name]) for name, room in self.rooms[rank] if amounts[name]]
        if not held:
            return None
        task = self.model.add_task(allow_idle=True)
        self.model.add_mode(task, [room for room, _ in held], 0, [amount for _, amount in held])
        return task

    def _flow(self) -> None:
        """Add what waits for what: activations, gradients, each kind's micro-batches in order."""
        problem, before = self.problem, self.model.add_end_before_start
        gradient = self.kinds[1]
        for (kind, stage, m), task in self.tasks.items():
            if m:
                before(self.tasks[kind, stage, m - 1], task)
            if kind == "F":
                for source in problem.predecessors[stage]:
                    before(self.tasks["F", source, m], task, problem.forward_lag(source, stage))
            elif kind == gradient:
                before(self.tasks["F", stage, m], task)
                for source in problem.successors[stage]:
                    before(self.tasks[gradient, source, m], task, problem.backward_lag(source, stage))
            else:
                before(self.tasks[gradient, stage, m], task)
