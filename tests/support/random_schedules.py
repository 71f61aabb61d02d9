"""Random valid schedules of random small problems, by a list scheduler of their own.

Everything follows from a number: ``base(number)`` is the same each time. The schedules are none of schedverify's
families, so that orders that no family has are judged too. They do not come from the test kit, because verifier and
oracle are held against each other on them: what is needed here follows the oracle's law, and they have slices, stage
graphs, stages on several ranks and overlapped pairs, which the kit does not draw.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any, NamedTuple

from oracle.compute_orders import peaks
from oracle.law import Law, Op
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem

Rows = list[list[str]]

MOST_PAIRS = 12
"""The most (stage, micro-batch) pairs that pass, so that twenty thousand schedules are judged in a minute."""


class Base(NamedTuple):
    problem: Problem
    data: dict[str, Any]
    rows: Rows
    fits: bool
    """Whether the limits leave room for the true peaks."""


# Problems


def random_data(rng: random.Random) -> dict[str, Any]:
    """Return the data of a small problem of any form and shape, without limits."""
    ranks = rng.randint(1, 4)
    slices = rng.choice([1, 1, 1, 2, 3])
    replicas = rng.choice([1, 1, 1, 2])
    stages = rng.randint(1, max(1, min(ranks * rng.randint(1, 3), 6) // replicas))
    most = max(1, MOST_PAIRS // stages // slices)
    microbatches = slices * rng.randint(1, min(most, 2 if slices > 1 else 5))
    total = stages * replicas
    form = rng.choice(["fused", "fused", "split", "split", "split", "inference"])
    data: dict[str, Any] = {
        "ranks": ranks,
        "microbatches": microbatches,
        "stages": stages,
        "placement": random_placement(rng, ranks, stages, replicas),
        "form": form,
        "slices": slices,
        "replicas": replicas,
        "costs": random_costs(rng, form, total),
        "links": random_links(rng, ranks, total),
        "memory": random_memory(rng, ranks, total),
    }
    if replicas > 1:
        data["replica_of"] = [
            copy for _ in range(microbatches // slices) for copy in [rng.randrange(replicas)] * slices
        ]
    if rng.random() < 0.3:
        data["edges"] = random_edges(rng, stages)
    if stages > 1 and microbatches % 2:
        data["tied"] = [[0, stages - 1]]
    return data


def random_placement(rng: random.Random, ranks: int, stages: int, replicas: int) -> Any:
    """Choose a named placement, or any rank or several for each stage."""
    kind = rng.choice(["loop", "v", "any", "several", "several"])
    if kind in ("loop", "v"):
        return kind

    def entry() -> Any:
        if kind == "several" and ranks > 1 and rng.random() < 0.5:
            return rng.sample(range(ranks), rng.randint(2, min(3, ranks)))
        return rng.randrange(ranks)

    copies = [[entry() for _ in range(stages)] for _ in range(replicas)]
    return copies if replicas > 1 else copies[0]


def random_edges(rng: random.Random, stages: int) -> list[list[int]]:
    """Return any DAG over the stages, not necessarily numbered along its edges."""
    order = rng.sample(range(stages), stages)
    density = rng.choice([0.3, 0.6, 1.0])
    return [[order[i], order[j]] for j in range(stages) for i in range(j) if rng.random() < density]


def random_costs(rng: random.Random, form: str, stages: int) -> dict[str, Any]:
    costs: dict[str, Any] = {"forward": [rng.randint(0, 4) for _ in range(stages)]}
    if form == "split":
        costs |= {"backward_input": rng.randint(0, 3), "backward_weight": rng.randint(0, 3)}
    if form == "fused":
        costs["backward"] = [rng.randint(0, 6) for _ in range(stages)]
    if form != "inference" and rng.random() < 0.2:
        costs["overlapped"] = random_overlaps(rng, stages)
    return costs


def random_overlaps(rng: random.Random, stages: int) -> list[dict[str, int]]:
    """Return a cost of its own for some overlapped pairs of stages, below or above the sum."""
    pairs = [(forward, backward) for forward in range(stages) for backward in range(stages)]
    chosen = rng.sample(pairs, min(len(pairs), 3))
    return [{"forward": forward, "backward": backward, "cost": rng.randint(0, 9)} for forward, backward in chosen]


def random_links(rng: random.Random, ranks: int, stages: int) -> dict[str, Any]:
    """Return one latency or one for each link, and now and then bytes and bandwidths as well."""
    if rng.random() < 0.5:
        return {"latency": rng.randint(0, 3)}
    links: dict[str, Any] = {"latency": [[rng.randint(0, 3) for _ in range(ranks)] for _ in range(ranks)]}
    if rng.random() < 0.5:
        links["bytes"] = [rng.randint(0, 5) for _ in range(stages)]
        links["bandwidth"] = [[rng.randint(1, 3) for _ in range(ranks)] for _ in range(ranks)]
    return links


def random_memory(rng: random.Random, ranks: int, stages: int) -> dict[str, Any]:
    activation = [rng.randint(0, 5) for _ in range(stages)]
    share = rng.random() < 0.4
    return {
        "activation": activation,
        "weight_stash": [rng.randint(0, count) for count in activation],
        "recompute": [share and rng.random() < 0.6 for _ in range(stages)],
        "boundary": [rng.randint(0, 3) for _ in range(stages)],
        "static": [rng.choice([0, 0, 7]) for _ in range(ranks)],
    }


# Valid schedules


def random_rows(rng: random.Random, law: Law) -> Rows:
    """List-schedule every needed operation in a random order that its inputs allow."""
    waiting = needed_operations(rng, law)
    done: set[Op] = set()
    rows: Rows = [[] for _ in range(law.ranks)]
    taste = {kind: rng.choice([1, 3, 20]) for kind in "FBIW"}
    overlaps = rng.choice([0.0, 0.0, 0.5, 1.0]) if law.form != "inference" else 0.0
    everything = set(waiting)
    while waiting:
        ready = [op for op in waiting if law.reads(op) & everything <= done]
        op = rng.choices(ready, [taste[op.kind] for op in ready])[0]
        team = (
            joined(rng, law, op, ready) if rng.random() < overlaps else {rank: [op] for rank in law.ranks_of[op.stage]}
        )
        for rank, step in team.items():
            rows[rank].append(written(step))
            done.update(step)
        waiting = [op for op in waiting if op not in done]
    return rows


def joined(rng: random.Random, law: Law, op: Op, ready: list[Op]) -> dict[int, list[Op]]:
    """Return by rank the steps that start as one with an operation, some of them overlapped pairs.

    A pair of stages that share some ranks only stands on those; on their other ranks each of its operations stands
    alone, or in a pair with a third one.
    """
    team = {rank: [op] for rank in law.ranks_of[op.stage]}
    others = [other for other in ready if other != op]
    rng.shuffle(others)
    for other in others:
        shared = law.ranks_of[other.stage] & team.keys()
        partners = {partner for rank in shared for partner in team[rank]}
        free = all(len(team[rank]) == 1 for rank in shared)
        fits = all({other.kind, partner.kind} == {"F", "B"} for partner in partners)
        if shared and free and fits and rng.random() < 0.7:
            for rank in law.ranks_of[other.stage]:
                team.setdefault(rank, []).append(other)
    return team


def needed_operations(rng: random.Random, law: Law) -> list[Op]:
    """Choose for each pair one B, or one I and one W, where the form is split."""
    split = rng.choice([0.0, 0.5, 1.0]) if law.form == "split" else 0.0
    found = []
    for stage, microbatch in law.pairs():
        kinds = "F" if law.form == "inference" else "FIW" if rng.random() < split else "FB"
        found += [Op(kind, stage, microbatch) for kind in kinds]
    return found


def written(ops: list[Op], group: bool = False) -> str:
    texts = [f"{op.stage}{op.kind}{op.microbatch}" for op in ops]
    if len(ops) == 1:
        return texts[0]
    return f"[{';'.join(texts)}]" if group else f"({';'.join(texts)})OVERLAP_F_B"


def read(text: str) -> list[Op]:
    """Take apart what :func:`written` wrote."""
    inner = text.removesuffix("OVERLAP_F_B").strip("()[]")
    found = []
    for member in inner.split(";"):
        kind = next(letter for letter in member if letter.isalpha())
        stage, _, microbatch = member.partition(kind)
        found.append(Op(kind, int(stage), int(microbatch)))
    return found


# Limits at, just above and just below the true peaks


def with_limits(rng: random.Random, data: dict[str, Any], rows: Rows) -> tuple[dict[str, Any], bool]:
    """Return the data with some limits, and whether the rows fit them."""
    true = peaks(rows, Problem.of(data).to_dict())
    slack = rng.choice([[0], [0, 1], [2], [-1, 0, 0, 1]])
    limits, memory = {}, dict(data["memory"])
    fits = True
    for name in rng.choice([(), ("in_flight",), ("in_flight_stage",), ("capacity",), ("capacity",), tuple(true)]):
        values = [max(peak + rng.choice(slack), 1) for peak in true[name]]
        fits = fits and all(value >= peak for value, peak in zip(values, true[name], strict=True))
        (memory if name == "capacity" else limits)[name] = values
    limited = data | {"limits": limits, "memory": memory}
    try:
        Problem.of(limited)
    except InputError:
        # A capacity below what one micro-batch needs is refused; the true peaks never are.
        return data | {"limits": true_limits(true), "memory": data["memory"] | {"capacity": true["capacity"]}}, True
    return limited, fits


def true_limits(true: dict[str, list[int]]) -> dict[str, list[int]]:
    return {name: [max(value, 1) for value in true[name]] for name in ("in_flight", "in_flight_stage")}


@lru_cache(maxsize=4)
def base(number: int) -> Base:
    """Return the valid schedule of a number; its limits may lie below its peaks."""
    rng = random.Random(f"base {number}")
    data = random_data(rng)
    rows = random_rows(rng, Law(Problem.of(data).to_dict()))
    data, fits = with_limits(rng, data, rows)
    problem = Problem.of(data)
    return Base(problem, problem.to_dict(), rows, fits)
