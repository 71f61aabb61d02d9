"""When stages are gathered: as seldom as any order can, within the limit, and with a lookahead no more often."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedverify.core.errors import InputError, ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.generators import generate
from schedverify.lowering import add_sharding
from schedverify.verifier.verification import verify

ORDER = Schedule.parse("0F0 1F0 2F0 2B0 1B0 0B0")
PROBLEM = Problem.chain(ranks=1, microbatches=1, virtual=3, forward=1, backward=2)


def gathers(schedule: Schedule) -> int:
    return sum(cell.endswith("UNSHARD") for row in schedule.strings() for cell in row)


def fewest(uses: Sequence[frozenset[int]], most: int) -> int:
    """Return the fewest gatherings: of all sets of stages that may be gathered while each step runs, the best."""
    costs = {frozenset[int](): 0}
    stages = sorted(frozenset().union(*uses))
    for used in uses:
        sets = [frozenset(s) for size in range(most + 1) for s in combinations(stages, size)]
        costs = {now: min(cost + len(now - before) for before, cost in costs.items()) for now in sets if used <= now}
    return min(costs.values())


@st.composite
def orders(draw: st.DrawFn) -> tuple[Schedule, Problem, int]:
    """Draw the order of one rank, some of whose steps use two stages, and how many may be gathered."""
    stages = draw(st.integers(1, 5))
    steps, count = [], 0
    for _ in range(draw(st.integers(1, 12))):
        first, second = draw(st.integers(0, stages - 1)), draw(st.integers(0, stages - 1))
        if first != second and draw(st.booleans()):
            steps.append(f"({first}F{count};{second}B{count})OVERLAP_F_B")
        else:
            steps.append(f"{first}F{count}")
        count += 1
    problem = Problem.chain(ranks=1, microbatches=count, virtual=stages)
    return Schedule.of([steps]), problem, draw(st.integers(2, 4))


@given(orders(), st.integers(1, 5))
@settings(deadline=None)
def test_no_order_gathers_less_often_and_a_lookahead_gathers_earlier(
    case: tuple[Schedule, Problem, int], lookahead: int
) -> None:
    order, problem, most = case
    uses = [frozenset(op.stage for op in step.ops) for step in order.steps(0)]
    on_demand = add_sharding(order, problem, most=most)
    ahead = add_sharding(order, problem, most=most, lookahead=lookahead)
    assert gathers(on_demand) == gathers(ahead) == fewest(uses, most)
    for sharded in (on_demand, ahead):
        assert sharded.compute_only() == order
        limited = Problem.of(problem.to_dict() | {"limits": {"unsharded": most}})
        assert not verify(sharded, limited, select=["SV305", "SV405"]).violations
    early, late = (_places(sharded) for sharded in (ahead, on_demand))
    assert all(a <= b for a, b in zip(early, late, strict=True))
    assert early == late or lookahead > 1


def _places(sharded: Schedule) -> list[int]:
    """Return for each UNSHARD how many steps compute before it."""
    (row,) = sharded.strings()
    return [sum("SHARD" not in cell for cell in row[:at]) for at, cell in enumerate(row) if cell.endswith("UNSHARD")]


def test_with_a_lookahead_a_stage_is_gathered_while_the_one_before_is_used() -> None:
    assert str(add_sharding(ORDER, PROBLEM, lookahead=2)) == (
        "0UNSHARD 1UNSHARD 0F0 2UNSHARD 1F0 2F0 2B0 2RESHARD 1B0 1RESHARD 0B0 0RESHARD"
    )
    assert str(add_sharding(ORDER, PROBLEM, most=2, lookahead=2)) == (
        "0UNSHARD 1UNSHARD 0F0 0RESHARD 2UNSHARD 1F0 2F0 2B0 2RESHARD 0UNSHARD 1B0 1RESHARD 0B0 0RESHARD"
    )
    two = Problem.chain(ranks=2, microbatches=2, virtual=2)
    rows = add_sharding(generate("looped-bfs", two), two, lookahead=[1, 2]).strings()
    assert [row[:2] for row in rows] == [["0UNSHARD", "0F0"], ["1UNSHARD", "3UNSHARD"]]


@pytest.mark.parametrize("lookahead", [0, [1], [1, 0]])
def test_a_lookahead_that_is_none_is_refused(lookahead: object) -> None:
    two = Problem.chain(ranks=2, microbatches=1)
    with pytest.raises(InputError, match="a number from 1 on, or one for each of 2 ranks"):
        add_sharding(generate("gpipe", two), two, lookahead=lookahead)


def test_what_a_step_uses_must_fit() -> None:
    with pytest.raises(ScheduleError, match="a step of rank 0 uses 2 stages, 1 may be gathered at once"):
        add_sharding(Schedule.parse("(0F0;1B0)OVERLAP_F_B"), PROBLEM, most=1)
