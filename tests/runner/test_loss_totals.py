"""Losses that count unequally give the gradients of one process: padded rows, unequal rows, several pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from schedverify import Problem, Schedule, generate, lower
from schedverify.core.result import Plan
from schedverify.lowering import add_reduction
from schedverify.planner.plans import plan_of
from support import loss_jobs as jobs
from support.gloo_pool import GlooPool

pytestmark = pytest.mark.xdist_group("runner")
CLOSE = 1e-10

LENGTHS = [[[[2, 9], [9, 9], [0, 0], [3, 1]]], [[[1, 1], [0, 0], [9, 2], [5, 4]]], [[[7, 7], [1, 0], [9, 9], [9, 9]]]]
"""Of three steps, of one pipeline with four micro-batches of two rows; some have nothing but padding."""
SIDE_BY_SIDE = [
    [[[2, 9], [9, 9, 9], [0], [3, 1]], [[1], [1], [1, 1], [2]]],
    [[[0], [0, 0], [0], [0]], [[1, 9, 9], [9], [2], [4]]],
]
"""Of two steps, of two pipelines with unequal rows; in the second one has nothing but padding."""


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, GlooPool]]:
    with GlooPool(1) as one, GlooPool(2) as two, GlooPool(4) as four:
        yield {1: one, 2: two, 4: four}


def run(pools: dict[int, GlooPool], job: Callable[..., Any], plan: Plan, case: dict[str, Any]) -> list[Any]:
    """Return what a job returns on each rank of as many pipelines as the case has."""
    outcomes = pools[plan.problem.ranks * len(case["lengths"][0])].run(job, plan, case)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    return [outcome.value for outcome in outcomes]


def check(pools: dict[int, GlooPool], plan: Plan, **case: Any) -> None:
    found = run(pools, jobs.train, plan, case)
    assert max(each[0] for each in found) < CLOSE
    assert max(each[1] for each in found) < CLOSE


def plan_for(family: str, ranks: int = 2, **keys: Any) -> Plan:
    problem = Problem.chain(**{"ranks": ranks, "microbatches": 4, "form": "split"} | keys)
    return plan_of(generate(family, problem), problem)


PLANS: list[tuple[str, dict[str, Any]]] = [
    ("1f1b", {}),
    ("zb-h1", {}),
    ("zb-h1", {"recompute": [True, True]}),
    ("interleaved-1f1b", {"virtual": 2, "form": "fused"}),
    ("zb-v", {"virtual": 2, "placement": "v"}),
    ("gpipe", {"replicas": 2, "form": "fused"}),
    ("gpipe", {"ranks": 1}),
]


@pytest.mark.parametrize("loss", ["pair", "careless"])
@pytest.mark.parametrize(("family", "keys"), PLANS, ids=str)
def test_pairs_count_what_counts(pools: dict[int, GlooPool], family: str, keys: dict[str, Any], loss: str) -> None:
    check(pools, plan_for(family, **keys), lengths=LENGTHS, loss=loss)


REDUCED = ["at the end", "at once", "awaited"]


def reducing(plan: Plan, when: str) -> Plan:
    """Return a plan that reduces gradients at some time."""
    problem = plan.problem
    assert plan.schedule is not None
    order = lower(plan.schedule, problem)
    if when == "at the end":
        return plan_of(order, problem)
    order = add_reduction(order, problem)
    rows = [[str(step) for step in order.steps(rank)] for rank in range(order.ranks)]
    if when == "awaited":
        rows = [[*row, *(text.replace("RED", "WAIT_RED") for text in row if "REDUCE" in text)] for row in rows]
    return plan_of(Schedule.of(rows), problem)


@pytest.mark.parametrize("when", REDUCED)
@pytest.mark.parametrize("loss", ["pair", "rows"])
def test_pipelines_with_unequal_rows(pools: dict[int, GlooPool], loss: str, when: str) -> None:
    check(pools, reducing(plan_for("zb-h1"), when), lengths=SIDE_BY_SIDE, loss=loss)


@pytest.mark.parametrize("wrapped", ["ddp", "fsdp"])
@pytest.mark.parametrize("loss", ["pair", "rows"])
def test_wrapped_stages_count_over_their_own_group(pools: dict[int, GlooPool], loss: str, wrapped: str) -> None:
    check(pools, plan_for("1f1b"), lengths=SIDE_BY_SIDE, loss=loss, wrapped=wrapped)


@pytest.mark.parametrize("lengths", [LENGTHS, SIDE_BY_SIDE], ids=["one pipeline", "two"])
def test_weights_say_what_means_count_for(pools: dict[int, GlooPool], lengths: list[Any]) -> None:
    weights = [[3, 0.5, 0, 7], [1, 2.0, 3, 0]][: len(lengths[0])]
    filled = [[[[9 for _ in rows] for rows in pipeline] for pipeline in step] for step in lengths]
    check(pools, plan_for("1f1b"), lengths=filled, loss="mean", weights=weights)


@pytest.mark.parametrize("lengths", [LENGTHS, SIDE_BY_SIDE], ids=["one pipeline", "two"])
def test_counts_as_weights_are_the_mean_over_words(pools: dict[int, GlooPool], lengths: list[Any]) -> None:
    counts = [[sum(rows) for rows in pipeline] for pipeline in lengths[0]]
    check(pools, plan_for("1f1b"), lengths=lengths[:1], loss="mean", weights=counts)


def test_copies_and_pipelines_together(pools: dict[int, GlooPool]) -> None:
    check(pools, plan_for("gpipe", replicas=2, form="fused"), lengths=SIDE_BY_SIDE, loss="pair")
    check(pools, plan_for("gpipe", replicas=2, form="fused"), lengths=SIDE_BY_SIDE, loss="rows")


FULL = [[[9, 9]] * 4]
"""Of one pipeline, without padding."""


def told(pools: dict[int, GlooPool], plan: Plan, **case: Any) -> list[str]:
    found = run(pools, jobs.refused, plan, case)
    pools[len(found)].end()
    return found


def test_ranks_with_copies_agree_on_the_form(pools: dict[int, GlooPool]) -> None:
    plan = plan_for("gpipe", replicas=2, form="fused")
    found = told(pools, plan, lengths=[FULL], loss=[["mean", "pair"]])
    sentence = "the losses of the step are not of one form (return a mean everywhere, or a pair): "
    assert found == [f"RunError: {sentence}rank 0: a mean; rank 1: a pair"] * 2


def test_pipelines_agree_on_the_form(pools: dict[int, GlooPool]) -> None:
    found = told(pools, plan_for("1f1b"), lengths=[FULL * 2], loss=[["mean", "mean", "pair", "pair"]])
    for rank in (1, 3):
        assert "rank 1, the losses of the step: in some pipelines a loss is a mean, in others a pair" in found[rank]
    for rank in (0, 2):
        assert found[rank].startswith("TimedOutError: ")


@pytest.mark.parametrize("forms", [("mean", "pair"), ("pair", "mean")], ids=str)
def test_steps_keep_to_the_form(pools: dict[int, GlooPool], forms: tuple[str, str]) -> None:
    found = told(pools, plan_for("1f1b"), lengths=[FULL, FULL], loss=[[forms[0]] * 2, [forms[1]] * 2])
    names = {"mean": "a mean", "pair": "a pair"}
    sentence = f"InputError: loss: of stage 1 it is {names[forms[1]]} now, {names[forms[0]]} before (always the same)"
    assert all(sentence in text for text in found)
    assert found[1].startswith("RunError: rank 1, position ")


def test_a_pipeline_of_padding_learns_the_form_of_the_other(pools: dict[int, GlooPool]) -> None:
    weights = [[None, [0] * 4, None, [1] * 4]] * 2
    losses = [["mean"] * 4, ["mean", "pair", "mean", "mean"]]
    found = told(pools, plan_for("1f1b"), lengths=[FULL * 2] * 2, loss=losses, weights=weights)
    assert found == [""] * 4
    weights[1] = [None, [1] * 4, None, [1] * 4]
    found = told(pools, plan_for("1f1b"), lengths=[FULL * 2] * 2, loss=losses, weights=weights)
    assert found[1].endswith("InputError: loss: of stage 1 it is a pair now, a mean before (always the same)")


def test_pipelines_agree_on_whether_weights_are_given(pools: dict[int, GlooPool]) -> None:
    weights = [[None, [1] * 4, None, None]]
    found = told(pools, plan_for("1f1b"), lengths=[FULL * 2], loss=[["mean"] * 4], weights=weights)
    for rank in (1, 3):
        assert found[rank].startswith("InputError: weights: given in some pipelines of the data-parallel group only")


def test_a_mean_over_nothing_is_told(pools: dict[int, GlooPool]) -> None:
    case: dict[str, Any] = {"lengths": [[[[9], [0], [9], [0]]]], "loss": [["mean"] * 2]}
    cure = "a mean over nothing is NaN: where a micro-batch may hold nothing that counts, return (sum, count)"
    found = told(pools, plan_for("1f1b"), **case)
    assert found == ["", f"rank 1: the loss of micro-batch 1, 3 is NaN ({cure})"]
    found = told(pools, plan_for("1f1b"), **case, options={"forbid_nan": True})
    sentence = f"rank 1, position 5 (1F1): the loss of micro-batch 1 is NaN ({cure})"
    assert found[1] == f"RunError: {sentence}"
    assert found[0].endswith(f"ended by {sentence}")


COUNTS = [[[[2, 9], [9, 9], [0, 0], [3, 1]]], [[[9, 9], [1, 4], [2, 3], [2, 3]]], [[[9, 9], [1, 4], [2, 3], [2, 4]]]]
"""Of three heads: the first two count as much in all, if not by micro-batch."""
HEADS = {"edges": [[0, 1], [0, 2]], "placement": [0, 1, 0]}


def test_heads_that_count_as_much_add_up(pools: dict[int, GlooPool]) -> None:
    found = run(
        pools, jobs.two_heads, plan_for("gpipe", form="fused", **HEADS), {"lengths": COUNTS[:2], "loss": "pair"}
    )
    assert max(each[0] for each in found) < CLOSE
    assert max(each[1] for each in found) < CLOSE


def test_heads_that_count_differently_need_weights(pools: dict[int, GlooPool]) -> None:
    plan, case = plan_for("gpipe", form="fused", **HEADS), {"lengths": COUNTS[::2], "loss": "pair"}
    found = run(pools, jobs.two_heads, plan, case)
    pools[2].end()
    cure = "let each loss be a mean, and give the counts of micro-batches as weights to step"
    sentence = f"the losses of the step: last stages count differently, 33 at stage 1, 34 at stage 2: {cure}"
    assert found == [f"RunError: {sentence}"] * 2
    weights = {stage: [sum(rows) for rows in step[0]] for stage, step in zip((1, 2), COUNTS[::2], strict=True)}
    found = run(pools, jobs.two_heads, plan, case | {"loss": "mean", "weights": weights})
    assert max(each[0] for each in found) < CLOSE
    assert max(each[1] for each in found) < CLOSE
