"""Plans for real runs: right lowered orders of small chains, and mutants with every kind of fault.

``real_plan(number)`` is the same each time. The faults take turns, those of compute orders and those of
communication; now and then there are two. None waits for its sends: gloo holds a send back until it is received, which
no discipline but ``edge`` and the stricter ones say.
"""

from __future__ import annotations

import difflib
import random
from typing import Any, NamedTuple

from oracle.messages import Wires
from schedverify.core.problem import Problem
from support import mutants, mutants_communication
from support.random_lowered import lowered, with_marks
from support.random_schedules import Rows, random_rows

RIGHT = "none"
COMPUTING = sorted(set(mutants.FAULTS) - {"cut the front", "shuffle a rank"})
MESSAGES = sorted(set(mutants_communication.LOWERED_FAULTS) - {"wait anywhere", "wait for all"})
EXTRA = ["drop a mark", "double a mark", "move a mark", "send without receive", "receive without send"]
FAULTS = [
    RIGHT,
    *(f"compute: {name}" for name in COMPUTING),
    *(f"message: {name}" for name in MESSAGES),
    *(f"real: {name}" for name in EXTRA),
]


class RealPlan(NamedTuple):
    problem: Problem
    rows: Rows
    fault: str


def chain(rng: random.Random) -> dict[str, Any]:
    """Return the data of a chain over 2 to 4 ranks, with one or two stages on each."""
    ranks = rng.choice([2, 2, 3, 4])
    form = rng.choice(["fused", "split"])
    backward = {"backward": 2} if form == "fused" else {"backward_input": 1, "backward_weight": 1}
    return {
        "ranks": ranks,
        "microbatches": rng.choice([2, 3, 4]),
        "virtual": rng.choice([1, 2]),
        "placement": rng.choice(["loop", "v"]),
        "form": form,
        "costs": {"forward": 1} | backward,
    }


def real_plan(number: int) -> RealPlan:
    """Return the plan of a number; its fault is ``none`` or a name, or two joined by a plus, and changes the rows."""
    for attempt in range(100):
        rng = random.Random(f"real {number} {attempt}")
        problem = Problem.of(chain(rng))
        law = Wires(problem.to_dict())
        rows = lowered(rng, random_rows(rng, law), law)
        name = FAULTS[number % len(FAULTS)]
        names = [name] if name == RIGHT or rng.random() < 0.8 else [name, rng.choice(FAULTS[1:])]
        if any("mark" in name for name in names) or rng.random() < 0.4:
            rows = with_marks(rng, rows, law)
        faulty = [list(row) for row in rows]
        for name in names:
            put(name, rng, faulty, law)
        faulty = [[text for text in row if "WAIT" not in text] for row in faulty]
        if faulty != rows or names == [RIGHT]:
            return RealPlan(problem, faulty, " + ".join(names))
    raise AssertionError(f"{name} changes nothing in 100")


def put(name: str, rng: random.Random, rows: Rows, law: Wires) -> None:
    """Put a fault into rows."""
    kind, _, fault = name.partition(": ")
    if kind == "message":
        mutants_communication.LOWERED_FAULTS[fault](rng, rows, law)
    elif kind == "real":
        put_extra(fault, rng, rows)
    elif kind == "compute":
        before = [[text for text in row if is_compute(text)] for row in rows]
        after = [list(row) for row in before]
        mutants.FAULTS[fault](rng, after, law)
        for row, old, new in zip(rows, before, after, strict=True):
            row[:] = merged(row, old, new)


def put_extra(fault: str, rng: random.Random, rows: Rows) -> None:
    """Lose, double or move one mark, or one end of a message."""
    word = {"send without receive": "RECV", "receive without send": "SEND"}.get(fault)
    texts = [(rank, position) for rank, row in enumerate(rows) for position, text in enumerate(row)
             if (word in text if word else is_mark(text))]  # fmt: skip
    if not texts:
        return
    rank, position = rng.choice(texts)
    text = rows[rank][position] if fault == "double a mark" else rows[rank].pop(position)
    if fault in ("double a mark", "move a mark"):
        mutants.put(rng, rows[rank], text)


def is_mark(text: str) -> bool:
    return text.endswith(("SHARD", "REDUCE_GRAD"))


def is_compute(text: str) -> bool:
    return not is_mark(text) and "SEND" not in text and "RECV" not in text


def merged(row: list[str], old: list[str], new: list[str]) -> list[str]:
    """Return a row whose compute steps, once the old, are the new; sends, receives and marks stay beside the same."""
    behind: list[list[str]] = [[]]
    for text in row:
        if is_compute(text):
            behind.append([])
        else:
            behind[-1].append(text)
    found = list(behind[0])
    for kind, first, last, start, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        width = max(last - first, end - start) if kind != "equal" else last - first
        for offset in range(width):
            found += [new[start + offset]] if start + offset < end else []
            found += behind[first + offset + 1] if first + offset < last else []
    return found
