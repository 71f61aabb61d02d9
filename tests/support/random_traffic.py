"""Random excerpts of almost nothing but sends and receives: rings, crossings and groups of every kind.

What an excerpt lacks counts as done, so each send may stand anywhere, and only queues and disciplines decide. The test
kit draws no excerpts.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from oracle.messages import Name, Wires
from schedverify.core.problem import Problem
from support.random_lowered import end_of
from support.random_schedules import Rows, random_edges


class Traffic(NamedTuple):
    problem: Problem
    data: dict[str, Any]
    rows: Rows


def traffic_problem(rng: random.Random) -> Problem:
    ranks = rng.randint(2, 4)
    stages = rng.randint(ranks, 6)
    data: dict[str, Any] = {
        "ranks": ranks,
        "microbatches": rng.randint(1, 3),
        "stages": stages,
        "placement": rng.sample([stage % ranks for stage in range(stages)], stages),
        "form": "fused",
        "costs": {"forward": 1, "backward": 2},
        "links": {"bytes": [rng.randint(1, 3) for _ in range(stages)]},
    }
    if rng.random() < 0.7:
        data["edges"] = random_edges(rng, stages)
    return Problem.of(data)


def traffic(seed: int) -> Traffic:
    """Return the excerpt of a seed: some messages in one order, and what each rank makes of that order."""
    rng = random.Random(f"traffic {seed}")
    problem = traffic_problem(rng)
    law = Wires(problem.to_dict())
    names = law.messages()
    chosen = rng.sample(names, min(len(names), rng.randint(2, 8)))
    rows: Rows = [[] for _ in range(law.ranks)]
    for name in chosen:
        rows[law.home[name.source]].append(end_of(name, True, law, False))
        rows[law.home[name.target]].append(end_of(name, False, law, False))
        if rng.random() < 0.3:
            rows[law.home[name.target]].append(reader(name))
    disorder = rng.choice([0.0, 0.1, 0.3, 1.0])
    rows = [grouped(rng, disturbed(rng, row, disorder)) for row in rows]
    return Traffic(problem, problem.to_dict(), rows)


def reader(name: Name) -> str:
    """The step that reads a message."""
    return f"{name.target}{name.letter}{name.microbatch}"


def disturbed(rng: random.Random, row: list[str], disorder: float) -> list[str]:
    """Exchange some sends and receives with their neighbours, any number of times."""
    found = list(row)
    for _ in range(len(row)):
        for position in range(len(row) - 1):
            if rng.random() < disorder and "_" in found[position] and "_" in found[position + 1]:
                found[position : position + 2] = found[position + 1], found[position]
    return found


def grouped(rng: random.Random, row: list[str]) -> list[str]:
    """Join some sends and receives with the one before them."""
    share = rng.choice([0.0, 0.2, 0.6])
    found: list[list[str]] = []
    for text in row:
        if found and "_" in text and "_" in found[-1][0] and rng.random() < share:
            found[-1].append(text)
        else:
            found.append([text])
    return [parts[0] if len(parts) == 1 else f"[{';'.join(parts)}]" for parts in found]
