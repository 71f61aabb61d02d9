"""The trace of a run: one file for all ranks, which Perfetto and chrome://tracing show.

It is a Chrome trace: a process for each rank, with threads for what computes, sends and receives. ``otherData`` holds
the digest of the plan, the number of ranks and steps, and the error of each rank's clock; ``args`` of each event its
place and its nanoseconds, counted from the first start of all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from schedverify.core.op import pack_step, unpack
from schedverify.core.trace import RunTrace
from schedverify.formats.text_files import PathLike
from schedverify.formats.trace_files import thread_of
from schedverify.formats.writing import write_text

VERSION: Final = 1
FORMAT: Final = "schedverify run"
UNIT: Final = "ms"
"""In what viewers show times; it says nothing of those in the file."""
TOP: Final = ("displayTimeUnit", "otherData", "traceEvents")
ABOUT: Final = ("format", "version", "plan", "ranks", "steps", "errors")
NAMING: Final = ("name", "ph", "pid", "tid", "args")
NAMING_ARGS: Final = ("name",)
RUNNING: Final = ("name", "ph", "pid", "tid", "ts", "dur", "args")
ARGS: Final = ("step", "position", "start", "end")
RANK_NAME: Final = "process_name"
MAX_RANKS: Final = 65_535
MAX_STEPS: Final = 1_000_000


def save_run(trace: RunTrace, path: PathLike) -> None:
    """Write the trace of a run; an existing file is replaced as a whole, or not at all.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    about = {"format": FORMAT, "version": VERSION, "plan": trace.plan, "ranks": trace.ranks,
             "steps": len(trace.steps), "errors": list(trace.errors)}  # fmt: skip
    first = min((ran.start for step in trace.steps for ran in step), default=0)
    events = ",\n".join(map(_dumps, _events(trace, first)))
    write_text(path, f'{{"displayTimeUnit":"{UNIT}","otherData":{_dumps(about)},"traceEvents":[\n{events}\n]}}\n')


def rank_name(rank: int | str) -> str:
    """Return how a viewer calls the process of a rank."""
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
    """Return a time as viewers take it; the nearest one where no float is it exactly."""
    return nanoseconds / 1000


def _events(trace: RunTrace, first: int) -> Iterator[dict[str, Any]]:
    for rank in range(trace.ranks):
        yield {"name": RANK_NAME, "ph": "M", "pid": rank, "tid": 0, "args": {"name": rank_name(rank)}}
    for number, step in enumerate(trace.steps):
        for ran in step:
            start, end = ran.start - first, ran.end - first
            times = {"ts": microseconds(start), "dur": microseconds(end - start)}
            args = dict(zip(ARGS, (number, ran.position, start, end), strict=True))
            yield {"name": ran.step, "ph": "X", "pid": ran.rank, "tid": thread(ran.step), **times, "args": args}


def _dumps(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=True)
