"""What a problem consists of: figures for each stage, rank and micro-batch, written out, and what they imply."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from schedverify.core.op import KIND_MASK, MICROBATCH_MASK, Kind, Op
from schedverify.core.problem.stage_graph import Edge, Ints, Matrix, in_order, neighbours, peer_lists
from schedverify.core.schedule import Flags, IntArray, kinds, op_stages
from schedverify.core.units import Units

LETTERS = {"fused": "FB", "split": "FIW", "inference": "F"}
"""By form, the letters of the operations of each stage and micro-batch, where a backward that can be split is."""
_F, _B, _W = int(Kind.F), int(Kind.B), int(Kind.W)
_GRADIENTS = (Kind.SEND_B, Kind.RECV_B, Kind.WAIT_SEND_B, Kind.REDUCE_GRAD, Kind.WAIT_REDUCE_GRAD)


@dataclass(frozen=True)
class Boundary:
    """One tensor that may cross from stage ``source`` to stage ``target``; several values stand for several tensors."""

    source: int
    target: int
    shape: Ints = ()
    dtype: str = ""
    bytes: int | None = None


@dataclass(frozen=True, repr=False)
class ProblemFields:
    """The figures of one training or inference step, and what follows from them.

    The checks, the readers and the writers of a problem work on this class, so that they need not know the ways to
    make one, which :class:`schedverify.Problem` adds. Durations are whole ticks, memory whole bytes. ``stages`` counts
    one copy of the model; tuples "by stage" have the shape ``(total_stages,)``: the stages of all copies, copy ``k``
    with the stages ``k·stages … (k+1)·stages-1``. Tuples "by rank" have the shape ``(ranks,)``.
    """

    ranks: int
    """Devices of the pipeline group."""
    microbatches: int
    """Micro-batches of a step; where sequences are sliced, the parts of all of them."""
    stages: int
    """Stages of one copy of the model."""
    placement: Matrix
    """By stage, the ranks that it stands on; the first one sends and receives."""
    edges: tuple[Edge, ...]
    """Pairs of stages within one copy: the first feeds the second."""
    form: str
    """``fused`` (F and B), ``split`` (F, and B or I and W) or ``inference`` (F alone)."""
    forward: Ints
    """By stage, the ticks of F."""
    backward: Ints
    """By stage, the ticks of B, the whole backward."""
    backward_input: Ints
    """By stage, the ticks of I; empty in a fused problem that gives the whole backward alone."""
    backward_weight: Ints
    """By stage, the ticks of W; empty where ``backward_input`` is."""
    latency: Matrix = field(hash=False)
    """Ticks of pure lag, shape ``(ranks, ranks)``: from the row's rank to the column's."""
    boundary_bytes: Ints
    """By stage, the bytes of the tensor that leaves it."""
    activation: Ints
    """By stage, the bytes held from the start of F."""
    weight_stash: Ints
    """By stage, those of the activation's bytes that stay from the end of I to the end of W."""
    recompute: tuple[bool, ...]
    """By stage, whether its backward runs the forward again."""
    boundary: Ints
    """By stage, the bytes that it keeps between F and its backward if it recomputes."""
    static: Ints
    """By rank, the bytes that are held all the time."""
    replica_of: Ints
    """By micro-batch, the copy of the model that it goes through."""
    name: str = ""
    tick: str = "tick"
    """The unit of every duration."""
    tied: tuple[Ints, ...] = ()
    """Groups of stages that share weights."""
    partition: tuple[tuple[str, ...], ...] = ()
    """By stage of one copy, the names of its layers; empty where they are not known."""
    replicas: int = 1
    """Copies of the model."""
    slices: int = 1
    """Parts of one sequence, in causal order."""
    overlapped: tuple[tuple[int, int, int], ...] = ()
    """``(forward stage, backward stage, ticks)`` of the overlapped pairs that do not cost the sum."""
    bandwidth: Matrix | None = field(default=None, hash=False)
    """Bytes per tick, shape ``(ranks, ranks)``; None where bytes take no time."""
    buffer: int | None = None
    """Messages that a channel can hold; None where there is no limit."""
    capacity: Ints | None = None
    """By rank, the bytes that it has; None where there is no limit."""
    in_flight: Ints | None = None
    """By rank, the most micro-batches in flight over its stages; None where there is no limit."""
    in_flight_stage: Ints | None = None
    """By stage, the most micro-batches in flight; None where there is no limit."""
    makespan_limit: int | None = None
    """The most ticks that the whole may take; None where there is no limit."""
    outstanding_sends: Ints | None = None
    """By rank, the most sends that are begun and not yet waited for; None where there is no limit."""
    unsharded: Ints | None = None
    """By rank, the most of its stages that are unsharded at once; None where there is no limit."""
    minimize: str = "makespan"
    """What the optimizer minimizes."""
    then: str | None = None
    """What it minimizes next, among the best by ``minimize``."""
    boundaries: tuple[Boundary, ...] = field(default=())
    """The tensors that cross between stages, where they are known."""
    unit: str = ""
    """The unit that bytes are told in, such as ``GiB``; empty where sizes are numbers of no named unit."""

    @property
    def total_stages(self) -> int:
        """The number of stages of all copies together."""
        return self.stages * self.replicas

    @property
    def units(self) -> Units:
        """How times and sizes of this problem are told."""
        return Units(self.tick, self.unit)

    @property
    def most_operations(self) -> int:
        """The number of operations of a schedule in which no stage stands on several ranks, each backward in parts."""
        return self.stages * self.microbatches * len(LETTERS[self.form])

    @property
    def kinds(self) -> str:
        """The letters of the compute operations that the form has."""
        return {"fused": "FB", "split": "FBIW", "inference": "F"}[self.form]

    @cached_property
    def saved_activation_bytes(self) -> Ints:
        """By stage, the bytes that its F leaves held: the boundary of one that recomputes, else the activation."""
        triples = zip(self.recompute, self.boundary, self.activation, strict=True)
        return tuple(boundary if again else activation for again, boundary, activation in triples)

    @cached_property
    def held_arrays(self) -> tuple[IntArray, IntArray, IntArray]:
        """:attr:`saved_activation_bytes`, :attr:`activation` and :attr:`weight_stash` as arrays."""
        return np.array(self.saved_activation_bytes), np.array(self.activation), np.array(self.weight_stash)

    @cached_property
    def boundary_bytes_array(self) -> IntArray:
        """``boundary_bytes`` as an array, shape ``(total_stages,)``."""
        return np.array(self.boundary_bytes, dtype=np.int64)

    @cached_property
    def owner_rank(self) -> Ints:
        """By stage, the rank that sends and receives for it."""
        return tuple(ranks[0] for ranks in self.placement)

    @cached_property
    def owner_rank_array(self) -> IntArray:
        """:attr:`owner_rank` as an array, shape ``(total_stages,)``."""
        return np.array(self.owner_rank, dtype=np.int64)

    @cached_property
    def stages_of(self) -> Matrix:
        """By rank, its stages in rising order."""
        rows: list[list[int]] = [[] for _ in range(self.ranks)]
        for stage, ranks in enumerate(self.placement):
            for rank in ranks:
                rows[rank].append(stage)
        return tuple(map(tuple, rows))

    @cached_property
    def copy_by_microbatch(self) -> IntArray:
        """:attr:`replica_of` as an array, shape ``(microbatches,)``."""
        if self.replicas == 1:
            return np.broadcast_to(np.int32(0), self.microbatches)  # one number, however many micro-batches
        return np.array(self.replica_of, dtype=np.int32)

    @cached_property
    def microbatch_counts(self) -> Ints:
        """By stage (of all copies), how many micro-batches go through it."""
        if self.replicas == 1:
            return (self.microbatches,) * self.total_stages
        counts = np.bincount(self.copy_by_microbatch, minlength=self.replicas).tolist()
        return tuple(counts[self.copy_of(stage)] for stage in range(self.total_stages))

    @cached_property
    def successors(self) -> Matrix:
        """By stage (of all copies), the stages that it feeds."""
        return neighbours(self.edges, 0, self.stages, self.replicas)

    @cached_property
    def predecessors(self) -> Matrix:
        """By stage (of all copies), the stages that feed it."""
        return neighbours(self.edges, 1, self.stages, self.replicas)

    @cached_property
    def peers_across(self) -> tuple[IntArray, IntArray]:
        """The neighbours of each stage on other ranks in one list, behind where those of each stage begin.

        See :func:`~schedverify.core.problem.stage_graph.peer_lists`; a stage's rank is its first.
        """
        return peer_lists(self.successors, self.predecessors, self.owner_rank, across=True)

    @cached_property
    def peers_within(self) -> tuple[IntArray, IntArray]:
        """The neighbours of each stage on its own rank, as :attr:`peers_across` lists those on others."""
        return peer_lists(self.successors, self.predecessors, self.owner_rank, across=False)

    @cached_property
    def topological_order(self) -> Ints:
        """The stages of all copies, each after those that feed it; stages on or behind a cycle are left out."""
        return in_order(self.successors, self.predecessors)

    @cached_property
    def overlap_costs(self) -> dict[tuple[int, int], int]:
        """The ticks of each overlapped pair (forward stage, backward stage) that has a cost of its own."""
        return {(forward, backward): cost for forward, backward, cost in self.overlapped}

    def duration(self, kind: int, stage: int) -> int:
        """Return the ticks of one compute operation; the B or I of a recomputing stage pays its forward again."""
        if kind == _F:
            return self.forward[stage]
        if kind == _W:
            return self.backward_weight[stage]
        cost = self.backward[stage] if kind == _B else self.backward_input[stage]
        return cost + self.forward[stage] if self.recompute[stage] else cost

    def step_duration(self, ops: tuple[Op, ...]) -> int:
        """Return the ticks of a step: those of its operation, or of the overlapped pair (by default the sum)."""
        total = sum(self.duration(op.kind, op.stage) for op in ops)
        if len(ops) != 2 or not self.overlapped:
            return total
        forward, backward = sorted(ops)
        return self.overlap_costs.get((forward.stage, backward.stage), total)

    def copy_of(self, stage: int) -> int:
        """Return the number of the copy of the model that a stage belongs to."""
        return stage // self.stages

    def passes(self, stage: int, microbatch: int) -> bool:
        """Return whether a micro-batch goes through a stage; both must be in range."""
        return self.replica_of[microbatch] == stage // self.stages

    def passing(self) -> Flags:
        """Return whether a micro-batch goes through a stage, shape ``(total_stages, microbatches)``."""
        copies = np.arange(self.total_stages) // self.stages
        return np.asarray(np.equal.outer(copies, self.copy_by_microbatch), dtype=bool)

    def has_kind(self, kind: Kind) -> bool:
        """Return whether the form has operations of a kind; inference has no gradients to move or reduce."""
        return kind.name in self.kinds if kind.is_compute else self.form != "inference" or kind not in _GRADIENTS

    def has_operation(self, op: Op) -> bool:
        """Return whether an operation is one of this problem's.

        It is where the form has its kind, its stage and micro-batch are in range, and the micro-batch goes through
        the stage's copy of the model. On which rank it stands, and which peer it names, does not matter.
        """
        stage, microbatch = op.stage, op.microbatch
        if not self.has_kind(op.kind) or not 0 <= stage < self.total_stages:
            return False
        return microbatch is None or (0 <= microbatch < self.microbatches and self.passes(stage, microbatch))

    def has_operations(self, words: IntArray) -> Flags:
        """Return :meth:`has_operation` for each of some packed operations, in the shape of ``words``."""
        kind, stage = kinds(words), op_stages(words)
        microbatch = words & MICROBATCH_MASK
        copy = self.copy_by_microbatch[np.minimum(microbatch, self.microbatches - 1)]
        goes_through = (microbatch < self.microbatches) & (copy == stage // self.stages)
        fits = self._kind_fits[kind] & (stage < self.total_stages)
        return np.asarray(fits & ((kind >= int(Kind.UNSHARD)) | goes_through))

    def forward_lag(self, source: int, target: int) -> int:
        """Return the ticks from the end of F on ``source`` until ``target``, which it feeds, can read the output."""
        return self._lag(self.owner_rank[source], self.owner_rank[target], self.boundary_bytes[source])

    def backward_lag(self, source: int, target: int) -> int:
        """Return the ticks from the end of B or I on ``source`` until ``target``, which feeds it, has the gradient."""
        return self._lag(self.owner_rank[source], self.owner_rank[target], self.boundary_bytes[target])

    @cached_property
    def _kind_fits(self) -> Flags:
        """:meth:`has_kind` by number of the kind, shape ``(32,)``: all that the bits of a packed operation can hold."""
        fits = np.zeros(KIND_MASK + 1, dtype=bool)
        fits[[int(kind) for kind in Kind if self.has_kind(kind)]] = True
        return fits

    def _lag(self, source: int, target: int, size: int) -> int:
        if source == target:
            return 0
        occupied = -(-size // self.bandwidth[source][target]) if self.bandwidth else 0
        return self.latency[source][target] + occupied
