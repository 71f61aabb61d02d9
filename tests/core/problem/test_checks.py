"""What holds between the keys of a problem: above all, what a rank must hold for one micro-batch."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schedverify.core.problem import Problem
from schedverify.core.problem.checks import least_capacity
from support.wrong_problems import made, told


def least(**changes: Any) -> list[int]:
    """Return by rank the least capacity that is accepted, as the faults tell it."""
    made(memory=changes["memory"] | {"capacity": 1 << 40}, **{k: v for k, v in changes.items() if k != "memory"})
    found = told(**changes | {"memory": changes["memory"] | {"capacity": 0}})
    return [int(fault.hint.split()[0]) for fault in found.values()]


def test_capacity_is_what_one_micro_batch_needs() -> None:
    assert least(memory={"activation": 3}) == [3] * 4
    assert least(memory={"activation": 3, "static": [0, 1, 2, 3]}) == [3, 4, 5, 6]
    assert least(memory={"activation": 3}, virtual=3) == [9] * 4
    assert least(memory={"activation": 3}, virtual=3, slices=2) == [18] * 4
    assert least(memory={"activation": [1, 2, 3, 4]}, form="inference", ranks=1, virtual=4) == [4]
    recomputing = {"activation": 10, "recompute": True, "boundary": 1}
    assert least(memory=recomputing, virtual=2) == [11] * 4
    assert least(memory=recomputing, virtual=2, slices=2) == [13] * 4
    assert least(memory=recomputing, form="inference") == [1] * 4
    assert least(memory={"activation": 3}, ranks=1, stages=3, edges=[[0, 1], [0, 2]]) == [6]
    assert least(memory={"activation": 3}, ranks=1, stages=4, edges=[[0, 1], [0, 2], [1, 3], [2, 3]]) == [12]
    assert least(memory={"activation": 3}, ranks=1, stages=3, edges=[]) == [3]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(1, 7), st.data())
def test_forests_and_graphs_need_what_their_ancestors_keep(ranks: int, stages: int, data: st.DataObject) -> None:
    edges = {(data.draw(st.integers(0, stage - 1)), stage) for stage in range(1, stages) if data.draw(st.booleans())}
    if stages > 2 and data.draw(st.booleans()):
        edges.add((0, stages - 1))
    placement = data.draw(st.lists(st.integers(0, ranks - 1), min_size=stages, max_size=stages))
    held = data.draw(st.lists(st.integers(1, 9), min_size=stages, max_size=stages))

    def before(stage: int) -> set[int]:
        sources = {source for source, target in edges if target == stage}
        return sources.union(*map(before, sources))

    wanted = [
        max((sum(held[o] for o in before(s) | {s} if placement[o] == rank) for s in range(stages)
             if placement[s] == rank), default=0)
        for rank in range(ranks)
    ]  # fmt: skip
    changes = {"ranks": ranks, "placement": placement, "edges": [list(edge) for edge in edges]}
    assert made(memory={"activation": held, "capacity": wanted}, **changes).capacity == tuple(wanted)
    for rank in range(ranks):
        if wanted[rank]:
            less = [need - (i == rank) for i, need in enumerate(wanted)]
            assert set(told(memory={"activation": held, "capacity": less}, **changes)) == {f"memory.capacity[{rank}]"}


def test_a_large_graph_that_is_no_forest_is_bounded() -> None:
    def doubled_chain(stages: int) -> Problem:
        edges = [[i, i + 1] for i in range(stages - 1)] + [[i, i + 2] for i in range(stages - 2)]
        return Problem.chain(ranks=1, virtual=stages, microbatches=2, edges=edges, capacity=1 << 40)

    assert least_capacity(doubled_chain(1_000)) == [1_000]
    assert len(doubled_chain(20_000).edges) == 39_997
    assert least_capacity(doubled_chain(20_000)) == [1]  # each stage alone: the ancestors of all are too much work


def test_sums_that_may_wrap_are_refused_where_each_message_counts() -> None:
    fan = {"stages": 4, "edges": [[0, 1], [0, 2], [0, 3]], "microbatches": 1}
    made(**fan, memory={"activation": 0}, links={"bytes": [(1 << 62) // 6, 0, 0, 0]})
    more = fan | {"links": {"bytes": [(1 << 62) // 6 + 1, 0, 0, 0]}}
    assert set(told(**more, memory={"activation": 0})) == {"links.bytes"}
    made(**more, memory={"activation": 0}, placement=[0, 0, 1, 2])  # to stage 1 goes no message
    made(**more, memory={"activation": 0}, form="inference")
    assert set(told(**fan, memory={"activation": 1 << 60, "static": 1})) == {"memory"}
    made(**fan, memory={"activation": 1 << 60})
