"""The value Problem: the ways to make one, and to write it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Never, SupportsIndex

from schedverify.core.errors import InputError
from schedverify.core.problem.checks import check
from schedverify.core.problem.expansion import checked_fields, tables
from schedverify.core.problem.fields import ProblemFields
from schedverify.core.problem.graphs import DirectedGraph, faults_by_node, keywords_of
from schedverify.core.problem.writing import full_data, shortest

Number = SupportsIndex | float | Decimal | Fraction
Size = Number | str
Numbers = Number | Sequence[Number]
Sizes = Size | Sequence[Size]
Links = Number | Sequence[Sequence[Number]]
Ranks = SupportsIndex | Sequence[SupportsIndex]

_MOST_PRINTED = 400
"""Stages times micro-batches up to which a problem is printed in full where it is part of an example."""


class Problem(ProblemFields):
    """One training or inference step to be scheduled. Durations are whole ticks, memory whole bytes.

    Make one with :meth:`chain`, :meth:`of`, :meth:`from_graph` or ``schedverify.load``; they check and expand what a
    person writes, and this class takes it as it is. ``stages`` counts one copy of the model; tuples "by stage" have
    the shape ``(total_stages,)``: the stages of all copies, copy ``k`` with the stages ``k·stages …
    (k+1)·stages-1``. Tuples "by rank" have the shape ``(ranks,)``.

    Examples
    --------
    >>> from schedverify import Op, Problem
    >>> problem = Problem.chain(ranks=4, microbatches=8, forward=1, backward=2)
    >>> problem
    <Problem: 4 ranks, 4 stages, 8 micro-batches, fused>
    >>> problem.forward, problem.step_duration((Op.parse("3B0"),))
    ((1, 1, 1, 1), 2)
    """

    @classmethod
    def chain(  # noqa: PLR0913 - each key of the file, so that an editor completes them
        cls,
        *,
        ranks: SupportsIndex,
        microbatches: SupportsIndex,
        virtual: SupportsIndex | None = 1,
        placement: str | Sequence[Ranks | Sequence[Ranks]] | None = "loop",
        stages: SupportsIndex | None = None,
        form: str | None = None,
        forward: Numbers | None = None,
        backward: Numbers | None = None,
        backward_input: Numbers | None = None,
        backward_weight: Numbers | None = None,
        overlapped: Sequence[Mapping[str, Number]] | None = None,
        latency: Links | None = None,
        bytes: Sizes | None = None,  # noqa: A002 - the name of the key
        bandwidth: Links | None = None,
        buffer: SupportsIndex | None = None,
        unit: str | None = None,
        activation: Sizes | None = None,
        weight_stash: Sizes | None = None,
        recompute: bool | Sequence[bool] | None = None,
        boundary: Sizes | None = None,
        static: Sizes | None = None,
        capacity: Sizes | None = None,
        in_flight: Numbers | None = None,
        in_flight_stage: Numbers | None = None,
        makespan: Number | None = None,
        outstanding_sends: Numbers | None = None,
        unsharded: Numbers | None = None,
        minimize: str | None = None,
        then: str | None = None,
        edges: Sequence[Sequence[SupportsIndex]] | None = None,
        tied: Sequence[Sequence[SupportsIndex]] | None = None,
        partition: Sequence[Sequence[str]] | None = None,
        boundaries: Sequence[Mapping[str, object]] | None = None,
        replicas: SupportsIndex | None = None,
        replica_of: Sequence[SupportsIndex] | None = None,
        slices: SupportsIndex | None = None,
        name: str | None = None,
        tick: str | None = None,
        version: int | None = None,
        **unknown: Never,
    ) -> Problem:
        """Make the problem of a chain of stages; every key of the problem file's tables is a keyword.

        ``chain(ranks=4, microbatches=8, forward=1, backward=2)`` is fused; with ``backward_input`` and
        ``backward_weight`` it is split, unless ``form`` says otherwise. A number for a list "by stage" or "by rank"
        stands for all of it; None is the same as leaving the keyword out.

        Parameters
        ----------
        ranks
            Devices of the pipeline group.
        microbatches
            Micro-batches of a step; with ``slices``, the parts of all sequences.
        virtual
            Stages per rank.
        placement
            ``"loop"``, ``"v"``, or the rank (or list of ranks) of each stage; with ``replicas``, such a list for each
            copy.
        stages
            Stages of one copy of the model, by default ``ranks * virtual``.
        form
            ``"fused"`` (F and B), ``"split"`` (F, and B or I and W) or ``"inference"`` (F alone).
        forward
            Ticks of F by stage, by default 1.
        backward
            Ticks of B by stage, by default ``backward_input + backward_weight``, or 2 where they are absent.
        backward_input, backward_weight
            Ticks of I and W by stage; 1 by default where ``form`` is ``"split"``.
        overlapped
            Rows ``{"forward": stage, "backward": stage, "cost": ticks}`` for overlapped pairs that do not cost the sum.
        latency
            Ticks of pure lag between two ranks: one number, or a square of them, a row for each sending rank.
        bytes
            Bytes of the tensor that leaves a stage, by stage. All bytes may be text with a unit, ``"1.5 GiB"``.
        bandwidth
            Bytes per tick between two ranks, as ``latency``; by default bytes take no time.
        buffer
            Messages that a channel can hold, by default any number.
        unit
            What bytes are told in, such as ``"GiB"``; by default that of sizes given as text.
        activation
            Bytes held from the start of F, by stage; by default 1.
        weight_stash
            Those of the activation's bytes that stay from the end of I to the end of W, by stage.
        recompute
            Whether the backward of a stage runs its forward again, by stage.
        boundary
            Bytes that a recomputing stage keeps between F and its backward, by stage.
        static
            Bytes that are held all the time, by rank.
        capacity
            Bytes that a rank has, by rank; by default there is no limit.
        in_flight
            The most micro-batches in flight on a rank over its stages, by rank.
        in_flight_stage
            The most micro-batches in flight on a stage, by stage.
        makespan
            The most ticks that the whole may take.
        outstanding_sends
            The most sends of a rank that are begun and not yet waited for, by rank.
        unsharded
            The most stages of a rank that are unsharded at once, by rank.
        minimize, then
            What the optimizer minimizes, and what next among the best by the first: ``"makespan"``, ``"span"``,
            ``"period"`` or ``"peak-memory"``.
        edges
            Pairs of stages, the first of which feeds the second; by default a chain.
        tied
            Groups of stages that share weights.
        partition
            The names of each stage's layers.
        boundaries
            The rows of ``[[boundary]]``, with ``from``, ``to``, ``shape``, ``dtype`` and ``bytes``.
        replicas
            Copies of the model.
        replica_of
            The copy of each micro-batch, by default equal runs of them.
        slices
            Parts of one sequence, in causal order.
        name
            What the problem is called.
        tick
            The unit of every duration, such as ``"us"``.
        version
            The version of the problem file's form, 1.
        unknown
            No other keyword is taken.

        Raises
        ------
        InputError
            With every fault of the arguments, each with its key; of an unknown keyword, the nearest known one.
        """
        given: dict[str, Any] = dict(locals())  # each parameter under its name, which is that of a key
        del given["cls"]
        return cls.of(tables(given | given.pop("unknown")))

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Problem:
        """Make a problem from the data of a problem file (nested mappings, as ``tomllib`` reads them).

        Raises
        ------
        InputError
            With every fault of the data (the first 50), each with its key, what was expected, what was found, and a
            hint. What holds between keys is looked at where the keys themselves are right.
        """
        fields, reader = checked_fields(data)
        problem = cls(**fields)
        check(problem, reader)
        reader.raise_faults()
        return problem

    @classmethod
    def from_graph(cls, graph: DirectedGraph, **keys: object) -> Problem:
        """Make a problem of a graph of stages, such as a ``networkx.DiGraph``.

        A node is a stage. Nodes that are the numbers 0 to S-1 are the stages of these numbers; other nodes become
        stages 0 to S-1 in the order in which the graph has them. An edge says that its first node feeds its second.

        Parameters
        ----------
        graph
            Its nodes have the attribute ``rank`` (a rank, or a list of ranks) and any of the keys by stage of the
            problem file, under their names there: ``forward``, ``backward``, ``backward_input`` and
            ``backward_weight`` in ticks; ``activation``, ``weight_stash``, ``boundary`` and ``bytes`` in bytes;
            ``recompute``; ``in_flight_stage``. What one node has, all have. An edge may have what a row of
            ``[[boundary]]`` has: ``shape``, ``dtype`` and ``bytes``.
        keys
            Everything else, as for :meth:`chain`; ``microbatches`` must be there. ``ranks`` is by default one more
            than the highest rank of a node. With several copies of the model the ranks are told by ``placement``.

        Raises
        ------
        InputError
            With every fault, each with its node or edge and its attribute, or its keyword.

        Examples
        --------
        >>> import networkx as nx
        >>> from schedverify import Problem
        >>> graph = nx.DiGraph()
        >>> graph.add_node("image", rank=0, forward=3, backward=6)
        >>> graph.add_node("text", rank=1, forward=2, backward=4)
        >>> graph.add_node("both", rank=2, forward=4, backward=8)
        >>> graph.add_edges_from([("image", "both"), ("text", "both")])
        >>> problem = Problem.from_graph(graph, microbatches=8)
        >>> problem.edges, problem.forward
        (((0, 2), (1, 2)), (3, 2, 4))
        """
        keywords = keywords_of(graph, keys)
        try:
            return cls.of(tables(keywords))
        except InputError as error:
            raise InputError(faults_by_node(error.faults, graph, keys)) from None

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        shape = f"{self.ranks} ranks, {self.stages} stages, {self.microbatches} micro-batches"
        return f"<Problem{name}: {shape}, {self.form}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002 - so it is called
        """Print what makes this problem again, where hypothesis or IPython ask for it; of a large one, its shape."""
        small = self.total_stages * self.microbatches <= _MOST_PRINTED
        printer.text(f"Problem.of({shortest(self)})" if small else repr(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the data of a problem file that gives this problem, with a value for each stage, rank and micro-batch.

        ``Problem.of(problem.to_dict()) == problem``. Ticks and bytes are plain integers.
        """
        return full_data(self)
