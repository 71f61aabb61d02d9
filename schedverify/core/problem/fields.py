"""The values Problem and Boundary: everything written out, one value for each stage, rank and micro-batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Ints = tuple[int, ...]
Matrix = tuple[Ints, ...]

_MOST_PRINTED = 400
"""Stages times micro-batches up to which a problem is printed in full where it is part of an example."""


@dataclass(frozen=True)
class Boundary:
    """What may cross from stage ``source`` to stage ``target``: one tensor. Several stand for a tuple of tensors."""

    source: int
    target: int
    shape: Ints = ()
    dtype: str = ""
    bytes: int | None = None


@dataclass(frozen=True, repr=False)
class Problem:
    """One training or inference step to be scheduled. Durations are whole ticks, memory whole bytes.

    Make one with :meth:`chain`, :meth:`of` or ``schedverify.load``; they check and expand what a person writes, and
    this class takes it as it is. ``stages`` counts one copy of the model; lists "by stage" run over all the stages of
    all copies (copy ``k`` has the stages ``k·stages … (k+1)·stages-1``), lists "by rank" over the ranks.

    Attributes
    ----------
    placement
        By stage, the ranks that it stands on; the first one sends and receives.
    edges
        Which stage feeds which, within one copy.
    partition
        By stage of one copy, the names of its layers; empty where they are not known.
    replica_of
        By micro-batch, the copy that it goes through.
    backward_input, backward_weight
        By stage; empty in a fused problem that gives the full backward alone.
    overlapped
        ``(forward stage, backward stage, cost)`` of the overlapped pairs that do not cost the sum.
    latency, bandwidth
        Rank by rank, ticks and bytes per tick; ``bandwidth`` is None where bytes take no time.
    capacity, in_flight, in_flight_stage
        By rank, by rank and by stage; None where there is no limit.
    """

    ranks: int
    microbatches: int
    stages: int
    placement: Matrix
    edges: tuple[tuple[int, int], ...]
    form: str
    forward: Ints
    backward: Ints
    backward_input: Ints
    backward_weight: Ints
    latency: Matrix = field(hash=False)
    boundary_bytes: Ints
    activation: Ints
    weight_stash: Ints
    recompute: tuple[bool, ...]
    boundary: Ints
    static: Ints
    replica_of: Ints
    name: str = ""
    tick: str = "tick"
    tied: tuple[Ints, ...] = ()
    partition: tuple[tuple[str, ...], ...] = ()
    replicas: int = 1
    slices: int = 1
    overlapped: tuple[tuple[int, int, int], ...] = ()
    bandwidth: Matrix | None = field(default=None, hash=False)
    buffer: int | None = None
    capacity: Ints | None = None
    in_flight: Ints | None = None
    in_flight_stage: Ints | None = None
    makespan_limit: int | None = None
    minimize: str = "makespan"
    then: str | None = None
    boundaries: tuple[Boundary, ...] = field(default=())

    @classmethod
    def chain(cls, *, ranks: int, microbatches: int, virtual: int = 1, placement: Any = "loop", **keys: Any) -> Problem:
        """Make the problem of a chain of stages; every key of the problem file's tables is a keyword.

        The rows of ``[[boundary]]`` are the keyword ``boundaries``.

        ``chain(ranks=4, microbatches=8, forward=1, backward=2)`` is fused; with ``backward_input`` and
        ``backward_weight`` it is split, unless ``form`` says otherwise. Costs are 1 (``backward`` 2) where none is
        given.

        Raises
        ------
        InputError
            With every fault of the arguments, each with its key.
        """
        from schedverify.core.problem.arguments import tables

        shape = {"ranks": ranks, "microbatches": microbatches, "virtual": virtual, "placement": placement}
        return cls.of(tables(shape | keys))

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Problem:
        """Make a problem from the data of a problem file (nested mappings, as ``tomllib`` reads them).

        Raises
        ------
        InputError
            With every fault of the data, each with its key.
        """
        from schedverify.core.problem.expansion import expand

        return expand(data)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        shape = f"{self.ranks} ranks, {self.stages} stages, {self.microbatches} micro-batches"
        return f"<Problem{name}: {shape}, {self.form}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002 - so it is called
        """Print what makes this problem again, where hypothesis or IPython ask for it; of a large one, its shape."""
        from schedverify.core.problem.writing import shortest

        small = self.total_stages * self.microbatches <= _MOST_PRINTED
        printer.text(f"Problem.of({shortest(self)})" if small else repr(self))

    @property
    def total_stages(self) -> int:
        """The stages of all copies together."""
        return self.stages * self.replicas

    @property
    def kinds(self) -> str:
        """The letters of the operations that the form admits."""
        return {"fused": "FB", "split": "FBIW", "inference": "F"}[self.form]

    @cached_property
    def kept(self) -> Ints:
        """By stage, the bytes that its F leaves held: the boundary of one that recomputes, else the activation."""
        triples = zip(self.recompute, self.boundary, self.activation, strict=True)
        return tuple(boundary if again else activation for again, boundary, activation in triples)

    @cached_property
    def owner_rank(self) -> Ints:
        """By stage, the rank that sends and receives for it."""
        return tuple(ranks[0] for ranks in self.placement)

    @cached_property
    def stages_of(self) -> Matrix:
        """By rank, its stages in rising order."""
        rows: list[list[int]] = [[] for _ in range(self.ranks)]
        for stage, ranks in enumerate(self.placement):
            for rank in ranks:
                rows[rank].append(stage)
        return tuple(map(tuple, rows))

    @cached_property
    def successors(self) -> Matrix:
        """By stage (of all copies), the stages that it feeds."""
        return self._neighbours(0)

    @cached_property
    def predecessors(self) -> Matrix:
        """By stage (of all copies), the stages that feed it."""
        return self._neighbours(1)

    @cached_property
    def overlap_costs(self) -> dict[tuple[int, int], int]:
        """The cost of each overlapped pair (forward stage, backward stage) that has one of its own."""
        return {(forward, backward): cost for forward, backward, cost in self.overlapped}

    def copy_of(self, stage: int) -> int:
        """Return the copy of the model that a stage belongs to."""
        return stage // self.stages

    def passes(self, stage: int, microbatch: int) -> bool:
        """Whether a micro-batch goes through a stage; both must be in range."""
        return self.replica_of[microbatch] == stage // self.stages

    def forward_lag(self, source: int, target: int) -> int:
        """Ticks from the end of F on ``source`` until ``target``, which it feeds, can read the output."""
        return self._lag(self.owner_rank[source], self.owner_rank[target], self.boundary_bytes[source])

    def backward_lag(self, source: int, target: int) -> int:
        """Ticks from the end of B or I on ``source`` until ``target``, which feeds it, can read the gradient."""
        return self._lag(self.owner_rank[source], self.owner_rank[target], self.boundary_bytes[target])

    def to_dict(self) -> dict[str, Any]:
        """Return the data of a problem file that gives this problem, fully expanded."""
        from schedverify.core.problem.arguments import flatten

        return flatten(self)

    def _lag(self, source: int, target: int, size: int) -> int:
        if source == target:
            return 0
        occupied = -(-size // self.bandwidth[source][target]) if self.bandwidth else 0
        return self.latency[source][target] + occupied

    def _neighbours(self, side: int) -> Matrix:
        rows: list[list[int]] = [[] for _ in range(self.total_stages)]
        for copy in range(self.replicas):
            for edge in self.edges:
                rows[edge[side] + copy * self.stages].append(edge[1 - side] + copy * self.stages)
        return tuple(tuple(sorted(row)) for row in rows)
