"""Waits for sends, and for reductions of gradients, put at random places into rows of lowered schedules."""

from __future__ import annotations

import random
import re

Rows = list[list[str]]
_SEND = re.compile(r"[0-9]+SEND_[FB][0-9]+(?:>[0-9]+)?")


def with_waits(rng: random.Random, rows: Rows, *, wrong: float = 0.1) -> Rows:
    """Put waits behind some sends, most of them near; ``wrong`` is the share that stands anywhere, or again."""
    share = rng.choice([0.2, 0.6, 1.0])
    near = rng.choice([True, False])
    return [_waiting(rng, row, share, near=near, wrong=wrong) for row in rows]


def with_reduction_waits(rng: random.Random, rows: Rows, *, wrong: float = 0.1) -> Rows:
    """Put a wait behind each REDUCE_GRAD; ``wrong`` is the share that stands anywhere, or nowhere."""
    found = []
    for row in rows:
        found.append(list(row))
        for text in [text for text in row if text.endswith("REDUCE_GRAD")]:
            wait = text.replace("REDUCE", "WAIT_REDUCE")
            low = 0 if rng.random() < wrong else found[-1].index(text) + 1
            if rng.random() >= wrong:
                found[-1].insert(rng.randint(low, len(found[-1])), wait)
    return found


def _waiting(rng: random.Random, row: list[str], share: float, *, near: bool, wrong: float) -> list[str]:
    found = list(row)
    for text in row:
        for send in _SEND.findall(text):
            if rng.random() > share:
                continue
            wait = send.replace("SEND", "WAIT_SEND")
            behind = found.index(text) + 1
            last = min(behind + 3, len(found)) if near else len(found)
            found.insert(rng.randint(behind, last), wait)
            if rng.random() < wrong:
                found.remove(wait)
                found.insert(rng.randint(0, len(found)), wait)
            if rng.random() < wrong / 2:
                found.insert(rng.randint(0, len(found)), wait)
    return found
