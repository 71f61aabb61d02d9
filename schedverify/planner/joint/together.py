"""From a model to the best plan over all its partitions, beside that of partition first and schedule second."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InfeasibleError, InputError, UndecidedError
from schedverify.core.model import Model, PartitionConstraints
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.optimizer import Effort, Progress
from schedverify.partitioner.stage_problem import Cut, cut
from schedverify.planner.joint.found import Joint, Tried
from schedverify.planner.joint.search import Looked, Search, solution_of
from schedverify.planner.plans import verified

Ints = tuple[int, ...]


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
    asked = {"ranks": ranks, "microbatches": microbatches, "virtual": virtual}
    cut_first = _cut(model, asked, family, effort)
    names = placements or (("loop",) if virtual == 1 else ("loop", "v"))
    shapes = [Problem.chain(**asked, placement=name) for name in names]
    shapes += [cut_first.problem] if cut_first else []
    search = Search(model, list({shape.owner_rank: shape for shape in shapes}.values()), effort, progress)
    first = None if cut_first is None else search.asked(cut_first.partition.layers, cut_first.problem)
    if first is not None:
        search.begin(first, 1 / 4)
    search.run()
    best = search.best or min(search.looked, key=lambda one: one.bound, default=None)
    if best is None:
        raise _none(search)
    return Joint(
        model,
        _plan(search, best),
        best.layers,
        search.bound,
        None if first is None or first.value is None else _plan(search, first),
        tuple(Tried(one.problem.owner_rank, one.layers, one.bound, one.evidence, one.value) for one in search.tried()),
        _partitions(model, search.shapes),
        search.linearized,
        effort.why_over() if search.value is None or search.bound < search.value else "",
    )


def _cut(model: Model, asked: dict[str, int], family: str | None, effort: Effort) -> Cut | None:
    """Return the partition that comes first; None where none fits what the family has in flight."""
    try:
        return cut(model, **asked, family=family, time_limit=effort.left / 8, workers=effort.threads)
    except InputError:
        return None


def _none(search: Search) -> InputError:
    """Return what is wrong where there is no partition at all, or none was found."""
    stages = search.shapes[0].stages
    if all(coming.least is None for coming in search.coming.values()):
        hint = "more ranks, stages or memory, or fewer wishes"
        return InfeasibleError(Fault("devices.memory", f"no cut into {stages} stages keeps memory and wishes", hint))
    text = f"no cut into {stages} stages that keeps memory and wishes was found, nor a proof that there is none"
    return UndecidedError(Fault("time_limit", text, "give more time"))


def _plan(search: Search, looked: Looked) -> Plan:
    effort = search.effort
    return verified(looked.problem, solution_of(looked), seed=effort.seed, seconds=effort.spent)


def _partitions(model: Model, shapes: Sequence[Problem]) -> int | None:
    if not model.chain or model.wishes != PartitionConstraints():
        return None
    return len(shapes) * math.comb(len(model.layers) - 1, shapes[0].stages - 1)
