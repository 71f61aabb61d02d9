"""What waits for whose output, as arrays: steps for outputs on their rank and for receives, sends for what they send.

The rules are those of :func:`schedverify.verifier.graph.needs`; here for all operations of a schedule at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from schedverify.core.messages import expanded, neighbours
from schedverify.core.op import INDEX_MASK, MICROBATCH_MASK, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import kinds
from schedverify.verifier.matching import Flaw, Transfers, packed_name
from schedverify.verifier.occurrences import Occurrences, packed

Ints = NDArray[np.int64]
Edges = tuple[Ints, Ints, Ints]
_GRADIENTS = (Kind.B, Kind.I)


def step_inputs(occurrences: Occurrences) -> Edges:
    """Return edges from steps to those of the same rank that read their outputs, on account of that rank."""
    pairs = list(reads(occurrences, across=False))
    reader = np.concatenate([entries for entries, _ in pairs])
    maker = occurrences.first_on(np.concatenate([ops for _, ops in pairs]), occurrences.rank[reader])
    reader, maker = reader[maker >= 0], maker[maker >= 0]
    return occurrences.node[maker], occurrences.node[occurrences.step[reader]], occurrences.rank[reader]


def received_inputs(occurrences: Occurrences, transfers: Transfers, present: Ints) -> Edges:
    """Return edges from the first receive (its number) of each tensor to the steps of its rank that read it."""
    receives = present[~transfers.is_send[present]]
    names, first = np.unique(transfers.name[receives], return_index=True)
    pairs = list(_remote(occurrences))
    reader = np.concatenate([entries for entries, _ in pairs])
    wanted = np.concatenate([name for _, name in pairs])
    at = np.minimum(np.searchsorted(names, wanted), max(len(names) - 1, 0))
    there = names[at] == wanted if len(names) else np.zeros(len(wanted), dtype=bool)
    reader, receive = reader[there], receives[first[at[there]]]
    here = occurrences.rank[reader] == transfers.rank[receive]
    reader, receive = reader[here], receive[here]
    return receive, occurrences.node[occurrences.step[reader]], occurrences.rank[reader]


def sent_outputs(occurrences: Occurrences, transfers: Transfers, present: Ints) -> Edges:
    """Return edges from the steps that make tensors of the problem to the sends (their numbers) that send them."""
    fine = present[transfers.flaw[present] == Flaw.NONE]
    pairs = list(makers(transfers, fine))
    send = np.concatenate([sends for sends, _ in pairs])
    maker = occurrences.first_on(np.concatenate([ops for _, ops in pairs]), transfers.rank[send])
    send, maker = send[maker >= 0], maker[maker >= 0]
    return occurrences.node[maker], send, transfers.rank[send]


def makers(transfers: Transfers, chosen: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield the numbers of sends among the chosen, with what makes their tensors: F, B or I."""
    sends = chosen[transfers.is_send[chosen]]
    for kind, backward in ((Kind.F, False), (Kind.B, True), (Kind.I, True)):
        some = sends[transfers.backward[sends] == backward]
        yield some, packed(kind, transfers.stage[some], transfers.microbatch[some])


def readers(transfers: Transfers, chosen: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield the numbers of receives among the chosen, with what reads their tensors: F, B or I."""
    receives = chosen[~transfers.is_send[chosen]]
    for kind, backward in ((Kind.F, False), (Kind.B, True), (Kind.I, True)):
        some = receives[transfers.backward[receives] == backward]
        yield some, packed(kind, transfers.stage[some], transfers.microbatch[some])


def reads(occurrences: Occurrences, *, across: bool) -> Iterator[tuple[Ints, Ints]]:
    """Yield entries with the operations that they read, on their own rank or across ranks."""
    problem = occurrences.problem
    kind, stage, m = _parts(occurrences.op)
    forward, gradient = _readers(kind)
    fed, peer = _beside(problem, stage, forward, onward=False, across=across)
    yield fed, packed(Kind.F, peer, m[fed])
    feeding, after = _beside(problem, stage, gradient, onward=True, across=across)
    for made in _GRADIENTS:
        yield feeding, packed(made, after, m[feeding])
    if not across:
        yield from _own_reads(problem, kind, stage, m)


def _own_reads(problem: Problem, kind: Ints, stage: Ints, m: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield entries with the operations of their own stage that they read."""
    forward, gradient = _readers(kind)
    weight = np.flatnonzero(kind == int(Kind.W))
    yield weight, packed(Kind.I, stage[weight], m[weight])
    yield gradient, packed(Kind.F, stage[gradient], m[gradient])
    part = m % problem.slices
    later = forward[part[forward] > 0]
    yield later, packed(Kind.F, stage[later], m[later] - 1)
    earlier = gradient[part[gradient] < problem.slices - 1]
    for made in _GRADIENTS:
        yield earlier, packed(made, stage[earlier], m[earlier] + 1)


def _remote(occurrences: Occurrences) -> Iterator[tuple[Ints, Ints]]:
    """Yield entries with the tensors, packed, that they read from other ranks."""
    problem = occurrences.problem
    kind, stage, m = _parts(occurrences.op)
    forward, gradient = _readers(kind)
    fed, peer = _beside(problem, stage, forward, onward=False, across=True)
    yield fed, packed_name(False, peer, stage[fed], m[fed])
    feeding, after = _beside(problem, stage, gradient, onward=True, across=True)
    yield feeding, packed_name(True, after, stage[feeding], m[feeding])


def _beside(problem: Problem, stage: Ints, entries: Ints, *, onward: bool, across: bool) -> tuple[Ints, Ints]:
    """Repeat entries for each stage that theirs feeds, or is fed by: those on another rank or those on the same."""
    offsets, peers = neighbours(problem, across=across)
    key = stage[entries] + (0 if onward else problem.total_stages)
    run, member = expanded(offsets[key], np.diff(offsets)[key])
    return entries[run], peers[member]


def _readers(kind: Ints) -> tuple[Ints, Ints]:
    """Return the entries that compute forwards, and those that make gradients."""
    return np.flatnonzero(kind == int(Kind.F)), np.flatnonzero((kind == int(Kind.B)) | (kind == int(Kind.I)))


def _parts(ops: Ints) -> tuple[Ints, Ints, Ints]:
    return kinds(ops), ops >> STAGE_SHIFT & INDEX_MASK, ops & MICROBATCH_MASK
