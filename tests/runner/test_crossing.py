"""What crosses between stages: values of all structures, gradients where they are needed, shapes of every step anew."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402

from schedverify import Problem, generate  # noqa: E402
from schedverify.core.result import Plan  # noqa: E402
from schedverify.planner.plans import plan_of  # noqa: E402
from schedverify.runner import RunError, Runner  # noqa: E402
from schedverify.runner.p2p.marks import MARK, begins_with_mark, leading  # noqa: E402
from support.gloo_pool import GlooPool  # noqa: E402

pytestmark = pytest.mark.xdist_group("runner")
WIDTH = 4
CLOSE = 1e-10
FAMILIES = {"1f1b": 1, "zb-h1": 1, "interleaved-1f1b": 2, "zb-v": 2}
"""By family the stages of a rank."""


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(2) as pool:
        yield pool


def the_plan(family: str = "1f1b", microbatches: int = 4, ranks: int = 2, **keys: Any) -> Plan:
    virtual = FAMILIES[family]
    placed = {"placement": "v"} if family == "zb-v" else {}
    form = "split" if family.startswith("zb") else "fused"
    keys = {"virtual": virtual, "form": form} | placed | keys
    problem = Problem.chain(ranks=ranks, microbatches=microbatches, **keys)
    return plan_of(generate(family, problem), problem)


# Stages


class Layer(nn.Module):
    """Applies a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def hidden(self, x: Any) -> Any:
        return torch.tanh(self.linear(x))


class Plain(Layer):
    def forward(self, x: Any) -> Any:
        return self.hidden(x)


class Rotary(Layer):
    """Makes cosines, sines and a float mask beside the activation, or passes them on."""

    def forward(self, x: Any, cosines: Any = None, sines: Any = None, mask: Any = None) -> Any:
        if cosines is None:
            angles = torch.arange(x.numel(), dtype=x.dtype).reshape(x.shape)
            cosines, sines, mask = angles.cos(), angles.sin(), (angles % 3 > 0).to(x.dtype)
        turned = x * cosines + x.flip(-1) * sines
        return self.hidden(turned * mask), cosines, sines, mask


class Frozen(Layer):
    """Has weights that are not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)

    def forward(self, x: Any) -> Any:
        return self.hidden(x)


class Pairs(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass
class Outputs:
    hidden: Any
    mask: Any = None
    pairs: Any = ()


class Structured(Layer):
    """Takes and returns a dataclass with a dict, a named tuple and None in it."""

    def forward(self, given: Any) -> Any:
        if isinstance(given, torch.Tensor):
            return Outputs(self.hidden(given), None, [{"depth": 1, "name": "first"}, Pairs(given * 2, (True, None))])
        labels, pair = given.pairs
        assert isinstance(given, Outputs)
        assert given.mask is None
        assert type(pair) is Pairs
        assert pair.right == (True, None)
        assert labels == {"depth": labels["depth"], "name": "first"}
        x = self.hidden(given.hidden) * labels["depth"] + pair.left
        return Outputs(x, None, [labels | {"depth": labels["depth"] + 1}, Pairs(x + pair.left, pair.right)])


class Named(Layer):
    """Takes and returns a dict, in which a tensor may be missing."""

    def forward(self, given: Any) -> Any:
        given = {"x": given} if isinstance(given, torch.Tensor) else given
        x = self.hidden(given["x"]) + (0 if given.get("again") is None else given["again"])
        return {"again": x * 2 if len(x) % 2 else None, "x": x}


class Shortened(Layer):
    """Leaves out rows whose first number is small, so that shapes depend on numbers."""

    def forward(self, x: Any) -> Any:
        hidden = self.hidden(x)
        return hidden[hidden[:, 0].detach() > -0.2]


class Marked(Layer):
    """Returns what begins with the mark by chance."""

    def forward(self, x: Any) -> Any:
        ahead = torch.frombuffer(bytearray(MARK * len(x)), dtype=torch.int64)
        return ahead, self.hidden(x)


class AfterMark(Layer):
    def forward(self, ahead: Any, x: Any) -> Any:
        assert begins_with_mark(ahead)
        return self.hidden(x)


class Masked(Layer):
    """Takes a mask, and a number, by name."""

    def forward(self, x: Any, *, mask: Any = None, factor: float = 1.0) -> Any:
        x = self.hidden(x)
        return factor * (x if mask is None else x * mask)


def hidden_of(output: Any) -> Any:
    if isinstance(output, dict):
        return output["x"]
    if isinstance(output, tuple):
        return output[0]
    return output.hidden if isinstance(output, Outputs) else output


def sum_of_squares(output: Any, target: Any) -> Any:
    """Return a loss that any number of rows has, of outputs as their stage returned them."""
    return (hidden_of(output) ** 2).sum() / len(target)


# The job


class Step(NamedTuple):
    batch: Any
    target: Any
    sides: dict[int, Any] | None = None


def steps_of(*rows: int) -> list[Step]:
    numbers = torch.Generator().manual_seed(3)
    return [
        Step(torch.randn(n, WIDTH, dtype=torch.float64, generator=numbers), torch.zeros(n, dtype=torch.float64))
        for n in rows
    ]


def modules_of(kinds: list[type[nn.Module]]) -> list[Any]:
    torch.manual_seed(5)
    return [kind().double() for kind in kinds]


def in_one_process(modules: list[Any], step: Step, microbatches: int) -> float:
    """Run the modules one after the other on each micro-batch; return the loss of the batch."""
    loss: Any = 0
    batches = step.batch if isinstance(step.batch, list) else step.batch.tensor_split(microbatches)
    for m, (x, target) in enumerate(zip(batches, step.target.tensor_split(microbatches), strict=True)):
        value = x
        for stage, module in enumerate(modules):
            sides = (step.sides or {}).get(stage, {})
            keywords = sides[m] if isinstance(sides, list) else {
                name: each.tensor_split(microbatches)[m] if isinstance(each, torch.Tensor) and each.dim() else each
                for name, each in sides.items()
            }  # fmt: skip
            spread = isinstance(value, tuple) and not isinstance(value, Pairs)
            value = module(*value, **keywords) if spread else module(value, **keywords)
        loss = loss + sum_of_squares(value, target) * len(target) / len(step.target)
    loss.backward()
    return float(loss)


class Told(NamedTuple):
    error: float
    losses: list[tuple[float, float]]
    bytes_back: list[int]
    """By step, of gradients that reached this rank or a stage of it."""


def train(
    rank: int, plan: Plan, kinds: list[type[nn.Module]], steps: list[Step], tagged: bool = True, **options: Any
) -> Told:
    """Run steps and compare gradients, which add up, with those of one process."""
    from unittest import mock

    import torch.distributed as dist

    torch.manual_seed(1)
    problem, modules = plan.problem, modules_of(kinds)
    own = {stage: copy.deepcopy(modules[stage]) for stage in problem.stages_of[rank]}
    with mock.patch("torch.distributed.get_backend", return_value="gloo" if tagged else "nccl"):
        runner = Runner(plan, own, sum_of_squares, group=dist.new_group(), timeout=30, **options)
    losses, back = [], []
    for step in steps:
        expected = in_one_process(modules, step, problem.microbatches)
        result = runner.step(step.batch, step.target, side_inputs=step.sides)
        losses.append((runner.whole_loss(result), expected))
        back.append(sum(each.bytes for each in result.crossed if each.backward and not each.outgoing))
    errors = [0.0]
    for stage, module in own.items():
        for mine, theirs in zip(module.parameters(), modules[stage].parameters(), strict=True):
            if theirs.grad is None or not theirs.grad.any():
                errors.append(0.0 if mine.grad is None or not mine.grad.any() else float("inf"))
            else:
                errors.append(float((mine.grad - theirs.grad).norm() / theirs.grad.norm()))
    return Told(max(errors), losses, back)


def with_options(rank: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> Told:
    return train(rank, *arguments, **options)


def trained(pool: GlooPool, *arguments: Any, **options: Any) -> list[Told]:
    outcomes = pool.run(with_options, arguments, options)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    found = [outcome.value for outcome in outcomes]
    assert all(found), outcomes
    assert max(each.error for each in found) < CLOSE
    for each in found:
        assert [mine for mine, _ in each.losses] == pytest.approx([theirs for _, theirs in each.losses], rel=CLOSE)
    return found


# No gradient for what needs none


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_goes_back_for_what_needs_no_gradient(pool: GlooPool, family: str, recompute: bool) -> None:
    plan = the_plan(family, recompute=recompute)
    stages = plan.problem.stages
    found = trained(pool, plan, [Rotary] * stages, steps_of(8, 8))
    for step in range(2):
        assert sum(each.bytes_back[step] for each in found) == (stages - 1) * 8 * WIDTH * 8, "the activation alone"


@pytest.mark.parametrize("family", FAMILIES)
def test_behind_frozen_stages_a_gradient_has_no_tensors(pool: GlooPool, family: str) -> None:
    plan = the_plan(family)
    kinds: list[Any] = [Frozen, *[Plain] * (plan.problem.stages - 1)]
    found = trained(pool, plan, kinds, steps_of(8, 8), checksums=True)
    assert sum(each.bytes_back[1] for each in found) == (plan.problem.stages - 2) * 8 * WIDTH * 8


def test_a_stage_may_be_frozen_later(pool: GlooPool) -> None:
    for outcome in pool.run(freeze, the_plan()):
        assert outcome.error is None
        assert outcome.value == [8 * WIDTH * 8, 0, 8 * WIDTH * 8]


def freeze(rank: int, plan: Plan) -> list[int]:
    """Train three steps, the second with the first stage frozen; return the bytes of gradients between the stages."""
    import torch.distributed as dist

    module = modules_of([Plain, Plain])[rank]
    runner = Runner(plan, [module], sum_of_squares, group=dist.new_group(), timeout=30)
    step, found = steps_of(8)[0], []
    for frozen in (False, True, False):
        if rank == 0:
            module.requires_grad_(not frozen)
        crossed = runner.step(*step[:2]).crossed
        found.append(sum(each.bytes for each in crossed if each.backward))
    return found


# Structures


@pytest.mark.parametrize("kind", [Structured, Named])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_keep_their_structure(pool: GlooPool, family: str, kind: Any) -> None:
    plan = the_plan(family)
    trained(pool, plan, [kind] * plan.problem.stages, steps_of(8, 7, 8), checksums=family == "1f1b")


# Shapes


ROWS = [(8, 8, 7), (7, 8, 8), (8, 12, 4, 8), (5, 9, 6)]


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_step_may_have_other_shapes(pool: GlooPool, family: str, rows: tuple[int, ...]) -> None:
    plan = the_plan(family)
    trained(pool, plan, [Plain] * plan.problem.stages, steps_of(*rows), checksums=rows == ROWS[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_may_depend_on_numbers(pool: GlooPool, family: str) -> None:
    plan = the_plan(family)
    trained(pool, plan, [Shortened] * plan.problem.stages, steps_of(*[16] * 6))


def test_what_begins_like_the_mark_is_itself(pool: GlooPool) -> None:
    trained(pool, the_plan(), [Marked, AfterMark], steps_of(8, 8, 7, 8))


def test_the_mark_needs_room() -> None:
    assert leading(((torch.float32, ()), (torch.float32, (0, 5)), (torch.float64, ()))) == 2
    assert leading(((torch.float32, (1,)), (torch.bool, (7,)))) is None


def test_without_tags_the_message_says_what_to_do(pool: GlooPool) -> None:
    row = {"from": 0, "to": 1, "dtype": "float64", "shape": [2, WIDTH]}
    trained(pool, the_plan(boundaries=[row]), [Plain, Plain], steps_of(8, 8), tagged=False)
    plan = the_plan(boundaries=[row])
    for kinds, rows, reason in (
        ([Plain, Plain], 7, "float64 1 x 4, where float64 2 x 4 is declared"),
        ([Named, Named], 8, "a value that is neither a tensor nor a tuple of tensors"),
    ):
        outcomes = pool.run(refused, plan, kinds, rows)
        assert f"{reason} (the backend has no tags, so no header" in outcomes[0].value, outcomes


def refused(rank: int, plan: Plan, kinds: list[type[nn.Module]], rows: int) -> str:
    try:
        train(rank, plan, kinds, steps_of(rows), tagged=False)
    except RunError as error:
        return str(error)
    return ""
