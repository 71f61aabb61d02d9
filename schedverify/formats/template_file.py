"""The commented problem file that ``schedverify new`` prints: every key, what it means, a value that works."""

from __future__ import annotations

from typing import Final

from schedverify.core.problem.keys import KEYS, TABLES, Key

_SET: Final = {
    "version": "1",
    "name": '"my-problem"',
    "ranks": "4",
    "microbatches": "8",
    "costs.forward": "1",
    "costs.backward_input": "1",
    "costs.backward_weight": "1",
}
"""The keys that the template sets; all others stand behind a # with an example."""
_EXAMPLES: Final = {
    "source": '"measured on our cluster"',
    "virtual": "1",
    "stages": "4",
    "placement": '"loop"',
    "form": '"split"',
    "tick": '"us"',
    "edges": "[[0, 1], [1, 2], [2, 3]]",
    "tied": "[[0, 3]]",
    "partition": '[["a"], ["b"], ["c"], ["d"]]',
    "replicas": "1",
    "replica_of": "[0, 0, 0, 0, 0, 0, 0, 0]",
    "slices": "1",
    "expected": "{ makespan = 27 }",
    "costs.backward": "2",
    "costs.overlapped": "[{forward=0, backward=3, cost=3}]",
    "links.latency": "0",
    "links.bytes": "16777216",
    "links.bandwidth": "25000000",
    "links.buffer": "4",
    "memory.activation": "2",
    "memory.weight_stash": "1",
    "memory.recompute": "false",
    "memory.boundary": "0",
    "memory.static": "[0, 0, 0, 0]",
    "memory.capacity": "8",
    "limits.in_flight": "4",
    "limits.in_flight_stage": "[4, 3, 2, 1]",
    "limits.makespan": "100",
    "objective.minimize": '"makespan"',
    "objective.then": '"peak-memory"',
    "boundary.from": "0",
    "boundary.to": "1",
    "boundary.shape": "[4, 1024]",
    "boundary.dtype": '"bfloat16"',
    "boundary.bytes": "8192",
}
_HEAD: Final = """\
# A problem for schedverify: what is to be scheduled. Durations are whole ticks; memory is whole bytes, or
# text such as "1.5 GiB". A key by stage, rank or link takes one value for all, or a list with one for each.
# Take the # away from a key to set it.
"""
_COLUMN: Final = 47


def new() -> str:
    """Return a commented problem file to begin with: valid as it stands, every key with its meaning and an example."""
    parts = [_HEAD, *_lines("")]
    for table in TABLES:
        parts += ["", f"[{table}]", *_lines(table)]
    parts += ["", "# [[boundary]]" + " " * 34 + "# what may cross from one stage to another; one for each tensor"]
    return "\n".join([*parts, *_lines("boundary")]) + "\n"


def _lines(table: str) -> list[str]:
    return [_line(key) for key in KEYS if key.table == table]


def _line(key: Key) -> str:
    value = _SET.get(key.path)
    setting = f"{key.name} = {value}" if value is not None else f"# {key.name} = {_EXAMPLES[key.path]}"
    by = key.shape.rpartition(" by ")[2] if " by " in key.shape else ""
    notes = [f"by {by}"] if by else []
    notes += [f"default {key.default}"] if key.default else []
    return f"{setting:<{_COLUMN}} # {key.meaning}" + (f" [{'; '.join(notes)}]" if notes else "")
