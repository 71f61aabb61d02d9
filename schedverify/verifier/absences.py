"""What lacks, as runs of micro-batches: found from what stands, in time and memory that grow with that alone.

A schedule of three operations can lack sixty million. Of each stage (or tensor) the micro-batches that stand part those
that go through it into runs, and only these are made:

.. code-block:: text

    stands of stage 0      F0       F3  F4             of eight micro-batches
    runs of what lacks        1-2           5-7
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np

from schedverify.core.op import MICROBATCH_MASK, STAGE_SHIFT
from schedverify.core.problem import Problem
from schedverify.core.result import MOST_TOLD, Violation
from schedverify.core.schedule import IntArray
from schedverify.verifier.rules.base import More


class Run(NamedTuple):
    """Micro-batches from the first to the last, both among them."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """How many they are."""
        return self.last - self.first + 1


class Passing:
    """Which micro-batches go through each copy of a problem's model, as runs: (first ones, last ones)."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @cached_property
    def _by_copy(self) -> list[tuple[IntArray, IntArray]]:
        problem = self.problem
        if problem.replicas == 1:
            return [(np.zeros(1, np.int64), np.full(1, problem.microbatches - 1, np.int64))]
        copies = problem.copy_by_microbatch
        first = np.append(0, np.flatnonzero(copies[1:] != copies[:-1]) + 1)
        last = np.append(first[1:], problem.microbatches) - 1
        return [(first[copies[first] == copy], last[copies[first] == copy]) for copy in range(problem.replicas)]

    def without(self, stage: int, present: IntArray | None) -> tuple[IntArray, IntArray]:
        """Return the runs of the micro-batches that go through a stage, but for some.

        Parameters
        ----------
        present
            The micro-batches that are left out, sorted, each once, all of which go through the stage; None for none.

        Returns
        -------
        firsts, lasts
            Of each run, in rising order. Shape (runs,).
        """
        first, last = self._by_copy[self.problem.copy_of(stage)]
        if present is None or not len(present):
            return first, last
        firsts = np.sort(np.concatenate((first, present + 1)))
        lasts = np.sort(np.concatenate((last, present - 1)))
        kept = firsts <= lasts
        return firsts[kept], lasts[kept]


def by_group(keys: IntArray) -> dict[int, IntArray]:
    """Return sorted packed keys, each once, by what stands above the micro-batch in them: the micro-batches of each."""
    groups = keys >> STAGE_SHIFT
    begins = np.append(0, np.flatnonzero(np.diff(groups)) + 1)[: len(keys)]
    parts = np.split(keys & MICROBATCH_MASK, begins[1:]) if len(keys) else []
    return dict(zip(groups[begins].tolist(), parts, strict=True))


def told_runs(
    found: Iterable[tuple[IntArray, IntArray]], tell: Callable[[int, Run], Violation]
) -> Iterator[Violation | More]:
    """Tell runs of what lacks, group by group: a violation for each of the first, and how many more there are.

    Parameters
    ----------
    found
        By group its runs, as :meth:`Passing.without` returns them.
    tell
        Returns the violation of a run; it gets the number of the group.
    """
    left, more = MOST_TOLD, 0
    for group, (firsts, lasts) in enumerate(found):
        for first, last in zip(firsts[:left].tolist(), lasts[:left].tolist(), strict=True):
            yield tell(group, Run(first, last))
        more += max(len(firsts) - left, 0)
        left = max(left - len(firsts), 0)
    if more:
        yield More(more)
