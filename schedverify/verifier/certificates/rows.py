"""The rows of the count rule: what every schedule obeys in how many operations of each class have started by a tick.

A class is a kind and a stage. A row is a sum of counts of starts that stays within a limit at every tick ``t``:

====================  ===========  ==================================================================================
row                   at           at every tick t
====================  ===========  ==================================================================================
``forward``           ``[a, b]``   F of b started by t: no more than F of a whose output was on b by t
``gradient``          ``[a, b]``   B or I of b started by t: no more than of a whose gradient was on b by t
``turn``              ``[s]``      B or I of s started by t: no more than F of s ended by t
``weight``            ``[s]``      W of s started by t: no more than I of s ended by t
``rank``              ``[r]``      steps of r started by t, less those ended by t: at most 1
``bytes``             ``[r]``      bytes held on r from t on: at most capacity less static, in parts of all that is held
``in_flight``         ``[r]``      F started by t on r, less B and I ended by t: at most the limit
``in_flight_stage``   ``[s]``      the same on s
====================  ===========  ==================================================================================

Where B takes at least as long as I and W of its stage, a schedule with B can be turned into one with I and W in its
place that ends no later and holds no more, so only those are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.verifier.certificates.derivation import EvidenceError, SilentEvidenceError

Class = tuple[str, int]
Term = tuple[Class, int, int]
"""A count of starts of a class, how often it stands in the row, and how many ticks before ``t`` it is taken."""


class Rows:
    """The classes of a problem, what they cost, and its rows.

    Parameters
    ----------
    ceiling
        An objective and a value of it that no schedule in question passes; of use is the peak memory.

    Raises
    ------
    SilentEvidenceError
        If a stage of a training problem stands on several ranks: a step may then overlap on one of them alone.
    """

    def __init__(self, problem: Problem, ceiling: tuple[str, int] | None = None) -> None:
        self.problem = problem
        self.peak = ceiling[1] if ceiling and ceiling[0] == "peak-memory" else None
        self.training = problem.form != "inference"
        if self.training and any(len(ranks) > 1 for ranks in problem.placement):
            raise SilentEvidenceError(
                "a stage stands on several ranks here, which the rule counts does not account for"
            )
        self.used = [stage for stage, count in enumerate(problem.microbatch_counts) if count]
        self.cost = {
            (kind, stage): problem.duration(int(Kind[kind]), stage)
            for stage in self.used
            for kind in "F" + self.gradients(stage) + ("W" if "I" in self.gradients(stage) else "")
        }

    def row(self, name: object, at: object) -> tuple[list[Term], int]:
        """Return the left side and the limit of a row of this problem.

        Raises
        ------
        EvidenceError
            If there is none of this name at this place.
        """
        rows: dict[str, tuple[Callable[..., tuple[list[Term], int]], int]] = {
            "forward": (self._forward, 2), "gradient": (self._gradient, 2), "turn": (self._turn, 1),
            "weight": (self._weight, 1), "rank": (self._rank, 1), "bytes": (self._bytes, 1),
            "in_flight": (self._in_flight, 1), "in_flight_stage": (self._in_flight_stage, 1),
        }  # fmt: skip
        if str(name) not in rows:
            raise EvidenceError(f"unknown row {str(name)[:40]!r}; known: {', '.join(rows)}")
        made, places = rows[str(name)]
        if not isinstance(at, list | tuple) or len(at) != places or not all(map(is_count, at)):
            raise EvidenceError(f"the place of the row {name} is {places} whole numbers")
        try:
            return made(*at)
        except LookupError:
            raise EvidenceError(f"there is no row {name} at {list(at)} here") from None

    def gradients(self, stage: int) -> str:
        """Return the kinds that make a stage's gradient, I last; none in inference."""
        problem = self.problem
        if problem.form != "split":
            return "B" if self.training else ""
        parts = problem.backward_input[stage] + problem.backward_weight[stage]
        return "BI" if problem.backward[stage] < parts else "I"

    def forward_lag(self, a: int, b: int) -> int:
        """Return the ticks that the output of F on a takes to b, which it must feed."""
        if a not in self.problem.predecessors[b]:
            raise LookupError
        return self.problem.forward_lag(a, b)

    def gradient_lag(self, a: int, b: int) -> int:
        """Return the ticks that the gradient of a takes to b, which must feed it."""
        if a not in self.problem.successors[b] or not self.training:
            raise LookupError
        return self.problem.backward_lag(a, b)

    def _forward(self, a: int, b: int) -> tuple[list[Term], int]:
        delay = self.cost["F", a] + self.forward_lag(a, b)
        return [(("F", b), 1, 0), (("F", a), -1, delay)], 0

    def _gradient(self, a: int, b: int) -> tuple[list[Term], int]:
        lag = self.gradient_lag(a, b)
        ended = [((kind, a), -1, self.cost[kind, a] + lag) for kind in self.gradients(a)]
        return [*self._begun(b), *ended], 0

    def _turn(self, s: int) -> tuple[list[Term], int]:
        return [*self._begun(s), (("F", s), -1, self.cost["F", s])], 0

    def _weight(self, s: int) -> tuple[list[Term], int]:
        return [(("W", s), 1, 0), (("I", s), -1, self.cost["I", s])], 0

    def _rank(self, r: int) -> tuple[list[Term], int]:
        stages = self.problem.stages_of[r]
        running = [(each, cost) for each, cost in self.cost.items() if each[1] in stages]
        return [term for each, cost in running for term in ((each, 1, 0), (each, -1, cost))], 1

    def _bytes(self, r: int) -> tuple[list[Term], int]:
        """F leaves what it saves, a gradient op holds the activation while it runs, I leaves the stash until W ends."""
        problem, terms = self.problem, list[Term]()
        for s in self._used_on(r):
            saved = problem.saved_activation_bytes[s]
            terms.append((("F", s), saved, 0))
            for kind in self.gradients(s):
                left = problem.weight_stash[s] if kind == "I" else 0
                running, ended = problem.activation[s] - saved, left - problem.activation[s]
                terms += [((kind, s), running, 0), ((kind, s), ended, self.cost[kind, s])]
                terms += [(("W", s), -left, self.cost["W", s])] if left else []
        part = math.gcd(*(factor for _, factor, _ in terms)) or 1
        return [(each, factor // part, delay) for each, factor, delay in terms], self._room(r) // part

    def _room(self, r: int) -> int:
        room = [] if self.problem.capacity is None else [self.problem.capacity[r]]
        room += [] if self.peak is None else [self.peak]
        if not room or not self.training:
            raise LookupError
        return min(room) - self.problem.static[r]

    def _in_flight(self, r: int) -> tuple[list[Term], int]:
        if self.problem.in_flight is None or not self.training:
            raise LookupError
        return [term for s in self._used_on(r) for term in self._flying(s)], self.problem.in_flight[r]

    def _in_flight_stage(self, s: int) -> tuple[list[Term], int]:
        if self.problem.in_flight_stage is None or not self.training:
            raise LookupError
        return self._flying(s), self.problem.in_flight_stage[s]

    def _flying(self, s: int) -> list[Term]:
        return [(("F", s), 1, 0), *(((kind, s), -1, self.cost[kind, s]) for kind in self.gradients(s))]

    def _begun(self, s: int) -> list[Term]:
        if ("F", s) not in self.cost or not self.training:
            raise LookupError
        return [((kind, s), 1, 0) for kind in self.gradients(s)]

    def _used_on(self, r: int) -> list[int]:
        return [s for s in self.problem.stages_of[r] if s in self.used]


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
