"""Random lowered schedules of random small problems: the compute orders of :mod:`random_schedules`, lowered here.

The lowering is the tests' own, so that nothing of ``schedverify.lowering``, and so of the test kit's ``lowered``, is
needed to judge the verifier.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any, NamedTuple

from oracle.communication import Judge
from oracle.law import Op, Place, read_step
from oracle.lowered import total_by_step
from oracle.messages import Name, Program, Wires
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from support.random_schedules import Rows, random_data, random_rows
from support.random_waits import with_reduction_waits, with_waits


class LoweredBase(NamedTuple):
    problem: Problem
    data: dict[str, Any]
    rows: Rows
    """Right under every discipline, but for the buffer."""


def random_wires(rng: random.Random, data: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a problem with bytes of several sizes, now and then a buffer and declared boundaries."""
    stages = data["stages"] * data["replicas"]
    links = {"latency": 1, "bytes": [rng.randint(1, 4) for _ in range(stages)]}
    if rng.random() < 0.25:
        links["buffer"] = rng.randint(1, 3)
    wired = data | {"links": links}
    if rng.random() < 0.25:
        edges = data.get("edges", [[stage, stage + 1] for stage in range(data["stages"] - 1)])
        shapes = [[2, 4], [4, 4]]
        wired["boundary"] = [
            {"from": edge[0], "to": edge[1], "shape": rng.choice(shapes), "dtype": "float16"}
            for edge in edges
            if rng.random() < 0.9
        ]
    return wired


def walk(rng: random.Random, rows: Rows, law: Wires) -> list[tuple[str, list[int]]]:
    """Return the steps of valid rows, with their ranks, in an order that dependencies and rows allow."""
    at, done, order = [0] * len(rows), set(), []
    everything = {op for row in rows for text in row for op in read_step(text).ops}
    while any(at[rank] < len(row) for rank, row in enumerate(rows)):
        ready = []
        for rank, row in enumerate(rows):
            if at[rank] < len(row):
                ops = read_step(row[at[rank]]).ops
                ranks = sorted({on for op in ops for on in law.ranks_of[op.stage]})
                free = all(at[on] < len(rows[on]) and rows[on][at[on]] == row[at[rank]] for on in ranks)
                needed = {source for op in ops for source in law.reads(op)} & everything
                if free and needed <= done:
                    ready.append((row[at[rank]], ranks))
        text, ranks = rng.choice(ready)
        order.append((text, ranks))
        done.update(read_step(text).ops)
        for rank in ranks:
            at[rank] += 1
    return order


def lowered(rng: random.Random, rows: Rows, law: Wires) -> Rows:
    """Walk an order of the steps, and right after each append its sends, and the receives at the peers."""
    found: Rows = [[] for _ in rows]
    names_all = rng.random() < 0.3
    for text, ranks in walk(rng, rows, law):
        for rank in ranks:
            found[rank].append(text)
        for op in read_step(text).ops:
            for name in outputs(op, law):
                found[law.home[name.source]].append(end_of(name, True, law, names_all))
                found[law.home[name.target]].append(end_of(name, False, law, names_all))
    return found


def outputs(op: Op, law: Wires) -> list[Name]:
    """The messages that carry what an operation makes."""
    letter = {"F": "F", "B": "B", "I": "B"}.get(op.kind)
    targets = law.feeds[op.stage] if letter == "F" else law.fed_by[op.stage] if letter else []
    return [Name(letter, op.stage, to, op.microbatch) for to in targets if law.home[to] != law.home[op.stage]]


def end_of(name: Name, sends: bool, law: Wires, named: bool) -> str:
    """Write a send or its receive, with the peer stage where it is not the only one, or where it is asked for."""
    stage, peer = (name.source, name.target) if sends else (name.target, name.source)
    downstream = sends == (name.letter == "F")
    alone = len(law.feeds[stage] if downstream else law.fed_by[stage]) == 1
    text = f"{stage}{'SEND' if sends else 'RECV'}_{name.letter}{name.microbatch}"
    return text + (f"{'>' if sends else '<'}{peer}" if named or not alone else "")


def with_marks(rng: random.Random, rows: Rows, law: Wires) -> Rows:
    """Add UNSHARD and RESHARD around stretches of use, and REDUCE_GRAD behind the last B or W, or some of them."""
    found = [list(row) for row in rows]
    shards, reduces = rng.random() < 0.6, law.form != "inference" and rng.random() < 0.6
    for stage in range(law.stages):
        for rank in law.ranks_of[stage]:
            if shards and rng.random() < 0.8:
                found[rank] = sharded(rng, found[rank], stage)
            if reduces:
                last = max(uses(found[rank], stage, "BW"), default=-1)
                found[rank].insert(rng.randint(last + 1, len(found[rank])), f"{stage}REDUCE_GRAD")
    return found


def uses(row: list[str], stage: int, kinds: str) -> list[int]:
    return [
        position
        for position, text in enumerate(row)
        if "_" not in text.removesuffix("OVERLAP_F_B") and "SHARD" not in text
        if any(op.stage == stage and op.kind in kinds for op in read_step(text).ops)
    ]


def sharded(rng: random.Random, row: list[str], stage: int) -> list[str]:
    """Put UNSHARD and RESHARD around one stretch of uses after another."""
    found = list(row)
    left = uses(row, stage, "FBIW")
    while left:
        count = rng.randint(1, len(left))
        stretch, left = left[-count:], left[:-count]
        found.insert(stretch[-1] + 1, f"{stage}RESHARD")
        found.insert(stretch[0], f"{stage}UNSHARD")
    return found


def with_capacity(rng: random.Random, problem: Problem, rows: Rows) -> Problem:
    """Return the problem with a capacity at or above what the rows need, near to what a mutant may need."""
    data = problem.to_dict()
    program = Program(rows, data)
    most = [max([1, *total_by_step(program, rank)]) for rank in range(len(rows))]
    capacity = [count + rng.choice([0, 0, 1, 3]) for count in most]
    try:
        return Problem.of(data | {"memory": data["memory"] | {"capacity": capacity}})
    except InputError:
        # What one micro-batch needs is reckoned from the problem alone, and can be more.
        return problem


def with_counts(rng: random.Random, problem: Problem, rows: Rows) -> Problem:
    """Return the problem with limits of what is begun or unsharded at once, at or just above what the rows need."""
    data = problem.to_dict()
    limits = dict(data["limits"])
    for name in ("outstanding_sends", "unsharded") if unshards(rows) else ("outstanding_sends",):
        limits[name] = [1] * len(rows)
        while crowded := crowded_places(rows, data | {"limits": limits}, name):
            for rank, _ in crowded:
                limits[name][rank] += 1
        limits[name] = [count + rng.choice([0, 0, 0, 1]) for count in limits[name]]
    return Problem.of(data | {"limits": limits})


def unshards(rows: Rows) -> bool:
    return any("UNSHARD" in text for row in rows for text in row)


def crowded_places(rows: Rows, data: dict[str, Any], name: str) -> set[Place]:
    judge = Judge(rows, data)
    return judge.crowded_sends() if name == "outstanding_sends" else judge.crowded_weights()


@lru_cache(maxsize=4)
def lowered_base(number: int) -> LoweredBase:
    """Return the lowered schedule of a number; something crosses between its ranks."""
    for attempt in range(100):
        rng = random.Random(f"lowered base {number} {attempt}")
        problem = Problem.of(random_wires(rng, random_data(rng)))
        data = problem.to_dict()
        law = Wires(data)
        if law.messages():
            rows = lowered(rng, random_rows(rng, law), law)
            rows = with_marks(rng, rows, law) if rng.random() < 0.3 else rows
            if rng.random() < 0.35:
                rows = with_reduction_waits(rng, with_waits(rng, rows, wrong=0), wrong=0)
            problem = with_capacity(rng, problem, rows) if rng.random() < 0.2 else problem
            problem = with_counts(rng, problem, rows) if rng.random() < (0.9 if unshards(rows) else 0.3) else problem
            return LoweredBase(problem, problem.to_dict(), rows)
    raise AssertionError("no problem with messages in 100")
