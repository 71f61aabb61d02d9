"""Rows of packed operations, made with numpy: what all families are built from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from schedverify.core.op import KIND_SHIFT, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words

Indices = NDArray[np.int64]


def packed(kind: Kind, stage: int | Indices, microbatches: Indices) -> Words:
    """Return the packed operations of one kind for micro-batches in order, all on one stage or each on its own."""
    stages = np.asarray(stage, dtype=np.int64) << STAGE_SHIFT
    words: Words = microbatches.astype(np.int64) | stages | np.int64(int(kind) << KIND_SHIFT)
    return words


def joined(parts: list[Words]) -> Words:
    """Return the parts one after another; an empty row where there are none."""
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def stage_by_stage(problem: Problem, row: Callable[[int], Words]) -> Schedule:
    """Return the schedule in which each rank runs the rows of its stages, made by ``row``, one after another."""
    return Schedule(joined([row(stage) for stage in stages]) for stages in problem.stages_of)


def one_forward_one_backward(forwards: Words, backwards: Words, warm_up: int) -> Words:
    """Return a row that runs ``warm_up`` forwards, then a forward and a backward in turn, then what is left.

    ``forwards`` and ``backwards`` are of one length ``n``; a longer warm-up than that runs all forwards first. With
    ``n = 4`` and ``warm_up = 2``, where the even and odd places of the middle are filled by slices of step 2::

        F0 F1 | F2 B0 F3 B1 | B2 B3
        first   2 * pairs     the other backwards
    """
    count = len(forwards)
    first = min(warm_up, count)
    pairs = count - first
    row = np.empty(2 * count, dtype=np.int64)
    row[:first] = forwards[:first]
    row[first : first + 2 * pairs : 2] = forwards[first:]
    row[first + 1 : first + 2 * pairs : 2] = backwards[:pairs]
    row[first + 2 * pairs :] = backwards[pairs:]
    return row


def in_turn(streams: list[Words], delays: list[int]) -> Words:
    """Return a row that takes one operation of each stream in turn, each stream begun ``delay`` rounds late.

    A stream with a negative delay is ahead by so many rounds. Streams that have ended are passed over. Each operation
    gets the number of its round, and a stable sort by it keeps the streams' order within a round; with I, W and F of
    three micro-batches and delays 0, 1 and -1::

        round    -1    0        1           2        3
        row      F0    I0 F1    I1 W0 F2    I2 W1    W2
    """
    rounds = [np.arange(len(stream)) + delay for stream, delay in zip(streams, delays, strict=True)]
    order = np.argsort(np.concatenate(rounds), kind="stable")
    return np.concatenate(streams)[order]
