"""Plans in PyTorch's own runtime: refused before anything waits, or trained with the gradients of one process."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from gloo_pool import GlooPool, Outcome
from random_schedules import random_rows

torch = pytest.importorskip("torch", reason="torch is not installed")

from oracle_messages import Wires  # noqa: E402 - after torch is known to be there
from torch_runs import batch, error_of, in_one_process, stage_module  # noqa: E402

import schedverify as sv  # noqa: E402
from schedverify.formats.plan_files import digest, plan_data, to_json  # noqa: E402
from schedverify.generators import families  # noqa: E402
from schedverify.planner import plan_of  # noqa: E402
from schedverify.result import Plan  # noqa: E402
from schedverify.torch_bridge import load_verified  # noqa: E402

CLOSE = 1e-5


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, GlooPool]]:
    with GlooPool(2) as two, GlooPool(4) as four:
        yield {2: two, 4: four}


def stages_of(rank: int, placement: Sequence[int]) -> list[Any]:
    from torch.distributed.pipelining import PipelineStage

    own = [stage for stage, home in enumerate(placement) if home == rank]
    return [PipelineStage(stage_module(stage), stage, len(placement), torch.device("cpu")) for stage in own]


def trained(rank: int, text: str, folder: str) -> tuple[dict[int, Any], list[str]]:
    """Load a plan, run a step, and return the gradients of this rank's stages and what ran."""
    path = Path(folder) / f"plan-{rank}.json"
    path.write_text(text, encoding="utf-8")
    problem = sv.load(path).problem
    stages = stages_of(rank, problem.homes)
    loaded = load_verified(path, stages, torch.nn.functional.mse_loss)
    inputs, targets = batch(problem.microbatches)
    given = [inputs] if any(stage.is_first for stage in stages) else []
    losses: list[Any] = []
    loaded.step(*given, target=targets if any(stage.is_last for stage in stages) else None, losses=losses)
    ran = [each.step for each in sorted(loaded.trace, key=lambda each: each.position)]
    if ran != loaded.schedule.strings()[rank]:
        raise AssertionError(f"ran {ran}, the plan says {loaded.schedule.strings()[rank]}")
    return {stage.stage_index: stage.submod[0].weight.grad.tolist() for stage in stages}, ran


def train(pool: GlooPool, plan: Plan, folder: Path) -> float:
    """Train a plan and return the largest relative error of its gradients."""
    outcomes = pool.run(trained, to_json(plan), str(folder), timeout=120)
    assert [outcome.error for outcome in outcomes] == [None] * pool.ranks
    true = in_one_process(plan.problem.stages, plan.problem.microbatches)
    return error_of([outcome.value[0] for outcome in outcomes], true)


def grid(ranks: Sequence[int], microbatches: Sequence[int]) -> Iterator[Plan]:
    """Yield the plan of every family that PyTorch's runtime admits, on every shape that it takes."""
    for family in families():
        for p in ranks:
            for v in (1, 2):
                for m in microbatches:
                    for form in ("fused", "split"):
                        keys = {} if form == "fused" else {"backward_input": 1, "backward_weight": 1}
                        placement = "v" if family.placement == "v" else "loop"
                        problem = sv.Problem.chain(
                            ranks=p, microbatches=m, virtual=v, form=form, placement=placement, **keys
                        )
                        if family.suits(problem):
                            yield plan_of(family.generate(problem), problem)


def test_families_train_in_pytorch_s_runtime(pools: dict[int, GlooPool], tmp_path: Path) -> None:
    """One shape of each; the rest is slow."""
    plans = {}
    for plan in grid([2], [3]):
        plans.setdefault((str(plan.schedule.compute_only()), plan.problem.form), plan)
    assert len(plans) >= 12
    for plan in plans.values():
        assert train(pools[2], plan, tmp_path) < CLOSE


@pytest.mark.slow
def test_every_family_trains_in_pytorch_s_runtime(pools: dict[int, GlooPool], tmp_path: Path) -> None:
    plans = {(str(plan.schedule), plan.problem.form): plan for plan in grid([2, 4], [1, 3, 4, 8])}
    assert len(plans) >= 100
    errors = [train(pools[plan.problem.ranks], plan, tmp_path) for plan in plans.values()]
    assert max(errors) < CLOSE


@pytest.mark.slow
def test_optimized_and_random_plans_train_in_pytorch_s_runtime(pools: dict[int, GlooPool], tmp_path: Path) -> None:
    rng, errors = random.Random(5), []
    for number in range(20):
        keys: dict[str, Any] = {"ranks": rng.choice([2, 4]), "virtual": rng.choice([1, 2])}
        keys |= {"microbatches": rng.randint(1, 6), "placement": rng.choice(["loop", "v"])}
        keys |= {"backward_input": rng.randint(1, 4), "backward_weight": rng.randint(1, 4), "latency": 1}
        problem = sv.Problem.chain(**keys)
        if number % 2:
            plan = sv.optimize(problem, time_limit=3, workers=1)
        else:
            plan = plan_of(sv.Schedule.of(random_rows(rng, Wires(problem.to_dict()))), problem)
        assert plan.schedule is not None
        if sv.verify(plan.schedule, problem, select=["SV702"]).ok:
            errors.append(train(pools[problem.ranks], plan, tmp_path))
    assert len(errors) >= 10
    assert max(errors) < CLOSE


class TestRefused:
    """Each before any process waits for a tensor: on every rank, with the reason."""

    def refusals(self, pool: GlooPool, job: Any, *arguments: Any) -> list[str]:
        outcomes: list[Outcome] = pool.run(job, *arguments, timeout=60)
        assert all(outcome.error is None and not outcome.hung for outcome in outcomes), outcomes
        return [outcome.value for outcome in outcomes]

    def test_a_plan_for_another_world(self, pools: dict[int, GlooPool]) -> None:
        problem = sv.Problem.chain(ranks=3, microbatches=2)
        told = self.refusals(pools[2], refused, to_json(plan_of(sv.generate("1f1b", problem), problem)), (0, 1))
        assert all("the plan is for 3 ranks, the process group has 2" in text for text in told)

    def test_stages_that_are_not_the_rank_s(self, pools: dict[int, GlooPool]) -> None:
        problem = sv.Problem.chain(ranks=2, microbatches=2)
        text = to_json(plan_of(sv.generate("1f1b", problem), problem))
        told = self.refusals(pools[2], refused, text, (1, 0))
        assert all("rank 0: the plan has the stages [0] here, the stages given are [1]" in each for each in told)
        told = self.refusals(pools[2], refused, text, (0, 1, 0, 1))
        assert all("the stages given are [0, 2]" in each for each in told)

    def test_another_plan_on_one_rank(self, pools: dict[int, GlooPool]) -> None:
        problem = sv.Problem.chain(ranks=2, microbatches=2)
        texts = [to_json(plan_of(sv.generate(name, problem), problem)) for name in ("1f1b", "gpipe")]
        told = self.refusals(pools[2], refused_of, texts)
        assert all("rank 1: it has another plan" in each for each in told)

    def test_a_plan_that_the_runtime_would_train_wrongly(self, pools: dict[int, GlooPool]) -> None:
        problem = sv.Problem.chain(ranks=2, microbatches=2)
        crossed = sv.Schedule.parse("0F1 0F0 0B1 0B0\n1F1 1B1 1F0 1B0")
        told = self.refusals(pools[2], refused, to_json(plan_of(crossed, problem)), (0, 1))
        assert all("SV702 rank 1, position" in each for each in told)

    def test_a_changed_plan_with_a_new_digest(self, pools: dict[int, GlooPool]) -> None:
        problem = sv.Problem.chain(ranks=2, microbatches=2)
        plan = plan_of(sv.generate("1f1b", problem), problem)
        assert plan.lowered is not None
        rows = plan.lowered.schedule.strings()
        rows[1].remove("1SEND_B0")
        changed = dataclasses.replace(plan, lowered=dataclasses.replace(plan.lowered, schedule=sv.Schedule.of(rows)))
        data = json.loads(to_json(changed))
        assert data["digest"] == digest(plan_data(changed))
        told = self.refusals(pools[2], refused, json.dumps(data), (0, 1))
        assert all("SV301" in each for each in told)


def refused(rank: int, text: str, placement: Sequence[int]) -> str:
    return _refusal(rank, text, placement)


def refused_of(rank: int, texts: Sequence[str]) -> str:
    return _refusal(rank, texts[rank], (0, 1))


def _refusal(rank: int, text: str, placement: Sequence[int]) -> str:
    import tempfile

    from schedverify.runner import RefusedError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        path.write_text(text, encoding="utf-8")
        try:
            load_verified(path, stages_of(rank, placement), torch.nn.functional.mse_loss, timeout=20)
        except RefusedError as error:
            return str(error)
    return "not refused"


def held_up(rank: int, text: str) -> str:
    """Run a step in which rank 1 never begins, and return what rank 0 says."""
    import tempfile
    import time

    from schedverify.runner import TimedOutError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        path.write_text(text, encoding="utf-8")
        loaded = load_verified(path, stages_of(rank, (0, 1)), torch.nn.functional.mse_loss, timeout=10)
    inputs, targets = batch(2)
    loaded.step(*([inputs] if rank == 0 else []), target=targets if rank else None)
    loaded._timeout = 1
    if rank:
        time.sleep(6)
        return ""
    try:
        loaded.step(inputs)
    except TimedOutError as error:
        return str(error)
    return "no error"


def test_a_wait_that_does_not_end_names_its_place_and_its_peer() -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=2)
    with GlooPool(2) as pool:
        outcomes = pool.run(held_up, to_json(plan_of(sv.generate("1f1b", problem), problem)), timeout=60)
    assert "rank 0, position" in outcomes[0].value
    assert "(0B0) waits for rank 1" in outcomes[0].value
