"""Random orders whose first steps do better to wait: ranks far from each other, and ranks in a ring."""

from __future__ import annotations

import random
from typing import Any

from oracle.law import Law
from schedverify.core.problem import Problem
from support.random_schedules import Rows, base, random_rows


def far(number: int) -> tuple[dict[str, Any], Rows]:
    """Draw an order whose ranks wait long for each other's first steps: short steps, links of many lengths."""
    rng = random.Random(f"far {number}")
    ranks = rng.randint(2, 4)
    form = rng.choice(["inference", "split", "fused"])
    stages = rng.randint(ranks, 2 * ranks)
    costs: dict[str, Any] = {"forward": [rng.randint(0, 3) for _ in range(stages)]}
    if form == "split":
        costs |= {"backward_input": rng.randint(0, 2), "backward_weight": rng.randint(0, 3)}
    if form == "fused":
        costs |= {"backward": rng.randint(0, 4)}
    data = {
        "ranks": ranks, "microbatches": rng.randint(1, 2), "stages": stages, "form": form, "costs": costs,
        "placement": [rng.randrange(ranks) for _ in range(stages)],
        "links": {"latency": [[rng.choice([0, 1, 9, 30]) for _ in range(ranks)] for _ in range(ranks)]},
        "edges": [[a, b] for b in range(stages) for a in range(b) if rng.random() < 0.4],
    }  # fmt: skip
    whole = Problem.of(data).to_dict()
    return whole, random_rows(rng, Law(whole))


def ring(number: int) -> tuple[dict[str, Any], Rows]:
    """Draw an order of ranks in a ring: on each, what the rank before it needs last comes first, over a long link."""
    rng = random.Random(f"ring {number}")
    ranks = rng.randint(2, 5)
    data = {
        "ranks": ranks, "microbatches": 1, "form": "inference", "stages": 2 * ranks,
        "placement": [stage // 2 for stage in range(2 * ranks)],
        "edges": [[2 * rank, (2 * rank + 3) % (2 * ranks)] for rank in range(ranks) if rng.random() < 0.9],
        "costs": {"forward": [rng.randint(0, 5) for _ in range(2 * ranks)]},
        "links": {"latency": [[rng.randint(0, 40) for _ in range(ranks)] for _ in range(ranks)]},
    }  # fmt: skip
    rows = [[f"{2 * rank}F0", f"{2 * rank + 1}F0"] for rank in range(ranks)]
    return Problem.of(data).to_dict(), rows


def drawn(number: int) -> tuple[dict[str, Any], Rows]:
    """Return the data of a problem and an order of it: of any shape, with far ranks, or in a ring."""
    if number % 4 == 0:
        return far(number)
    return ring(number) if number % 4 == 1 else (base(number).data, base(number).rows)
