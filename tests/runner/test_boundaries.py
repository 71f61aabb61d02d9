"""A boundary is a contract: what may not cross it stops all ranks, with its name; what crossed is known, whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from support.gloo_pool import GlooPool

torch = pytest.importorskip("torch", reason="torch is not installed")


from schedverify import Problem, Schedule, generate  # noqa: E402
from schedverify.core.result import Plan  # noqa: E402
from schedverify.core.trace import BoundaryLog, BoundaryTransfer  # noqa: E402
from schedverify.formats import save_boundaries  # noqa: E402
from schedverify.planner.plans import plan_of  # noqa: E402
from schedverify.runner import RefusedError, RunError, Runner  # noqa: E402
from schedverify.runner.control.run_logs import gather_log, joined_ends  # noqa: E402
from schedverify.runner.p2p.boundaries import Boundaries, transfers  # noqa: E402
from schedverify.runner.p2p.messages import Crossing, Name, transfer_objection  # noqa: E402
from support import runner_jobs as jobs  # noqa: E402 - it needs torch

pytestmark = pytest.mark.xdist_group("runner")
ROWS = 2
"""Rows of a micro-batch."""
EDGE = {"from": 0, "to": 1}
ROW = EDGE | {"shape": [ROWS, jobs.WIDTH], "dtype": "float64", "bytes": ROWS * jobs.WIDTH * 8}


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(2) as pool:
        yield pool


def the_plan(*rows: dict[str, Any]) -> Plan:
    problem = Problem.chain(ranks=2, microbatches=3, boundaries=list(rows))
    return plan_of(generate("1f1b", problem), problem)


def wide(stage: int, output: Any) -> Any:
    return torch.cat([output, output[:, :1]], 1) if stage == 0 else output


def single(stage: int, output: Any) -> Any:
    return output.float() if stage == 0 else output.double()


def undefined(stage: int, output: Any) -> Any:
    return output / 0 * 0 if stage == 0 else output


def vetoes(outgoing: bool, backward: bool) -> Callable[[Crossing], None]:
    def hook(crossing: Crossing) -> None:
        if (crossing.outgoing, crossing.backward, crossing.microbatch) == (outgoing, backward, 1):
            raise ValueError("not this one")

    return hook


def run(
    rank: int,
    plan: Plan,
    changed: Callable[[int, Any], Any] | None = None,
    veto: tuple[bool, bool] | None = None,
    damage: bool = False,
    checksums: tuple[bool, bool] = (False, False),
    **options: Any,
) -> tuple[str, list[Any]]:
    """Run a step over a group of its own; return the error, and what crossed."""
    import torch.distributed as dist

    group = dist.new_group([0, 1])
    problem = plan.problem
    modules = jobs.modules_of(problem, {})
    own = {stage: modules[stage] for stage in problem.stages_of[rank]}
    for stage, module in own.items():
        if changed is not None:
            module.register_forward_hook(lambda _module, _read, output, stage=stage: changed(stage, output))
    hooks = [] if veto is None else [vetoes(*veto)]
    try:
        runner = Runner(
            plan, own, jobs.mean_square, group=group, hooks=hooks, checksums=checksums[rank], timeout=30, **options
        )
        if damage and rank == 1:
            damaged(runner)
        result = runner.step(*jobs.data_of(problem, ROWS * problem.microbatches, {}))
    except (RunError, RefusedError) as error:
        return f"{type(error).__name__}: {error}", []
    return "", list(result.crossed)


def damaged(runner: Runner) -> None:
    """Have what arrives changed on its way."""

    def damage(_: Name, buffers: list[Any]) -> None:
        buffers[0][0, 0] += 1

    runner.execution.transport.received = damage


def told(pool: GlooPool, *arguments: Any, **options: Any) -> list[str]:
    outcomes = pool.run(with_options, arguments, options)
    assert all(outcome.value for outcome in outcomes), outcomes
    return [outcome.value[0] for outcome in outcomes]


def with_options(rank: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[str, list[Any]]:
    return run(rank, *arguments, **options)


@pytest.mark.parametrize(
    ("row", "changed", "reason"),
    [
        (ROW, wide, "float64 2 x 7, where float64 2 x 6 (96 bytes) is declared"),
        (ROW, single, "float32 2 x 6, where float64 2 x 6 (96 bytes) is declared"),
        (EDGE | {"bytes": 96}, wide, "float64 2 x 7, where 96 bytes is declared"),
    ],
)
def test_what_is_not_declared_stops_all_ranks(pool: GlooPool, row: dict[str, Any], changed: Any, reason: str) -> None:
    messages = told(pool, the_plan(row), changed)
    text = f"rank 0, position 1 (0SEND_F0): boundary 0 to 1, micro-batch 0: {reason}"
    assert messages[0] == f"RunError: {text}"
    assert messages[1].startswith("TimedOutError: rank 1, position 0 (1RECV_F0<0), peer rank 0: the peer is gone")
    assert messages[1].endswith(f"\nended by {text}")


def test_nan_stops_all_ranks_on_request(pool: GlooPool) -> None:
    assert told(pool, the_plan(), undefined) == ["", ""]
    messages = told(pool, the_plan(), undefined, forbid_nan=True)
    assert all("boundary 0 to 1, micro-batch 0: tensor 0 has a NaN" in message for message in messages)


@pytest.mark.parametrize(
    ("veto", "rank", "boundary"),
    [
        ((True, False), 0, "boundary 0 to 1, micro-batch 1"),
        ((False, False), 1, "boundary 0 to 1, micro-batch 1"),
        ((True, True), 1, "boundary 1 to 0, gradient of micro-batch 1"),
        ((False, True), 0, "boundary 1 to 0, gradient of micro-batch 1"),
    ],
)
def test_a_hook_forbids_a_message_at_either_end(
    pool: GlooPool, veto: tuple[bool, bool], rank: int, boundary: str
) -> None:
    messages = told(pool, the_plan(), None, veto)
    text = f": {boundary}: a hook forbids it: ValueError: not this one"
    assert messages[rank].startswith(f"RunError: rank {rank}, position ")
    assert messages[rank].endswith(text)
    assert not messages[1 - rank] or messages[1 - rank].endswith(text)


def test_checksums_find_what_was_changed_on_its_way(pool: GlooPool) -> None:
    assert told(pool, the_plan(), damage=True) == ["", ""]
    messages = told(pool, the_plan(), damage=True, checksums=(True, True))
    assert "rank 1, position 1 (1F0): boundary 0 to 1, micro-batch 0: what arrived is not what left" in messages[1]
    assert messages[1].partition(": ")[2] in messages[0]


def test_ranks_that_differ_in_checksums_are_refused(pool: GlooPool) -> None:
    first, second = told(pool, the_plan(), checksums=(True, False))
    assert first == second
    assert first == "RefusedError: the plan is not run:\nrank 0: it was asked for checksums, others were not"


@pytest.mark.parametrize("checked", [False, True])
def test_the_log_tells_everything_that_crossed_at_both_ends(pool: GlooPool, checked: bool) -> None:
    plan = the_plan(ROW)
    outcomes = pool.run(with_options, (plan,), {"checksums": (checked, checked), "forbid_nan": checked})
    logs = [outcome.value[1] for outcome in outcomes]
    forward = {(0, 1, m, False) for m in range(3)}
    backward = {(1, 0, m, True) for m in range(3)}
    for rank, log in enumerate(logs):
        leaving, reaching = (forward, backward) if rank == 0 else (backward, forward)
        assert sorted(each[:4] for each in log if each.outgoing) == sorted(leaving)
        assert sorted(each[:4] for each in log if not each.outgoing) == sorted(reaching)
    for each in (each for log in logs for each in log):
        assert (each.tensors, each.bytes, each.local) == ((("float64", (2, 6)),), 96, False)
        assert len(each.checksums) == checked
    ends = [{each[:4]: each.checksums for log in logs for each in log if each.outgoing is end} for end in (True, False)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("kind", [jobs.Pair, jobs.Embedded])
def test_tuples_of_tensors_are_held_against_their_rows(pool: GlooPool, kind: Any) -> None:
    rows = [ROW, EDGE | {"shape": [ROWS, 2], "dtype": "int64"}, EDGE | {"shape": [ROWS], "dtype": "float64"}]
    plan = the_plan(*(rows if kind is jobs.Pair else rows[:1]))
    outcomes = pool.run(checked, plan, {0: kind, 1: kind} if kind is jobs.Pair else {0: kind})
    assert all(outcome.value["error"] < 1e-10 for outcome in outcomes), outcomes


@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize("kind", [jobs.Views, jobs.Bits, jobs.Nothing])
def test_tensors_of_every_kind_cross_as_they_are(pool: GlooPool, kind: Any, checks: bool) -> None:
    outcomes = pool.run(checked, the_plan(), {0: kind, 1: kind}, checks)
    assert all(outcome.value["error"] < 1e-10 for outcome in outcomes), outcomes


def checked(rank: int, plan: Plan, kinds: Any, checks: bool = True) -> Any:
    return jobs.train(rank, plan, ROWS * 3, kinds, 2, forbid_nan=checks, checksums=checks)


def test_without_tags_checksums_follow_each_message(pool: GlooPool) -> None:
    plan = the_plan(ROW)
    assert plan.lowered is not None
    outcomes = pool.run(without_tags, plan)
    assert all(outcome.value["error"] < 1e-10 for outcome in outcomes), outcomes


def without_tags(rank: int, plan: Plan) -> Any:
    from unittest import mock

    with mock.patch("torch.distributed.get_backend", return_value="nccl"):
        return jobs.train(rank, plan, ROWS * 3, checksums=True)


def test_a_dtype_that_torch_does_not_have_is_refused(pool: GlooPool) -> None:
    messages = told(pool, the_plan(EDGE | {"shape": [2, 6], "dtype": "fp64"}))
    assert all("boundary 0 to 1 declares the dtype 'fp64'" in message for message in messages)


def test_without_tags_a_row_needs_its_shape() -> None:
    problem = the_plan(EDGE | {"dtype": "float64"}).problem
    assert transfer_objection(problem, tagged=False).endswith(
        "must be declared with dtype and shape; undeclared: 0 to 1"
    )
    assert transfer_objection(problem, tagged=True) == ""


# One rank's boundaries, without processes

NAME = Name(0, 1, 0, False)
BACK = Name(1, 0, 0, True)
PLACE = "rank 0, position 3 (1F0)"


def on_one_rank(**options: Any) -> Boundaries:
    made = Boundaries(Problem.chain(ranks=1, virtual=2, microbatches=1), 0, known=False, **options)
    made.begin()
    return made


def cross(boundaries: Boundaries, name: Name, tensor: Any) -> None:
    seal = boundaries.leave(name, (tensor,), PLACE)
    boundaries.reach(name, (tensor,), seal, PLACE)


def test_a_gradient_has_the_form_of_what_went() -> None:
    boundaries = on_one_rank()
    cross(boundaries, NAME, torch.zeros(2, 3))
    for wrong in (torch.zeros(3, 2), torch.zeros(2, 3).double()):
        with pytest.raises(RunError, match=r"boundary 1 to 0, gradient of micro-batch 0: .* is of float32 2 x 3"):
            boundaries.leave(BACK, (wrong,), PLACE)
    cross(boundaries, BACK, torch.zeros(2, 3))
    boundaries.close()


def test_a_later_step_may_have_another_form_and_its_gradient_has_that() -> None:
    boundaries = on_one_rank()
    cross(boundaries, NAME, torch.zeros(2, 3))
    boundaries.begin()
    cross(boundaries, NAME, torch.zeros(4, 3))
    with pytest.raises(RunError, match="float32 2 x 3, where the gradient is of float32 4 x 3"):
        boundaries.leave(BACK, (torch.zeros(2, 3),), PLACE)
    cross(boundaries, BACK, torch.zeros(4, 3))
    boundaries.close()


def test_checksums_find_what_is_changed_while_it_lies_ready() -> None:
    boundaries, tensor = on_one_rank(sealed=True), torch.zeros(2, 3)
    boundaries.leave(NAME, (tensor,), PLACE)
    tensor[1, 2] = 1
    with pytest.raises(RunError, match=r"rank 0, position 3 .*boundary 0 to 1, micro-batch 0: what arrived is not"):
        boundaries.reach(NAME, (tensor,), None, PLACE)


def test_checksums_find_what_is_changed_before_it_is_sent(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=2, microbatches=2, form="inference")
    plan = plan_of(Schedule.parse("0F0 0F1 0SEND_F0 0SEND_F1\n1RECV_F0 1F0 1RECV_F1 1F1"), problem)
    for outcome in pool.run(buffered, plan):
        assert "rank 0, position 2 (0SEND_F0): boundary 0 to 1, micro-batch 0: it was changed after" in outcome.value


class Buffered(jobs.Block):
    """Writes all of its outputs to the same place."""

    def forward(self, *inputs: Any) -> Any:
        output = super().forward(*inputs)
        self.place = self.__dict__.get("place", output.clone())
        return self.place.copy_(output)


def buffered(rank: int, plan: Plan) -> str:
    import torch.distributed as dist

    group = dist.new_group([0, 1])
    runner = Runner(plan, [Buffered(rank).double()], group=group, checksums=True, timeout=60)
    try:
        runner.step(jobs.data_of(plan.problem, 4, {})[0])
    except RunError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64", "int64", "bool"])
def test_checksums_of_every_dtype(dtype: str) -> None:
    boundaries = on_one_rank(sealed=True)
    boundaries.leave(NAME, (torch.ones(3, 2, dtype=getattr(torch, dtype)).T,), PLACE)
    boundaries.reach(NAME, (torch.ones(2, 3, dtype=getattr(torch, dtype)),), None, PLACE)
    assert [len(each.checksums) for each in transfers(boundaries.log)] == [1, 1]


def test_what_did_not_cross_or_crossed_again_is_told_at_the_end() -> None:
    boundaries = on_one_rank()
    cross(boundaries, NAME, torch.zeros(2, 3))
    with pytest.raises(RunError, match="boundary 1 to 0, gradient of micro-batch 0: did not cross"):
        boundaries.close()
    cross(boundaries, BACK, torch.zeros(2, 3))
    boundaries.close()
    cross(boundaries, BACK, torch.zeros(2, 3))
    with pytest.raises(RunError, match="gradient of micro-batch 0: crossed, where no more may"):
        boundaries.close()


def test_a_hook_may_change_numbers_but_no_form() -> None:
    boundaries = on_one_rank(hooks=[lambda crossing: crossing.tensors[0].mul_(2)], sealed=True)
    cross(boundaries, NAME, torch.ones(2, 3))
    boundaries = on_one_rank(hooks=[lambda crossing: crossing.tensors[0].resize_(3, 3)])
    with pytest.raises(RunError, match=r"micro-batch 0: a hook made float32 3 x 3 of float32 2 x 3"):
        cross(boundaries, NAME, torch.ones(2, 3))


def test_copies_have_the_contract_of_the_first() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, replicas=2, boundaries=[ROW])
    boundaries = Boundaries(problem, 1, known=False)
    (source, target) = (2, 3)
    assert problem.owner_rank[source] == 1
    with pytest.raises(RunError, match="boundary 2 to 3, micro-batch 1: float64 3 x 6, where float64 2 x 6"):
        boundaries.leave(Name(source, target, 1, False), (torch.zeros(3, 6).double(),), PLACE)


# The log

LEFT = BoundaryTransfer(0, 1, 0, False, True, False, (("float32", (2, 3)),), 24, (7,))
REACHED = LEFT._replace(outgoing=False)


def test_the_log_holds_each_crossing_once_where_both_ends_tell_the_same(tmp_path: Path) -> None:
    back = LEFT._replace(source=1, target=0, backward=True)
    joined = joined_ends([back._replace(outgoing=False), LEFT, REACHED, back])
    assert joined == (LEFT, back)
    path = tmp_path / "crossed.json"
    save_boundaries(BoundaryLog("0" * 64, 2, (joined, joined)), path)
    data = json.loads(path.read_text())
    jsonschema.validate(data, json.loads((Path(__file__).parents[2] / "specs/schema/boundaries.json").read_text()))
    assert [[row["backward"] for row in step] for step in data["steps"]] == [[False, True]] * 2
    assert data["steps"][0][0] == {
        "source": 0, "target": 1, "microbatch": 0, "backward": False, "local": False,
        "tensors": [{"dtype": "float32", "shape": [2, 3]}], "bytes": 24, "checksums": [7],
    }  # fmt: skip


@pytest.mark.parametrize(
    "ends", [[LEFT], [REACHED], [LEFT, REACHED._replace(bytes=12)], [LEFT, REACHED._replace(checksums=(8,))]]
)
def test_ends_that_differ_are_no_log(ends: list[BoundaryTransfer]) -> None:
    with pytest.raises(RunError, match="boundary 0 to 1, micro-batch 0: what left is"):
        joined_ends(ends)


def test_the_log_of_all_ranks_comes_together_on_the_first(pool: GlooPool) -> None:
    outcomes = pool.run(logged, the_plan())
    log, nothing = (outcome.value for outcome in outcomes)
    assert nothing is None
    assert [len(step) for step in log.steps] == [6, 6]


def logged(rank: int, plan: Plan) -> BoundaryLog | None:
    problem = plan.problem
    runner = Runner(plan, [jobs.modules_of(problem, {})[rank]], jobs.mean_square, timeout=30)
    batch, target = jobs.data_of(problem, 6, {})
    steps = [runner.step(batch, target).crossed for _ in range(2)]
    return gather_log("0" * 64, steps, runner.control, 30)
