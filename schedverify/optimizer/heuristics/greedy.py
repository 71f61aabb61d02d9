"""A list scheduler that watches memory: finds a schedule at once, often a good one, to start the search from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product, starmap
from typing import NamedTuple

from schedverify.optimizer.orders import Ledger, Rows
from schedverify.optimizer.tasks import Node, OpKey, Tasks, node_of


class GreedyPolicy(NamedTuple):
    """What a rank does when it could do several things.

    Attributes
    ----------
    backward_first
        Whether a ready gradient op goes before a ready F.
    deep_first
        Whether, of several ready F (or gradient ops), that of the later (earlier) stage goes first, else the oldest.
    patience
        How much of a W may lie behind the moment at which the next F or gradient op becomes ready: 0 to 1.
    fused
        Whether mixed stages run B, not I and W.
    """

    backward_first: bool = True
    deep_first: bool = True
    patience: float = 0.5
    fused: bool = True


def policies(tasks: Tasks) -> Iterator[GreedyPolicy]:
    """Yield the policies that can differ on a problem, the most promising first."""
    patience = (0.5, 0.0, 1.0) if tasks.splits else (0.0,)
    deep = (True, False) if any(len(stages) > 1 for stages in tasks.problem.stages_of) else (True,)
    first = (True, False) if tasks.trains else (True,)
    fused = (True, False) if tasks.mixed else (True,)
    yield from starmap(GreedyPolicy, product(first, deep, patience, fused))


def list_schedule(tasks: Tasks, policy: GreedyPolicy, stopped: Callable[[], bool] = lambda: False) -> Rows | None:
    """Return the orders that a policy gives, or None where it runs into its limits or is stopped.

    Every rank takes, whenever it is free, what it can start first; F only where room is left for all F that the first
    unfinished sequence still has to run on this rank. On a chain that always ends: the oldest sequence can always go
    on, and what it frees is enough for the next.
    """
    return _GreedyRun(tasks, policy).rows(stopped)


class _Choice(NamedTuple):
    """An operation that could start next, and when, in scaled ticks."""

    start: int
    op: OpKey


class _GreedyRun:
    """The state of one pass of the list scheduler.

    Attributes
    ----------
    ends, free
        The scaled end of each step that has run; by rank, the scaled tick from which it is free.
    forwards, gradients, weights
        By stage, the micro-batches whose F or gradient op is still to run, the next one last; and those whose W may
        run, the next one first.
    lacking
        By rank and sequence, the stages of the F that the sequence still has to run there.
    spare
        By rank, the bytes that stay free for backwards that recompute.
    """

    def __init__(self, tasks: Tasks, policy: GreedyPolicy) -> None:
        self.tasks, self.policy, self.problem = tasks, policy, tasks.problem
        self.ends: dict[Node, int] = {}
        self.free = [0] * self.problem.ranks
        self.orders: Rows = [[] for _ in range(self.problem.ranks)]
        self.ledgers = [Ledger(self.problem, rank) for rank in range(self.problem.ranks)]
        self.forwards = [list(reversed(microbatches)) for microbatches in tasks.microbatches_of]
        self.gradients = [list(reversed(self._backwards(microbatches))) for microbatches in tasks.microbatches_of]
        self.weights: list[list[int]] = [[] for _ in tasks.microbatches_of]
        self.lacking = [self._lacking(rank) for rank in range(self.problem.ranks)]
        self.spare = [self._spare(stages) for stages in self.problem.stages_of]

    def rows(self, stopped: Callable[[], bool]) -> Rows | None:
        """Run to the end, or to where nothing can start any more."""
        choices = [self._choice(rank) for rank in range(self.problem.ranks)]
        while any(choices) and not stopped():
            best = min((choice for choice in choices if choice), key=lambda choice: choice.start)
            for rank in self._run(best):
                choices[rank] = self._choice(rank)
        unfinished = any(self.forwards) or any(self.weights) or (self.tasks.trains and any(self.gradients))
        return None if unfinished else self.orders

    def _choice(self, rank: int) -> _Choice | None:
        """Return what a rank starts next among the stages that have it as their first rank."""
        stages = [stage for stage in self.problem.stages_of[rank] if self.problem.owner_rank[stage] == rank]
        ready = [choice for stage in stages for choice in self._ready(stage)]
        best = min(ready, key=self._preference, default=None)
        weights = [self._at(("W", stage, self.weights[stage][0])) for stage in stages if self.weights[stage]]
        weight = min((choice for choice in weights if choice), key=lambda choice: choice.start, default=None)
        if weight is None or best is None:
            return best or weight
        behind = weight.start + self.tasks.duration["W", weight.op[1]] - best.start
        return weight if behind <= self.policy.patience * self.tasks.duration["W", weight.op[1]] else best

    def _preference(self, choice: _Choice) -> tuple[int, bool, int, int]:
        """Return what sorts the F and gradient ops that a rank could take: the start first, then the policy."""
        kind, stage, m = choice.op
        forward = kind == "F"
        deep = (-stage if forward else stage) if self.policy.deep_first else 0
        return choice.start, forward == self.policy.backward_first, deep, m

    def _ready(self, stage: int) -> Iterator[_Choice]:
        """Yield the next F and gradient op of a stage, where their inputs are known and the limits admit them."""
        ranks = self.problem.placement[stage]
        if self.forwards[stage]:
            choice = self._at(("F", stage, self.forwards[stage][-1]))
            if choice and all(self._leaves_room(rank, choice.op) for rank in ranks):
                yield choice
        if self.tasks.trains and self.gradients[stage]:
            kind = "B" if stage in self.tasks.mixed and self.policy.fused else self.tasks.usual_kind("GRAD")
            choice = self._at((kind, stage, self.gradients[stage][-1]))
            if choice and all(self.ledgers[rank].fits(choice.op) for rank in ranks):
                yield choice

    def _at(self, op: OpKey) -> _Choice | None:
        """Return when an operation could start, or None where that is not known yet."""
        start = max(self.free[rank] for rank in self.problem.placement[op[1]])
        for before, lag in self.tasks.inputs(node_of(op)):
            if before not in self.ends:
                return None
            start = max(start, self.ends[before] + lag)
        return _Choice(start, op)

    def _run(self, choice: _Choice) -> set[int]:
        """Start an operation; return the ranks that must choose again."""
        kind, stage, m = choice.op
        queue = {"F": self.forwards, "W": self.weights}.get(kind, self.gradients)[stage]
        queue.pop(0 if kind == "W" else -1)
        if kind == "I":
            self.weights[stage].append(m)
        end = choice.start + self.tasks.duration[kind, stage]
        self.ends[node_of(choice.op)] = end
        touched = set()
        for rank in self.problem.placement[stage]:
            self.free[rank] = end
            self.orders[rank].append(choice.op)
            self.ledgers[rank].run(choice.op)
            if kind == "F":
                self._strike_off(rank, stage, m)
            touched |= {self.problem.owner_rank[other] for other in self.problem.stages_of[rank]}
        around = self.problem.successors[stage] if kind == "F" else self.problem.predecessors[stage]
        return touched | {self.problem.owner_rank[other] for other in around}

    def _leaves_room(self, rank: int, op: OpKey) -> bool:
        """Whether, with one more F, a rank has room left for all F of the sequence that must go on before it."""
        _, stage, m = op
        ledger, lacking = self.ledgers[rank], self.lacking[rank]
        first = next(iter(lacking))
        stages = [stage, *(lacking[first] if first != m // self.problem.slices else ())]
        kept, most = self.problem.saved_activation_bytes, self.problem.in_flight_stage
        return (
            (ledger.room is None or ledger.bytes + self.spare[rank] + sum(kept[s] for s in stages) <= ledger.room)
            and (ledger.limit is None or ledger.in_flight + len(stages) <= ledger.limit)
            and (most is None or ledger.by_stage[stage] + stages.count(stage) <= most[stage])
        )

    def _strike_off(self, rank: int, stage: int, m: int) -> None:
        """Take the F of a stage off the list of what its sequence lacks on a rank."""
        lacking, sequence = self.lacking[rank], m // self.problem.slices
        lacking[sequence].remove(stage)
        if not lacking[sequence]:
            del lacking[sequence]

    def _lacking(self, rank: int) -> dict[int, list[int]]:
        """By sequence, in rising order, the stages of the F that it still has to run on a rank."""
        lacking: dict[int, list[int]] = {}
        for m in range(self.problem.microbatches):
            stages = [stage for stage in self.problem.stages_of[rank] if self.problem.passes(stage, m)]
            if stages:
                lacking.setdefault(m // self.problem.slices, []).extend(stages)
        return lacking

    def _spare(self, stages: tuple[int, ...]) -> int:
        """Return the bytes that a rank keeps free for the backward of a stage that recomputes."""
        full, boundary = self.problem.activation, self.problem.boundary
        return max((full[s] - boundary[s] for s in stages if self.problem.recompute[s]), default=0)

    def _backwards(self, microbatches: tuple[int, ...]) -> list[int]:
        """Return the order of gradient ops: sequences in order, the parts of each from the last to the first."""
        slices = self.problem.slices
        return [m for i in range(0, len(microbatches), slices) for m in reversed(microbatches[i : i + slices])]
