"""SV304: a lowered schedule is free of deadlock under a discipline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from schedverify.core.result import Violation
from schedverify.verifier.rules.base import Case, rule, violations_of_cycles

if TYPE_CHECKING:
    from schedverify.verifier.happens_before import EventGraph
    from schedverify.verifier.wait_cycles import Wait

MOST_VISITS = 100_000_000
"""How many events are looked at for a cycle of fewer ranks than those that stand still."""


@rule("SV304", "no deadlock under the discipline")
def free_of_deadlock(case: Case) -> Iterator[Violation]:
    """The schedule is free of deadlock under the named discipline.

    What it checks

    One run of what lies below the schedule, as the discipline models it, comes to its end: every step, every send and
    every receive can happen. Which disciplines block what, and which of them a schedule survives, is told on the page
    about communication. A `WAIT_SEND` holds its rank's program until its send is complete. A send or receive that finds
    no partner counts as met here, as an absent operation counts as done in SV201, and SV301 reports it; so does a wait
    whose send is missing or behind it, and SV303 reports that.

    Why it matters

    A compute order can be right and hang all the same, once sends and receives stand in it: two ranks that both send
    first on the one queue that they share wait for ever, and the process group names nothing when it times out.

    `schedverify lower SCHEDULE --problem PROBLEM --again` keeps the computing and adds communication that is proved.

    Example

    Under `pair`, rank 0 runs `0SEND_F1 2RECV_F0` and rank 1 `1SEND_F0 1RECV_F1`: rank 0 waits at position 0 (0SEND_F1)
    for 1RECV_F1; rank 1 waits at position 0 (1SEND_F0) for 2RECV_F0.

    Formally

    Let the nodes be the compute steps, merged as in SV201, the waits for sends, and the transfers: a send and the
    receive that it meets are one node, and two with an edge from the send to the receive where the send is complete
    without it (`tagged`, `buffered`, and messages of at most `eager_bytes`). Edges go to each compute step, wait, send
    and receive from the last compute step and from the last wait before it on its rank; to each compute step from what
    it reads on its rank and from the first receive of each tensor that it reads; to each wait from the first send of
    its tensor, where that stands before it; to each send from the step that makes what it sends; to each send and
    receive from all that stands before it in its queue (`buffered`, `edge`: of its channel; `pair`: of its pair of
    ranks; `rank`: of its rank), its own group left out; under `block` to all of each step from all of the step before
    it. This graph has no cycle.
    """
    graph = case.events
    if not graph.blocked.any():
        return
    from schedverify.verifier.stalls import Stalls

    stalls = Stalls(graph, case.schedule)
    blocked = set(stalls.ranks())
    yield from violations_of_cycles("SV304", _fewest(case, graph, stalls.cycles()), blocked, case.schedule)


def _fewest(case: Case, graph: EventGraph, cycles: list[list[Wait]]) -> list[list[Wait]]:
    """Put cycles of one rank or of two, further on in the programs, before longer ones; those of other ranks stay."""
    from schedverify.verifier.stalls import Stalls

    transfers = graph.transfers
    pairs = {tuple(sorted(pair)) for pair in zip(transfers.rank.tolist(), transfers.partner.tolist(), strict=True)}
    single = [(rank,) for rank in range(case.schedule.ranks)]
    fewest = min((len(_ranks(cycle)) for cycle in cycles), default=0)
    for size, ranks in ((1, single), (2, sorted(pair for pair in pairs if pair[0] >= 0))):
        if fewest <= size or len(ranks) * graph.count > MOST_VISITS:
            break
        parts = [part for group in ranks if (part := graph.among(group)).blocked.any()]
        found = [cycle for part in parts for cycle in Stalls(part, case.schedule).cycles()]
        if found:
            ranks_of_found = {rank for cycle in found for rank in _ranks(cycle)}
            return [*found, *(cycle for cycle in cycles if not ranks_of_found & _ranks(cycle))]
    return cycles


def _ranks(cycle: list[Wait]) -> set[int]:
    return {wait.rank for wait in cycle}
