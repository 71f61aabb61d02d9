"""What list scheduling chooses among: the F, I and W of each stage of a chain, as streams that feed one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schedverify.core.op import Kind
from schedverify.core.problem import Problem


class Room(NamedTuple):
    """What the ranks may hold; the units are those of ``kept``.

    Attributes
    ----------
    limits
        By rank, the most that it may hold.
    kept
        By stage, what its F leaves held until its I ends.
    stash
        By stage, what its I leaves held until its W ends.
    extra
        By stage, what its I holds beside that while it runs.
    ahead
        By stage, the most micro-batches that have run F and not I.
    """

    limits: Sequence[int]
    kept: Sequence[int]
    stash: Sequence[int]
    extra: Sequence[int]
    ahead: Sequence[int]


@dataclass(slots=True, eq=False)
class Stream:
    """The operations of one kind and stage, one for each micro-batch, in order.

    Attributes
    ----------
    kind, stage, rank
        What they are, and the rank that runs them.
    ticks
        What one takes.
    way
        Ticks from its start to the end of the last I of its micro-batch, transfers included; 0 for W.
    need
        The room that it asks for.
    change
        What is held more at its end.
    ahead
        The most operations by which it may lead the stream ``after`` it.
    feeds
        The streams that read its outputs, each with the ticks that the transfer takes.
    arrivals
        When the inputs of the first, the second, and so on are there, as far as that is known.
    done
        How many have run.
    """

    kind: Kind
    stage: int
    rank: int
    ticks: int
    need: int
    change: int
    way: int = 0
    ahead: int = 0
    after: Stream | None = None
    feeds: list[tuple[Stream, int]] = field(default_factory=list)
    arrivals: list[int] = field(default_factory=list)
    done: int = 0


def streams(problem: Problem, room: Room) -> list[list[Stream]]:
    """Return by stage its streams of F, I and W, for a pass that is about to begin. A stage is on its first rank.

    F asks for room for the F of its rank's later stages as well, and for what an I holds while it runs: a micro-batch
    that has begun on a rank can then go on there, once W has freed what it holds.
    """
    made = []
    for stage, rank in enumerate(problem.owner_rank):
        mine = [other for other in problem.stages_of[rank] if problem.owner_rank[other] == rank]
        later = sum(room.kept[other] for other in mine if other >= stage)
        needs = (later + max(room.extra[other] for other in mine), room.extra[stage], 0)
        kept, stash = room.kept[stage], room.stash[stage]
        rows = zip((Kind.F, Kind.I, Kind.W), needs, (kept, stash - kept, -stash), strict=True)
        made.append([Stream(k, stage, rank, problem.duration(k, stage), n, c) for k, n, c in rows])
    _connect(problem, made, room.ahead)
    return made


def _connect(problem: Problem, made: list[list[Stream]], ahead: Sequence[int]) -> None:
    """Say which stream feeds which, and how long the way to the end is."""
    way = 0
    for stage, (forward, gradient, weight) in enumerate(made):
        forward.ahead, forward.after = ahead[stage], gradient
        lag = problem.backward_lag(stage, stage - 1) if stage else 0
        gradient.feeds = [(made[stage - 1][1], lag)] * (stage > 0) + [(weight, 0)]
        gradient.way = way = way + gradient.ticks + lag
    after, lag = made[-1][1], 0
    for stage in reversed(range(problem.stages)):
        forward = made[stage][0]
        forward.feeds = [(after, lag)]
        forward.way = way = way + forward.ticks + lag
        after, lag = forward, problem.forward_lag(stage - 1, stage) if stage else 0
    after.arrivals = [0] * problem.microbatches
