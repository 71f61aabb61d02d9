"""The oracle's in-flight pairs and bytes, rank by rank; it imports nothing of schedverify."""

from __future__ import annotations

from collections.abc import Iterator

from oracle.law import Case, Op, Place


def before_the_beginning(case: Case, rank: int) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Of an excerpt: the pairs that this rank holds before its first step, whole, and reduced to the weight stash."""
    whole, reduced = set(), set()
    if case.excerpt:
        for pair in case.law.pairs():
            if case.stands("F", pair):
                continue
            here = {kind for kind in "BIW" if rank in case.ranks_with(Op(kind, *pair))}
            if here & {"B", "I"}:
                whole.add(pair)
            elif here and not case.stands("B", pair) and not case.stands("I", pair):
                reduced.add(pair)
    return whole, reduced


def in_flight_by_step(case: Case, rank: int) -> Iterator[set[tuple[int, int]]]:
    """The pairs in flight on a rank while each of its steps runs."""
    flying, _ = before_the_beginning(case, rank)
    for ops in case.known[rank]:
        flying = flying | {op.pair for op in ops if op.kind == "F"}
        yield flying
        ends = "F" if case.law.form == "inference" else "BI"
        flying = flying - {op.pair for op in ops if op.kind in ends}


def bytes_by_step(case: Case, rank: int) -> Iterator[int]:
    """The bytes on a rank, without the static part, while each of its steps runs."""
    law = case.law
    whole, stashed = before_the_beginning(case, rank)
    held = {pair: law.kept(pair[0]) for pair in whole} | {pair: law.weight_stash[pair[0]] for pair in stashed}
    reduced = set(stashed)
    for ops in case.known[rank]:
        for op in ops:
            if op.kind == "F":
                held[op.pair] = law.kept(op.stage)
                reduced.discard(op.pair)
        during = dict(held)
        for op in ops:
            if op.kind in "BI" and op.pair in held and op.pair not in reduced and law.recompute[op.stage]:
                during[op.pair] = law.activation[op.stage]
        yield sum(during.values())
        for op in ops:
            if op.kind == "B" or (op.kind == "F" and law.form == "inference"):
                held.pop(op.pair, None)
                reduced.discard(op.pair)
            elif op.kind == "I" and op.pair in held:
                held[op.pair] = law.weight_stash[op.stage]
                reduced.add(op.pair)
            elif op.kind == "W" and op.pair in reduced:
                del held[op.pair]
                reduced.discard(op.pair)


def crowded(case: Case) -> set[Place]:
    """SV401: by rank, the first position above the rank's limit and above each stage's limit."""
    law, found = case.law, set()
    for rank in range(len(case.rows)):
        over_rank = False
        over_stage: set[int] = set()
        for position, flying in enumerate(in_flight_by_step(case, rank)):
            if law.in_flight is not None and len(flying) > law.in_flight[rank] and not over_rank:
                over_rank = True
                found.add((rank, position))
            for stage in {stage for stage, _ in flying} - over_stage:
                count = sum(pair[0] == stage for pair in flying)
                if law.in_flight_stage is not None and count > law.in_flight_stage[stage]:
                    over_stage.add(stage)
                    found.add((rank, position))
    return found


def full(case: Case) -> set[Place]:
    """SV402: by rank, the first position above its capacity."""
    law, found = case.law, set()
    if law.capacity is not None:
        for rank in range(len(case.rows)):
            for position, count in enumerate(bytes_by_step(case, rank)):
                if law.static[rank] + count > law.capacity[rank]:
                    found.add((rank, position))
                    break
    return found
