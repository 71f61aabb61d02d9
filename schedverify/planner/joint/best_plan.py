"""From a model to the best plan over all its partitions, beside that of partition first and schedule second."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InfeasibleError, InputError, UndecidedError
from schedverify.core.model import Model, PartitionConstraints
from schedverify.core.plan import Plan, relative_gap
from schedverify.core.problem import Problem
from schedverify.core.problem.stage_graph import Ints
from schedverify.core.result import Status
from schedverify.optimizer import Effort, Progress
from schedverify.partitioner.stage_problem import Cut, cut
from schedverify.planner.joint.search import Search, SearchedPartition, solution_of
from schedverify.planner.plans import verified


@dataclass(frozen=True)
class TriedPartition:
    """A partition that its bound did not rule out, or the best, and what the optimizer said of it.

    Attributes
    ----------
    placement
        The rank of each stage.
    layers
        By stage, the positions of its layers.
    bound
        Ticks that no schedule of this partition can go below.
    certificate
        Evidence that needs no solver for the ``bound`` that stands in it; where :attr:`bound` is higher, the rest is
        the solver's word.
    value
        The makespan of the best schedule that was found; None where the search showed that none is shorter than the
        best of another partition, or found none.
    """

    placement: Ints
    layers: tuple[Ints, ...]
    bound: int
    certificate: Mapping[str, Any] | None = field(default=None, hash=False)
    value: int | None = None


@dataclass(frozen=True)
class Joint:
    """The best plan over all partitions and placements that were asked for.

    Attributes
    ----------
    plan
        Verified; ``plan.partition`` has the layers of its stages. Its own bound holds of its own partition.
    layers
        By stage, the positions of its layers.
    bound
        Ticks that no schedule of any of the partitions can go below.
    first
        The plan of partition first and schedule second, or None where no partition was found that fits what the family
        has in flight.
    tried
        The best partition, and those that their bounds did not rule out. Every other one has a bound of at least
        ``plan.value``, or of at least :attr:`bound` where the search was ended.
    partitions
        How many there are in all, by number of layers and stages alone; None for graphs.
    linearized
        Whether a graph was cut as a chain in the order of its layers, because it has too many ways to be cut.
    reason
        What ended the search where the gap is open.
    """

    model: Model
    plan: Plan
    layers: tuple[Ints, ...]
    bound: int
    first: Plan | None = None
    tried: tuple[TriedPartition, ...] = ()
    partitions: int | None = None
    linearized: bool = False
    reason: str = ""

    @property
    def problem(self) -> Problem:
        """The problem that the stages make."""
        return self.plan.problem

    @property
    def names(self) -> list[list[str]]:
        """By stage, the names of its layers: what the plan holds as ``partition``."""
        return [list(layers) for layers in self.plan.partition or ()]

    @property
    def status(self) -> Status:
        """Optimal only where no partition can have a shorter schedule; else that of the plan, feasible or unknown."""
        if self.plan.value is None:
            return self.plan.status
        return Status.OPTIMAL if self.bound >= self.plan.value else Status.FEASIBLE

    @property
    def gap(self) -> Fraction | None:
        """``(value - bound) / bound`` over all partitions; None where either is unknown or the bound is 0."""
        return relative_gap(self.plan.value, self.bound)

    @property
    def gain(self) -> Fraction | None:
        """The share of the makespan of partition first and schedule second that is saved."""
        if self.first is None or not self.first.value or self.plan.value is None:
            return None
        return 1 - Fraction(self.plan.value, self.first.value)


def partition_jointly(  # noqa: PLR0913 - each is a keyword of its own
    model: Model,
    *,
    ranks: int,
    microbatches: int,
    virtual: int = 1,
    placements: Sequence[str] | None = None,
    family: str | None = None,
    time_limit: float = 60,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Joint:
    """Find the partition, the placement and the schedule that together have the least makespan.

    Partitions come in the order of a lower bound on the makespan of every schedule that they have
    (:mod:`~schedverify.partitioner.lower_bounds`, then all the bounds of
    :mod:`~schedverify.optimizer.bounds.formulas`). Each is given to the optimizer, which has to find something shorter
    than the best so far or to prove that there is nothing; once the least bound to come is no less than the best, that
    is the optimum over all partitions. The partition of :func:`~schedverify.partitioner.stage_problem.cut` is the
    first, and what its best schedule has is what the result is compared with.

    Parameters
    ----------
    ranks, virtual
        Devices of the pipeline, and stages on each.
    microbatches
        Micro-batches of a step.
    placements
        ``loop``, ``v`` or both, which is the default where a rank has several stages; that of ``family`` is always
        among them.
    family
        As in :func:`~schedverify.partitioner.stage_problem.cut`, for partition first alone.
    time_limit
        Seconds for all of it, of which partition first may take a quarter.
    seed, workers
        One worker and a seed give the same result wherever no part of the search meets its limit.
    progress
        Called with every better makespan or bound over all partitions.
    stop
        Set it to end the search early; the best so far is kept.

    Returns
    -------
    Joint
        The plan has passed the verifier, as every plan of :func:`~schedverify.planner.plans.optimize` has.

    Raises
    ------
    InputError
        If no partition fits, or the numbers of ranks, stages and layers do not go together.
    UnknownNameError
        If there is no such family.
    UnsupportedError
        If the sums of durations are too long for the solver.
    """
    check_types("partition_jointly", model=(model, Model))
    effort = Effort(time_limit, seed, workers, stop=stop or threading.Event())
    shape = {"ranks": ranks, "microbatches": microbatches, "virtual": virtual}
    cut_first = _cut(model, shape, family, effort)
    names = placements or (("loop",) if virtual == 1 else ("loop", "v"))
    shapes = [Problem.chain(ranks=ranks, microbatches=microbatches, virtual=virtual, placement=name) for name in names]
    shapes += [cut_first.problem] if cut_first else []
    search = Search(model, list({shape.owner_rank: shape for shape in shapes}.values()), effort, progress)
    first = None if cut_first is None else search.partition_of(cut_first.partition.layers, cut_first.problem)
    if first is not None:
        search.begin(first, 1 / 4)
    search.run()
    return _joint(search, first)


def _cut(model: Model, shape: dict[str, int], family: str | None, effort: Effort) -> Cut | None:
    """Return the partition that comes first; None where none fits what the family has in flight."""
    try:
        return cut(model, **shape, family=family, time_limit=effort.left / 8, workers=effort.threads, stop=effort.stop)
    except InputError:
        return None


def _joint(search: Search, first: SearchedPartition | None) -> Joint:
    """Return what a search has found, beside the best schedule of the partition that came first."""
    best = search.best or min(search.partitions, key=lambda partition: partition.bound, default=None)
    if best is None:
        raise _no_partition(search)
    plan, plan_first = _plan(search, best), None
    if first is not None and first.value is not None:
        plan_first = plan if first is best else _plan(search, first)
    return Joint(
        search.model,
        plan,
        best.layers,
        search.bound,
        first=plan_first,
        tried=tuple(
            TriedPartition(tried.placement, tried.layers, tried.bound, tried.evidence, tried.value)
            for tried in search.not_ruled_out()
        ),
        partitions=_count_partitions(search.model, search.shapes),
        linearized=search.linearized,
        reason=search.effort.why_over() if search.shorter(search.bound) else "",
    )


def _no_partition(search: Search) -> InputError:
    """Return what is wrong where there is no partition at all, or none was found."""
    stages = search.shapes[0].stages
    if all(stream.least is None for stream in search.streams.values()):
        hint = "more ranks, stages or memory, or fewer wishes"
        return InfeasibleError(Fault("devices.memory", f"no cut into {stages} stages keeps memory and wishes", hint))
    text = f"no cut into {stages} stages that keeps memory and wishes was found, nor a proof that there is none"
    return UndecidedError(Fault("time_limit", text, "give more time"))


def _plan(search: Search, partition: SearchedPartition) -> Plan:
    """Return the verified plan of the best schedule of a partition."""
    return verified(partition.problem, solution_of(partition), search.effort)


def _count_partitions(model: Model, shapes: Sequence[Problem]) -> int | None:
    """Return how many partitions there are, ``C(layers - 1, stages - 1)`` under each placement; None for graphs."""
    if not model.chain or model.constraints != PartitionConstraints():
        return None
    return len(shapes) * math.comb(len(model.layers) - 1, shapes[0].stages - 1)
