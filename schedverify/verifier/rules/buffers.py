"""SV403: messages that are sent and not yet received stay within what a channel holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from schedverify.core.result import Violation
from schedverify.verifier.rules.base import Case, NotApplicable, Undecided, rule, violation_at

if TYPE_CHECKING:
    from schedverify.verifier.happens_before import EventGraph
    from schedverify.verifier.matching import Transfers

MOST_VISITS = 500_000_000
"""How many edges are followed, over all channels, before the question is left open."""


@rule("SV403", "messages within the channel's buffer")
def buffered_messages(case: Case) -> Iterator[Violation]:
    """Messages that are sent and not yet received stay within the channel's buffer.

    What it checks

    On each channel, a directed pair of ranks, the messages that can be sent and not yet received at once are at most
    `links.buffer`, whatever the durations. Only what does not wait for its receive can be on its way: every message
    under `tagged` and `buffered`, under the others those of at most `eager_bytes`.

    Why it matters

    A buffer that overflows blocks the sender after all, or fails. What was free of deadlock because sends are complete
    at once then hangs, on the machine where one rank is slow.

    Example

    With `buffer = 1`, `0F0 0SEND_F0 0F1 0SEND_F1` on rank 0 can have two messages on their way before rank 1, which is
    late, receives the first.

    Formally

    In the graph of SV304, for every channel and every send x on it that is a node of its own: let R be the receives
    of such sends on the channel from which x is reached, and n the sends on the channel of which all such receives are
    in R; n - |R| is at most the buffer. What is stuck never happens and is left out.
    """
    transfers, buffer = case.transfers, case.problem.buffer
    if buffer is None:
        raise NotApplicable("the problem limits no channel (links.buffer)")
    channels = _channels(case.events, buffer)
    if len(channels) * len(case.events.before) > MOST_VISITS:
        raise Undecided(f"{len(channels)} channels of this schedule are more than can be followed")
    for sends, receives in channels:
        before = _ancestors(case.events, sends, receives)
        most, bits = max((many - bits.bit_count(), bits) for bits, many in _complete(before))
        if most > buffer:
            ready = [send for send in sends if before[send] & bits == before[send]]
            yield _overflow(transfers, ready[bits.bit_count() + buffer], most, buffer)


def _channels(graph: EventGraph, buffer: int) -> list[tuple[list[int], list[int]]]:
    """Return for each channel with more sends than it holds that wait for no receive: these, and their receives."""
    transfers = graph.transfers
    alone = graph.present[transfers.is_send[graph.present] & graph.alone[graph.present]]
    alone = alone[~graph.blocked[graph.node[alone]]]
    receives = graph.receive[graph.apart]
    found = []
    for channel in np.unique(transfers.channel[alone]).tolist():
        sends = alone[transfers.channel[alone] == channel]
        if len(sends) > buffer:
            found.append((sends.tolist(), receives[transfers.channel[receives] == channel].tolist()))
    return found


def _ancestors(graph: EventGraph, sends: list[int], receives: list[int]) -> dict[int, int]:
    """Return for each send which of the receives must come before it, as the bits of a number."""
    reached = [0] * graph.count
    for bit, receive in enumerate(receives):
        reached[int(graph.node[receive])] |= 1 << bit
    begins, targets = (values.tolist() for values in graph.successors)
    for node in graph.order.tolist():
        bits = reached[node]
        if bits:
            for target in targets[begins[node] : begins[node + 1]]:
                reached[target] |= bits
    return {send: reached[int(graph.node[send])] for send in sends}


def _complete(before: dict[int, int]) -> Iterator[tuple[int, int]]:
    """Yield each set of receives that some send needs, and how many sends need no receive beyond it.

    Of two such sets one lies in the other. Receives of one channel follow one another in its queue, but for those of a
    group and those under `tagged`; what these have behind them beyond the group's, they have through the first step
    that reads them, and the steps of the rank that receives stand in one order.
    """
    counts = np.sort([bits.bit_count() for bits in before.values()])
    for bits in set(before.values()):
        yield bits, int(np.searchsorted(counts, bits.bit_count(), side="right"))


def _overflow(transfers: Transfers, entry: int, most: int, buffer: int) -> Violation:
    """Name the first send that a channel may not hold, where ``most`` messages can be on their way at once."""
    text = f"up to {most} messages can be on their way to rank {transfers.partner[entry]}; the channel holds {buffer}"
    return violation_at("SV403", *transfers.place(entry), text)
