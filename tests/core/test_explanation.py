"""What an explanation says of itself: everything by ``str``, one line as a value."""

from __future__ import annotations

import pytest

import schedverify as sv

PATH = tuple(sv.PathLink(f"{rank}F{rank}", why) for rank, why in enumerate(["", "transfer", "rank order", "data"]))


def test_an_infeasible_plan_names_what_clashes_and_what_would_do() -> None:
    reliefs = (
        sv.Relief("memory.capacity", 4, 4),
        sv.Relief("limits.in_flight", 3, 2),
        sv.Relief("limits.makespan", None, 9),
        sv.Relief("limits.in_flight_stage", None, None),
    )
    told = sv.Explanation(sv.Status.INFEASIBLE, "makespan", ("limits.makespan", "memory.capacity"), False, reliefs)
    assert str(told).split("\n") == [
        "no schedule keeps limits.makespan and memory.capacity (perhaps already some of them)",
        "  memory.capacity: 4 units on every rank would do, less would not",
        "  limits.in_flight: 3 on every rank would do, less than 2 would not; what lies between is open",
        "  limits.makespan: 9 ticks or more; which value would do is open",
        "  limits.in_flight_stage: no value would do, the other limits clash by themselves",
    ]
    assert repr(told) == "<Explanation: infeasible, makespan>"


def test_a_plan_is_told_with_its_bound_its_path_and_its_gains() -> None:
    gains = (
        sv.Gain("one byte more", 0, 0),
        sv.Gain("one link more", 0, 0),
        sv.Gain("one tick less", 1, 3),
        sv.Gain("one rank more", 1, None),
    )
    told = sv.Explanation(
        sv.Status.OPTIMAL, "makespan", bound="the idle ticks", critical_path=PATH, binding=("rank 0 is full",),
        gains=gains, remarks=("nothing is open",),
    )  # fmt: skip
    assert str(told).split("\n") == [
        "the bound rests on the idle ticks",
        "critical path (an arrow: the output of another rank or stage is waited for)",
        "  0F0 → 1F1 2F2 → 3F3",
        "at the limit",
        "  rank 0 is full",
        "what one unit more, or one tick less, would gain of the makespan",
        "  one tick less: gains at least 1 tick, at most 3 ticks",
        "  one rank more: gains at least 1 tick, how much more is open",
        "  nothing: one byte more; one link more",
        "note: nothing is open",
    ]
    assert repr(told) == "<Explanation: optimal, makespan>"


def test_a_cycle_is_told_with_each_of_its_ways() -> None:
    ways = (sv.CriticalWay(0, 1, 68, PATH), sv.CriticalWay(1, 0, 35, PATH[1:]))
    assert str(sv.Explanation(sv.Status.OPTIMAL, "span", critical_cycle=ways)).split("\n") == [
        "critical cycle of rank 0 and rank 1: 2 batches take 103 ticks "
        "(an arrow: the output of another rank or stage is waited for)",
        "  rank 0 to rank 1, 68 ticks: 0F0 → 1F1 2F2 → 3F3",
        "  rank 1 to rank 0, 35 ticks: → 1F1 2F2 → 3F3",
    ]
    alone = sv.Explanation(sv.Status.OPTIMAL, "span", critical_cycle=(sv.CriticalWay(3, 3, 9, PATH[:1]),))
    assert str(alone).startswith("critical cycle of rank 3: a batch takes 9 ticks (")


@pytest.mark.parametrize(("steps", "left"), [(60, None), (61, 1), (100, 40)])
def test_a_long_path_is_told_by_its_ends(steps: int, left: int | None) -> None:
    path = tuple(sv.PathLink("0F0", "rank order") for _ in range(steps))
    text = str(sv.Explanation(sv.Status.OPTIMAL, "makespan", critical_path=path))
    assert text.count("0F0") == min(steps, 60)
    assert (f"({left} more)" in text) == (left is not None)
