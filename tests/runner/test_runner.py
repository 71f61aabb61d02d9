"""The runner computes what one process computes, holds no more than was proved, and records what ran."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from schedverify import Discipline, Problem, Schedule, families, generate, lower
from schedverify.core.result import Plan
from schedverify.lowering import add_reduction, defer_receives
from schedverify.planner.plans import plan_of
from schedverify.runner.p2p.waiting import MOST_DEFERRED_BYTES
from support import runner_jobs as jobs
from support.gloo_pool import GlooPool

pytestmark = pytest.mark.xdist_group("runner")
CLOSE = 1e-10
"""The most relative error of a gradient, in double precision."""


ROWS = [{"from": s, "to": s + 1, "dtype": "float64", "shape": [2, jobs.WIDTH]} for s in range(7)]
GROUPED = """
0F0 0SEND_F0 0F1 [0SEND_F1;0RECV_B0] 0B0 0RECV_B1 0B1
1RECV_F0 1F0 1B0 [1SEND_B0;1RECV_F1] 1F1 1B1 1SEND_B1
-
-
"""


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(4) as pool:
        yield pool


def trained(pool: GlooPool, plan: Plan, **options: Any) -> list[dict[str, Any]]:
    """Train a step with a plan and return what each rank tells, once it is right."""
    outcomes = pool.run(options.pop("job", jobs.train), plan, *options.pop("arguments", ()), **options)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    found = [outcome.value for outcome in outcomes]
    assert all(found), outcomes
    assert max(each["error"] for each in found) < CLOSE
    shares = [each["share"] for each in found if each["share"] is not None]
    assert sum(shares) == pytest.approx(found[0]["loss"], rel=CLOSE)
    assert plan.measures is not None
    assert tuple(each["peak"] for each in found) == plan.measures.peak_in_flight
    return found


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_every_family_trains_as_one_process_does(pool: GlooPool, family: Any) -> None:
    problem = family.problem(4, 5)
    trained(pool, plan_of(family.generate(problem), problem))


def test_what_ran_is_the_lowered_order(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=4, microbatches=3)
    plan = plan_of(generate("1f1b", problem), problem)
    assert plan.lowered is not None
    for rank, found in enumerate(trained(pool, plan)):
        assert found["ran"] == [(i, step, True) for i, step in enumerate(plan.lowered.schedule.strings()[rank])]


def test_a_mix_of_whole_and_split_backwards(pool: GlooPool) -> None:
    rows = ["0F0 0F1 0B0 0I1 0F2 0W1 0B2", "1F0 1I0 1F1 1B1 1W0 1F2 1I2 1W2"]
    problem = Problem.chain(ranks=4, microbatches=3, placement=[0, 1], form="split")
    trained(pool, plan_of(Schedule.parse("\n".join([*rows, "-", "-"])), problem))


@pytest.mark.parametrize("family", ["1f1b", "zb-h1"])
def test_sends_that_amount_to_much(pool: GlooPool, family: str) -> None:
    problem = Problem.chain(ranks=4, microbatches=3, form="split")
    rows = MOST_DEFERRED_BYTES // (8 * jobs.WIDTH) + 1
    trained(pool, plan_of(generate(family, problem), problem), arguments=(3 * rows, None, 2))


def test_a_slice_that_is_sent_counts_as_all_that_it_holds(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=4, microbatches=8)
    outcomes = pool.run(jobs.slices_held, plan_of(generate("1f1b", problem), problem))
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert outcomes[0].value <= 1, "of eight micro-batches, before the last backward"


KINDS: list[dict[int, Any]] = [
    {0: jobs.Embedded}, {0: jobs.Twice, 2: jobs.Twice, 3: jobs.Twice}, {1: jobs.Still, 3: jobs.Still}, {0: jobs.Still},
    dict.fromkeys(range(4), jobs.Pair), dict.fromkeys(range(4), jobs.Writing),
]  # fmt: skip


@pytest.mark.parametrize(("family", "kinds"), list(itertools.product(["1f1b", "zb-h1"], range(len(KINDS)))))
def test_stages_of_all_kinds(pool: GlooPool, family: str, kinds: int) -> None:
    problem = Problem.chain(ranks=4, microbatches=3, form="split")
    trained(pool, plan_of(generate(family, problem), problem), arguments=(0, KINDS[kinds], 2))


@pytest.mark.parametrize("form", ["fused", "split"])
@pytest.mark.parametrize(
    "keys",
    [
        {"edges": [[0, 2], [1, 2], [2, 3]]},
        {"edges": [[0, 1], [0, 2], [1, 3], [2, 3], [0, 3]]},
        {"edges": [[3, 1], [1, 0], [1, 2]]},
        {"tied": [[0, 3]]},
        {"tied": [[0, 2], [1, 3]], "placement": [0, 1, 0, 2]},
        {"replicas": 2},
        {"replicas": 2, "tied": [[1, 2]], "replica_of": [1, 0, 1, 1]},
        {"replicas": 2, "placement": [[0, 1, 2], [2, 1, 0]]},
        {"recompute": [True, False, True, True]},
        {"placement": [1, 1, 3, 0, 0]},
    ],
    ids=str,
)
def test_problems_of_all_shapes(pool: GlooPool, keys: dict[str, Any], form: str) -> None:
    problem = Problem.chain(**{"ranks": 4, "microbatches": 4, "form": form} | keys)
    order = as_split(generate("gpipe", problem)) if form == "split" else generate("gpipe", problem)
    trained(pool, plan_of(order, problem), arguments=(0, None, 2))


@pytest.mark.parametrize("recompute", [False, True])
def test_stages_of_one_rank_that_write_into_what_they_hand_on(pool: GlooPool, recompute: bool) -> None:
    problem = Problem.chain(ranks=4, placement=[0, 0, 1, 1], microbatches=3, form="split", recompute=[recompute] * 4)
    order = as_split(generate("gpipe", problem))
    trained(pool, plan_of(order, problem), arguments=(0, dict.fromkeys(range(4), jobs.Writing), 2))


def as_split(schedule: Schedule) -> Schedule:
    """Put an I in place of each B, and its W two steps later."""
    rows = []
    for row in schedule.strings():
        made: list[str] = []
        waiting: list[str] = []
        for step in row:
            made.append(step.replace("B", "I"))
            if "B" in step:
                waiting.append(step.replace("B", "W"))
            if len(waiting) > 2:
                made.append(waiting.pop(0))
        rows.append([*made, *waiting])
    return Schedule.of(rows)


def test_overlapped_steps(pool: GlooPool) -> None:
    rows = ["0F0 0F1 (0F2;0B0)OVERLAP_F_B 0B1 0B2", "1F0 (1B0;1F1)OVERLAP_F_B 1B1 1F2 1B2", "-", "-"]
    problem = Problem.chain(ranks=4, microbatches=3, placement=[0, 1])
    trained(pool, plan_of(Schedule.parse("\n".join(rows)), problem))


@pytest.mark.parametrize("virtual", [1, 2])
def test_other_lowerings_of_one_order(pool: GlooPool, virtual: int) -> None:
    problem = Problem.chain(ranks=4, microbatches=5, virtual=virtual)
    order = generate("1f1b" if virtual == 1 else "interleaved-1f1b", problem)
    lowered = lower(order, problem)
    for other in (defer_receives(lowered, problem), add_reduction(lowered, problem)):
        assert other != lowered
        trained(pool, plan_of(other, problem))


def test_a_receive_may_be_posted_before_what_it_brings_the_gradient_of_has_left(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=4, microbatches=2, placement=[0, 1])
    rows = ["0F0 [0RECV_B0;0SEND_F0] 0B0 0F1 [0RECV_B1;0SEND_F1] 0B1"]
    rows += ["1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1", "-", "-"]
    trained(pool, plan_of(Schedule.parse("\n".join(rows)), problem), arguments=(0, None, 2))


def texts(schedule: Schedule) -> list[list[str]]:
    return [[str(step) for step in schedule.steps(rank)] for rank in range(schedule.ranks)]


def with_waits(lowered: Schedule, delay: Callable[[int], int]) -> Schedule:
    """Put a wait for each send as many steps behind it as ``delay`` says of how many steps are left, at most."""
    rows = []
    for row in texts(lowered):
        for place in reversed([i for i, text in enumerate(row) if "SEND" in text and not text.startswith("[")]):
            row.insert(place + 1 + delay(len(row) - place - 1), row[place].replace("SEND", "WAIT_SEND"))
        rows.append(row)
    return Schedule.of(rows)


@pytest.mark.parametrize("virtual", [1, 2])
@pytest.mark.parametrize("delay", [lambda _: 0, lambda left: min(left, 3), lambda left: left], ids=["next", "3", "end"])
def test_waits_for_sends(pool: GlooPool, virtual: int, delay: Callable[[int], int]) -> None:
    shape: dict[str, Any] = {"virtual": 2, "placement": "v"} if virtual == 2 else {}
    problem = Problem.chain(ranks=4, microbatches=5, form="split", **shape)
    order = lower(generate("zb-h1" if virtual == 1 else "zb-v", problem), problem)
    waits = with_waits(order, delay)
    found = trained(pool, plan_of(waits, problem), arguments=(0, None, 2))
    for rank, each in enumerate(found):
        assert [step for _, step, _ in each["ran"]] == texts(waits)[rank]


def test_a_wait_lets_what_was_sent_go(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=4, microbatches=8)
    lowered = lower(generate("1f1b", problem), problem)
    at_once, late = (with_waits(lowered, delay) for delay in (lambda _: 0, lambda left: left))
    held = [pool.run(jobs.slices_held, plan_of(order, problem), 2)[0].value for order in (at_once, late)]
    assert held == [0, 8], "of eight micro-batches, before the last backward of the second step"


def test_groups_of_transfers(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=4, microbatches=2, placement=[0, 1])
    trained(pool, plan_of(Schedule.parse(GROUPED), problem))


@pytest.mark.parametrize("virtual", [1, 2])
def test_messages_without_tags(pool: GlooPool, virtual: int) -> None:
    problem = Problem.chain(ranks=4, microbatches=5, virtual=virtual, boundaries=ROWS[: 4 * virtual - 1])
    order = generate("1f1b" if virtual == 1 else "interleaved-1f1b", problem)
    trained(pool, plan_of(order, problem), job=jobs.train_without_tags)


def test_groups_without_tags(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=4, microbatches=2, placement=[0, 1], boundaries=ROWS[:1])
    plan = plan_of(Schedule.parse(GROUPED), problem)
    assert plan.lowered is not None
    for outcome in pool.run(jobs.train_without_tags, plan):
        assert "nccl demands rank; lower it again with --discipline rank" in outcome.value["refused"]
    proved = dataclasses.replace(plan.lowered, discipline=Discipline.RANK)
    trained(pool, dataclasses.replace(plan, lowered=proved), job=jobs.train_without_tags)


def test_without_tags_every_boundary_is_declared(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=4, microbatches=2, boundaries=ROWS[:2])
    plan = plan_of(generate("1f1b", problem), problem)
    for outcome in pool.run(jobs.train_without_tags, plan):
        assert "must be declared with dtype and shape; undeclared: 2 to 3" in outcome.value["refused"]


@pytest.mark.parametrize("replicas", [1, 2])
def test_inference(pool: GlooPool, replicas: int) -> None:
    problem = Problem.chain(ranks=4, microbatches=5, virtual=2, form="inference", replicas=replicas)
    outcomes = pool.run(jobs.infer, plan_of(generate("gpipe", problem), problem))
    assert max(outcome.value for outcome in outcomes) < CLOSE


def test_the_optimizer_is_called_with_whole_gradients(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=4, microbatches=3, form="split", tied=[[0, 3]])
    outcomes = pool.run(jobs.optimize, plan_of(generate("zb-h1", problem), problem), 3)
    assert max(outcome.value for outcome in outcomes) < CLOSE


@pytest.mark.parametrize("family", ["1f1b", "zb-h1"])
@pytest.mark.parametrize(
    "keys",
    [
        {"tied": [[0, 3]]},
        {"tied": [[0, 2], [1, 3]], "placement": [0, 1, 0, 2]},
        {"replicas": 2, "tied": [[1, 2]]},
    ],
    ids=str,
)
def test_gradients_add_up_over_steps_whatever_is_shared(pool: GlooPool, keys: dict[str, Any], family: str) -> None:
    problem = Problem.chain(**{"ranks": 4, "microbatches": 4, "form": "split"} | keys)
    order = generate(family, problem) if "placement" not in keys and "replicas" not in keys else None
    plan = plan_of(order or as_split(generate("gpipe", problem)), problem)
    outcomes = pool.run(jobs.add_up, plan, 3)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert max(outcome.value for outcome in outcomes) < CLOSE


def awaiting(lowered: Schedule) -> Schedule:
    """Put a wait for each reduction at the end of its rank's order."""
    rows = [[*row, *(text.replace("RED", "WAIT_RED") for text in row if "REDUCE" in text)] for row in texts(lowered)]
    return Schedule.of(rows)


@pytest.mark.parametrize("reduces", ["at the end", "at once", "awaited"])
def test_pipelines_side_by_side(pool: GlooPool, reduces: str) -> None:
    problem = Problem.chain(ranks=2, microbatches=4, virtual=2)
    order = lower(generate("interleaved-1f1b", problem), problem)
    at_once = add_reduction(order, problem)
    reduced = {"at the end": order, "at once": at_once, "awaited": awaiting(at_once)}
    plan = plan_of(reduced[reduces], problem)
    outcomes = pool.run(jobs.in_parallel, plan)
    assert max(outcome.value for outcome in outcomes) < CLOSE
