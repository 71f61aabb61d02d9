"""The oracle of the properties that lowered schedules share with compute orders: SV1, SV2 and SV4.

The computing is judged by :mod:`compute_orders`, with the same positions. What communication adds is here: steps that
are none, sends, receives, waits and marks on foreign ranks, and the bytes of what was received and is not yet read, or
sent and not yet waited for. It imports nothing of schedverify.
"""

from __future__ import annotations

from collections.abc import Iterator

from oracle.compute_orders import both_ways, missing, repeats, runs_to_its_end, strays, torn
from oracle.law import Op, Place
from oracle.memory import bytes_by_step, crowded
from oracle.messages import Item, LoweredStep, Name, Program, Transfer, Wait

SHARED_CODES = ("SV101", "SV102", "SV103", "SV104", "SV201", "SV401", "SV402")


def shared_verdicts(program: Program) -> dict[str, bool]:
    """Say of each code whether the schedule violates it; of SV104 as far as computing goes."""
    case = program.case
    return {
        "SV101": bool(ill_formed_steps(program)),
        "SV102": bool(strays(case) or torn(case) or foreign(program)),
        "SV103": bool(missing(case)),
        "SV104": bool(repeats(case) or both_ways(case)),
        "SV201": not runs_to_its_end(case),
        "SV401": bool(crowded(case)),
        "SV402": bool(full_with_messages(program)),
    }


def ill_formed_steps(program: Program) -> set[Place]:
    """SV101: the steps that are no step of this problem."""
    return {
        (rank, position)
        for rank, row in enumerate(program.rows)
        for position, step in enumerate(row)
        if not has_form(step) or not all(map(program.law.admits_member, step.ops))
    }


def has_form(step: LoweredStep) -> bool:
    """Whether a step is one operation, an overlapped pair of one F and one B, or a group of sends and receives."""
    if step.form == "group":
        return all(isinstance(op, Transfer) for op in step.ops)
    kinds = sorted(op.kind for op in step.ops if isinstance(op, Op))
    return step.form == "single" or (len(step.ops) == 2 and kinds == ["B", "F"])


def foreign(program: Program) -> set[Place]:
    """SV102: where marks stand on a rank that is none of their stage's, sends and receives on any but the first."""
    found = set()
    for rank, row in enumerate(program.rows):
        for position, step in enumerate(row):
            for op in step.ops:
                if not isinstance(op, Op) and program.law.admits_member(op):
                    home = program.law.home[op.stage]
                    own = {home} if isinstance(op, Transfer | Wait) else program.law.ranks_of[op.stage]
                    found |= {(rank, position)} if rank not in own else set()
    return found


def received_by_step(program: Program, rank: int) -> Iterator[int]:
    """Bytes that a rank has received, or is receiving, and has not yet read, while each of its steps runs."""
    law = program.law
    held: list[Name] = []
    for ops, items in zip(program.computes[rank], program.items[rank], strict=True):
        held += [item.name for item in items if item.is_needed and not item.sends]
        yield sum(law.size(name) for name in held)
        held = [name for name in held if not set(law.readers(name)) & set(ops)]


def sent_by_step(program: Program, rank: int) -> list[int]:
    """Bytes of what a rank sends, or has sent, while each of its steps runs; nothing where it waits for no send.

    A gradient is held from its step on. An activation is among those of its pair until the pair ends, and held alone
    from then on. Both are let go when the wait for them is over. What is not there was done before the beginning.
    """
    row = program.items[rank]
    held = [0] * len(row)
    if not any(program.waits[rank]):
        return held
    for item in (item for items in row for item in items if item.sends and item.is_needed):
        until = program.let_go(item)
        for position in range(len(row)):
            if is_held(program, rank, item, position) and (until is None or position <= until):
                held[position] += program.law.size(item.name)
    return held


def is_held(program: Program, rank: int, item: Item, position: int) -> bool:
    """Whether the bytes of what is sent count by themselves at a position, if they are not let go."""
    source, microbatch = item.name.source, item.name.microbatch
    made = [at for _, at in program.first_on(rank, [Op(kind, source, microbatch) for kind in "BI"])]
    forward = [at for _, at in program.first_on(rank, [Op("F", source, microbatch)])]
    if item.name.letter == "B":
        return not made or position >= min(made)
    ended = forward if program.law.form == "inference" else made
    return position > min(ended) if ended else not forward


def total_by_step(program: Program, rank: int) -> list[int]:
    """All the bytes on a rank while each of its steps runs."""
    static = program.law.static[rank]
    parts = bytes_by_step(program.case, rank), received_by_step(program, rank), sent_by_step(program, rank)
    return [static + sum(each) for each in zip(*parts, strict=True)]


def full_with_messages(program: Program) -> set[Place]:
    """SV402: by rank, the first position above its capacity."""
    found = set()
    for rank in range(len(program.rows)) if program.law.capacity is not None else ():
        for position, count in enumerate(total_by_step(program, rank)):
            if count > program.law.capacity[rank]:
                found.add((rank, position))
                break
    return found
