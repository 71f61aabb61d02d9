"""The rules with a closed formula: for times load and pair, for the peak memory sequence and memory, and in flight.

The gradient op of a stage is its B or I, its backward is B, or I and W: the cheaper of the two ways bounds both. A
recomputing stage pays its forward in either. ``lag`` is the transfer time between the first ranks of two stages.

A span of T means that in some timeline, whose first steps may wait, each rank is done T ticks after it began. So what
is derived for the span is always the time of one rank from its own first start to its own last end, from dependencies
and exclusion alone; nothing is taken from when that rank begins, or from how soon other ranks could run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from schedverify.core.problem import Problem
from schedverify.verifier.certificates.overlaps import can_overlap


class EvidenceError(ValueError):
    """Evidence that names an unknown rule or an absent place, or a rule that does not hold for this problem."""


class SilentEvidenceError(EvidenceError):
    """Evidence by a rule that does not speak of this problem: nothing follows from it, neither for nor against."""


class Derivation:
    """The parts that the rules share: cheapest costs and longest paths.

    Attributes
    ----------
    order
        The stages, each after those that feed it.
    passing
        By stage, how many micro-batches go through it.
    """

    def __init__(self, problem: Problem, objective: str, ceiling: tuple[str, int] | None) -> None:
        self.problem = problem
        self.ceiling = ceiling
        self.makespan = objective == "makespan"
        self.training = problem.form != "inference"
        self.order, self.passing = problem.topological_order, problem.microbatch_counts
        for forward, backward, cost in problem.overlapped:
            cheaper = cost < problem.forward[forward] + self.backward(backward)
            if cheaper and can_overlap(problem, forward, backward):
                raise SilentEvidenceError("overlapped pairs cost less than the sum here, which no rule accounts for")

    def load(self, certificate: Mapping[str, Any]) -> int:
        """Head, work and tail of a rank: its first step waits for a forward path, its last is followed by a path.

        After W nothing must follow; after B the gradients flow on to the first stage; after F (inference) the
        activations flow on to the last. For the span the work alone counts: paths before and behind it may lie outside.
        """
        rank = self.index(certificate.get("rank"), self.problem.ranks, "rank")
        stages = [s for s in self.problem.stages_of[rank] if self.passing[s]]
        if not stages:
            return 0
        work = sum(self.passing[s] * (self.problem.forward[s] + self.backward(s)) for s in stages)
        if not self.makespan:
            return work
        tail = 0
        if self.problem.form == "fused":
            tail = min(self.after_gradient[s] for s in stages)
        elif not self.training:
            tail = min(self.after_forward[s] for s in stages)
        return min(self.head[s] for s in stages) + work + tail

    def pair(self, certificate: Mapping[str, Any]) -> int:
        """From the first F of s to its last step: the way to t, all F and gradient ops of t, and the way back.

        Zero Bubble (arXiv 2401.10241) uses it for s = 0; it holds for every s from which t is reached. For the span
        all of it is time of the rank of s: what t waits for came from there, and what it makes goes back there.
        """
        stages = certificate.get("stages")
        if not isinstance(stages, list | tuple) or len(stages) != 2:
            raise EvidenceError("the rule pair names two stages")
        s, t = (self.index(stage, self.problem.total_stages, "stage") for stage in stages)
        if not self.passing[t]:
            return 0
        head = self.head[s] if self.makespan else 0
        forward = self.problem.forward
        if s == t:
            return head + self.passing[s] * (forward[s] + self.backward(s))
        way = self.way(s, t)
        if way is None or not self.training:
            raise SilentEvidenceError(f"stage {t} is not reached from stage {s} by a way that leads back")
        return head + way[0] + self.passing[t] * (forward[t] + self.gradient(t)) + way[1]

    def gradient(self, stage: int) -> int:
        """The least ticks of an operation that makes a stage's input gradient."""
        problem = self.problem
        least = problem.backward[stage]
        if problem.form == "split":
            least = min(least, problem.backward_input[stage])
        return least + self.again(stage)

    def backward(self, stage: int) -> int:
        """The least ticks of a stage's whole backward; none in inference."""
        problem = self.problem
        if not self.training:
            return 0
        least = problem.backward[stage]
        if problem.form == "split":
            least = min(least, problem.backward_input[stage] + problem.backward_weight[stage])
        return least + self.again(stage)

    @cached_property
    def head(self) -> dict[int, int]:
        """By stage, the longest path of forwards before its F."""
        head: dict[int, int] = {}
        for stage in self.order:
            before = self.problem.predecessors[stage]
            head[stage] = max((head[b] + self._forward_hop(b, stage) for b in before), default=0)
        return head

    @cached_property
    def after_forward(self) -> dict[int, int]:
        """By stage, the longest path of forwards after its F (its own not counted)."""
        after: dict[int, int] = {}
        for stage in reversed(self.order):
            onward = self.problem.successors[stage]
            hops = (self.problem.forward_lag(stage, t) + self.problem.forward[t] + after[t] for t in onward)
            after[stage] = max(hops, default=0)
        return after

    @cached_property
    def after_gradient(self) -> dict[int, int]:
        """By stage, the longest path of backwards after its gradient op (its own not counted)."""
        after: dict[int, int] = {}
        for stage in self.order:
            before = self.problem.predecessors[stage]
            hops = (after[b] + self.problem.backward_lag(stage, b) + self.gradient(b) for b in before)
            after[stage] = max(hops, default=0)
        return after

    def way(self, s: int, t: int) -> tuple[int, int] | None:
        """Return the longest ways from the start of F on s to F on t, and from the gradient on t to the end on s."""
        onward: dict[int, int] = {s: 0}
        back: dict[int, int] = {s: 0}
        for stage in self.order:
            for b in self.problem.predecessors[stage]:
                if b in onward:
                    last = self.backward(s) if b == s else self.gradient(b)
                    onward[stage] = max(onward.get(stage, 0), onward[b] + self._forward_hop(b, stage))
                    back[stage] = max(back.get(stage, 0), back[b] + last + self.problem.backward_lag(stage, b))
        return (onward[t], back[t]) if t in onward else None

    def until_gradient(self, s: int) -> int:
        """Return the ticks from the start of a micro-batch's F on s until its gradient op can start there."""
        turn: dict[int, int] = {}
        for stage in reversed(self.order):
            ways = [
                self.problem.forward_lag(stage, t) + turn[t] + self.gradient(t) + self.problem.backward_lag(t, stage)
                for t in self.problem.successors[stage]
            ]
            turn[stage] = self.problem.forward[stage] + max(ways, default=0)
        return turn[s]

    def _forward_hop(self, source: int, target: int) -> int:
        return self.problem.forward[source] + self.problem.forward_lag(source, target)

    def again(self, stage: int) -> int:
        """The forward that a recomputing stage runs once more in its B or I."""
        return self.problem.forward[stage] if self.problem.recompute[stage] else 0

    def index(self, value: object, bound: int, what: str) -> int:
        """Return a number that names a rank or a stage of the problem."""
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < bound:
            raise EvidenceError(f"it names no {what} of this problem")
        return value


def sequence_peak(known: Derivation, certificate: Mapping[str, Any]) -> int:
    """One sequence alone, at the stage of the rank where it holds most: all stages that it came through wait for it."""
    problem = known.problem
    rank = known.index(certificate.get("rank"), problem.ranks, "rank")
    stages = [s for s in problem.stages_of[rank] if known.passing[s]]
    peaks = [max(problem.saved_activation_bytes[s], problem.activation[s]) for s in stages]
    if not known.training:
        return problem.static[rank] + max((problem.saved_activation_bytes[s] for s in stages), default=0)
    for place, stage in enumerate(stages):
        waiting = sum(problem.saved_activation_bytes[other] for other in stages if other in _leading_to(problem, stage))
        peaks[place] += problem.slices * waiting + (problem.slices - 1) * problem.saved_activation_bytes[stage]
    return problem.static[rank] + max(peaks, default=0)


def admission_peak(known: Derivation, certificate: Mapping[str, Any]) -> int:
    """The F that must have run on a lone stage before its first gradient op, so that the rest fits under a ceiling.

    Nothing but F runs on its rank until a gradient comes back, so the rank idles for what the F do not fill, and the
    idle time and all the work must fit: under the problem's makespan limit and under the plan's ceiling.
    """
    problem = known.problem
    stage = known.index(certificate.get("stage"), problem.total_stages, "stage")
    rank, forward = problem.owner_rank[stage], problem.forward[stage]
    if problem.stages_of[rank] != (stage,) or not known.training or not known.passing[stage] or not forward:
        raise SilentEvidenceError(
            f"stage {stage} is not alone on rank {rank} in training, with a forward that takes time"
        )
    ticks = known.passing[stage] * (forward + known.backward(stage)) + known.until_gradient(stage)
    needed = [0]
    if problem.makespan_limit is not None:
        needed.append(ticks + known.head[stage] - problem.makespan_limit)
    if known.ceiling is not None:
        needed.append(ticks + (known.head[stage] if known.makespan else 0) - known.ceiling[1])
    first = min(max(1, -(-max(needed) // forward)), known.passing[stage])
    saved = problem.saved_activation_bytes[stage]
    return problem.static[rank] + (first - 1) * saved + max(problem.activation[stage], saved)


def sequence_in_flight(known: Derivation, certificate: Mapping[str, Any]) -> int:
    """One sequence alone: all its parts wait on every stage of the rank that the last of them came through."""
    problem = known.problem
    rank = known.index(certificate.get("rank"), problem.ranks, "rank")
    stages = {s for s in problem.stages_of[rank] if known.passing[s]}
    if not known.training:
        return min(1, len(stages))
    return problem.slices * max((1 + len(stages & _leading_to(problem, s)) for s in stages), default=0)


def sequence_on_stage(known: Derivation, certificate: Mapping[str, Any]) -> int:
    """One sequence alone: no gradient of it is made on a stage before all its parts were there."""
    stage = known.index(certificate.get("stage"), known.problem.total_stages, "stage")
    return min(known.passing[stage], known.problem.slices if known.training else 1)


def _leading_to(problem: Problem, stage: int) -> set[int]:
    """Return the stages from which a way leads to a stage."""
    found: set[int] = set()
    front = [stage]
    while front:
        before = [b for b in problem.predecessors[front.pop()] if b not in found]
        found.update(before)
        front += before
    return found
