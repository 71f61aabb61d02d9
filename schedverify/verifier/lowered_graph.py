"""What waits for what in a lowered schedule under a discipline, as a networkx graph with the slack of every edge.

It is the graph of :mod:`schedverify.simulator.p2p_events` for those who look at schedules: which waiting decides when a
step starts, and how much longer a transfer or a step could take before anything else moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from schedverify.core.discipline import Discipline
from schedverify.core.op import Op, unpack
from schedverify.core.problem import Problem
from schedverify.core.schedule import OPERATION_MASK, Schedule
from schedverify.simulator.p2p_engine import LoweredRun, run
from schedverify.simulator.p2p_events import Why

if TYPE_CHECKING:
    import networkx as nx

_WHY = {
    Why.ORDER: "rank order",
    Why.INPUT: "input",
    Why.RECEIVED: "received",
    Why.QUEUE: "queue",
    Why.SENT: "sent",
    Why.COMPLETE: "complete",
}


class LoweredEvent(NamedTuple):
    """A node of the graph of a lowered schedule: what starts at one moment.

    Attributes
    ----------
    kind
        ``compute`` (a step, on all ranks that start it as one), ``transfer`` (a send and its receive, which need each
        other), ``send`` or ``receive`` (one that goes alone), ``wait`` (the send that a rank waits for is complete),
        ``free`` (a group lets its queue go) or ``complete`` (a group lets its rank's program go on).
    ops
        The operations that start.
    places
        Rank and position of each step that they stand in.
    """

    kind: str
    ops: tuple[Op, ...]
    places: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return f"{self.kind} {' '.join(map(str, self.ops))}"


def lowered_graph(problem: Problem, schedule: Schedule, discipline: str, eager_bytes: int = 0) -> nx.DiGraph:
    """Return the graph of a lowered schedule; see :func:`schedverify.dependency_graph`.

    Raises
    ------
    ScheduleError
        If it cannot run to its end under the discipline: then nothing has a start, and so no edge a slack.
    """
    import networkx as nx

    ran = run(schedule, problem, Discipline.of(discipline), eager_bytes)
    start, edges = ran.start.tolist(), ran.events.edges
    nodes, duration = list(_nodes(ran)), _durations(ran)
    graph = nx.DiGraph(discipline=str(discipline), eager_bytes=eager_bytes)
    holds = ran.program.node[ran.program.computes | ran.program.waits]
    for index in np.unique(np.concatenate((holds, ran.events.nodes, edges.tail, edges.head))).tolist():
        graph.add_node(nodes[index], start=start[index], duration=duration[index])
    for tail, head, lag, _, why in zip(*(column.tolist() for column in edges), strict=True):
        known = graph.get_edge_data(nodes[tail], nodes[head])
        if known is None or known["lag"] < lag:
            slack = start[head] - start[tail] - lag
            graph.add_edge(nodes[tail], nodes[head], why=_WHY[Why(why)], lag=lag, slack=slack)
    return graph


def lowered_critical_path(graph: nx.DiGraph) -> list[LoweredEvent]:
    """Return a path without slack through a graph of :func:`lowered_graph`, to the compute step that ends last."""
    ends = {node: data["start"] + data["duration"] for node, data in graph.nodes(data=True) if node.kind == "compute"}
    node = max(ends, key=lambda event: ends[event], default=None)
    path: list[LoweredEvent] = []
    while node is not None:
        path.append(node)
        waits = graph.pred[node].items() if graph.nodes[node]["start"] else ()
        node = next((before for before, edge in waits if edge["slack"] == 0), None)
    return path[::-1]


def _nodes(ran: LoweredRun) -> Iterator[LoweredEvent]:
    """Yield the event of each number: of the steps, of the sends, of the receives alone, and of the ends of groups.

    ``|-- steps --|-- transfers (sends) --|-- receives alone --|-- ends of groups --|``
    """
    program, events = ran.program, ran.events
    words, rank = (program.words & OPERATION_MASK).tolist(), program.step_rank
    position = np.arange(len(rank)) - np.searchsorted(rank, rank)
    place = list(zip(rank.tolist(), position.tolist(), strict=True))
    step, firsts = program.step.tolist(), np.searchsorted(program.step, np.arange(len(place) + 1)).tolist()
    joint: dict[int, list[int]] = {}
    for number, node in enumerate(program.node.tolist()):
        joint.setdefault(node, []).append(number)
    for number in range(len(place)):
        members = joint.get(number, [number])
        ops = dict.fromkeys(unpack(word) for each in members for word in words[firsts[each] : firsts[each + 1]])
        yield LoweredEvent(
            "wait" if program.waits[number] else "compute", tuple(ops), tuple(place[each] for each in members)
        )
    sends, receives, alone = events.transfers.send.tolist(), events.transfers.receive.tolist(), events.alone.tolist()
    for send, receive, goes_alone in zip(sends, receives, alone, strict=True):
        ends = (send,) if goes_alone else (send, receive)
        kind = "send" if goes_alone else "transfer"
        yield LoweredEvent(kind, tuple(unpack(words[end]) for end in ends), tuple(place[step[end]] for end in ends))
    for receive in receives:
        yield LoweredEvent("receive", (unpack(words[receive]),), (place[step[receive]],))
    yield from _waits(ran, words, place)


def _waits(ran: LoweredRun, words: list[int], place: list[tuple[int, int]]) -> Iterator[LoweredEvent]:
    """Yield the events that stand for the end of several members of one entry of a queue."""
    program, events, edges = ran.program, ran.events, ran.events.edges
    first = len(place) + 2 * len(events.transfers.send)
    by_node: dict[int, list[int]] = {}
    for end, node in zip(events.ends.tolist(), events.nodes.tolist(), strict=True):
        by_node.setdefault(node, []).append(end)
    members: dict[int, set[int]] = {node: set() for node in range(first, events.count)}
    kind: dict[int, str] = {}
    for index in np.flatnonzero(edges.head >= first).tolist():
        tail, head, rank, why = (int(column[index]) for column in (edges.tail, edges.head, edges.rank, edges.why))
        members[head] |= {end for end in by_node.get(tail, ()) if program.rank[end] == rank}
        kind[head] = "free" if why == Why.QUEUE else "complete"
    for node, ends in members.items():
        steps = sorted({int(program.step[end]) for end in ends})
        ops = tuple(unpack(words[end]) for end in sorted(ends))
        yield LoweredEvent(kind[node], ops, tuple(place[each] for each in steps))


def _durations(ran: LoweredRun) -> list[int]:
    """Return by node the ticks until it is complete: of compute its step, of transfers until they arrive."""
    program, events = ran.program, ran.events
    ticks = np.zeros(events.count, dtype=np.int64)
    computes = np.flatnonzero(program.computes)
    np.maximum.at(ticks, program.node[computes], program.duration[computes])
    ticks[events.sends] = events.done
    return list(map(int, ticks))
