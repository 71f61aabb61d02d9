"""A second judge of schedules, written from the law alone and sharing no code with schedverify.

It takes rows of step texts and the fully expanded data of a problem (``Problem.to_dict()``), parses the texts itself,
and says of each code whether it is violated. It is slow and plain on purpose: dictionaries, sets, and an executor
that really walks the rows. It imports nothing of schedverify.
"""

from __future__ import annotations

from typing import Any

from oracle.law import Case, Op, Place, case_of
from oracle.memory import bytes_by_step, crowded, full, in_flight_by_step

CODES = ("SV101", "SV102", "SV103", "SV104", "SV201", "SV401", "SV402")


def examine(
    rows: list[list[str]], problem: dict[str, Any], excerpt: bool = False
) -> tuple[dict[str, bool], dict[str, set[Place]]]:
    """Say of each code whether the schedule violates it, and of some where; see :func:`judge` and :func:`places`."""
    case = case_of(rows, problem, excerpt)
    where = {
        "SV101": ill_formed(case),
        "SV102": strays(case),
        "SV104": repeats(case),
        "SV401": crowded(case),
        "SV402": full(case),
    }
    verdicts = {
        "SV101": bool(where["SV101"]),
        "SV102": bool(where["SV102"] or torn(case)),
        "SV103": bool(missing(case)),
        "SV104": bool(where["SV104"] or both_ways(case)),
        "SV201": not runs_to_its_end(case),
        "SV401": bool(where["SV401"]),
        "SV402": bool(where["SV402"]),
    }
    return verdicts, where


def judge(rows: list[list[str]], problem: dict[str, Any], excerpt: bool = False) -> dict[str, bool]:
    """Say of each code whether the schedule violates it."""
    return examine(rows, problem, excerpt)[0]


def places(rows: list[list[str]], problem: dict[str, Any], excerpt: bool = False) -> dict[str, set[Place]]:
    """Say where: ill-formed steps, strays, repeats, and by rank the first position above each limit."""
    return examine(rows, problem, excerpt)[1]


def peaks(rows: list[list[str]], problem: dict[str, Any], excerpt: bool = False) -> dict[str, list[int]]:
    """Return the true peaks: pairs by rank (``in_flight``), by stage (``in_flight_stage``), bytes by rank."""
    case = case_of(rows, problem, excerpt)
    law = case.law
    by_rank, by_stage, by_bytes = [0] * law.ranks, [0] * law.stages, list(law.static)
    for rank in range(law.ranks):
        for pairs in in_flight_by_step(case, rank):
            by_rank[rank] = max(by_rank[rank], len(pairs))
            for stage in range(law.stages):
                by_stage[stage] = max(by_stage[stage], sum(pair[0] == stage for pair in pairs))
        by_bytes[rank] += max(bytes_by_step(case, rank), default=0)
    return {"in_flight": by_rank, "in_flight_stage": by_stage, "capacity": by_bytes}


# Structure


def ill_formed(case: Case) -> set[Place]:
    """SV101: the steps that are no step of this problem."""
    found = set()
    for rank, row in enumerate(case.rows):
        for position, step in enumerate(row):
            kinds = sorted(op.kind for op in step.ops)
            shape_fits = len(kinds) == 1 or (kinds == ["B", "F"] and not step.grouped)
            if not shape_fits or not all(case.law.admits(op) for op in step.ops):
                found.add((rank, position))
    return found


def strays(case: Case) -> set[Place]:
    """SV102, first half: every place of an operation on a rank that is none of its stage's."""
    return {
        (rank, position)
        for op, found in case.where.items()
        for rank, position in found
        if rank not in case.law.ranks_of[op.stage]
    }


def torn(case: Case) -> set[Op]:
    """SV102, second half: operations that stand on some of their stage's ranks and not on all."""
    return {
        op
        for op in case.where
        if case.ranks_with(op) & case.law.ranks_of[op.stage] and case.law.ranks_of[op.stage] - case.ranks_with(op)
    }


def missing(case: Case) -> set[Op]:
    """SV103: needed operations that stand nowhere; of a backward that lacks entirely, its B stands for it."""
    if case.excerpt:
        return set()
    found = set()
    for pair in case.law.pairs():
        if not case.stands("F", pair):
            found.add(Op("F", *pair))
        if case.law.form == "inference" or case.stands("B", pair):
            continue
        has_input, has_weight = case.stands("I", pair), case.stands("W", pair)
        if not has_input and not has_weight:
            found.add(Op("B", *pair))
        elif not has_input:
            found.add(Op("I", *pair))
        elif not has_weight:
            found.add(Op("W", *pair))
    return found


def missing_runs(rows: list[list[str]], problem: dict[str, Any]) -> list[tuple[tuple[str, ...], int]]:
    """SV103 as it is told: what lacks of one kind and stage, each run of successive micro-batches by its two ends.

    Of a backward that lacks entirely both parts lack where the form is split.
    """
    case = case_of(rows, problem, False)
    parts = ["I", "W"] if case.law.form == "split" else ["B"]
    lacking: dict[tuple[str, int], list[int]] = {}
    for op in missing(case):
        for kind in parts if op.kind == "B" else [op.kind]:
            lacking.setdefault((kind, op.stage), []).append(op.microbatch)
    found = []
    for (kind, stage), numbers in lacking.items():
        for m in sorted(numbers):
            if m - 1 in numbers:
                continue
            last = m
            while last + 1 in numbers:
                last += 1
            ends = (m,) if m == last else (m, last)
            found.append((tuple(f"{stage}{kind}{end}" for end in ends), last - m + 1))
    return found


def repeats(case: Case) -> set[Place]:
    """SV104, first half: the places of every occurrence in a rank's order after the first."""
    found = set()
    for rank, row in enumerate(case.known):
        seen = set()
        for position, ops in enumerate(row):
            for op in ops:
                if op in seen:
                    found.add((rank, position))
                seen.add(op)
    return found


def both_ways(case: Case) -> set[tuple[int, int]]:
    """SV104, second half: pairs with a B on a rank of their stage, and an I or W on one of them."""

    def stands_there(kind: str, pair: tuple[int, int]) -> bool:
        return bool(case.ranks_with(Op(kind, *pair)) & case.law.ranks_of[pair[0]])

    return {
        pair
        for pair in case.law.pairs()
        if stands_there("B", pair) and (stands_there("I", pair) or stands_there("W", pair))
    }


# Dependencies


def main_places(case: Case) -> dict[Op, set[Place]]:
    """Where an operation's readers look for it: first on its own ranks, else first on the lowest foreign rank."""
    main = {}
    for op, found in case.where.items():
        firsts = {rank: min(place for place in found if place[0] == rank) for rank, _ in found}
        own = {place for rank, place in firsts.items() if rank in case.law.ranks_of[op.stage]}
        main[op] = own or {firsts[min(firsts)]}
    return main


def fused_steps(case: Case, main: dict[Op, set[Place]]) -> dict[Place, frozenset[Place]]:
    """For each step, all the steps that must run with it as one."""
    team = {
        (rank, position): frozenset({(rank, position)})
        for rank, row in enumerate(case.rows)
        for position in range(len(row))
    }
    for joined in main.values():
        if len(joined) > 1:
            union = frozenset().union(*(team[place] for place in joined))
            for place in union:
                team[place] = union
    return team


def runs_to_its_end(case: Case) -> bool:
    """SV201: walk the rows; a step runs when every rank that takes part has reached it and its inputs are there."""
    main = main_places(case)
    team = fused_steps(case, main)
    reached = [0] * len(case.rows)
    done: set[Place] = set()

    def can_run(members: frozenset[Place]) -> bool:
        if any(reached[rank] != position for rank, position in members):
            return False
        for rank, position in members:
            for op in case.known[rank][position]:
                for needed in case.law.reads(op):
                    if not main.get(needed, set()) <= done:
                        return False
        return True

    progress = True
    while progress:
        progress = False
        for rank, row in enumerate(case.rows):
            if reached[rank] == len(row):
                continue
            members = team[rank, reached[rank]]
            if can_run(members):
                progress = True
                done |= members
                for member_rank, _ in members:
                    reached[member_rank] += 1
    return reached == [len(row) for row in case.rows]
