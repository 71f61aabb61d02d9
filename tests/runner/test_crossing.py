"""What crosses between stages: values of all structures, gradients where they are needed, shapes of every step anew."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from schedverify import Problem, Schedule, generate, lower  # noqa: E402
from schedverify.core.errors import InputError  # noqa: E402
from schedverify.core.result import Plan  # noqa: E402
from schedverify.planner.plans import plan_of  # noqa: E402
from schedverify.runner import RunError, Runner  # noqa: E402
from schedverify.runner.compute.batches import feed_of  # noqa: E402
from schedverify.runner.compute.side_inputs import with_side_inputs  # noqa: E402
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


# What is given where it is needed


def with_masks(*rows: int, stages: tuple[int, ...] = (0, 1), whole: bool = False) -> list[Step]:
    numbers, found = torch.Generator().manual_seed(9), []
    for step in steps_of(*rows):
        masks = [(torch.rand(len(step.batch), WIDTH, generator=numbers) > 0.3).double() for _ in stages]
        if whole:
            sides: Any = {stage: [{"mask": mask[0], "factor": m + 1.0} for m in range(4)]
                          for stage, mask in zip(stages, masks, strict=True)}  # fmt: skip
        else:
            sides = {stage: {"mask": mask, "factor": 2.0} for stage, mask in zip(stages, masks, strict=True)}
        found.append(step._replace(sides=sides))
    return found


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_side_inputs_are_given_where_the_stage_stands(pool: GlooPool, family: str, whole: bool) -> None:
    plan = the_plan(family)
    stages = plan.problem.stages
    found = trained(pool, plan, [Masked] * stages, with_masks(8, 7, stages=(0, stages - 1), whole=whole))
    assert sum(each.bytes_back[0] for each in found) == (stages - 1) * 8 * WIDTH * 8, "a mask does not travel"


class Second(Layer):
    """Takes two values of two stages, and a name."""

    def forward(self, left: Any, right: Any, *, factor: Any) -> Any:
        return self.hidden(left["x"] + right) * factor


def test_a_stage_of_several_sources_takes_their_values_in_order(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=2, microbatches=3, placement=[0, 1, 1], edges=[[0, 2], [1, 2]])
    plan = plan_of(generate("gpipe", problem), problem)
    for outcome in pool.run(joined, plan):
        assert outcome.error is None
        assert outcome.value < CLOSE


def joined(rank: int, plan: Plan) -> float:
    """Train two steps of a graph of stages; return the worst difference of a gradient to one process."""
    import torch.distributed as dist

    modules = modules_of([Named, Plain, Second])
    own = {stage: copy.deepcopy(modules[stage]) for stage in plan.problem.stages_of[rank]}
    runner = Runner(plan, own, sum_of_squares, group=dist.new_group(), timeout=30)
    for rows in (9, 7):
        (step,) = steps_of(rows)
        x = step.batch
        output = modules[2](modules[0](x), modules[1](2 * x), factor=3)
        (sum_of_squares(output, step.target)).backward()
        runner.step({0: x, 1: 2 * x}, step.target, side_inputs={2: {"factor": 3}})
    pairs = [(a, b) for stage, module in own.items()
             for a, b in zip(module.parameters(), modules[stage].parameters(), strict=True)]  # fmt: skip
    return max(float((a.grad - b.grad).abs().max()) for a, b in pairs)


class Worded(Layer):
    """Takes keyword arguments, one of them of no rows, as the tokenizers of transformers give them."""

    def forward(self, tokens: Any, attention: Any = None, *, scale: Any = None, name: str = "") -> Any:
        assert name == "words"
        return self.hidden(tokens * attention * scale)


def test_a_dict_is_a_batch_of_keyword_arguments(pool: GlooPool) -> None:
    for outcome in pool.run(worded, the_plan()):
        assert outcome.error is None
        assert outcome.value < CLOSE


def worded(rank: int, plan: Plan) -> float:
    from collections import UserDict

    import torch.distributed as dist

    modules = modules_of([Worded, Plain])
    (step,) = steps_of(7)
    batch = {"tokens": step.batch, "attention": step.batch.sign(), "scale": torch.tensor(2.0), "name": "words"}
    sum_of_squares(modules[1](modules[0](**batch)), step.target).backward()
    own = copy.deepcopy(modules[rank]).requires_grad_()
    own.zero_grad()

    def loss(output: Any, target: dict[str, Any]) -> Any:
        assert target["kind"] == "dict"
        return sum_of_squares(output, target["rows"])

    runner = Runner(plan, [own], loss, group=dist.new_group(), timeout=30)
    scale = batch.pop("scale")
    runner.step(UserDict(batch), {"rows": step.target, "kind": "dict"}, side_inputs={0: {"scale": scale}})
    return max(float((a.grad - b.grad).abs().max())
               for a, b in zip(own.parameters(), modules[rank].parameters(), strict=True))  # fmt: skip


X = torch.ones(8, WIDTH)


@pytest.mark.parametrize(
    ("batch", "sides", "told"),
    [
        (X, [1], "side_inputs: expected a mapping by stage, found list"),
        (X, {2: {}}, r"side_inputs: there is no stage 2 \(0 to 1\)"),
        (X, {"mask": X}, "side_inputs: there is no stage 'mask'"),
        (X, {0: X}, r"side_inputs\[0\]: expected values by the names of arguments, found Tensor"),
        (X, {1: {1: X}}, r"side_inputs\[1\]: expected values by the names of arguments, found dict"),
        (X, {0: {"mask": X[:7]}}, r"side_inputs\[0\]: tensors of \[7\] rows, where the batch has 8"),
        (X, {0: {"mask": X[:4]}}, r"side_inputs\[0\]: tensors of \[4\] rows, where the batch has 8"),
        (X, {0: {"mask": X, "other": X}}, r"the stage's Masked takes no 'other' \(one of x, mask, factor\)"),
        (X, {1: [{"mask": X}]}, r"side_inputs\[1\]: 1 micro-batches, where the plan has 4"),
        ({"x": X, "y": X}, None, "batch: the stage's Masked takes no 'y'"),
        ({"x": X, "mask": X}, {0: {"mask": X}}, r"side_inputs\[0\]: 'mask' is in the batch too"),
        ({"x": X, "mask": X[1:]}, None, r"batch: tensors of \[7, 8\] rows"),
        ({"factor": 1.0}, None, "batch: no tensor with rows"),
        (X[:3], None, "batch: 3 rows for 4 micro-batches"),
        ([X], None, "batch: 1 micro-batches, where the plan has 4"),
    ],
    ids=[f"case {i}" for i in range(15)],
)
def test_what_cannot_be_given_is_told_before_anything_runs(batch: Any, sides: Any, told: str) -> None:
    problem = Problem.chain(ranks=1, virtual=2, microbatches=4)
    modules = dict(enumerate(modules_of([Masked, Masked])))

    def fed() -> Any:
        feed = feed_of(problem, 0, batch, torch.zeros(8), sum_of_squares)
        return with_side_inputs(feed, problem, modules, sides, batch)

    with pytest.raises(InputError, match=told):
        fed()


# A module of blocks takes one argument


class Split(nn.Module):
    def forward(self, x: Any) -> Any:
        return x[:, :2], {"rest": x[:, 2:]}


class Join(nn.Module):
    def forward(self, given: Any) -> Any:
        assert isinstance(given, tuple)
        return torch.cat([given[0], given[1]["rest"]], 1)


class SplitBlocks(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(WIDTH, WIDTH), Split())


class JoinBlocks(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(Join(), nn.Linear(WIDTH, WIDTH))


def test_a_sequential_takes_what_comes_as_one(pool: GlooPool) -> None:
    for outcome in pool.run(in_blocks, the_plan()):
        assert outcome.error is None
        assert outcome.value < CLOSE


def in_blocks(rank: int, plan: Plan) -> float:
    import torch.distributed as dist

    modules = modules_of([SplitBlocks, JoinBlocks])
    (step,) = steps_of(7)
    sum_of_squares(modules[1](modules[0](step.batch)), step.target).backward()
    own = copy.deepcopy(modules[rank])
    own.zero_grad()
    Runner(plan, [own], sum_of_squares, group=dist.new_group(), timeout=30).step(*step[:2])
    return max(float((a.grad - b.grad).abs().max())
               for a, b in zip(own.parameters(), modules[rank].parameters(), strict=True))  # fmt: skip


# Inference


def test_inference_gives_what_the_last_stage_returned(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=2, microbatches=4, form="inference")
    plan = plan_of(generate("gpipe", problem), problem)
    outcomes = pool.run(inferred, plan)
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert outcomes[1].value == [2, 2, 2, 2, 2, 2, 2, 1]


def inferred(rank: int, plan: Plan) -> list[int]:
    import torch.distributed as dist

    runner = Runner(plan, [modules_of([Named, Named])[rank]], group=dist.new_group(), timeout=30)
    rows = []
    for step in steps_of(8, 7):
        values = [parcel.value() for parcel in runner.step(step.batch).outputs.values()]
        rows += [len(value["x"]) for value in values]
        assert all(set(value) == {"again", "x"} for value in values)
    return rows


# Other lowerings, with shapes of every step


def test_waits_for_sends_whose_shapes_are_new(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=2, microbatches=4, virtual=2, form="split", placement="v")
    lowered = lower(generate("zb-v", problem), problem)
    rows = [[str(step) for step in lowered.steps(rank)] for rank in range(2)]
    for row in rows:
        for place in reversed([i for i, text in enumerate(row) if "SEND" in text]):
            row.insert(place + 1, row[place].replace("SEND", "WAIT_SEND"))
    plan = plan_of(Schedule.of(rows), problem)
    trained(pool, plan, [Plain] * 4, steps_of(8, 8, 7, 7, 12))
    trained(pool, plan, [Shortened] * 4, steps_of(16, 16, 16))


def test_a_gradient_is_received_in_the_shape_of_this_step(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=2, microbatches=2)
    rows = ["0F0 [0RECV_B0;0SEND_F0] 0B0 0F1 [0RECV_B1;0SEND_F1] 0B1"]
    rows += ["1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1"]
    plan = plan_of(Schedule.parse("\n".join(rows)), problem)
    trained(pool, plan, [Plain, Plain], steps_of(8, 7, 7, 9))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    kind=st.sampled_from([Plain, Rotary, Structured, Named, Shortened, Masked]),
    rows=st.lists(st.integers(4, 12), min_size=2, max_size=5),
    recompute=st.booleans(),
    checksums=st.booleans(),
)
def test_any_rows_in_any_steps(
    pool: GlooPool, family: str, kind: Any, rows: list[int], recompute: bool, checksums: bool
) -> None:
    plan = the_plan(family, recompute=recompute)
    trained(pool, plan, [kind] * plan.problem.stages, steps_of(*rows), checksums=checksums)
