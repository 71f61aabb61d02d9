"""Predictions of the verifier against real processes: right gradients, wrong ones, or a hang, in every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from support.gloo_pool import GlooPool

torch = pytest.importorskip("torch", reason="torch is not installed")

import schedverify as sv  # noqa: E402
from schedverify.planner.export import for_torch  # noqa: E402
from schedverify.torch_bridge import torch_order, torch_problem, torch_schedule  # noqa: E402
from support.bare_executor import MODES, Work, run_together, true_gradients  # noqa: E402 - they need torch
from support.predictions import Outcome, Prediction, predicted  # noqa: E402
from support.real_plans import FAULTS, RIGHT, RealPlan, real_plan  # noqa: E402
from support.torch_runs import error_of, in_one_process, of_a_class, of_a_csv  # noqa: E402

TOGETHER = 80
"""Orders that run beside each other in one set of processes."""
LEFT_BEHIND = 80
"""Hangs after which fresh processes take over: each leaves a process group behind, and files are limited."""
CLOSE = 1e-9


class Run(NamedTuple):
    """A plan in one mode, and what is predicted of it."""

    number: int
    plan: RealPlan
    mode: str
    predicted: Outcome
    reduces: bool

    @property
    def work(self) -> Work:
        problem = self.plan.problem
        hangs = self.predicted is Outcome.HANG
        return Work(self.plan.rows, problem.owner_rank, problem.microbatches, problem.form == "split", self.mode, hangs)

    def __str__(self) -> str:
        rows = "\n".join(map(" ".join, self.plan.rows))
        return f"plan {self.number} ({self.plan.fault}), {self.mode}: predicted {self.predicted}\n{rows}"


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, GlooPool]]:
    with GlooPool(4) as four, GlooPool(2) as two:
        yield {4: four, 2: two}


def runs_of(numbers: Sequence[int], modes: Sequence[str] = MODES) -> list[Run]:
    """Return the runs of plans in modes whose outcome the verdicts decide."""
    runs = []
    for number in numbers:
        plan = real_plan(number)
        for mode in modes:
            prediction = Prediction(plan.rows, plan.problem, mode)
            outcome = prediction.outcome()
            if outcome is not None:
                runs.append(Run(number, plan, mode, outcome, prediction.reduces()))
    return runs


def shown(run: Run, found: Sequence[dict[int, Any] | None]) -> Outcome:
    """Return what the gradients of a run show; None stands for a rank that did not end."""
    if any(gradients is None for gradients in found):
        return Outcome.HANG
    owner_rank, microbatches = run.plan.problem.owner_rank, run.plan.problem.microbatches
    for stage, true in enumerate(true_gradients(len(owner_rank), microbatches)):
        wanted = true / microbatches if run.reduces else true
        got = torch.tensor((found[owner_rank[stage]] or {})[stage], dtype=torch.float64)
        if not (got - wanted).abs().max() <= CLOSE * wanted.abs().max():
            return Outcome.WRONG
    return Outcome.RIGHT


def disagreements(pool: GlooPool, runs: Sequence[Run]) -> list[str]:
    """Run all and return those that show something else than was predicted."""
    told, hung = [], 0
    for first in range(0, len(runs), TOGETHER):
        part = runs[first : first + TOGETHER]
        hanging = sum(run.predicted is Outcome.HANG for run in part)
        if hung + hanging > LEFT_BEHIND:
            pool.end()
            hung = 0
        hung += hanging
        outcomes = pool.run(run_together, [run.work for run in part], timeout=240)
        assert [outcome.error for outcome in outcomes] == [None] * pool.ranks
        assert not any(outcome.hung for outcome in outcomes)
        for i, run in enumerate(part):
            seen = shown(run, [outcomes[rank].value[i] for rank in range(len(run.plan.rows))])
            if seen is not run.predicted:
                told.append(f"{run}\nshown: {seen}")
    return told


def test_thirty_plans_do_what_is_predicted(pools: dict[int, GlooPool]) -> None:
    """Of each mode, and of nearly every fault, in turn."""
    numbers = range(0, 2 * len(FAULTS), 2)
    runs = [run for i, number in enumerate(numbers) for run in runs_of([number], [MODES[i % len(MODES)]])][:30]
    assert len(runs) == 30
    assert {run.mode for run in runs} == set(MODES)
    assert {run.predicted for run in runs} == set(Outcome)
    assert disagreements(pools[4], runs) == []


@pytest.mark.slow
def test_every_plan_does_what_is_predicted(pools: dict[int, GlooPool]) -> None:
    """Each in all four modes; every fault is among them, and each outcome in each mode, many times."""
    runs = runs_of(range(450))
    count = Counter((run.mode, run.predicted) for run in runs)
    assert len({run.number for run in runs}) >= 300
    assert {run.plan.fault for run in runs} >= {RIGHT, *FAULTS}
    assert all(count[mode, outcome] >= 20 for mode in MODES for outcome in Outcome), count
    assert disagreements(pools[4], runs) == []


HAND: dict[str, tuple[str, str]] = {
    "one micro-batch after another": (
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1 | 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        "right right right right",
    ),
    "a send that waits for its receive holds a blocking rank": (
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 | 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        "right right hang hang",
    ),
    "receives exchanged": (
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 | 1RECV_F1 1RECV_F0 1F0 1F1 1B0 1SEND_B0 1B1 1SEND_B1",
        "right wrong wrong hang",
    ),
    "sends exchanged": (
        "0F0 0F1 0SEND_F1 0SEND_F0 0RECV_B0 0B0 0RECV_B1 0B1 | 1RECV_F0 1RECV_F1 1F0 1F1 1B0 1SEND_B0 1B1 1SEND_B1",
        "right wrong wrong hang",
    ),
    "an early receive takes the message of another that is then missed": (
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1 | 1RECV_F1 1RECV_F0 1F0 1B0 1SEND_B0 1F1 1B1 1SEND_B1",
        "right hang hang hang",
    ),
    "a send without its receive": (
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1 | 1RECV_F0 1F0 1B0 1SEND_B0 1F1 1B1 1SEND_B1",
        "hang hang hang hang",
    ),
    "a receive without its send": (
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0RECV_B1 0B1 | 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        "hang hang hang hang",
    ),
    "a message with neither end": (
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0RECV_B1 0B1 | 1RECV_F0 1F0 1B0 1SEND_B0 1F1 1B1 1SEND_B1",
        "wrong wrong wrong wrong",
    ),
    "both ends of a message twice": (
        "0F0 0SEND_F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1"
        " | 1RECV_F0 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        "right right right right",
    ),
    "a send before its tensor is made": (
        "0SEND_F0 0F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1 | 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        "wrong wrong wrong wrong",
    ),
    "a receive behind the step that reads it": (
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1 | 1F0 1RECV_F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        "wrong wrong wrong wrong",
    ),
    "a backward before its forward": (
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1 | 1RECV_F0 1B0 1F0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        "wrong wrong wrong wrong",
    ),
    "a backward that is missing": (
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 | 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        "wrong wrong wrong wrong",
    ),
    "a backward twice": (
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1 0B0 | 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        "wrong wrong wrong wrong",
    ),
    "a forward twice": (
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1 0F0 | 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        "right right right right",
    ),
    "a backward on another rank": (
        "0F0 0SEND_F0 0RECV_B0 0F1 0SEND_F1 0RECV_B1 0B1"
        " | 1RECV_F0 1F0 1B0 1SEND_B0 0B0 1RECV_F1 1F1 1B1 1SEND_B1",
        "wrong wrong wrong wrong",
    ),
    "each gradient reduced": (
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1 0REDUCE_GRAD"
        " | 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1 1REDUCE_GRAD",
        "right right right right",
    ),
    "one gradient not reduced": (
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1 0REDUCE_GRAD"
        " | 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        "wrong wrong wrong wrong",
    ),
    "one gradient reduced twice": (
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1 0REDUCE_GRAD 0REDUCE_GRAD"
        " | 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1 1REDUCE_GRAD",
        "wrong wrong wrong wrong",
    ),
    "a use of parameters that are not gathered": (
        "0UNSHARD 0F0 0SEND_F0 0RECV_B0 0RESHARD 0B0 0UNSHARD 0F1 0SEND_F1 0RECV_B1 0B1 0RESHARD"
        " | 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        "wrong wrong wrong wrong",
    ),
}  # fmt: skip
"""Orders of two ranks, one stage each, two micro-batches, and what they do in each of the modes, by thought alone."""


def hand_runs(story: str) -> list[Run]:
    """Return the runs of a hand case, with what thought says of each."""
    text, outcomes = HAND[story]
    plan = RealPlan(sv.Problem.chain(ranks=2, microbatches=2), [row.split() for row in text.split(" | ")], story)
    pairs = zip(MODES, map(Outcome, outcomes.split()), strict=True)
    return [Run(-1, plan, mode, outcome, "REDUCE_GRAD" in text) for mode, outcome in pairs]


@pytest.mark.parametrize("story", HAND)
def test_predictions_are_what_thought_says(story: str) -> None:
    for run in hand_runs(story):
        assert predicted(run.plan.rows, run.plan.problem, run.mode) is run.predicted, run


def test_hand_cases_show_what_thought_says(pools: dict[int, GlooPool]) -> None:
    assert disagreements(pools[2], [run for story in HAND for run in hand_runs(story)]) == []


def test_what_the_verdicts_do_not_decide_is_left_open() -> None:
    """One of two reductions comes while there is nothing to reduce, which SV305 does not tell from one that counts."""
    rows = [HAND["each gradient reduced"][0].split(" | ")[0].split(), ["1REDUCE_GRAD"]]
    rows[1] += HAND["each gradient reduced"][0].split(" | ")[1].split()
    assert predicted(rows, sv.Problem.chain(ranks=2, microbatches=2), "edge") is None


class TestDeferredReceives:
    """Torch's ``defer_pp_recv`` on ZBV with 2 ranks and 3 micro-batches."""

    SHAPE = {"ranks": 2, "microbatches": 3, "virtual": 2}  # noqa: RUF012 - never changed

    def test_the_proof_finds_tensors_that_change_places(self) -> None:
        problem = torch_problem("ZBVZeroBubble", **self.SHAPE)
        deferred = torch_schedule("ZBVZeroBubble", **self.SHAPE, lowered=True, defer_receives=True)
        report = sv.verify(deferred, problem, discipline="edge")
        assert {violation.code for violation in report.violations} == {"SV302"}

    def test_under_pair_every_shape_is_proved_to_hang(self) -> None:
        """NCCL's queues are not at hand: this is the proof alone, which names both ranks."""
        for ranks, microbatches in ((2, 2), (2, 3), (3, 4), (4, 8)):
            shape = {"ranks": ranks, "microbatches": microbatches, "virtual": 2}
            deferred = torch_schedule("ZBVZeroBubble", **shape, lowered=True, defer_receives=True)
            report = sv.verify(deferred, torch_problem("ZBVZeroBubble", **shape), discipline="pair", select=["SV304"])
            stories = report["SV304"].violations
            assert stories
            assert all(len(story.counterexample) >= 2 for story in stories)

    def test_the_order_run_to_the_letter_is_right_with_tags_only(self, pools: dict[int, GlooPool]) -> None:
        problem = torch_problem("ZBVZeroBubble", **self.SHAPE)
        deferred = torch_schedule("ZBVZeroBubble", **self.SHAPE, lowered=True, defer_receives=True)
        plan = RealPlan(problem, deferred.strings(), "deferred receives")
        wanted = (Outcome.RIGHT, Outcome.WRONG, Outcome.HANG, Outcome.HANG)
        predictions = [Prediction(plan.rows, problem, mode) for mode in MODES]
        assert tuple(prediction.outcome() for prediction in predictions) == wanted
        reduces = predictions[0].reduces()
        runs = [Run(-1, plan, mode, outcome, reduces) for mode, outcome in zip(MODES, wanted, strict=True)]
        assert disagreements(pools[2], runs) == []

    def test_torch_s_runtime_trains_on_them_without_an_error(self, pools: dict[int, GlooPool]) -> None:
        owner_rank = torch_problem("ZBVZeroBubble", **self.SHAPE).owner_rank
        true = in_one_process(len(owner_rank), 3)
        errors = {}
        for deferred in (False, True):
            outcomes = pools[2].run(of_a_class, "ZBVZeroBubble", owner_rank, 3, deferred)
            assert [outcome.error for outcome in outcomes] == [None, None]
            errors[deferred] = error_of([outcome.value for outcome in outcomes], true)
        assert errors[False] < CLOSE
        assert errors[True] > 0.01

    def test_our_lowering_of_the_same_order_is_right_there(self, pools: dict[int, GlooPool]) -> None:
        problem = torch_problem("ZBVZeroBubble", **self.SHAPE)
        order = torch_schedule("ZBVZeroBubble", **self.SHAPE)
        lowered = for_torch(sv.lower(order, problem), problem)
        text = "".join(",".join(row) + "\n" for row in lowered.strings())
        outcomes = pools[2].run(of_a_csv, text, problem.owner_rank, 3)
        assert [outcome.error for outcome in outcomes] == [None, None]
        assert error_of([outcome.value for outcome in outcomes], in_one_process(4, 3)) < CLOSE

    def test_what_swaps_there_is_right_once_it_is_lowered_again(self, pools: dict[int, GlooPool]) -> None:
        problem = torch_problem("ZBVZeroBubble", **self.SHAPE)
        swaps = torch_order("ZBVZeroBubble", **self.SHAPE, lowered=True, defer_receives=True)
        report = sv.verify(swaps, problem, discipline="edge")
        assert report["SV302"].violations
        assert "--again" in report["SV302"].remedy
        cured = for_torch(sv.lower(swaps, problem, again=True), problem)
        text = "".join(",".join(row) + "\n" for row in cured.strings())
        outcomes = pools[2].run(of_a_csv, text, problem.owner_rank, 3)
        assert [outcome.error for outcome in outcomes] == [None, None]
        assert error_of([outcome.value for outcome in outcomes], in_one_process(4, 3)) < CLOSE
