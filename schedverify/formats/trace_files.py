"""A timeline as a Chrome trace, which Perfetto and chrome://tracing show: a process a rank, an event a step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from schedverify.core.op import Kind, Step
from schedverify.core.timeline import Timeline


def trace(timeline: Timeline) -> str:
    """Return the Chrome-trace JSON of a timeline; one tick is shown as one microsecond.

    Each rank is a process; its compute steps are on one thread, its sends on a second, its receives on a third. Each
    step is a complete event with its start and duration in ticks; its ``args`` name the stage and the micro-batch, as
    lists in an overlapped step. The same timeline gives the same text.
    """
    events = ",\n".join(_dumps(event) for rank in range(timeline.schedule.ranks) for event in _events(timeline, rank))
    about = {"problem": timeline.problem.name, "tick": timeline.problem.tick}
    return f'{{"displayTimeUnit":"ms","otherData":{_dumps(about)},"traceEvents":[\n{events}\n]}}\n'


def thread_of(kinds: Iterable[Kind]) -> int:
    """Return the thread of a step with these operations: 0 for compute, 1 for sends, 2 for receives and their groups.

    They run beside each other.
    """
    transfers = [kind for kind in kinds if kind.is_transfer]
    return 0 if not transfers else 1 if all(kind.is_send for kind in transfers) else 2


def _events(timeline: Timeline, rank: int) -> Iterator[dict[str, Any]]:
    yield {"name": "process_name", "ph": "M", "pid": rank, "tid": 0, "args": {"name": f"rank {rank}"}}
    yield {"name": "process_sort_index", "ph": "M", "pid": rank, "tid": 0, "args": {"sort_index": rank}}
    times = zip(timeline.starts[rank].tolist(), timeline.ends[rank].tolist(), strict=True)
    for step, (start, end) in zip(timeline.schedule.steps(rank), times, strict=True):
        kinds = "+".join(op.kind.name for op in step.ops)
        place = {"ph": "X", "pid": rank, "tid": thread_of(op.kind for op in step.ops), "ts": start, "dur": end - start}
        yield {"name": str(step), "cat": kinds, **place, "args": _arguments(step)}


def _arguments(step: Step) -> dict[str, Any]:
    stages, microbatches = [op.stage for op in step.ops], [op.microbatch for op in step.ops]
    if len(step.ops) == 1:
        return {"stage": stages[0], "microbatch": microbatches[0]}
    return {"stage": stages, "microbatch": microbatches}


def _dumps(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=True)
