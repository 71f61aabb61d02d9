"""One CP-SAT model over the orders of a problem: its variables, its hint, and what is read off a solution."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from schedverify.core.ending import Check, checked, go_on
from schedverify.optimizer.tasks import Node, OpKey, Tasks, begins, heads, node_of

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

Times = Mapping[Node, tuple[int, int]]
"""Start and end, in scaled ticks, of every step of a known order."""


class OrderModel:
    """The variables of the model, all in the scaled ticks of :class:`~schedverify.optimizer.tasks.Tasks`.

    The rules that tie them stand in :mod:`schedverify.optimizer.model.rules`.

    Parameters
    ----------
    horizon
        No step of a known order ends behind it.
    without
        Names of rules that are left out, for tests.
    check
        Called while the model is made, for every variable and nearly every constraint.

    Attributes
    ----------
    start
        By node (stage and micro-batch of an F, a gradient op or a W) the variable of its start.
    fused
        By stage and micro-batch of the mixed stages, whether the backward is one B. Its W is then absent: a moment
        without duration that stands in line with the others of its stage and means nothing.
    head
        By stage, the scaled ticks before which no F can start there.
    value
        The objective, in units.
    anchor
        For the span, a rank and the scaled tick at which its first step starts. All starts can be shifted together, and
        a solver that does not know where to has to learn all that it learns for every place; so one rank is held. If
        nothing starts before its first step, that is tick 0. Else it is the horizon, and starts go up to twice as far:
        what a known order has before that rank's first step then has room, since its starts are only shifted to later.
    early
        The model of the same orders with starts of their own, if :meth:`twin` made one.
    """

    def __init__(
        self,
        tasks: Tasks,
        *,
        horizon: int,
        without: Collection[str] = (),
        check: Check = go_on,
    ) -> None:
        from ortools.sat.python import cp_model

        self.tasks, self.problem, self.without = tasks, tasks.problem, frozenset(without)
        self.check = check
        self.horizon = horizon
        self.anchor: tuple[int, int] | None = None
        if tasks.objective == "span":
            rank, first_of_all = begins(self.problem)
            self.anchor = rank, 0 if first_of_all else horizon
            self.horizon += self.anchor[1]
        self.cp = cp_model.CpModel()
        self.head = heads(tasks)
        self.early: OrderModel | None = None
        self._add_starts()
        mixed = [(stage, m) for stage, m in tasks.pairs if stage in tasks.mixed]
        self.fused = {(stage, m): self.cp.new_bool_var(f"whole{stage}.{m}") for stage, m in mixed}
        self.value = self.cp.new_int_var(0, horizon // tasks.subticks, "value")

    def _add_starts(self) -> None:
        self.start = {
            (letter, stage, m): self.cp.new_int_var(self.head[stage], self.horizon, f"{letter}{stage}.{m}")
            for stage, m in checked(self.tasks.pairs, self.check)
            for letter in self.tasks.letters
        }
        self._holding_intervals: dict[tuple[Node, str, Node, str], cp_model.IntervalVar] = {}
        self._ended: dict[Node, cp_model.IntVar] = {}
        self._derived: list[tuple[cp_model.IntVar, Callable[[Times], int]]] = []

    def twin(self, horizon: int) -> OrderModel:
        """Return a model with all of this one but its starts, and so far no rule that ties those; note it in both."""
        twin = copy.copy(self)
        twin.horizon = horizon
        twin._add_starts()
        self.early = twin
        return twin

    def duration(self, node: Node) -> cp_model.LinearExpr | int:
        """Return the ticks of a step; where it depends on the form of the backward, an expression."""
        letter, stage, m = node
        usual = self.tasks.duration[self.tasks.usual_kind(letter), stage]
        fused = self.fused.get((stage, m))
        if fused is None or letter == "F":
            return usual
        other = self.tasks.duration["B", stage] if letter == "GRAD" else 0
        return usual + (other - usual) * fused

    def end(self, node: Node) -> cp_model.LinearExpr:
        """Return the end of a step."""
        return self.start[node] + self.duration(node)

    def after(self, later: Node, earlier: Node, lag: int = 0) -> None:
        """Let a step start no earlier than ``lag`` after the end of another."""
        self.check()
        self.cp.add(self.start[later] >= self.end(earlier) + lag)

    def after_either(self, later: Node, first: Node, second: Node) -> None:
        """Let a step start after the end of one of two others (or both)."""
        chosen = self.starts_after(later, first)
        self.cp.add(self.start[later] >= self.end(second)).only_enforce_if(~chosen)

    def starts_after(self, later: Node, earlier: Node) -> cp_model.IntVar:
        """Return a literal that makes a step start no earlier than the end of another."""
        return self.literal(self.start[later] >= self.end(earlier), lambda times: times[later][0] >= times[earlier][1])

    def literal(self, condition: Any, holds: Callable[[Times], bool]) -> cp_model.IntVar:
        """Return a literal that makes a condition hold; its hint is whether it ``holds`` at the times of the steps."""
        self.check()
        chosen = self.cp.new_bool_var("")
        self.cp.add(condition).only_enforce_if(chosen)
        self.derive(chosen, lambda times: int(holds(times)))
        return chosen

    def holding_interval(self, first: Node, begin: str, last: Node, finish: str) -> cp_model.IntervalVar:
        """Return the interval of something that is held: from the ``start`` or ``end`` of one step to that of another.

        What ends with a W is absent where the W is.
        """
        key = (first, begin, last, finish)
        if key not in self._holding_intervals:
            self.check()
            size = self.cp.new_int_var(0, self.horizon, "")
            sides = int(begin == "end"), int(finish == "end")
            self.derive(size, lambda times: max(0, times[last][sides[1]] - times[first][sides[0]]))
            begun = self.end_variable(first) if sides[0] else self.start[first]
            ended = self.end_variable(last) if sides[1] else self.start[last]
            if last[0] == "W" and last[1:] in self.fused:
                interval = self.cp.new_optional_interval_var(begun, size, ended, ~self.fused[last[1:]], "")
            else:
                interval = self.cp.new_interval_var(begun, size, ended, "")
            self._holding_intervals[key] = interval
        return self._holding_intervals[key]

    def end_variable(self, node: Node) -> cp_model.LinearExprT:
        """Return the end of a step as an affine expression of one variable."""
        duration = self.duration(node)
        if isinstance(duration, int):
            return self.start[node] + duration
        if node not in self._ended:
            self._ended[node] = self.cp.new_int_var(0, self.horizon, "")
            self.cp.add(self._ended[node] == self.end(node))
            self.derive(self._ended[node], lambda times: times[node][1])
        return self._ended[node]

    def derive(self, variable: cp_model.IntVar, value: Callable[[Times], int]) -> None:
        """Note how the hint of a variable other than the starts follows from the times of the steps."""
        self._derived.append((variable, value))

    def hint(self, starts: Mapping[OpKey, int], earliest: Mapping[OpKey, int]) -> None:
        """Hint every variable with scaled starts of an order that goes first in, first out; the twin with its earliest.

        For the makespan both are the same; for the span the first ones are shifted to the anchor.
        """
        if self.anchor is not None:
            rank, tick = self.anchor
            first = min(start for (_, stage, _), start in starts.items() if rank in self.problem.placement[stage])
            starts = {op: start + tick - first for op, start in starts.items()}
        for (stage, m), variable in self.fused.items():
            self.cp.add_hint(variable, int(("B", stage, m) in starts))
        for model, known in ((self, starts), (self.early, earliest)):
            if model is not None:
                model._hint_times(model._times(known))

    def _hint_times(self, times: Times) -> None:
        for node, variable in checked(self.start.items(), self.check):
            self.cp.add_hint(variable, times[node][0])
        for variable, value in checked(self._derived, self.check):
            self.cp.add_hint(variable, value(times))

    def read(self, value: Callable[[cp_model.IntVar], int]) -> dict[OpKey, int]:
        """Return the scaled starts of a solution, whose values ``value`` gives."""
        starts: dict[OpKey, int] = {}
        for (letter, stage, m), variable in self.start.items():
            fused = (stage, m) in self.fused and value(self.fused[stage, m])
            if not (fused and letter == "W"):
                kind = "B" if fused and letter == "GRAD" else self.tasks.usual_kind(letter)
                starts[kind, stage, m] = value(variable)
        return starts

    def _times(self, starts: Mapping[OpKey, int]) -> dict[Node, tuple[int, int]]:
        duration = self.tasks.duration
        times = {node_of(op): (start, start + duration[op[0], op[1]]) for op, start in starts.items()}
        for stage in self.tasks.mixed:
            for line in self.tasks.fifo_lines[stage]:
                reached = self.head[stage]
                for m in line:
                    reached = times.setdefault(("W", stage, m), (reached, reached))[1]
        return times
