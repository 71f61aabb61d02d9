"""SV2: a schedule can run to its end, and a timeline that is handed in respects what it must."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from schedverify.core.op import INDEX_MASK, Kind, Op
from schedverify.core.result import Scope, Violation
from schedverify.core.schedule import IntArray
from schedverify.simulator.csr_graph import Precedence
from schedverify.verifier.graph import kind_stage_microbatch, needs, reads
from schedverify.verifier.occurrences import Occurrences, joined
from schedverify.verifier.rules.base import Case, NotApplicable, rule, violations_of_cycles
from schedverify.verifier.rules.structure import doubled, misplaced

_LARGE: Final = 1 << 60
"""Up to here a start, an end and a lag add up without wrapping: all of a problem's add up to less than 2^62."""


@rule("SV201", "no cycle of dependencies and rank orders")
def acyclic(case: Case) -> Iterator[Violation]:
    """The schedule can run to its end.

    What it checks

    Dependencies and rank orders together have no cycle: then, and only then, every step can run. An overlapped pair
    is one node, so is an operation on several ranks, and a pair of which one part waits for the other is a cycle. An
    absent operation counts as done here.

    Why it matters

    A cycle is a run that hangs at every speed: each of its ranks waits for another one, for ever. PyTorch's own check
    of a schedule counts operations and does not see it.

    Example

    Rank 0 runs `0F0 0B0 0F1 0B1` and rank 1 `1F0 1F1 1B0 1B1`: rank 0 waits at position 1 (0B0) for 1B0; rank 1 waits
    at position 1 (1F1) for 0F1.

    Formally

    Let the nodes be the steps, merged where they hold the same operation on several ranks of its stage; let there be
    an edge from each step to the next one of its rank, and from the step of each input (semantics, section 1) to the
    step that reads it. This graph has no cycle.
    """
    if case.sound:
        return
    occurrences = case.occurrences
    if not doubled(occurrences) and not misplaced(occurrences) and not _cyclic(occurrences):
        return
    from schedverify.verifier.wait_cycles import UntimedRun

    run = UntimedRun(occurrences)
    yield from violations_of_cycles("SV201", run.cycles(), set(run.blocked_ranks()), case.schedule)


def _cyclic(occurrences: Occurrences) -> bool:
    """Whether dependencies and rank orders have a cycle; where each operation stands once on each of its ranks."""
    reader, ops = joined(reads(occurrences, across=across) for across in (False, True))
    maker = occurrences.first(ops)
    reader, maker = reader[maker >= 0], maker[maker >= 0]
    node, rank = occurrences.node, occurrences.step_rank
    follows = np.flatnonzero(rank[1:] == rank[:-1])
    before = np.concatenate((node[maker], node[follows]))
    after = np.concatenate((node[occurrences.step[reader]], node[follows + 1]))
    return bool(Precedence(len(node), before, after).blocked.any())


@rule("SV202", "a timeline that respects every dependency", Scope.THESE_COSTS)
def timeline_respected(case: Case) -> Iterator[Violation]:
    """A timeline that is handed in is possible.

    What it checks

    A timeline made by a solver or read from a trace starts no step before its rank is free and its inputs have
    arrived, transfer time included, and starts the parts of one step together. It may start steps later than needed.

    Why it matters

    An order can be right and the times beside it wrong: then every measure and every claim of optimality that is read
    off the times is wrong as well.

    Example

    With a forward of 1 tick and a latency of 2, `1F0` cannot start at 1: 0F0 ends at 1 and its output arrives at 3.

    Formally

    For steps a before b on one rank, start(b) >= start(a) + cost(a); for every input x of an operation y,
    start(y) >= start(x) + cost(x) + lag(x, y); every start is at least 0, and equal on all ranks of an operation.
    """
    rows = case.claims.get("timeline")
    if rows is None:
        raise NotApplicable("no timeline is handed in", "a plan has one, and claims= takes one")
    if _clearly_respected(case, rows):
        return
    steps = case.occurrences.steps
    found, counts = ([len(row) for row in each] for each in (rows, steps))
    if found != counts:
        yield Violation("SV202", f"the timeline has {found} starts by rank, the schedule {counts} steps")
        return
    for rank, (row, starts) in enumerate(zip(steps, rows, strict=True)):
        yield from _exclusive(case, rank, row, starts)
        for position, (ops, start) in enumerate(zip(row, starts, strict=True)):
            for op in ops:
                yield from _inputs_there(case, rows, (rank, position), op, start)


def _clearly_respected(case: Case, rows: Sequence[Sequence[int]]) -> bool:
    """Whether all at once shows that a timeline is possible: of a sound order whose numbers are no larger than 2^60.

    False where that is not clear; then each start is looked at by itself, and what is wrong is told.
    """
    problem, occurrences = case.problem, case.occurrences
    if not case.sound or [*map(len, rows)] != [*map(len, case.schedule.rows)]:
        return False
    if not all(0 <= start <= _LARGE for row in rows for start in row):
        return False
    kind, stage, _ = kind_stage_microbatch(occurrences.op)
    start = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    ends = start + _by_pair(kind, stage, problem.duration)
    if (start[1:] < ends[:-1])[occurrences.rank[1:] == occurrences.rank[:-1]].any():
        return False
    reader, ops = joined(reads(occurrences, across=across) for across in (False, True))
    maker = occurrences.first(ops)
    reader, maker = reader[maker >= 0], maker[maker >= 0]
    for forward, lag in ((True, problem.forward_lag), (False, problem.backward_lag)):
        chosen = (kind[reader] == int(Kind.F)) == forward
        source, target = maker[chosen], reader[chosen]
        if (start[target] < ends[source] + _by_pair(stage[source], stage[target], lag)).any():
            return False
    return True


def _by_pair(first: IntArray, second: IntArray, of: Callable[[int, int], int]) -> IntArray:
    """Return a function of two small numbers for each pair of them; it is called once for each different pair."""
    pairs, which = np.unique(first << 16 | second, return_inverse=True)
    values = [of(pair >> 16, pair & INDEX_MASK) for pair in pairs.tolist()]
    return np.array(values, dtype=np.int64)[which]


def _exclusive(case: Case, rank: int, row: Sequence[tuple[Op, ...]], starts: Sequence[int]) -> Iterator[Violation]:
    free = 0
    for position, (ops, start) in enumerate(zip(row, starts, strict=True)):
        if start < free:
            text = ";".join(map(str, ops))
            starts_at, free_at = map(case.problem.units.time, (start, free))
            late = f"starts at {starts_at}, before the rank is free at {free_at}"
            message = f"rank {rank}, position {position} ({text}) {late}"
            yield Violation("SV202", message, rank, position, tuple(map(str, ops)))
        free = max(free, start + case.problem.step_duration(ops))


def _inputs_there(
    case: Case, rows: Sequence[Sequence[int]], place: tuple[int, int], op: Op, start: int
) -> Iterator[Violation]:
    rank, position = place
    main, time = case.occurrences.main, case.problem.units.time
    for need in needs(case.problem, op):
        made = (rows[r][p] + case.problem.step_duration(case.occurrences.steps[r][p]) for r, p in main.get(need.op, ()))
        arrival = max(made, default=0) + need.lag
        if need.op in main and start < arrival:
            late = f"before {need.op} is there at {time(arrival)}"
            message = f"rank {rank}, position {position} ({op}) starts at {time(start)}, {late}"
            yield Violation("SV202", message, rank, position, (str(op), str(need.op)), (need.why,))
    for r, p in main[op]:
        if place in main[op] and rows[r][p] != start and (r, p) > place:
            other = f"{time(rows[r][p])} on rank {r}; it is one operation"
            message = f"rank {rank}, position {position} ({op}) starts at {time(start)}, but at {other}"
            yield Violation("SV202", message, rank, position, (str(op),))
