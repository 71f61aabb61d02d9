"""What the late steps of a lowered schedule waited for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.op import unpack
from schedverify.core.timeline import Timeline
from schedverify.simulator.p2p_engine import LoweredRun, run
from schedverify.simulator.p2p_events import Why

_PREFERENCE = (Why.INPUT, Why.SENT, Why.RECEIVED, Why.COMPLETE, Why.ORDER, Why.QUEUE)
"""Of several reasons for one tick, the first here is named: what has to be made before what stands in the way."""


class Delay(NamedTuple):
    """A compute step that starts after its rank is free, and what it waited for.

    Attributes
    ----------
    ticks
        From where its rank is free to where it starts.
    held_up
        Whether it waited for something that stood in the way, in a queue or in a program; else for what it reads.
    text
        A sentence such as ``2F0 waits on 2RECV_F0, which stands behind 0SEND_F3 in rank 0's queue``.
    """

    rank: int
    position: int
    ticks: int
    held_up: bool
    text: str


def delays(timeline: Timeline) -> Iterator[Delay]:
    """Yield the late compute steps of the timeline of a lowered schedule, rank by rank in order.

    There are none where no communication stands in the schedule.
    """
    check_types("delays", timeline=(timeline, Timeline))
    if timeline.discipline is None:
        return
    reasons = _BindingEdges(run(timeline.schedule, timeline.problem, timeline.discipline, timeline.eager_bytes))
    step = 0
    for rank, (starts, ends) in enumerate(zip(timeline.starts, timeline.ends, strict=True)):
        free = 0
        for position, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            if reasons.computes[step]:
                if start > free:
                    yield Delay(rank, position, start - free, *reasons.of_step(step))
                free = end
            step += 1


class _BindingEdges:
    """The events of a run with, for each, the edge that made it start no earlier."""

    def __init__(self, ran: LoweredRun) -> None:
        self.program, self.events, start = ran
        self.edges = edges = self.events.edges
        preference = np.argsort(_PREFERENCE)[edges.why]
        binding = np.flatnonzero((start[edges.tail] + edges.lag == start[edges.head]) & (start[edges.head] > 0))
        binding = binding[np.lexsort((preference[binding], edges.head[binding]))]
        heads, first = np.unique(edges.head[binding], return_index=True)
        self.binding = dict(zip(heads.tolist(), binding[first].tolist(), strict=True))
        self.computes, self.waits = self.program.computes.tolist(), self.program.waits.tolist()
        self.steps, self.size = len(self.computes), len(self.events.transfers.send)

    def of_step(self, step: int) -> tuple[bool, str]:
        """Say what a compute step waited for, and whether that stood in the way."""
        tail, rank, why = self._reason(int(self.program.node[step]))
        name = self.program.text(step)
        if why == Why.INPUT:
            return False, f"{name} waits for {self.program.text(tail)}"
        if why == Why.RECEIVED:
            named = str(self._op(tail, None))
            stands, owner, clause = self._of_transfer(tail)
            return stands, f"{name} waits on {named}" + (f", {_linked(owner, named)} {clause}" if clause else "")
        if tail < self.steps and self.computes[tail]:
            return False, f"{name} waits for rank {rank}, which is at {self.program.text(tail)}"
        return True, f"{name} waits on {self._holding(tail, rank)}"

    def _holding(self, node: int, rank: int) -> str:
        """Return what holds a rank's program, a wait for a send or a transfer, and what that waits for."""
        by = ""
        if node < self.steps:
            by = self.program.text(node)
            node = next((tail for tail, why in [self._reason(node)[::2]] if why == Why.COMPLETE), node)
            if node < self.steps:
                return f"{by}, which holds rank {rank}'s program"
        node = self._member(node)
        named = self._op(node, rank)
        _, owner, clause = self._of_transfer(node)
        if by:
            return f"{by}, which holds rank {rank}'s program" + (f" while {owner or named} {clause}" if clause else "")
        more = "" if not owner else f" and {clause}" if owner == named else f" while its {owner} {clause}"
        return f"{named}, which holds rank {rank}'s program{more}"

    def _of_transfer(self, node: int) -> tuple[bool, str, str]:
        """Say why a transfer starts no earlier: whether something stood in the way, of which of its ends, and what."""
        if node not in self.binding:
            return False, "", ""
        tail, rank, why = self._reason(node)
        if why == Why.SENT:
            return self._of_transfer(tail)
        if why == Why.INPUT:
            return False, "", f"{self.program.text(tail)} is still making"
        if tail < self.steps and self.computes[tail]:
            before, where = self.program.text(tail), "program"
        else:
            before, where = self._op(self._member(tail), rank), "queue"
        return True, self._op(node, rank), f"stands behind {before} in rank {rank}'s {where}"

    def _reason(self, node: int) -> tuple[int, int, int]:
        """Return what a node waited for, on account of which rank, and why."""
        edge = self.binding[node]
        return int(self.edges.tail[edge]), int(self.edges.rank[edge]), int(self.edges.why[edge])

    def _member(self, node: int) -> int:
        """Return the transfer that lasted longest of a group, or the transfer itself."""
        while node >= self.steps + 2 * self.size:
            node = int(self.edges.tail[self.binding[node]])
        return node

    def _op(self, node: int, rank: int | None) -> str:
        """Return the end of a transfer that stands on a rank, by default the receive."""
        transfers, index = self.events.transfers, (node - self.steps) % self.size
        send, receive = int(transfers.send[index]), int(transfers.receive[index])
        return str(unpack(int(self.program.words[send if rank == self.program.rank[send] else receive])))


def _linked(owner: str, named: str) -> str:
    """Begin the clause about a transfer: its own end, the other one, or its tensor."""
    return "which" if owner == named else f"whose {owner}" if owner else "whose tensor"
