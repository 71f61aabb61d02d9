"""Faults put into valid schedules by name. ``mutant(seed)`` gives the same problem, rows and faults each time.

The test kit's mutations are wrong by design. These are drawn blindly, several at a time, and may leave a schedule
right: only so can two judges be held against each other, and false rejects be counted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from oracle.law import Law, Op
from schedverify.core.problem import Problem
from support.random_schedules import Rows, base, read, written

MUTANTS_OF_A_BASE = 16

Fault = Callable[[random.Random, Rows, Law], None]
"""Takes a generator of random numbers, rows that it may change, and the law."""


class Mutant(NamedTuple):
    problem: Problem
    rows: Rows
    name: str


def spots(rows: Rows) -> list[tuple[int, int]]:
    return [(rank, position) for rank, row in enumerate(rows) for position in range(len(row))]


def spot(rng: random.Random, rows: Rows) -> tuple[int, int]:
    return rng.choice(spots(rows))


def put(rng: random.Random, row: list[str], text: str) -> None:
    row.insert(rng.randint(0, len(row)), text)


def swap(rng: random.Random, rows: Rows, law: Law) -> None:
    """Swap two steps of one rank, neighbours half of the time."""
    rank, first = spot(rng, rows)
    row = rows[rank]
    second = min(first + 1, len(row) - 1) if rng.random() < 0.5 else rng.randrange(len(row))
    row[first], row[second] = row[second], row[first]


def move(rng: random.Random, rows: Rows, law: Law) -> None:
    rank, position = spot(rng, rows)
    put(rng, rows[rank], rows[rank].pop(position))


def drop(rng: random.Random, rows: Rows, law: Law) -> None:
    """Drop a step, or one member of it."""
    rank, position = spot(rng, rows)
    ops = read(rows[rank][position])
    if len(ops) > 1 and rng.random() < 0.5:
        rows[rank][position] = written([rng.choice(ops)])
    else:
        del rows[rank][position]


def drop_everywhere(rng: random.Random, rows: Rows, law: Law) -> None:
    """Drop an operation from every rank that has it, so that it stands nowhere."""
    rank, position = spot(rng, rows)
    gone = rng.choice(read(rows[rank][position]))
    for row in rows:
        kept = [[op for op in read(text) if op != gone] for text in row]
        row[:] = [written(ops) for ops in kept if ops]


def cut_front(rng: random.Random, rows: Rows, law: Law) -> None:
    """Drop the beginning of one rank's order, or of each: what an excerpt lacks."""
    chosen = [rng.choice(rows)] if rng.random() < 0.5 else rows
    for row in chosen:
        del row[: rng.randint(0, min(3, len(row)))]


def double(rng: random.Random, rows: Rows, law: Law) -> None:
    rank, position = spot(rng, rows)
    put(rng, rows[rank], rows[rank][position])


def double_member(rng: random.Random, rows: Rows, law: Law) -> None:
    rank, position = spot(rng, rows)
    put(rng, rows[rank], written([rng.choice(read(rows[rank][position]))]))


def to_another_rank(rng: random.Random, rows: Rows, law: Law) -> None:
    rank, position = spot(rng, rows)
    put(rng, rng.choice(rows), rows[rank].pop(position))


def also_on_another_rank(rng: random.Random, rows: Rows, law: Law) -> None:
    rank, position = spot(rng, rows)
    put(rng, rng.choice(rows), rows[rank][position])


def swap_ranks(rng: random.Random, rows: Rows, law: Law) -> None:
    """Exchange the orders of two ranks, whole or from some position on."""
    first, second = rng.randrange(len(rows)), rng.randrange(len(rows))
    cut = rng.choice([0, rng.randint(0, max(map(len, rows)))])
    if first != second:
        tail = rows[first][cut:]
        rows[first][cut:] = rows[second][cut:]
        rows[second][cut:] = tail


def change(rng: random.Random, rows: Rows, make: Callable[[Op], Op]) -> None:
    """Change one operation of one step."""
    rank, position = spot(rng, rows)
    ops = read(rows[rank][position])
    chosen = rng.randrange(len(ops))
    ops[chosen] = make(ops[chosen])
    rows[rank][position] = written(ops)


def another(rng: random.Random, index: int, bound: int) -> int:
    """Return a neighbour of an index, or any up to one too many."""
    return rng.choice([max(index - 1, 0), index + 1, rng.randint(0, bound)])


def another_stage(rng: random.Random, rows: Rows, law: Law) -> None:
    change(rng, rows, lambda op: op._replace(stage=another(rng, op.stage, law.stages)))


def another_microbatch(rng: random.Random, rows: Rows, law: Law) -> None:
    change(rng, rows, lambda op: op._replace(microbatch=another(rng, op.microbatch, law.microbatches)))


def another_kind(rng: random.Random, rows: Rows, law: Law) -> None:
    change(rng, rows, lambda op: op._replace(kind=rng.choice("FBIW")))


def rename(rows: Rows, names: dict[Op, Op]) -> None:
    """Put other operations in the place of some, in the rows themselves."""
    for row in rows:
        row[:] = [written([names.get(op, op) for op in read(text)]) for text in row]


def rename_everywhere(rng: random.Random, rows: Rows, law: Law) -> None:
    """Give one operation another kind or micro-batch wherever it stands, so that ranks still agree on it."""
    rank, position = spot(rng, rows)
    old = rng.choice(read(rows[rank][position]))
    new = old._replace(kind=rng.choice("FBIW"))
    if rng.random() < 0.5:
        new = old._replace(microbatch=another(rng, old.microbatch, law.microbatches))
    rename(rows, {old: new})


def exchange_names(rng: random.Random, rows: Rows, law: Law) -> None:
    """Exchange two operations of one rank, out of whatever steps they stand in."""
    rank, position = spot(rng, rows)
    one = rng.choice(read(rows[rank][position]))
    two = rng.choice(read(rng.choice(rows[rank])))
    rename([rows[rank]], {one: two, two: one})


def backward_beside(rng: random.Random, rows: Rows, law: Law) -> None:
    """Put a B beside an I or W of the same pair, or an I or W beside its B, or a W before its I."""
    rank, position = spot(rng, rows)
    op = rng.choice(read(rows[rank][position]))
    beside = op._replace(kind=rng.choice("IW" if op.kind == "B" else "B" if op.kind in "IW" else "BIW"))
    put(rng, rows[rank] if rng.random() < 0.8 else rng.choice(rows), written([beside]))


def weight_first(rng: random.Random, rows: Rows, law: Law) -> None:
    """Exchange the kinds of an I and its W wherever they stand."""
    rank, position = spot(rng, rows)
    stage, microbatch = rng.choice(read(rows[rank][position])).pair
    one, two = Op("I", stage, microbatch), Op("W", stage, microbatch)
    rename(rows, {one: two, two: one})


def make_pair(rng: random.Random, rows: Rows, law: Law) -> None:
    """Join two steps of a rank into one, neighbours half of the time; now and then in brackets."""
    rank, first = spot(rng, rows)
    row = rows[rank]
    second = first + 1 if rng.random() < 0.5 else rng.randrange(len(row))
    if second != first and second < len(row):
        row[first] = written(read(row[first]) + read(row[second]), group=rng.random() < 0.2)
        del row[second]


def make_pair_of_kinds(rng: random.Random, rows: Rows, law: Law) -> None:
    """Join one F and one B of a rank into an overlapped pair, wherever they stand."""
    row = rng.choice(rows)
    forwards = [i for i, text in enumerate(row) if read(text)[0].kind == "F" and len(read(text)) == 1]
    backwards = [i for i, text in enumerate(row) if read(text)[0].kind == "B" and len(read(text)) == 1]
    if forwards and backwards:
        first, second = rng.choice(forwards), rng.choice(backwards)
        row[first] = written(read(row[first]) + read(row[second]))
        del row[second]


def join_own_parts(rng: random.Random, rows: Rows, law: Law) -> None:
    """Put another operation of the same stage and micro-batch into a step: one that the rank has, or a new one."""
    rank, position = spot(rng, rows)
    row = rows[rank]
    ops = read(row[position])
    part = rng.choice(ops)._replace(kind=rng.choice("FBIW"))
    row[position] = written([*ops, part] if rng.random() < 0.5 else [part, *ops], group=rng.random() < 0.2)
    others = [i for i, text in enumerate(row) if i != position and text == written([part])]
    if others and rng.random() < 0.7:
        del row[others[0]]


def break_pair(rng: random.Random, rows: Rows, law: Law) -> None:
    """Split an overlapped pair into two steps, or put brackets around it; without one, swap."""
    pairs = [(rank, i) for rank, i in spots(rows) if len(read(rows[rank][i])) > 1]
    if not pairs:
        swap(rng, rows, law)
        return
    rank, position = rng.choice(pairs)
    ops = read(rows[rank][position])
    if rng.random() < 0.2:
        rows[rank][position] = written(ops, group=True)
    else:
        rng.shuffle(ops)
        rows[rank][position : position + 1] = [written([op]) for op in ops]


def shuffle_row(rng: random.Random, rows: Rows, law: Law) -> None:
    rng.shuffle(rng.choice(rows))


FAULTS: dict[str, Fault] = {
    "swap": swap,
    "move": move,
    "drop": drop,
    "drop everywhere": drop_everywhere,
    "cut the front": cut_front,
    "double": double,
    "double a member": double_member,
    "to another rank": to_another_rank,
    "also on another rank": also_on_another_rank,
    "swap ranks": swap_ranks,
    "another stage": another_stage,
    "another micro-batch": another_microbatch,
    "another kind": another_kind,
    "rename everywhere": rename_everywhere,
    "exchange names": exchange_names,
    "B beside I or W": backward_beside,
    "W before I": weight_first,
    "make a pair": make_pair,
    "make an F and B pair": make_pair_of_kinds,
    "break a pair": break_pair,
    "join a pair's own parts": join_own_parts,
    "shuffle a rank": shuffle_row,
}


def faulty(rng: random.Random, rows: Rows, law: Law) -> tuple[Rows, str]:
    """Return a copy of rows with one fault in it, or now and then several, and their names."""
    mutated = [list(row) for row in rows]
    chosen = rng.choices(list(FAULTS), k=rng.choice([1, 1, 1, 1, 2, 3]))
    for name in chosen:
        if any(mutated):
            FAULTS[name](rng, mutated, law)
    return mutated, " + ".join(chosen)


def mutant(seed: int) -> Mutant:
    """Return the mutant of a seed: its problem, its rows, and the names of the faults."""
    found = base(seed // MUTANTS_OF_A_BASE)
    rows, name = faulty(random.Random(f"mutant {seed}"), found.rows, Law(found.data))
    return Mutant(found.problem, rows, name)
