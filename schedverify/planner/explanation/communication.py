"""What looser limits on communication would gain: of the makespan of the schedule with its messages, and in gathers.

No compute order breaks ``limits.outstanding_sends`` or ``limits.unsharded``, so that no search asks for them. Where the
first is set, each send is waited for before it is one too many, which can take time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from schedverify.core.discipline import DEFAULT_DISCIPLINE
from schedverify.core.errors import InputError
from schedverify.core.explanation import OF_LOWERED, Gain
from schedverify.core.op import Kind
from schedverify.core.result import Plan
from schedverify.core.schedule import Schedule, kinds
from schedverify.core.timeline import Timeline
from schedverify.lowering import add_sharding
from schedverify.planner.proved_lowering import proved_lowering

_SENDS = "limits.outstanding_sends"


def gains_in_communication(plan: Plan, timeline: Timeline) -> tuple[list[Gain], list[str]]:
    """Return what each looser limit on communication would gain, and what no lowering that is known can keep.

    Parameters
    ----------
    timeline
        That of the plan's compute order, which stays as it is.
    """
    gains, remarks = [], []
    for change, makespan in _lowered_with_more_sends(plan, timeline):
        if plan.lowered is None:
            remarks.append(
                f"with {change}, a known lowering keeps the limits; its makespan is {plan.problem.units.time(makespan)}"
            )
            break
        now = plan.lowered.measures.makespan
        if makespan < now or change.startswith("no "):
            most = now - timeline.makespan
            gains.append(Gain(change, max(0, now - makespan), most, OF_LOWERED))
    return [*gains, *_gathers_saved(plan, timeline)], remarks


def _lowered_with_more_sends(plan: Plan, timeline: Timeline) -> Iterator[tuple[str, int]]:
    """Yield the makespan with communication where each rank may have one more send begun, and where any number.

    Only what keeps all other limits; it is the best lowering that is known of the order.
    """
    problem, limits = plan.problem, plan.problem.outstanding_sends
    if limits is None:
        return
    discipline, eager_bytes = DEFAULT_DISCIPLINE, 0
    if plan.lowered is not None:
        discipline, eager_bytes = plan.lowered.discipline, plan.lowered.eager_bytes
    for change, changed in (
        (f"one more of {_SENDS} on every rank", tuple(limit + 1 for limit in limits)),
        (f"no {_SENDS}", None),
    ):
        relaxed = replace(timeline, problem=replace(problem, outstanding_sends=changed))
        lowered = proved_lowering(relaxed, discipline, eager_bytes)
        if not lowered.report.violations:
            yield change, lowered.timeline.makespan


def _gathers_saved(plan: Plan, timeline: Timeline) -> Iterator[Gain]:
    """Yield how many fewer times a rank gathers a stage if it may have one more gathered at once.

    Gathering takes no time in a timeline. What a rank frees first is what it uses last, so no order of gathering and
    freeing has fewer.
    """
    given = None if plan.lowered is None else plan.lowered.schedule
    for rank, limit in enumerate(plan.problem.unsharded or ()):
        now = _gathers(given, rank) or _fewest_gathers(timeline, limit, rank)
        more = _fewest_gathers(timeline, limit + 1, rank)
        if now > more:
            change = f"limits.unsharded[{rank}] {limit} → {limit + 1} (one more stage gathered on rank {rank})"
            yield Gain(change, now - more, now - more, "UNSHARD steps")


def _fewest_gathers(timeline: Timeline, most: int, rank: int) -> int:
    """Return how often a rank gathers at least, with so many stages at once; 0 where a step uses more."""
    try:
        return _gathers(add_sharding(timeline.schedule, timeline.problem, most=most), rank)
    except InputError:
        return 0


def _gathers(schedule: Schedule | None, rank: int) -> int:
    return 0 if schedule is None else int((kinds(schedule.rows[rank]) == int(Kind.UNSHARD)).sum())
