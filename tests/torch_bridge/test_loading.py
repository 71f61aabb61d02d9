"""Plans in PyTorch's own runtime: refused before anything waits, or trained with the gradients of one process."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.gloo_pool import GlooPool, Outcome
from support.random_schedules import random_rows

torch = pytest.importorskip("torch", reason="torch is not installed")

import schedverify as sv  # noqa: E402
from oracle.messages import Wires  # noqa: E402 - after torch is known to be there
from schedverify.core.result import Plan  # noqa: E402
from schedverify.formats.plan_files import digest, plan_data, to_json  # noqa: E402
from schedverify.generators import families  # noqa: E402
from schedverify.planner.plans import plan_of  # noqa: E402
from schedverify.runner import RefusedError, TimedOutError  # noqa: E402
from schedverify.torch_bridge import LoadedPlan, load_verified, loading, torch_problem, torch_schedule  # noqa: E402
from schedverify.torch_bridge.torch_internals import knows_waits  # noqa: E402
from support.torch_runs import Gradients, batch, error_of, in_one_process, stage_module  # noqa: E402

CLOSE = 1e-5
WAITING = "position 10 (1WAIT_SEND_B0)"
"""Where the last rank of GPipe waits for its first send, since torch does so where the order says."""
Trained = tuple[Gradients, list[float]]


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, GlooPool]]:
    with GlooPool(2) as two, GlooPool(4) as four:
        yield {2: two, 4: four}


def stages_of(rank: int, placement: Sequence[int], group: Any = None) -> list[Any]:
    from torch.distributed.pipelining import PipelineStage

    own = [stage for stage, home in enumerate(placement) if home == rank]
    cpu = torch.device("cpu")
    return [PipelineStage(stage_module(stage), stage, len(placement), cpu, group=group) for stage in own]


def trained(rank: int, text: str, folder: str) -> Trained:
    """Load a plan, run a step, and return the gradients of this rank's stages and the losses."""
    path = Path(folder) / f"plan-{rank}.json"
    path.write_text(text, encoding="utf-8")
    problem = sv.load(path).problem
    stages = stages_of(rank, problem.owner_rank)
    return stepped(load_verified(path, stages, torch.nn.functional.mse_loss), stages, problem.microbatches)


def stepped(loaded: LoadedPlan, stages: list[Any], microbatches: int) -> Trained:
    inputs, targets = batch(microbatches)
    given = [inputs] if any(stage.is_first for stage in stages) else []
    losses: list[Any] = []
    loaded.step(*given, target=targets if any(stage.is_last for stage in stages) else None, losses=losses)
    ran, wanted = [each.step for each in loaded.trace], loaded.schedule.strings()[loaded.runtime.rank]
    if ran != wanted or [each.position for each in loaded.trace] != list(range(len(wanted))):
        raise AssertionError(f"ran {ran}, the plan says {wanted}")
    return gradients_of(stages), [loss.item() for loss in losses]


def gradients_of(stages: list[Any]) -> Gradients:
    return {stage.stage_index: stage.submod[0].weight.grad.tolist() for stage in stages}


def train(pool: GlooPool, plan: Plan, folder: Path) -> float:
    """Train a plan and return the largest relative error of its gradients."""
    outcomes = pool.run(trained, to_json(plan), str(folder), timeout=120)
    assert [outcome.error for outcome in outcomes] == [None] * pool.ranks
    true = in_one_process(plan.problem.stages, plan.problem.microbatches)
    losses = next(outcome.value[1] for outcome in outcomes if outcome.value[1])
    assert losses == pytest.approx(losses_of(plan.problem.stages, plan.problem.microbatches), rel=CLOSE)
    return error_of([outcome.value[0] for outcome in outcomes], true)


def losses_of(stages: int, microbatches: int) -> list[float]:
    """Return the loss of each micro-batch in one process."""
    model = torch.nn.Sequential(*[stage_module(stage) for stage in range(stages)])
    cut = zip(*(whole.chunk(microbatches) for whole in batch(microbatches)), strict=True)
    return [torch.nn.functional.mse_loss(model(inputs), targets).item() for inputs, targets in cut]


def grid(ranks: Sequence[int], microbatches: Sequence[int]) -> Iterator[tuple[str, Plan]]:
    """Yield the plan of every family, with its name, on every shape that it takes."""
    for family in families():
        for p, v, m in itertools.product(ranks, (1, 2), microbatches):
            for form, placement in itertools.product(("fused", "split"), ("loop", "v")):
                keys = {} if form == "fused" else {"backward_input": 1, "backward_weight": 1}
                problem = sv.Problem.chain(ranks=p, microbatches=m, virtual=v, form=form, placement=placement, **keys)
                if family.suits(problem) and (v == 2 or placement == "loop"):
                    yield family.name, plan_of(family.generate(problem), problem)


def test_families_train_in_pytorch_s_runtime(pools: dict[int, GlooPool], tmp_path: Path) -> None:
    """One shape of each; the rest is slow."""
    plans: dict[tuple[str, str, int], Plan] = {}
    for name, plan in grid([2], [3, 4]):
        plans.setdefault((name, plan.problem.form, plan.problem.stages), plan)
    assert {name for name, *_ in plans} == {family.name for family in families()}
    for plan in plans.values():
        assert train(pools[2], plan, tmp_path) < CLOSE


@pytest.mark.slow
def test_every_family_trains_in_pytorch_s_runtime(pools: dict[int, GlooPool], tmp_path: Path) -> None:
    plans = {(str(plan.schedule), plan.problem.form): plan for _, plan in grid([2, 4], [1, 3, 4, 8])}
    assert len(plans) >= 150
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

    @pytest.mark.parametrize("keyword", ["defer_pp_recv", "max_outstanding_sends", "unshard_lookahead"])
    def test_keywords_of_torch_s_lowering(self, keyword: str) -> None:
        with pytest.raises(sv.InputError, match=f"{keyword}: it is of PyTorch's own lowering, and a plan is loaded as"):
            load_verified("plan.json", [], None, **{keyword: 1})

    def test_no_plan(self, pools: dict[int, GlooPool]) -> None:
        told = self.refusals(pools[2], refused, "{}", (0, 1))
        assert all("rank" in each and "plan.json" in each for each in told)
        told = self.refusals(pools[2], refused, "0F0 0B0\n1F0 1B0\n", (0, 1), "order.txt")
        assert all("a schedule, where a plan is expected; schedverify convert makes one" in each for each in told)

    def test_a_plan_lowered_for_too_mild_a_discipline(self, pools: dict[int, GlooPool]) -> None:
        problem = sv.Problem.chain(ranks=2, microbatches=2)
        plan = plan_of(sv.generate("1f1b", problem), problem)
        assert plan.lowered is not None
        mild = dataclasses.replace(plan, lowered=dataclasses.replace(plan.lowered, discipline=sv.Discipline.TAGGED))
        told = self.refusals(pools[2], refused, to_json(mild), (0, 1))
        assert all("PyTorch's runtime over gloo demands edge; lower it again with" in each for each in told)

    def test_sharded_stages_that_the_plan_never_gathers(self, pools: dict[int, GlooPool]) -> None:
        problem = sv.Problem.chain(ranks=2, microbatches=2)
        told = self.refusals(pools[2], refused_sharded, to_json(plan_of(sv.generate("1f1b", problem), problem)))
        assert all("the stages [1] given are sharded (FSDP), the plan has no UNSHARD for them" in each for each in told)

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


def refused(rank: int, text: str, placement: Sequence[int], name: str = "plan.json") -> str:
    return _refusal(text, stages_of(rank, placement), name)


def refused_of(rank: int, texts: Sequence[str]) -> str:
    return _refusal(texts[rank], stages_of(rank, (0, 1)))


def refused_sharded(rank: int, text: str) -> str:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    stages, mesh = stages_of(rank, (0, 1)), init_device_mesh("cpu", (2,))
    for stage in stages:
        fully_shard(stage.submod, mesh=mesh)
    return _refusal(text, stages)


def _refusal(text: str, stages: list[Any], name: str = "plan.json") -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        try:
            load_verified(path, stages, torch.nn.functional.mse_loss, timeout=20)
        except RefusedError as error:
            return str(error)
    return "not refused"


def test_overlapped_operations_train(pools: dict[int, GlooPool], tmp_path: Path) -> None:
    shape: dict[str, Any] = {"name": "DualPipeV", "ranks": 2, "microbatches": 4, "virtual": 2}
    schedule, problem = torch_schedule(**shape), torch_problem(**shape)
    assert "OVERLAP_F_B" in str(schedule)
    assert train(pools[2], plan_of(schedule, problem), tmp_path) < CLOSE


@pytest.mark.parametrize("virtual", [1, 2])
def test_an_optimized_plan_trains(virtual: int, pools: dict[int, GlooPool], tmp_path: Path) -> None:
    """Nothing is done to it before: what PyTorch needs is added when it is loaded."""
    costs: dict[str, Any] = {"forward": 2, "backward_input": 3, "backward_weight": 1, "latency": 1}
    problem = sv.Problem.chain(ranks=2, microbatches=3, virtual=virtual, placement="v", **costs)
    plan = sv.optimize(problem, time_limit=2, workers=1)
    assert plan.lowered is not None
    assert "REDUCE_GRAD" not in str(plan.lowered.schedule)
    assert train(pools[2], plan, tmp_path) < CLOSE


def as_with_nccl(rank: int, text: str, folder: str) -> Trained:
    """Go the way of NCCL, with gloo beneath: a group beside it to agree over, waits that are the backend's own."""
    from unittest import mock

    path = Path(folder) / f"plan-{rank}.json"
    path.write_text(text, encoding="utf-8")
    stages = stages_of(rank, (0, 1), torch.distributed.new_group([0, 1]))
    with mock.patch("torch.distributed.get_backend", return_value="nccl"):
        loaded = load_verified(path, stages, torch.nn.functional.mse_loss)
    own, control = stages[0].group, loaded._rank_group.control
    if control is own or torch.distributed.get_backend(control) != "gloo" or loaded._rank_group.limited:
        raise AssertionError(loaded._rank_group)
    return stepped(loaded, stages, 3)


def test_the_way_that_a_plan_goes_with_nccl(pools: dict[int, GlooPool], tmp_path: Path) -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=3)
    outcomes = pools[2].run(as_with_nccl, to_json(plan_of(sv.generate("1f1b", problem), problem)), str(tmp_path))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert error_of([outcome.value[0] for outcome in outcomes], in_one_process(2, 3)) < CLOSE


def summed(rank: int, text: str, folder: str) -> Gradients:
    """Run two steps with a loss that is a sum, unscaled, and return the gradients of both together."""
    path = Path(folder) / f"plan-{rank}.json"
    path.write_text(text, encoding="utf-8")
    stages = stages_of(rank, (0, 1))

    def loss(output: Any, target: Any) -> Any:
        return torch.nn.functional.mse_loss(output, target, reduction="sum")

    loaded = load_verified(path, stages, loss, scale_grads=False)
    stepped(loaded, stages, 3)
    stepped(loaded, stages, 3)
    return gradients_of(stages)


def test_unscaled_gradients_of_two_steps_add_up(pools: dict[int, GlooPool], tmp_path: Path) -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=3)
    outcomes = pools[2].run(summed, to_json(plan_of(sv.generate("1f1b", problem), problem)), str(tmp_path))
    size = batch(3)[1].numel()
    true = {stage: (2 * size * torch.tensor(grad)).tolist() for stage, grad in in_one_process(2, 3).items()}
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert error_of([outcome.value for outcome in outcomes], true) < CLOSE


def side_by_side(rank: int, text: str, folder: str) -> Gradients:
    """Train as one of two pipelines of two ranks each, in four processes."""
    path = Path(folder) / f"plan-{rank}.json"
    path.write_text(text, encoding="utf-8")
    groups = [torch.distributed.new_group(ranks) for ranks in ([0, 2], [1, 3])]
    stages = stages_of(rank // 2, (0, 1, 1, 0), groups[rank % 2])
    return stepped(load_verified(path, stages, torch.nn.functional.mse_loss), stages, 3)[0]


@pytest.mark.slow
def test_pipelines_side_by_side_are_process_groups_of_their_own(pools: dict[int, GlooPool], tmp_path: Path) -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=3, virtual=2, placement="v", backward_input=1, backward_weight=1)
    outcomes = pools[4].run(side_by_side, to_json(plan_of(sv.generate("zb-v", problem), problem)), str(tmp_path))
    assert [outcome.error for outcome in outcomes] == [None] * 4
    for members in ((0, 2), (1, 3)):
        assert error_of([outcomes[rank].value for rank in members], in_one_process(4, 3)) < CLOSE


def loaded_beside(rank: int, text: str) -> LoadedPlan:
    """Load a plan on connections of its own: a wait that timed out closes them."""
    import tempfile

    group = torch.distributed.new_group([0, 1])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        path.write_text(text, encoding="utf-8")
        loaded = load_verified(path, stages_of(rank, (0, 1), group), torch.nn.functional.mse_loss, timeout=30)
    loaded._rank_group = loaded._rank_group._replace(timeout=1)
    return loaded


def told(loaded: LoadedPlan, rank: int) -> str:
    inputs, targets = batch(2)
    try:
        loaded.step(*([] if rank else [inputs]), target=targets if rank else None)
    except TimedOutError as error:
        return str(error)
    return "no error"


def no_first_step(rank: int, text: str) -> str:
    """Have rank 1 stay away from the first step."""
    loaded = loaded_beside(rank, text)
    return "" if rank else told(loaded, rank)


def no_second_step(rank: int, text: str) -> str:
    """Have rank 1 stay away from the second step."""
    loaded = loaded_beside(rank, text)
    loaded._rank_group = loaded._rank_group._replace(timeout=30)
    first = told(loaded, rank)
    loaded._rank_group = loaded._rank_group._replace(timeout=1)
    return first if rank else told(loaded, rank)


def no_receive(rank: int, text: str) -> str:
    """Have rank 0 stop before it receives anything."""
    loaded = loaded_beside(rank, text)
    loaded._rank_group = loaded._rank_group._replace(timeout=1 if rank else 30)
    if rank == 0:
        order = loaded.runtime.pipeline_order_with_comms
        order[0] = [action for action in order[0] if str(action).startswith(("0F", "0SEND", "0WAIT_S"))]
    return told(loaded, rank)


NCCL = [
    (None, [False, False], "pair"), (None, [True, True], "edge"), (None, [True, False], "pair"), (None, [], "pair"),
    ("cuda:0", [False], "rank"), ("cuda:0", [True], "edge"), (None, [None], "pair"), ("cuda:0", [None], "rank"),
]  # fmt: skip


class TestDisciplines:
    """What must be proved depends on which communicators there are: one, one for each pair, or for each direction."""

    @pytest.mark.parametrize(("device", "by_edge", "demanded"), NCCL)
    def test_over_nccl(self, device: str | None, by_edge: list[bool | None], demanded: str) -> None:
        stages = [SimpleNamespace() if each is None else SimpleNamespace(p2p_per_edge=each) for each in by_edge]
        assert loading._discipline("nccl", SimpleNamespace(bound_device_id=device), stages) == demanded

    def test_over_gloo_it_is_edge_and_others_are_not_known(self) -> None:
        assert loading._discipline("gloo", None, [SimpleNamespace(p2p_per_edge=False)]) == "edge"
        with pytest.raises(sv.UnsupportedError, match="nothing is known of the backend 'mpi'"):
            loading._discipline("mpi", None, [])


class TestWaits:
    """Of torch since 2.15: one for each send and each reduction; earlier ones have none."""

    def test_a_plan_without_waits_gets_those_that_this_torch_asks_for(
        self, pools: dict[int, GlooPool], tmp_path: Path
    ) -> None:
        problem = sv.Problem.chain(ranks=2, microbatches=3)
        outcomes = pools[2].run(order_of, to_json(plan_of(sv.generate("1f1b", problem), problem)), str(tmp_path))
        for rank, outcome in enumerate(outcomes):
            row, kinds = outcome.value.split(), ("WAIT_SEND_F", "WAIT_SEND_B", "WAIT_REDUCE_GRAD")
            found = [sum(kind in text for text in row) for kind in kinds]
            assert found == ([3 * (rank == 0), 3 * (rank == 1), 1] if knows_waits() else [0, 0, 0])

    @pytest.mark.parametrize("budget", [1, 2, 4])
    def test_a_plan_with_a_budget_of_sends(self, budget: int, pools: dict[int, GlooPool], tmp_path: Path) -> None:
        problem = sv.Problem.chain(ranks=2, microbatches=4, virtual=2, outstanding_sends=budget)
        plan = plan_of(sv.generate("interleaved-1f1b", problem), problem)
        if knows_waits():
            assert train(pools[2], plan, tmp_path) < CLOSE
        else:
            outcomes = pools[2].run(refused, to_json(plan), problem.owner_rank)
            assert all("SV704" in outcome.value and "before 2.15" in outcome.value for outcome in outcomes)

    @pytest.mark.skipif(not knows_waits(), reason="torch has waits, and communicators by edge, since 2.15")
    def test_with_a_communicator_for_each_directed_pair(self, pools: dict[int, GlooPool], tmp_path: Path) -> None:
        problem = sv.Problem.chain(ranks=2, microbatches=3, virtual=2)
        plan = plan_of(sv.generate("interleaved-1f1b", problem), problem)
        outcomes = pools[2].run(by_edge, to_json(plan), str(tmp_path))
        assert [outcome.error for outcome in outcomes] == [None, None]
        assert error_of([outcome.value[0] for outcome in outcomes], in_one_process(4, 3)) < CLOSE


def order_of(rank: int, text: str, folder: str) -> str:
    path = Path(folder) / f"plan-{rank}.json"
    path.write_text(text, encoding="utf-8")
    loaded = load_verified(path, stages_of(rank, (0, 1)), torch.nn.functional.mse_loss)
    return str(loaded.schedule).splitlines()[rank]


def by_edge(rank: int, text: str, folder: str) -> Trained:
    with torch.distributed.config.patch(pipeline_per_edge_p2p=True):
        return trained(rank, text, folder)


class TestAWaitThatDoesNotEnd:
    """Names its place and its peer within seconds."""

    def told(self, pool: GlooPool, job: Any) -> list[str]:
        problem = sv.Problem.chain(ranks=2, microbatches=2)
        outcomes = pool.run(job, to_json(plan_of(sv.generate("gpipe", problem), problem)), timeout=120)
        assert [outcome.error for outcome in outcomes] == [None, None]
        return [outcome.value for outcome in outcomes]

    def test_in_the_first_step(self, pools: dict[int, GlooPool]) -> None:
        told = self.told(pools[2], no_first_step)
        assert told[0] == "rank 0, before the first step: no word from rank 1 within 1 s"

    def test_for_a_receive(self, pools: dict[int, GlooPool]) -> None:
        told = self.told(pools[2], no_second_step)
        assert told[1] == "no error"
        assert told[0].startswith(
            "rank 0, position 5 (0B0), waiting for position 4 (0RECV_B0), peer rank 1: no end within 1 s"
        )

    def test_for_a_send(self, pools: dict[int, GlooPool]) -> None:
        told = self.told(pools[2], no_receive)
        place, peer = (WAITING, "SEND_B0") if knows_waits() else ("behind the last operation", "SEND_B1")
        assert told[1].startswith(f"rank 1, {place}, waiting for position")
        assert f"{peer}), peer rank 0: no end within 1 s" in told[1]
