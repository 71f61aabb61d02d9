"""What looser limits on communication would gain, against plans without them, and gathers counted one by one."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import schedverify as sv
from schedverify.core.explanation import Gain
from schedverify.core.result import Plan
from schedverify.lowering import add_sharding
from schedverify.planner.plans import plan_of

SLOW_LINKS: dict[str, Any] = {
    "ranks": 3, "microbatches": 6, "forward": 3, "backward": 6, "latency": 3, "bytes": 11, "bandwidth": 1
}  # fmt: skip


def looser(plan: Plan) -> list[Gain]:
    """Return the gains that an explanation tells of limits on communication."""
    return [gain for gain in sv.explain(plan, time_limit=0).gains if gain.of]


def fewest_gathers(stages: list[int], most: int) -> int:
    """Return how often stages must be gathered, used in this order, by trying every set that may be kept."""
    costs = {frozenset[int](): 0}
    for stage in stages:
        after: dict[frozenset[int], int] = {}
        for kept, cost in costs.items():
            now = cost + (stage not in kept)
            held = kept | {stage}
            for size in range(1, most + 1):
                for chosen in map(frozenset, combinations(sorted(held), size)):
                    if stage in chosen:
                        after[chosen] = min(now, after.get(chosen, now))
        costs = after
    return min(costs.values())


@pytest.mark.parametrize(("most", "gain"), [(1, 28), (2, 0)])
def test_without_a_limit_on_sends_the_lowering_is_as_fast_as_told(most: int, gain: int) -> None:
    limited, unlimited = sv.Problem.chain(**SLOW_LINKS, outstanding_sends=most), sv.Problem.chain(**SLOW_LINKS)
    order = sv.generate("1f1b", unlimited)
    plan, free = plan_of(order, limited), plan_of(order, unlimited)
    assert plan.lowered is not None
    assert free.lowered is not None
    saved = plan.lowered.measures.makespan - free.lowered.measures.makespan
    assert saved == gain
    told = looser(plan)[-1]
    assert (told.least, told.most) == (saved, plan.lowered.measures.makespan - sv.simulate(order, limited).makespan)
    words = "gains 28 ticks of the makespan with communication" if gain else ""
    assert words in str(told)
    assert looser(free) == []
    assert told.told(plan.problem.units, "peak-memory") == str(told), "ticks, whatever is minimized"


def test_of_a_plan_without_messages_it_is_told_that_more_sends_would_do() -> None:
    tight = sv.Problem.chain(
        ranks=3, microbatches=2, forward=1, backward=2, bytes=5, activation=10, capacity=25, outstanding_sends=1
    )
    plan = sv.optimize(tight, workers=1)
    assert plan.lowered is None
    assert sv.optimize(dataclasses.replace(tight, outstanding_sends=None), workers=1).lowered is not None
    explanation = sv.explain(plan, time_limit=0)
    told = "with no limits.outstanding_sends, a known lowering keeps the limits; its makespan is 12 ticks"
    assert told in explanation.remarks
    hopeless = sv.optimize(dataclasses.replace(tight, capacity=(20, 20, 20)), workers=1)
    assert hopeless.lowered is None
    assert not any("lowering" in remark for remark in sv.explain(hopeless, time_limit=0).remarks)


@settings(max_examples=50, phases=[Phase.generate], deadline=None, derandomize=True, database=None)
@given(st.integers(1, 3), st.integers(2, 4), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["gpipe", "naive"]))
def test_the_gathers_that_one_more_place_saves_are_those_counted(
    ranks: int, virtual: int, microbatches: int, most: int, family: str
) -> None:
    problem = sv.Problem.chain(ranks=ranks, virtual=virtual, microbatches=microbatches, unsharded=most)
    plan = plan_of(sv.generate(family, problem), problem)
    saved = {}
    for rank, row in enumerate(plan.schedule.strings() if plan.schedule else ()):
        stages = [sv.Op.parse(step).stage for step in row]
        fewer = fewest_gathers(stages, most) - fewest_gathers(stages, most + 1)
        if fewer:
            saved[f"limits.unsharded[{rank}] {most} → {most + 1} (one more stage gathered on rank {rank})"] = fewer
    assert {gain.change: gain.least for gain in looser(plan)} == saved
    assert all(gain.exact and str(gain).endswith(f": gains {gain.least} UNSHARD steps") for gain in looser(plan))


def test_gathers_that_stand_in_a_plan_are_counted_as_they_stand() -> None:
    problem = sv.Problem.chain(ranks=1, virtual=3, microbatches=2, unsharded=2)
    order = sv.generate("naive", problem)
    more_than_needed = add_sharding(order, problem, most=1)
    plan = plan_of(more_than_needed, problem)
    stages = [sv.Op.parse(step).stage for step in order.strings()[0]]
    assert [gain.least for gain in looser(plan)] == [fewest_gathers(stages, 1) - fewest_gathers(stages, 3)]
