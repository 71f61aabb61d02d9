"""The dependency graph: which operation waits for which, why, and for how long after it ends.

The rules stand here in two forms: :func:`needs` for one operation, and :func:`reads` for all of a schedule at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, pairwise, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError
from schedverify.core.messages import expanded
from schedverify.core.op import MICROBATCH_MASK, Kind, Op
from schedverify.core.problem import Problem
from schedverify.core.schedule import IntArray, Schedule, kinds, op_stages
from schedverify.verifier.occurrences import Occurrences, joined, packed

if TYPE_CHECKING:
    import networkx as nx

_GRADIENTS = (Kind.B, Kind.I)


class Need(NamedTuple):
    """One thing that an operation waits for: the operation, why, and the ticks after its end."""

    op: Op
    why: str
    lag: int


class Unmatched(NamedTuple):
    """An instance of an operation that nobody waits for: a second one on a rank, or one on a foreign rank."""

    op: Op
    rank: int
    position: int

    def __str__(self) -> str:
        return f"{self.op} (rank {self.rank}, position {self.position})"


def needs(problem: Problem, op: Op) -> Iterator[Need]:
    """Yield what an operation waits for (semantics, section 1): B and I of a later stage both, if either may stand."""
    stage, m = op.stage, op.microbatch or 0
    if op.kind == Kind.W:
        yield Need(Op(Kind.I, stage, m), "own input part", 0)
    elif op.kind == Kind.F:
        for before in problem.predecessors[stage]:
            lag = problem.forward_lag(before, stage)
            yield Need(Op(Kind.F, before, m), _crossing(problem, before, stage), lag)
        if m % problem.slices:
            yield Need(Op(Kind.F, stage, m - 1), "earlier part", 0)
    else:
        yield Need(Op(Kind.F, stage, m), "own forward", 0)
        for after in problem.successors[stage]:
            lag, why = problem.backward_lag(after, stage), _crossing(problem, after, stage)
            yield from (Need(Op(kind, after, m), why, lag) for kind in (Kind.B, Kind.I))
        if (m + 1) % problem.slices:
            yield from (Need(Op(kind, stage, m + 1), "later part", 0) for kind in (Kind.B, Kind.I))


def reads(occurrences: Occurrences, *, across: bool) -> tuple[IntArray, IntArray]:
    """Return what the operations of a schedule read, on their own rank or across ranks.

    The two arrays have one length: entries of ``occurrences``, and the packed operations that they read. An entry that
    reads several stands several times; what is read may stand nowhere.
    """
    return joined(_reads(occurrences, across=across))


def _reads(occurrences: Occurrences, *, across: bool) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield what :func:`reads` returns, kind by kind."""
    problem = occurrences.problem
    kind, stage, m = kind_stage_microbatch(occurrences.op)
    forward, gradient = forwards_and_gradients(kind)
    fed, peer = beside(problem, stage, forward, onward=False, across=across)
    yield fed, packed(Kind.F, peer, m[fed])
    feeding, after = beside(problem, stage, gradient, onward=True, across=across)
    for made in _GRADIENTS:
        yield feeding, packed(made, after, m[feeding])
    if not across:
        yield from _own_reads(problem, kind, stage, m)


def _own_reads(problem: Problem, kind: IntArray, stage: IntArray, m: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield entries with the operations of their own stage that they read."""
    forward, gradient = forwards_and_gradients(kind)
    weight = np.flatnonzero(kind == int(Kind.W))
    yield weight, packed(Kind.I, stage[weight], m[weight])
    yield gradient, packed(Kind.F, stage[gradient], m[gradient])
    part = m % problem.slices
    later = forward[part[forward] > 0]
    yield later, packed(Kind.F, stage[later], m[later] - 1)
    earlier = gradient[part[gradient] < problem.slices - 1]
    for made in _GRADIENTS:
        yield earlier, packed(made, stage[earlier], m[earlier] + 1)


def beside(
    problem: Problem, stage: IntArray, entries: IntArray, *, onward: bool, across: bool
) -> tuple[IntArray, IntArray]:
    """Repeat entries for each stage that theirs feeds, or is fed by; return them beside those stages.

    Where stage 0 feeds the stages 1 and 2, the entries ``[4, 7]`` of stage 0 become ``[4, 4, 7, 7]`` beside
    ``[1, 2, 1, 2]``. ``across`` chooses the neighbours on other ranks, else those on the same.
    """
    offsets, peers = problem.peers_across if across else problem.peers_within
    key = stage[entries] + (0 if onward else problem.total_stages)
    run, member = expanded(offsets[key], np.diff(offsets)[key])
    return entries[run], peers[member]


def forwards_and_gradients(kind: IntArray) -> tuple[IntArray, IntArray]:
    """Return which of the operations are F, and which make a gradient (B and I)."""
    return np.flatnonzero(kind == int(Kind.F)), np.flatnonzero((kind == int(Kind.B)) | (kind == int(Kind.I)))


def kind_stage_microbatch(ops: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return kind, stage and micro-batch of packed operations."""
    return kinds(ops), op_stages(ops), ops & MICROBATCH_MASK


def dependency_graph(
    problem: Problem,
    schedule: Schedule | None = None,
    *,
    discipline: str | None = None,
    eager_bytes: int = 0,
    check: Callable[[], object] = lambda: None,
) -> nx.DiGraph:
    """Return the graph of a problem's operations, or of a schedule's, with its rank orders.

    Nodes are :class:`~schedverify.core.op.Op` values (and :class:`Unmatched` ones for what nobody waits for), with the
    attributes ``duration`` (of the longest of its steps: then its output is made) and ``places`` (rank and position).
    Edges carry ``why`` (``data`` on one rank, ``transfer`` between two, ``own forward``, ``own input part``, ``earlier
    part``, ``later part``, ``rank order``) and ``lag`` in ticks: below 0 where a rank goes on while another one still
    runs the same operation. Without a schedule a split problem's backward is I and W.

    With a discipline it is the graph of a lowered schedule: what every step, send, receive and wait for one waits for
    under it. Nodes are :class:`~schedverify.LoweredEvent` values with the attributes ``start`` and ``duration``. An
    edge carries ``why`` (``rank order``, ``input``, ``received``, ``queue``, ``sent``, ``complete``), ``lag`` (the
    ticks from the start of its tail to the soonest start of its head) and ``slack`` (the ticks by which it could be
    longer before its head starts later). The start of a node is the length of the longest path to it.

    Parameters
    ----------
    schedule
        An order of the problem's operations.
    discipline, eager_bytes
        What blocks what in a lowered schedule, and the size up to which its messages are eager; see semantics,
        section 4. Without a discipline, sends and receives are left out.
    check
        Called for every operation, as it takes long with many; what it raises ends the work.

    Raises
    ------
    ScheduleError
        If a discipline is given, and the schedule cannot run to its end under it.
    InputError
        If a discipline is given without a lowered schedule.
    """
    check_types("dependency_graph", problem=(problem, Problem), schedule=(schedule, Schedule, type(None)))
    import networkx as nx

    if discipline is not None:
        from schedverify.verifier.lowered_graph import lowered_graph

        return lowered_graph(problem, _lowered(schedule), discipline, eager_bytes)
    graph = nx.DiGraph()
    if schedule is None:
        for op in _needed(problem):
            graph.add_node(op, duration=problem.duration(int(op.kind), op.stage), places=())
    else:
        _add_steps(graph, problem, Occurrences(schedule, problem), check)
    for node in list(graph):
        check()
        for need in needs(problem, node.op if isinstance(node, Unmatched) else node):
            if need.op in graph:
                graph.add_edge(need.op, node, why=need.why, lag=need.lag)
    return graph


def step_graph(graph: nx.DiGraph, check: Callable[[], object] = lambda: None) -> nx.DiGraph:
    """Contract a graph of :func:`dependency_graph` to steps: what starts as one is one node.

    Nodes are tuples of operations in rising order, with ``duration``; edges carry the ``why`` and ``lag`` of the one
    with the longest lag. A step of which one part waits for the other has an edge to itself.
    """
    import networkx as nx

    union = nx.utils.UnionFind(graph)
    for nodes in _by_place(graph).values():
        check()
        union.union(*nodes)
    step = {node: tuple(sorted(members, key=str)) for members in union.to_sets() for node in members}
    contracted = nx.DiGraph()
    for node, data in graph.nodes(data=True):
        longest = max(data["duration"], contracted.nodes.get(step[node], {}).get("duration", 0))
        contracted.add_node(step[node], duration=longest)
    for source, target, data in graph.edges(data=True):
        check()
        known = contracted.get_edge_data(step[source], step[target])
        lag = data["lag"] + graph.nodes[source]["duration"] - contracted.nodes[step[source]]["duration"]
        if known is None or known["lag"] < lag:
            contracted.add_edge(step[source], step[target], **data | {"lag": lag})
    return contracted


def critical_path(graph: nx.DiGraph) -> list[tuple[Any, ...]]:
    """Return the steps of a longest path through a graph of :func:`dependency_graph`, each a tuple of its parts.

    Each step waits for the one before it, so that only a change on this path can shorten the makespan. Of the graph of
    a lowered schedule its nodes are :class:`~schedverify.LoweredEvent` values, sends and receives among them.

    Raises
    ------
    networkx.NetworkXUnfeasible
        If the graph has a cycle.
    """
    import networkx as nx

    check_types("critical_path", graph=(graph, nx.DiGraph))
    if "discipline" in graph.graph:
        from schedverify.verifier.lowered_graph import lowered_critical_path

        return [*lowered_critical_path(graph)]
    steps = step_graph(graph)
    latest: dict[Any, tuple[int, Any]] = {}
    for node in nx.topological_sort(steps):
        reached = [(latest[before][0] + steps.edges[before, node]["lag"], before) for before in steps.pred[node]]
        start, cause = max(reached, key=lambda pair: pair[0], default=(0, None))
        latest[node] = (start + steps.nodes[node]["duration"], cause)
    path: list[Any] = []
    node = max(latest, key=lambda n: latest[n][0], default=None)
    while node is not None:
        path.append(node)
        node = latest[node][1]
    return path[::-1]


def _lowered(schedule: Schedule | None) -> Schedule:
    if schedule is None or not schedule.lowered:
        hint = "sv.lower(schedule, problem) puts it in"
        raise InputError(Fault("discipline", "no communication stands in the schedule", hint))
    return schedule


def _by_place(graph: nx.DiGraph) -> dict[Any, list[Any]]:
    """Return the nodes that stand at each place (rank and position)."""
    found: dict[Any, list[Any]] = {}
    for node, places in graph.nodes(data="places"):
        for place in places:
            found.setdefault(place, []).append(node)
    return found


def _crossing(problem: Problem, source: int, target: int) -> str:
    return "data" if problem.owner_rank[source] == problem.owner_rank[target] else "transfer"


def _needed(problem: Problem) -> Iterator[Op]:
    letters = {"fused": (Kind.F, Kind.B), "split": (Kind.F, Kind.I, Kind.W), "inference": (Kind.F,)}[problem.form]
    for stage in range(problem.total_stages):
        for m in range(problem.microbatches):
            if problem.passes(stage, m):
                yield from (Op(kind, stage, m) for kind in letters)


def _add_steps(graph: nx.DiGraph, problem: Problem, occurrences: Occurrences, check: Callable[[], object]) -> None:
    """Add the steps of a schedule and the order in which each rank runs them."""
    orders: list[list[tuple[list[Any], int]]] = []  # by rank and step, its nodes and its ticks
    for rank, steps in enumerate(occurrences.steps):
        orders.append([])
        for position, ops in enumerate(steps):
            check()
            nodes = [op if occurrences.is_main(op, rank, position) else Unmatched(op, rank, position) for op in ops]
            ticks = problem.step_duration(ops)
            orders[rank] += [(nodes, ticks)] if nodes else []
            for node in nodes:
                known = graph.nodes.get(node, {"duration": 0, "places": ()})
                longest, places = max(known["duration"], ticks), (*known["places"], (rank, position))
                graph.add_node(node, duration=longest, places=places)
    for (before, ticks), (after, _) in chain.from_iterable(map(pairwise, orders)):
        for earlier, later in product(before, after):
            lag = ticks - graph.nodes[earlier]["duration"]
            known_lag = graph.edges[earlier, later]["lag"] if graph.has_edge(earlier, later) else lag
            graph.add_edge(earlier, later, why="rank order", lag=max(lag, known_lag))
