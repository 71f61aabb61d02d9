"""SV3: what is sent is received, once, in one order on both ends, after it is made and before it is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from schedverify.core.op import Kind, Op, unpack
from schedverify.core.problem import Problem
from schedverify.core.result import Violation
from schedverify.core.schedule import IntArray, kinds
from schedverify.verifier.absences import Passing, Run, by_group, told_runs
from schedverify.verifier.rules.base import PAIR_MASK, Case, More, NotApplicable, rule, violation_at

if TYPE_CHECKING:
    from schedverify.verifier.matching import Transfers


@rule("SV301", "every send has its receive")
def sends_meet_receives(case: Case) -> Iterator[Violation | More]:
    """Every send has exactly one receive at the right peer, and every receive a send.

    What it checks

    Where a stage feeds one whose first rank is another, its output is sent once by the first rank of the one and
    received once by the first rank of the other, for every micro-batch; in training the gradient goes back in the same
    way. None of them is missing, none stands twice, and none stands between stages of one rank or between stages of
    which neither feeds the other. In an excerpt, what is read by an absent step or made by an absent one need not
    cross.

    Why it matters

    A receive without a send waits until the process group times out, half an hour later, and names nothing. A send
    without a receive is met by the next receive on its channel, which wants another tensor.

    `schedverify lower SCHEDULE --problem PROBLEM --again` keeps the computing and adds communication that is proved.

    Example

    Rank 0 runs `0F0 0SEND_F0` and rank 1 `1F0`, without `1RECV_F0`: rank 0 sends 0SEND_F0 at position 1, and nothing
    on rank 1 receives it.

    Formally

    Let the tensors be (F, s, t, m) and, in training, (B, t, s, m), for every edge (s, t) of the stage graph with
    first(s) != first(t) and every m that goes through s. For every tensor (k, a, b, m), exactly one `aSEND_km` for b
    stands on first(a), and exactly one `bRECV_km` from a on first(b). No other send or receive stands there.
    """
    transfers = case.transfers
    fine = np.flatnonzero(transfers.sound)
    for entry in np.flatnonzero(~transfers.sound).tolist():
        yield _violation(transfers, entry, _flawed(transfers, entry))
    key = transfers.name[fine] << 1 | transfers.is_send[fine]
    known, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    again = first[inverse] != np.arange(len(fine))
    names = known >> 1
    begins = np.append(True, np.diff(names) != 0)[: len(names)]
    ends = np.append(begins[1:], True)[: len(names)]
    lone = (begins & ends)[inverse] & ~again
    for place in np.flatnonzero(again | lone).tolist():
        entry = int(fine[place])
        if again[place]:
            earlier = int(transfers.position[fine[first[inverse[place]]]])
            yield _violation(transfers, entry, f"it stands at position {earlier} already")
        else:
            verb, other = ("receives", 1) if transfers.is_send[entry] else ("sends", 0)
            text = f"nothing on rank {transfers.partner[entry]} {verb} it"
            yield _violation(transfers, entry, f"{text}, {_ends_of(case, entry)[other]} is missing")
    yield from _uncrossed(case, by_group(names[begins]))


@rule("SV302", "one order on both ends")
def one_order(case: Case) -> Iterator[Violation]:
    """The n-th send on a channel belongs to the n-th receive.

    What it checks

    Messages carry no names, so on each channel, a directed pair of ranks, the n-th send meets the n-th receive; the two
    must name one tensor. Forward and backward traffic share the channel; within a group the order written counts. Under
    `tagged`, where messages carry names, this is not asked.

    Why it matters

    Nothing hangs and nothing fails. With tensors of one shape each rank goes on with the data of another micro-batch,
    and the loss curve is only a little worse. PyTorch 2.13's `defer_pp_recv` does this on some V-shaped schedules.

    `schedverify lower SCHEDULE --problem PROBLEM --again` keeps the computing and adds communication that is proved.

    Example

    Rank 0 runs `0SEND_F0 0SEND_F1` and rank 1 `1RECV_F1 1RECV_F0`: the first message is 0SEND_F0, the first receive
    1RECV_F1.

    Formally

    For every channel and every n up to the lesser of the counts: the n-th send in the order of the sender and the n-th
    receive in the order of the receiver are of the same tensor.
    """
    transfers = case.transfers
    if case.discipline == "tagged":
        raise NotApplicable("under tagged, messages are matched by name", "every other discipline matches by order")
    sends, receives = case.matched
    wrong = transfers.name[sends] != transfers.name[receives]
    for send, receive in zip(sends[wrong].tolist(), receives[wrong].tolist(), strict=True):
        rank, position, sent = transfers.place(send)
        text = f"what arrives is {sent} (rank {rank}, position {position})"
        yield violation_at("SV302", *transfers.place(receive), text, sent)


@rule("SV303", "made before sent, received before read")
def made_and_received(case: Case) -> Iterator[Violation]:
    """A send comes after the operation that makes its tensor, a receive before the step that reads it.

    What it checks

    On its rank, each send stands behind the F that makes its output, or the B or I that makes its gradient; each
    receive stands before the F, B or I that reads it. An absent operation is SV103's matter. Each `WAIT_SEND` stands
    behind its send, and once; it names its peer where the send does.

    Why it matters

    A send before its operation sends what a buffer held before; a step before its receive reads such. Engines that
    look up the tensor fail, those with fixed buffers do not. A wait without a send in front has nothing to wait for,
    and what was sent is never let go.

    `schedverify lower SCHEDULE --problem PROBLEM --again` keeps the computing and adds communication that is proved.

    Example

    In `0SEND_F0 0F0` the send stands at position 0, before 0F0 at position 1.

    Formally

    For every send of a tensor (k, a, b, m) at (r, i): the first k(a, m) of rank r, where there is one, stands before
    i; for every receive at (r, i), the first k(b, m) of rank r stands behind i. For gradients k is each of B and I
    that stands. For every wait for a tensor at (r, i): the first send of that tensor on rank r stands before i, and no
    other wait for it does.
    """
    transfers = case.transfers
    fine = np.flatnonzero(transfers.sound)
    yield from _misplaced(case, *transfers.makers(fine), is_send=True)
    yield from _misplaced(case, *transfers.readers(fine), is_send=False)
    yield from _idle_waits(transfers)


def _idle_waits(transfers: Transfers) -> Iterator[Violation]:
    """Tell the waits that have no send before them, and those that stand again."""
    waits = transfers.waits
    again = waits.first != np.arange(len(waits.word))
    for entry in np.flatnonzero(again | ~waits.behind).tolist():
        rank, position, op = waits.place(entry)
        send = int(waits.send[entry])
        if again[entry]:
            earlier = int(waits.position[waits.first[entry]])
            yield violation_at("SV303", rank, position, op, f"it stands at position {earlier} already")
        elif send < 0:
            yield violation_at("SV303", rank, position, op, "no send that it could wait for stands on the rank")
        else:
            _, place, sent = transfers.place(send)
            where = "in the same step" if place == position else f"behind it at position {place}"
            yield violation_at("SV303", rank, position, op, f"{sent}, for which it waits, stands {where}", sent)


def _violation(transfers: Transfers, entry: int, text: str) -> Violation:
    return violation_at("SV301", *transfers.place(entry), text)


def _flawed(transfers: Transfers, entry: int) -> str:
    """Say why a send or receive moves no tensor of the problem."""
    from schedverify.verifier.matching import Flaw

    problem, stage, peer = transfers.problem, int(transfers.stage[entry]), transfers.op(entry).peer
    onward = bool(transfers.is_send[entry] ^ transfers.backward[entry])
    flaw = Flaw(int(transfers.flaw[entry]))
    if flaw is Flaw.STRANGER:
        if peer is not None and peer >= problem.total_stages:
            return f"stage {peer} is absent; stages are 0 to {problem.total_stages - 1}"
        return f"stage {stage} does not feed stage {peer}" if onward else f"stage {peer} does not feed stage {stage}"
    if flaw is Flaw.NO_STAGE:
        return f"stage {stage} feeds no other" if onward else f"no other stage feeds stage {stage}"
    peers = (problem.successors if onward else problem.predecessors)[stage] if peer is None else (peer,)
    names = ", ".join(map(str, peers))
    if flaw is Flaw.ONE_RANK:
        return f"stage {names}, at the other end, is on rank {problem.owner_rank[stage]} as well; nothing is sent there"
    mark = ">" if transfers.is_send[entry] else "<"
    return f"it does not say which of the stages {names} is at the other end; {mark} names it"


class _Edge(NamedTuple):
    """The tensors that go from one stage to another: activations, or the gradients that come back."""

    backward: bool
    source: int
    target: int


def _edges(problem: Problem) -> list[_Edge]:
    """Return what must cross between ranks, for every micro-batch of the copy, in the order of packed names."""
    onward = [
        (source, target)
        for source, targets in enumerate(problem.successors)
        for target in targets
        if problem.owner_rank[source] != problem.owner_rank[target]
    ]
    back = [] if problem.form == "inference" else sorted((target, source) for source, target in onward)
    return [*(_Edge(False, *pair) for pair in onward), *(_Edge(True, *pair) for pair in back)]


def _uncrossed(case: Case, present: dict[int, IntArray]) -> Iterator[Violation | More]:
    """Tell what must cross and is neither sent nor received; in an excerpt only what is made and read in it.

    ``present`` has the micro-batches of what is sent or received, by packed name without the micro-batch.
    """
    from schedverify.verifier.matching import packed_edge

    edges, passing = _edges(case.problem), Passing(case.problem)
    computed = [by_group(keys) for keys in _computed(case)]
    nothing = np.empty(0, dtype=np.int64)

    def lacking(edge: _Edge) -> tuple[IntArray, IntArray]:
        """Return the runs of an edge; what stands to read a tensor of it is a run by itself."""
        crossing = present.get(packed_edge(*edge), nothing)
        made, read = (computed[edge.backward].get(stage, nothing) for stage in (edge.source, edge.target))
        wanted = np.setdiff1d(np.intersect1d(made, read) if case.excerpt else read, crossing)
        if case.excerpt:
            return wanted, wanted
        firsts, lasts = passing.without(edge.source, np.union1d(crossing, read))
        return np.sort(np.concatenate((firsts, wanted))), np.sort(np.concatenate((lasts, wanted)))

    yield from told_runs(map(lacking, edges), lambda group, run: _missing(case, edges[group], run))


def _computed(case: Case) -> tuple[IntArray, IntArray]:
    """Return the stages and micro-batches, packed, of which an F stands, and of which a B or I does."""
    ops = case.occurrences.ops
    gradients = (kinds(ops) == int(Kind.B)) | (kinds(ops) == int(Kind.I))
    return ops[kinds(ops) == int(Kind.F)] & PAIR_MASK, np.unique(ops[gradients] & PAIR_MASK)


def _missing(case: Case, edge: _Edge, run: Run) -> Violation:
    """Return the violation that tensors of an edge do not cross; what reads them stands only if it is one tensor."""
    main, letters = case.occurrences.main, (Kind.B, Kind.I) if edge.backward else (Kind.F,)
    read = [op for kind in letters if (op := Op(kind, edge.target, run.first)) in main]
    sends, receives = zip(*(_ends(case, edge, m) for m in dict.fromkeys(run)), strict=True)
    readers = [str(read[0] if read else Op(letters[0], edge.target, m)) for m in dict.fromkeys(run)]
    rank, position = main[read[0]][0] if read else (case.problem.owner_rank[edge.target], None)
    place = f"rank {rank}" if position is None else f"rank {rank}, position {position}"
    reads, ends = "it reads" if run.size == 1 else "they read", (" to ".join(sends), " to ".join(receives))
    message = f"{place} ({' to '.join(readers)}): what {reads} of stage {edge.source} is not sent, "
    message += f"{ends[0]} and {ends[1]} are missing"
    if run.size == 1:
        return Violation("SV301", message, rank, position, (readers[0], sends[0], receives[0]))
    return Violation("SV301", message, rank, position, sends, count=run.size)


def _ends(case: Case, edge: _Edge, m: int) -> tuple[str, str]:
    """Return the send and the receive of a tensor as text; the peer is named where the stage alone does not tell it."""
    backward, source, target = edge
    send, receive = (Kind.SEND_B, Kind.RECV_B) if backward else (Kind.SEND_F, Kind.RECV_F)
    onward, back = case.problem.successors, case.problem.predecessors
    several = [len((onward if side ^ backward else back)[s]) > 1 for side, s in ((True, source), (False, target))]
    ends = Op(send, source, m, target if several[0] else None), Op(receive, target, m, source if several[1] else None)
    return str(ends[0]), str(ends[1])


def _ends_of(case: Case, entry: int) -> tuple[str, str]:
    backward, source, target, m = case.transfers.tensor(int(case.transfers.name[entry]))
    return _ends(case, _Edge(backward, source, target), m)


def _misplaced(case: Case, entries: IntArray, ops: IntArray, *, is_send: bool) -> Iterator[Violation]:
    transfers = case.transfers
    position = transfers.position[entries]
    found = case.occurrences.first_on(ops, transfers.rank[entries])
    other = np.where(found >= 0, np.append(case.occurrences.step_position, 0)[found], -1)
    wrong = (other >= position) if is_send else (other >= 0) & (other <= position)
    verb = "makes what it sends" if is_send else "reads what it receives"
    for entry, word, place in zip(entries[wrong].tolist(), ops[wrong].tolist(), other[wrong].tolist(), strict=True):
        rank, at, op = transfers.place(entry)
        step = str(unpack(word))
        where = "in the same step" if place == at else f"{'behind' if is_send else 'before'} it at position {place}"
        yield violation_at("SV303", rank, at, op, f"{step}, which {verb}, stands {where}", step)
