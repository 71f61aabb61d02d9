"""JSON files of what runs or is to run: the trace of a timeline, the trace of a run, and the boundary log of a run.

Both traces are Chrome traces, which Perfetto and chrome://tracing show: a process for each rank, an event for each
step. One file holds all ranks of a run; its ``otherData`` holds the digest of the plan, the number of ranks and steps,
and the error of each rank's clock; ``args`` of each event hold its place and its nanoseconds, counted from the first
start of all. The boundary log holds everything that crossed between two stages, once, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from schedverify.core.op import Kind, Step, pack_step, unpack
from schedverify.core.timeline import Timeline
from schedverify.core.trace import BoundaryLog, BoundaryTransfer, RunTrace
from schedverify.formats.text_files import PathLike, write_text

RUN_VERSION: Final = 1
RUN_FORMAT: Final = "schedverify run"
UNIT: Final = "ms"
"""The unit in which viewers show times; the times in the file are microseconds whatever it is."""
TOP: Final = ("displayTimeUnit", "otherData", "traceEvents")
ABOUT: Final = ("format", "version", "plan", "ranks", "steps", "errors")
NAMING: Final = ("name", "ph", "pid", "tid", "args")
NAMING_ARGS: Final = ("name",)
RUNNING: Final = ("name", "ph", "pid", "tid", "ts", "dur", "args")
ARGS: Final = ("step", "position", "start", "end")
RANK_NAME: Final = "process_name"
MAX_RANKS: Final = 65_535
MAX_STEPS: Final = 1_000_000
BOUNDARIES_VERSION: Final = 1
BOUNDARIES_FORMAT: Final = "schedverify boundaries"


def trace(timeline: Timeline) -> str:
    """Return the Chrome-trace JSON of a timeline; one tick is shown as one microsecond.

    Each rank is a process; its compute steps are on one thread, its sends on a second, its receives on a third. Each
    step is a complete event with its start and duration in ticks; its ``args`` name the stage and the micro-batch, as
    lists in an overlapped step. The same timeline gives the same text.
    """
    about = {"problem": timeline.problem.name, "tick": timeline.problem.tick}
    ranks = range(timeline.schedule.ranks)
    return _chrome_trace(about, (event for rank in ranks for event in _timeline_events(timeline, rank)))


def thread_of(kinds: Iterable[Kind]) -> int:
    """Return the thread of a step with these operations: 0 for compute, 1 for sends, 2 for receives and their groups.

    They run beside each other.
    """
    transfers = [kind for kind in kinds if kind.is_transfer]
    return 0 if not transfers else 1 if all(kind.is_send for kind in transfers) else 2


def _timeline_events(timeline: Timeline, rank: int) -> Iterator[dict[str, Any]]:
    yield _naming_event(rank)
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


def save_run(trace: RunTrace, path: PathLike) -> None:
    """Write the trace of a run; an existing file is replaced as a whole, or not at all.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    about = {"format": RUN_FORMAT, "version": RUN_VERSION, "plan": trace.plan, "ranks": trace.ranks,
             "steps": len(trace.steps), "errors": list(trace.errors)}  # fmt: skip
    first = min((ran.start for step in trace.steps for ran in step), default=0)
    write_text(path, _chrome_trace(about, _run_events(trace, first)))


def rank_name(rank: int | str) -> str:
    """Return the name that a viewer shows for the process of a rank."""
    return f"rank {rank}"


def thread(step: str) -> int:
    """Return the thread that a step is shown on.

    Raises
    ------
    InputError
        If the text is no step.
    """
    return thread_of(unpack(word).kind for word in pack_step(step))


def microseconds(nanoseconds: int) -> float:
    """Return nanoseconds as the microseconds that viewers read, rounded to the nearest float."""
    return nanoseconds / 1000


def _run_events(trace: RunTrace, first: int) -> Iterator[dict[str, Any]]:
    for rank in range(trace.ranks):
        yield _naming_event(rank)
    for number, step in enumerate(trace.steps):
        for ran in step:
            start, end = ran.start - first, ran.end - first
            times = {"ts": microseconds(start), "dur": microseconds(end - start)}
            args = dict(zip(ARGS, (number, ran.position, start, end), strict=True))
            yield {"name": ran.step, "ph": "X", "pid": ran.rank, "tid": thread(ran.step), **times, "args": args}


def save_boundaries(log: BoundaryLog, path: PathLike) -> None:
    """Write a boundary log as JSON, a line for each crossing; an existing file is replaced as a whole or not at all.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    about = {"format": BOUNDARIES_FORMAT, "version": BOUNDARIES_VERSION, "plan": log.plan, "ranks": log.ranks}
    steps = ["[\n" + ",\n".join(json.dumps(_transfer_data(each)) for each in step) + "]" for step in log.steps]
    write_text(path, f'{{{json.dumps(about)[1:-1]}, "steps": [\n' + ",\n".join(steps) + "\n]}\n")


def _transfer_data(crossed: BoundaryTransfer) -> dict[str, Any]:
    data = crossed._asdict() | {"tensors": [{"dtype": dtype, "shape": list(shape)} for dtype, shape in crossed.tensors]}
    del data["outgoing"]
    return data


def _naming_event(rank: int) -> dict[str, Any]:
    return {"name": RANK_NAME, "ph": "M", "pid": rank, "tid": 0, "args": {"name": rank_name(rank)}}


def _chrome_trace(about: dict[str, Any], events: Iterable[dict[str, Any]]) -> str:
    """Return the text of a Chrome trace, a line for each event; the same data give the same text."""
    lines = ",\n".join(map(_dumps, events))
    return f'{{"displayTimeUnit":"{UNIT}","otherData":{_dumps(about)},"traceEvents":[\n{lines}\n]}}\n'


def _dumps(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=True)
