"""SV404: sends that are begun and not yet waited for stay within the limit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from schedverify.core.result import Violation
from schedverify.verifier.rules.base import Case, NotApplicable, rule


@rule("SV404", "outstanding sends within the limit")
def few_outstanding(case: Case) -> Iterator[Violation]:
    """The sends of a rank that are begun and not yet waited for stay within the limit.

    What it checks

    On each rank, the sends at or before a position whose `WAIT_SEND` does not stand before it are at most
    `limits.outstanding_sends`. A send that is never waited for counts to the end; so does a second send of one tensor.

    Why it matters

    What is sent is held until its send has been waited for: activations and gradients pile up on a rank that runs ahead
    of the ranks that receive. How many there may be decides how much memory that takes.

    Example

    With `outstanding_sends = 1`, `0F0 0SEND_F0 0F1 0SEND_F1 0WAIT_SEND_F0 0WAIT_SEND_F1` has two at position 3.

    Formally

    For every rank r and position i: the number of sends x in the order of r at or before i such that no wait for x
    stands between x and i, both left out, is at most outstanding_sends(r). A wait is for the first send of its tensor
    on its rank.
    """
    limits = case.problem.outstanding_sends
    if limits is None:
        raise NotApplicable("the problem limits no outstanding sends (limits.outstanding_sends)")
    transfers, waits = case.transfers, case.transfers.waits
    sends = np.flatnonzero(transfers.is_send)
    until = waits.until[sends]
    waited = np.where(until >= 0, np.append(waits.position, 0)[until], np.iinfo(np.int64).max)
    for rank, limit in enumerate(limits):
        own = transfers.rank[sends] == rank
        begun, ends = transfers.position[sends[own]], np.sort(waited[own])
        standing = np.searchsorted(begun, begun, side="right") - np.searchsorted(ends, begun)
        if (standing > limit).any():
            first = int((standing > limit).argmax())
            position = int(begun[first])
            held = sends[own][(begun <= position) & (waited[own] >= position)]
            names = tuple(str(transfers.op(entry)) for entry in held.tolist())
            text = f"rank {rank} has {len(held)} sends begun and not yet waited for at position {position}"
            yield Violation("SV404", f"{text}; the limit is {limit}", rank, position, names)
