"""What ``partition --joint`` prints: the stages, what is proved over all partitions, and what was gained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from schedverify.cli.app import OK, UNDECIDED

if TYPE_CHECKING:
    from schedverify.core.model import Model
    from schedverify.planner.joint import Joint


def search(model: Model, options: dict[str, Any], *, bar: bool) -> Joint:
    """Search for partition and schedule together, with a bar on a terminal; Ctrl-C keeps the best."""
    from schedverify.cli.terminal import interruptible, progress_on_terminal
    from schedverify.models import partition

    with interruptible() as stop, progress_on_terminal(bar) as tell:
        return cast("Joint", partition(model, joint=True, **options, progress=tell, stop=stop))


def code(joint: Joint) -> int:
    """Return the exit code: undecided where no schedule was found in the time."""
    return UNDECIDED if joint.plan.schedule is None else OK


def lines(joint: Joint) -> Iterator[str]:
    """Yield what is printed below the table of the stages."""
    plan, tick = joint.plan, joint.plan.problem.tick
    if plan.value is None or plan.measures is None:
        yield f"no schedule was found: {joint.reason}"
        return
    yield f"makespan {plan.value} {tick}: {_proved(joint)}"
    if joint.linearized:
        yield "the graph was cut as a chain"
    if joint.first is not None and joint.gain is not None:
        saved = f"{float(joint.gain):.2%} more" if joint.gain else "no more"
        yield f"partition first, schedule second: {joint.first.value} {tick}, {saved}"
    else:
        yield "partition first, schedule second: no partition was found that fits what the family has in flight"
    among = "" if joint.partitions is None else f" of {joint.partitions}"
    yield f"partitions looked at: {len(joint.tried)}{among}; the others have a bound of {_others(joint)} or more"
    yield f"peak memory by rank: {' '.join(map(str, plan.measures.peak_memory))} bytes"


def _proved(joint: Joint) -> str:
    if not joint.gap:
        return "no partition has a schedule with less"
    return f"at most {float(joint.gap):.2%} above what any partition can have ({joint.bound}); {joint.reason}"


def _others(joint: Joint) -> int:
    return joint.bound if joint.gap or joint.plan.value is None else joint.plan.value
