"""Hypothesis strategy for problems so small that all of their orders can be tried; every feature has its chance.

The test kit bounds ranks and micro-batches; brute force needs a bound on the operations of each rank and in all, and
limits that no schedule keeps.
"""

from __future__ import annotations

from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from schedverify.core.problem import Problem
from schedverify.core.problem.checks import least_capacity
from support.strategies import by, some

LOADS = {"fused": 2, "split": 3, "mixed": 3, "inference": 2}
"""Operations of a stage and micro-batch; F alone counts twice, since many micro-batches alike have too many orders."""
FORMS = ("fused", "fused", "fused", "split", "split", "mixed", "mixed", "inference")


@st.composite
def tiny_problems(draw: st.DrawFn, a_rank: int = 8, in_all: int = 18, forms: tuple[str, ...] = FORMS) -> Problem:
    """Draw a problem with at most so many operations on each rank and in all."""
    form = draw(st.sampled_from(forms))
    data: dict[str, Any] = {"form": "split" if form == "mixed" else form}
    stages = _shape(draw, data, a_rank // LOADS[form], in_all // LOADS[form])
    if stages > 1 and draw(st.sampled_from([True, False, False])):
        data["edges"] = [(before, after) for after in range(1, stages) for before in draw(_feeding(after))]
    fitting = _fitting(data, LOADS[form], a_rank, in_all)
    assume(fitting)
    data["microbatches"] = draw(st.sampled_from([*fitting[:1] * 2, *fitting]))
    sizes = (stages * data["replicas"],)
    data["costs"] = draw(st.fixed_dictionaries(_costs(form, sizes)))
    data["links"] = draw(some(_links(data["ranks"], sizes)))
    data["memory"] = _memory(draw, data["ranks"], sizes)
    most = st.sampled_from([2, 1, 3])
    data["limits"] = draw(some({"in_flight": by((data["ranks"],), most), "in_flight_stage": by(sizes, most)}))
    if draw(st.booleans()):
        problem = Problem.of(data)
        spare = st.sampled_from([0, 0, 1, 2, 3, 6])
        data["memory"]["capacity"] = [need + draw(spare) for need in least_capacity(problem)]
    return Problem.of(data)


def _shape(draw: st.DrawFn, data: dict[str, Any], a_rank: int, in_all: int) -> int:
    """Draw ranks, copies, slices and the placement, for so many micro-batches of a stage; return a copy's stages.

    A placement is a name, or a list that may leave out a rank and put a stage on two.
    """
    slices = draw(st.sampled_from([1, 1, 1, 2][: 2 + a_rank]))
    virtual = draw(st.sampled_from([1, 1, 2][: 1 + a_rank // slices]))
    ranks = draw(st.sampled_from([3, 2, 4, 1][: in_all // slices // virtual]))
    data |= {"ranks": ranks, "slices": slices, "replicas": draw(st.sampled_from([1, 1, 1, 2]))}
    kind = draw(st.sampled_from(["loop", "loop", "v", "list"]))
    if kind != "list":
        data |= {"placement": kind, "virtual": virtual}
        return ranks * virtual
    stages, rank = draw(st.integers(1, min(ranks + 1, in_all // slices))), st.integers(0, ranks - 1)
    entry = rank | st.lists(rank, min_size=1, max_size=2, unique=True)
    copies = [draw(st.lists(entry, min_size=stages, max_size=stages)) for _ in range(data["replicas"])]
    data["placement"] = copies if data["replicas"] > 1 else copies[0]
    return stages


def _feeding(stage: int) -> st.SearchStrategy[list[int]]:
    """Draw which stages feed one: mostly one or two, now and then none."""
    before = st.sampled_from(range(stage))
    return st.sampled_from([1, 1, 1, 1, 0]).flatmap(
        lambda least: st.lists(before, min_size=least, max_size=2 * least, unique=True)
    )


def _fitting(data: dict[str, Any], load: int, a_rank: int, in_all: int) -> list[int]:
    """Return the numbers of micro-batches for which the operations are few enough, the most first."""
    fitting = []
    for microbatches in range(data["slices"], a_rank * data["replicas"] + 1, data["slices"]):
        shape = Problem.of({**data, "microbatches": microbatches, "form": "inference", "costs": {"forward": 1}})
        passing = [shape.replica_of.count(stage // shape.stages) * load for stage in range(shape.total_stages)]
        if sum(passing) <= in_all and all(sum(passing[s] for s in row) <= a_rank for row in shape.stages_of):
            fitting.insert(0, microbatches)
    return fitting


def _costs(form: str, sizes: tuple[int, ...]) -> dict[str, st.SearchStrategy[Any]]:
    tick = st.integers(0, 5) | st.integers(1, 3)
    uneven = st.lists(tick, min_size=sizes[0], max_size=sizes[0])
    ticks = st.sampled_from([uneven, uneven, tick]).flatmap(lambda kind: kind)
    costs = {"forward": ticks}
    if form in ("split", "mixed"):
        costs |= {"backward_input": ticks, "backward_weight": ticks}
    if form in ("fused", "mixed"):
        costs["backward"] = by(sizes, st.integers(0, 8))
    return costs


def _links(ranks: int, sizes: tuple[int, ...]) -> dict[str, st.SearchStrategy[Any]]:
    lag = st.integers(0, 4)
    row = st.lists(lag, min_size=ranks, max_size=ranks)
    square = st.lists(row, min_size=ranks, max_size=ranks)
    return {"latency": lag | square, "bytes": by(sizes, st.integers(0, 9)), "bandwidth": st.integers(1, 9)}


def _memory(draw: st.DrawFn, ranks: int, sizes: tuple[int, ...]) -> dict[str, Any]:
    (stages,) = sizes
    activation = [draw(st.sampled_from([2, 1, 3, 4, 0])) for _ in range(stages)]
    parts = st.tuples(*(st.integers(0, most) for most in activation)).map(list)
    keys = some({"weight_stash": parts, "static": by((ranks,), st.integers(0, 3))})
    again = some({"recompute": by(sizes, st.booleans()), "boundary": parts})
    return {"activation": activation} | draw(keys) | (draw(again) if draw(st.booleans()) else {})
