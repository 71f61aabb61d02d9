"""Hypothesis strategies for values of every shape: the data of problem files, and schedules of the whole grammar.

The test kit draws problems that a scheduler can be asked for and orders that are right; here every key of a file has
its chance, and every step that can be written, because readers and values must take them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from schedverify.core.errors import InputError
from schedverify.core.op import Join, Kind, Op, Step
from schedverify.core.problem import Problem
from schedverify.core.problem.keys import OBJECTIVES
from schedverify.core.schedule import Schedule

COSTS = st.integers(0, 1 << 40)
TEXTS = st.text(st.characters(categories=("L", "N", "P", "S"), include_characters=" "), max_size=12)


def by(lengths: tuple[int, ...], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw a number for all, or a list of one of the lengths."""
    return st.one_of(values, *(st.lists(values, min_size=n, max_size=n) for n in lengths))


def some(keys: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw a table with any of the keys."""
    return st.fixed_dictionaries({}, optional=keys)


@st.composite
def problem_data(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the data of a valid problem file; every key has its chance."""
    ranks, replicas = draw(st.integers(1, 5)), draw(st.sampled_from([1, 1, 2, 3]))
    slices = draw(st.sampled_from([1, 1, 2, 3]))
    microbatches = slices * draw(st.integers(1, 5))
    data: dict[str, Any] = {"ranks": ranks, "microbatches": microbatches, "slices": slices, "replicas": replicas}
    data |= draw(some({"version": st.just(1), "name": TEXTS, "source": TEXTS, "tick": TEXTS}))
    stages = _placement(draw, data, ranks, replicas)
    data |= _graph(draw, stages)
    if draw(st.booleans()):
        copies = draw(st.lists(st.integers(0, replicas - 1), min_size=microbatches // slices, max_size=microbatches))
        data["replica_of"] = [copy for copy in copies[: microbatches // slices] for _ in range(slices)]
    data["form"] = draw(st.sampled_from(["fused", "split", "inference"]))
    sizes = (stages, stages * replicas)
    data["costs"] = _costs(draw, data["form"], sizes)
    data["links"] = draw(some(_links(ranks, sizes)))
    data["memory"] = {"activation": 10} | draw(some(_memory(ranks, sizes)))
    data["limits"] = draw(some(_limits(ranks, sizes)))
    first, second = draw(st.permutations(OBJECTIVES))[:2]
    data["objective"] = draw(some({"minimize": st.just(first)}))
    if data["objective"] and draw(st.booleans()):
        data["objective"]["then"] = second
    if edges := Problem.of(data).edges:
        data["boundary"] = draw(st.lists(_boundary(edges), max_size=2))
    return data


def _placement(draw: st.DrawFn, data: dict[str, Any], ranks: int, replicas: int) -> int:
    kind = draw(st.sampled_from(["virtual", "stages", "list"]))
    if kind == "virtual":
        data["virtual"] = draw(st.integers(1, 3))
        return ranks * data["virtual"]
    stages = draw(st.integers(1, 8))
    if kind == "stages":
        data |= {"stages": stages, "placement": draw(st.sampled_from(["loop", "v"]))}
        return stages
    rank = st.integers(0, ranks - 1)
    entry = rank | st.lists(rank, min_size=1, max_size=ranks, unique=True)
    copies = [draw(st.lists(entry, min_size=stages, max_size=stages)) for _ in range(replicas)]
    data["placement"] = copies if replicas > 1 else copies[0]
    return stages


def _graph(draw: st.DrawFn, stages: int) -> dict[str, Any]:
    if stages == 1:
        return draw(some({"edges": st.just([]), "tied": st.just([])}))
    stage = st.integers(0, stages - 1)
    edge = st.tuples(stage, stage).filter(lambda pair: pair[0] != pair[1]).map(sorted)
    group = st.lists(stage, min_size=2, max_size=3, unique=True) if stages > 2 else st.just([0, 1])
    names = st.just([[f"l{stage}", f"m{stage}"][: stage % 3] for stage in range(stages)])
    return draw(some({"edges": st.lists(edge, max_size=12, unique_by=tuple), "tied": st.lists(group, max_size=2),
                      "partition": names}))  # fmt: skip


def _costs(draw: st.DrawFn, form: str, sizes: tuple[int, ...]) -> dict[str, Any]:
    costs: dict[str, Any] = {"forward": draw(by(sizes, COSTS))}
    parts = form == "split" or draw(st.booleans())
    if parts:
        costs |= {name: draw(by(sizes, COSTS)) for name in ("backward_input", "backward_weight")}
    if draw(st.booleans()) or (form == "fused" and not parts):
        costs["backward"] = draw(by(sizes, COSTS))
    if draw(st.booleans()):
        pairs = st.tuples(st.integers(0, sizes[-1] - 1), st.integers(0, sizes[-1] - 1))
        rows = draw(st.lists(pairs, max_size=3, unique=True))
        costs["overlapped"] = [{"forward": f, "backward": b, "cost": draw(COSTS)} for f, b in rows]
    return costs


def _links(ranks: int, sizes: tuple[int, ...]) -> dict[str, st.SearchStrategy[Any]]:
    def square(values: st.SearchStrategy[int]) -> st.SearchStrategy[Any]:
        return values | st.lists(st.lists(values, min_size=ranks, max_size=ranks), min_size=ranks, max_size=ranks)

    return {"latency": square(COSTS), "bytes": by(sizes, COSTS), "bandwidth": square(st.integers(1, 99)),
            "buffer": st.integers(1, 9)}  # fmt: skip


def _memory(ranks: int, sizes: tuple[int, ...]) -> dict[str, st.SearchStrategy[Any]]:
    roomy = st.integers(1 << 50, 1 << 60)
    return {
        "activation": by(sizes, st.integers(10, 99) | st.just("1.5 KiB")), "weight_stash": by(sizes, st.integers(0, 9)),
        "recompute": by(sizes, st.booleans()), "boundary": by(sizes, st.integers(0, 9)),
        "static": by((ranks,), COSTS), "capacity": by((ranks,), roomy),
    }  # fmt: skip


def _limits(ranks: int, sizes: tuple[int, ...]) -> dict[str, st.SearchStrategy[Any]]:
    count = st.integers(1, 99)
    return {
        "in_flight": by((ranks,), count), "in_flight_stage": by(sizes, count), "makespan": count,
        "outstanding_sends": by((ranks,), count), "unsharded": by((ranks,), count),
    }  # fmt: skip


def _boundary(edges: tuple[tuple[int, int], ...]) -> st.SearchStrategy[dict[str, Any]]:
    rest = some({"shape": st.lists(st.integers(1, 99), max_size=3), "dtype": TEXTS, "bytes": COSTS | st.just("2 MB")})
    return st.builds(lambda edge, keys: {"from": edge[0], "to": edge[1]} | keys, st.sampled_from(edges), rest)


def problems() -> st.SearchStrategy[Problem]:
    """Draw a problem of any shape."""
    return problem_data().map(Problem.of)


def ops(kinds: list[Kind], peers: bool) -> st.SearchStrategy[Op]:
    """Draw an operation of one of the kinds."""

    def build(kind: Kind, stage: int, microbatch: int, peer: int | None) -> Op:
        numbered = kind < Kind.UNSHARD
        return Op(kind, stage, microbatch if numbered else None, peer if kind.is_communication else None)

    index = st.integers(0, 9) | st.integers(0, 65_534)
    peer = st.none() | index if peers else st.none()
    return st.builds(build, st.sampled_from(kinds), index, st.integers(0, 99) | st.integers(0, (1 << 24) - 1), peer)


def steps(*, groups: bool = True) -> st.SearchStrategy[Step]:
    """Draw a step of the whole grammar; without ``groups`` one that PyTorch's CSV can hold."""
    known = [kind for kind in Kind if groups or not kind.name.startswith("WAIT")]
    single = ops(known, peers=groups).map(lambda op: Step((op,)))
    pair = st.tuples(ops([Kind.F], False), ops([Kind.B, Kind.I], False)).map(lambda pair: Step(pair, Join.OVERLAP))
    transfers = st.lists(ops([k for k in Kind if k.is_transfer], True), min_size=2, max_size=4)
    group = transfers.map(lambda members: Step(tuple(members), Join.GROUP))
    return st.one_of(single, pair, group) if groups else st.one_of(single, pair)


def schedules(*, groups: bool = True) -> st.SearchStrategy[Schedule]:
    """Draw a schedule of any orders, right or wrong, with empty ranks."""
    return st.lists(st.lists(steps(groups=groups), max_size=6), min_size=1, max_size=5).map(Schedule.of)


def read_or_refused(read: Callable[[], Any], kind: type) -> bool:
    """Whether reading gives a value of a kind, or an InputError that is safe to print; anything else is raised."""
    try:
        return isinstance(read(), kind)
    except InputError as error:
        return all(line.isprintable() for line in str(error).splitlines())
