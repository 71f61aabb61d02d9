"""Explanations: what they claim is so by brute force, and told in words that a person can use."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

import schedverify as sv
from oracle.brute_force import brute_force
from schedverify.cli import main
from schedverify.core.explanation import Gain, Relief
from schedverify.core.problem.checks import least_capacity
from schedverify.core.result import Plan, Status
from schedverify.planner.explanation._explain import basis_of_bound
from schedverify.planner.explanation.critical import critical_cycle_of
from schedverify.planner.explanation.durations import MOST_DURATIONS, Duration
from schedverify.planner.explanation.gains import changes_of
from schedverify.planner.explanation.limits import FIELDS, with_limit
from schedverify.verifier.graph import step_graph
from support.random_spans import drawn
from support.tiny_problems import tiny_problems

PAIR: dict[str, Any] = {"ranks": 2, "microbatches": 4, "forward": 1, "backward": 2}
WHY = sv.Problem.chain(
    ranks=2, microbatches=4, forward=1, backward=[2, 3], activation=[2, 1], capacity=[3, 9], latency=1
)
QUICK = settings(max_examples=40, phases=[Phase.generate], deadline=None, derandomize=True, database=None)


def explained(problem: sv.Problem, **keys: Any) -> tuple[Plan, sv.Explanation]:
    plan = sv.optimize(problem, workers=1, **keys)
    return plan, sv.explain(plan, workers=1, time_limit=30)


def possible(problem: sv.Problem) -> bool:
    """Whether any order keeps all limits, the one on the makespan included."""
    truth = brute_force(dataclasses.replace(problem, makespan_limit=None))
    limit = problem.makespan_limit
    return truth.makespan is not None and (limit is None or truth.makespan <= limit)


def least(problem: sv.Problem, name: str) -> int | None:
    """Return the least value of a limit, the same everywhere, with which there is an order."""
    free = with_limit(problem, name, None)
    if not possible(free):
        return None
    truth = brute_force(dataclasses.replace(free, makespan_limit=None))
    if name == "limits.makespan":
        return truth.makespan
    if name == "memory.capacity":
        return truth.peak if free.makespan_limit is None else truth.peak_within(free.makespan_limit)
    size = problem.ranks if name == "limits.in_flight" else problem.total_stages
    return next(k for k in range(1, 99) if possible(with_limit(problem, name, (k,) * size)))


@st.composite
def limited(draw: st.DrawFn) -> sv.Problem:
    """Draw a problem with several limits, which often clash."""
    problem = draw(tiny_problems(a_rank=6, in_all=12))
    wide = brute_force(dataclasses.replace(problem, capacity=None, in_flight=None, in_flight_stage=None))
    assume(wide.makespan)
    capacity = [need + draw(st.integers(0, 2)) for need in least_capacity(problem)]
    in_flight = tuple(draw(st.integers(1, 2)) for _ in range(problem.ranks))
    given = {
        "capacity": draw(st.none() | st.just(tuple(capacity))),
        "in_flight": draw(st.none() | st.just(in_flight)),
        "in_flight_stage": draw(st.none() | st.just((1,) * problem.total_stages)),
        "makespan_limit": draw(st.none() | st.just(max(1, (wide.makespan or 0) + draw(st.integers(-1, 2))))),
    }
    return dataclasses.replace(problem, **given)


@settings(QUICK, max_examples=60)
@given(limited())
def test_the_limits_that_clash_and_what_would_do_are_those_of_brute_force(problem: sv.Problem) -> None:
    plan, explanation = explained(problem)
    assert (plan.status is not Status.INFEASIBLE) == possible(problem)
    if plan.status is not Status.INFEASIBLE:
        assert explanation.clash == ()
        return
    clash = explanation.clash
    alone = problem
    for name in set(FIELDS) - set(clash):
        alone = with_limit(alone, name, None)
    assert explanation.minimal
    assert not possible(alone)
    assert all(possible(with_limit(alone, name, None)) for name in clash)
    assert [relief.limit for relief in explanation.reliefs] == list(clash)
    for relief in explanation.reliefs:
        assert relief.least == least(problem, relief.limit), relief
        assert relief.bound == relief.least


@settings(QUICK, max_examples=20)
@given(tiny_problems(a_rank=6, in_all=12), st.sampled_from(["makespan", "span", "peak-memory"]))
def test_each_gain_is_that_of_brute_force(problem: sv.Problem, objective: str) -> None:
    plan, explanation = explained(problem, objective=objective)
    assume(plan.status is Status.OPTIMAL)
    path = [*explanation.critical_path, *(link for way in explanation.critical_cycle for link in way.path)]
    changes = list(changes_of(plan, path))
    assert [gain.change for gain in explanation.gains] == [change.text for change in changes]
    for gain, change in zip(explanation.gains, changes, strict=True):
        truth = brute_force(change.problem).value(objective)
        assert truth is not None
        assert gain.least == (plan.value or 0) - truth, (gain, change.problem)
        assert gain.exact, gain


@settings(QUICK)
@given(tiny_problems())
def test_the_critical_path_leaves_no_tick_out(problem: sv.Problem) -> None:
    plan = sv.optimize(problem, workers=1)
    explanation = sv.explain(plan, time_limit=0)
    assume(plan.schedule is not None)
    timeline = sv.simulate(plan.schedule, problem)
    start, end = {}, {}
    for rank, (starts, ends) in enumerate(zip(timeline.starts, timeline.ends, strict=True)):
        for step, began, ended in zip(plan.schedule.strings()[rank], starts.tolist(), ends.tolist(), strict=True):
            start[step], end[step] = began, ended
    graph = sv.dependency_graph(problem, plan.schedule)
    names = {str(op): op for op in graph}
    path = [link.step for link in explanation.critical_path]
    assert start[path[0]] == 0
    for before, after in pairwise(path):
        assert start[after] == end[before] + graph.edges[names[before], names[after]]["lag"]
    assert end[path[-1]] == timeline.makespan


def test_the_critical_cycle_leaves_no_tick_out() -> None:
    several = 0
    for number in range(200):
        data, rows = drawn(number)
        problem, schedule = sv.Problem.of(data), sv.Schedule.of(rows)
        cycle = critical_cycle_of(Plan(problem, Status.FEASIBLE, "span", schedule=schedule))
        steps = step_graph(sv.dependency_graph(problem, schedule))
        named = {members("(" + ";".join(map(str, step)) + ")"): step for step in steps}
        for way, after in zip(cycle, (*cycle[1:], *cycle[:1]), strict=True):
            path = [named[members(link.step)] for link in way.path]
            assert members(rows[way.rank][0]) <= members(way.path[0].step)
            assert members(rows[way.to][-1]) <= members(way.path[-1].step)
            ticks = sum(steps.nodes[step]["duration"] for step in path)
            assert way.ticks == ticks + sum(steps.edges[pair]["lag"] for pair in pairwise(path)), f"number {number}"
            assert way.to == after.rank
        total = sum(way.ticks for way in cycle)
        assert sv.simulate(schedule, problem).span == (-(-total // len(cycle)) if cycle else 0)
        several += len(cycle) > 1
    assert several > 5


def members(step: str) -> frozenset[str]:
    """Return the operations of a step as it is written."""
    return frozenset(step.removesuffix("OVERLAP_F_B").strip("()").split(";"))


def test_an_optimal_plan_is_told_in_words() -> None:
    plan, explanation = explained(WHY)
    assert (plan.status, plan.value) == (Status.OPTIMAL, 36)
    assert explanation.bound
    assert str(explanation).splitlines()[1:] == [
        "critical path (an arrow: the output of another rank or stage is waited for)",
        "  0F0 → 1F0 1B0 → 0B0 0F1 → 1F1 1B1 → 0B1 0F2 → 1F2 1B2 → 0B2 0F3 → 1F3 1B3 → 0B3",
        "at the limit",
        "  rank 0 holds 2 units of 3 units: no room for one more activation (2 units)",
        "what one unit more, or one tick less, would gain of the makespan",
        "  memory.capacity[0] 3 → 5 (one more activation on rank 0): gains 14 ticks",
        "  costs.backward[1] 3 → 2 (B of stage 1, 4 times on the critical path, in the bound): gains 4 ticks",
        "  costs.forward[1] 1 → 0 (F of stage 1, 4 times on the critical path, in the bound): gains 4 ticks",
        "  costs.backward[0] 2 → 1 (B of stage 0, 4 times on the critical path): gains 4 ticks",
        "  costs.forward[0] 1 → 0 (F of stage 0, 4 times on the critical path): gains 4 ticks",
        "  links.latency, one tick less on every link: gains 8 ticks",
    ]


@pytest.mark.parametrize("objective", ["makespan", "span"])
def test_the_stages_that_bind_are_tried_and_not_the_one_with_most_to_do(objective: str) -> None:
    """Stage 1 takes longest, and rank 0 with the stages 0 and 3 has most to do: less of stage 1 gains little."""
    problem = sv.Problem.chain(
        ranks=2, microbatches=4, virtual=2, placement="v", forward=[2, 3, 1, 3], backward=[3, 4, 1, 3]
    )
    plan, explanation = explained(problem, objective=objective)
    assert plan.value is not None
    tried = {gain.change.partition(" ")[0]: gain for gain in explanation.gains}
    for key in ("costs.forward[0]", "costs.backward[0]", "costs.forward[3]", "costs.backward[3]"):
        assert tried[key].least > 0, key
        assert "in the bound" in tried[key].change
    assert next(iter(tried)) in ("costs.forward[0]", "costs.backward[0]", "costs.forward[3]", "costs.backward[3]")
    path = [*explanation.critical_path, *(link for way in explanation.critical_cycle for link in way.path)]
    named = {"F": "forward", "B": "backward"}
    on_path = {f"costs.{named[op.kind.name]}[{op.stage}]" for op in (sv.Op.parse(link.step) for link in path)}
    assert on_path <= set(tried)


def test_of_many_durations_those_that_decide_most_are_tried() -> None:
    problem = sv.Problem.chain(
        ranks=8, microbatches=3, form="split", forward=[1, 1, 1, 1, 1, 1, 5, 1], backward_input=1, backward_weight=1
    )
    plan = sv.optimize(problem, workers=1)
    changes = list(changes_of(plan, sv.explain(plan, time_limit=0).critical_path))
    assert len(changes) == MOST_DURATIONS
    assert changes[0].text.startswith("costs.forward[6] 5 → 4 (F of stage 6")
    for change in changes:
        assert change.problem.minimize == problem.minimize
        assert sum(change.problem.forward + change.problem.backward_input + change.problem.backward_weight) == 27


def test_a_backward_in_two_parts_stays_their_sum_and_no_other_is_touched() -> None:
    sizes = {"ranks": 1, "microbatches": 1, "form": "split", "forward": 2, "backward_input": 3, "backward_weight": 4}
    whole, cheaper = sv.Problem.chain(**sizes), sv.Problem.chain(**sizes, backward=6)
    for problem, left in ((whole, 6), (cheaper, 6)):
        shorter = Duration(0, sv.Kind.I).shortened(problem)
        assert (shorter.backward_input, shorter.backward_weight, shorter.backward) == ((2,), (4,), (left,))
    assert Duration(0, sv.Kind.B).shortened(cheaper).backward == (5,)


def test_an_infeasible_problem_is_told_in_words() -> None:
    _, explanation = explained(sv.Problem.chain(**PAIR, makespan=15, capacity=1, in_flight=3))
    assert str(explanation).splitlines() == [
        "no schedule keeps memory.capacity and limits.makespan",
        "  memory.capacity: 2 units on every rank would do, less would not",
        "  limits.makespan: 24 ticks would do, less would not",
    ]
    twice = sv.Problem.chain(ranks=1, virtual=2, microbatches=2, in_flight=1, makespan=3)
    _, explanation = explained(twice)
    assert len(explanation.clash) == 1
    assert str(explanation.reliefs[0]).endswith("no value would do, the other limits clash by themselves")


def test_a_forward_alone_is_in_flight_until_it_ends() -> None:
    """In inference the F of a micro-batch ends its flight, so that one at a time uses up a limit of one."""
    _, explanation = explained(sv.Problem.chain(ranks=2, microbatches=4, form="inference", in_flight_stage=1))
    assert explanation.binding == tuple(f"stage {stage} has 1 in flight, its limit" for stage in (0, 1))


def test_a_plan_that_is_not_proved_says_so() -> None:
    hard = sv.Problem.chain(
        ranks=4, microbatches=12, virtual=2, placement="v", forward=[3, 5, 4, 6, 3, 5, 4, 2], backward_input=4,
        backward_weight=[2, 3, 1, 2, 2, 3, 1, 2], latency=1, activation=2, weight_stash=1, capacity=8,
    )  # fmt: skip
    plan = sv.optimize(hard, workers=1, time_limit=0)
    explanation = sv.explain(plan, workers=1, time_limit=0)
    assert explanation.gains == ()
    assert explanation.remarks == ("what more would gain is told of optimal plans",)
    assert explanation.bound.startswith("the search; what can be checked without one is ") or explanation.bound
    assert explanation.critical_path
    unknown = Plan(hard, Status.UNKNOWN, "makespan", reason="nothing was found")
    assert str(sv.explain(unknown)) == "note: nothing was found"


def test_in_no_time_what_is_open_is_told_as_open() -> None:
    plan = sv.optimize(sv.Problem.chain(**PAIR, makespan=15, capacity=1), workers=1)
    explanation = sv.explain(plan, workers=1, time_limit=0)
    for relief in explanation.reliefs:
        assert relief.bound is None or relief.least is None or relief.bound <= relief.least
    optimal = sv.optimize(sv.Problem.chain(ranks=3, microbatches=5, backward=[5, 4, 6], in_flight=2), workers=1)
    explanation = sv.explain(optimal, workers=1, time_limit=0)
    assert explanation.gains == ()
    count = len(list(changes_of(optimal, explanation.critical_path)))
    assert explanation.remarks == (f"{count} more changes not tried: the time limit of 0 s ended the search",)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (Relief("limits.in_flight", 3, 3), "limits.in_flight: 3 on every rank would do, less would not"),
        (Relief("limits.makespan", 9, 7), "9 ticks would do, less than 7 ticks would not; what lies between is open"),
        (Relief("memory.capacity", None, 7), "7 units on every rank or more; which value would do is open"),
        (Gain("x", 0, 0), "x: gains nothing"),
        (Gain("x", 2, 2), "x: gains 2 ticks"),
        (Gain("x", 1, 2), "x: gains at least 1 tick, at most 2 ticks"),
        (Gain("x", 1, None), "x: gains at least 1 tick, how much more is open"),
    ],
)
def test_what_is_open_is_told(told: Relief | Gain, text: str) -> None:
    assert text in str(told)


@pytest.mark.parametrize(
    ("certificate", "told"),
    [
        ({"rule": "load", "rank": 1}, "the load of rank 1 (stage 1), with what must come before and after it"),
        ({"rule": "pair", "stages": [0, 1]}, "the load of stage 1, with the way there from stage 0 and back"),
        ({"rule": "idle", "rank": 0}, "the load of rank 0, and the time that its limits leave it idle"),
        ({"rule": "sequence", "rank": 1}, "what one sequence holds on rank 1 when it turns back"),
        ({"rule": "memory", "stage": 0}, "stage 0: the forwards that must run before its first gradient op"),
        (
            {
                "rule": "counts",
                "rows": [{"row": "rank", "at": [0]}, {"row": "turn", "at": [1]}, {"row": "bytes", "at": [1]}],
            },
            "prices on the time of rank 0, and on the bytes of rank 1",
        ),
    ],
)
def test_what_a_bound_rests_on_is_told_by_its_rule(certificate: dict[str, Any], told: str) -> None:
    plan = Plan(WHY, Status.OPTIMAL, "makespan", bound=9, certificate=certificate | {"bound": 9})
    assert basis_of_bound(plan).startswith(told)
    assert "what can be checked without one is 9" in basis_of_bound(dataclasses.replace(plan, bound=10))


def test_a_plan_that_claims_too_much_is_not_explained() -> None:
    plan = sv.optimize(WHY, workers=1)
    for lie in ({"value": 35}, {"bound": 37}, {"certificate": {"rule": "load", "rank": 7, "bound": 36}}):
        with pytest.raises(sv.ScheduleError, match="SV50"):
            sv.explain(dataclasses.replace(plan, **lie))


def test_a_long_path_is_cut_in_the_middle() -> None:
    _, explanation = explained(sv.Problem.chain(ranks=1, microbatches=40))
    assert len(explanation.critical_path) == 80
    assert "… (20 more)" in str(explanation)


def test_a_code_is_explained_as_by_the_command() -> None:
    assert sv.explain("SV201").startswith("## SV201")
    with pytest.raises(sv.UnknownNameError):
        sv.explain("SV999")
    with pytest.raises(sv.InputError, match="time_limit"):
        sv.explain(Plan(sv.Problem.chain(**PAIR), Status.INFEASIBLE, "makespan"), time_limit=-1)


def test_the_command_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tight.json"
    for limits, told in (({"capacity": 1, "makespan": 15}, "no schedule keeps"), ({"capacity": 1}, "at the limit")):
        path.write_text(json.dumps(sv.Problem.chain(**PAIR, **limits).to_dict()), encoding="utf-8")
        infeasible = "makespan" in limits
        assert main(["optimize", str(path), "--workers", "1", "--explain"]) == int(infeasible)
        assert told in capsys.readouterr().out
        assert main(["optimize", str(path), "--workers", "1", "--explain", "--format", "json"]) == int(infeasible)
        explanation = json.loads(capsys.readouterr().out)["explanation"]
        assert bool(explanation["clash"]) is infeasible
        assert bool(explanation["gains"]) is not infeasible
        assert told in explanation["text"]
    assert main(["optimize", str(path), "--workers", "1", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["explanation"] is None
