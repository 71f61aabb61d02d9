"""Stages compute what one process computes with whatever stands in them: checkpoints, hooks, compiled parts, writes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from schedverify.runner.compute.stages import Stage

SIZE, ROWS, MICROBATCHES = 4, 3, 3
WAYS = [(split, recompute) for split in (False, True) for recompute in (False, True)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def blocks(count: int = 2) -> nn.Sequential:
    parts = [nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh(), nn.Linear(SIZE, SIZE)) for _ in range(count)]
    return nn.Sequential(*parts)


class Around(nn.Module):
    """Runs a function on the first of two blocks and its input, and the second block as it is."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.blocks, self.run = blocks(), run

    def __deepcopy__(self, memo: dict[int, Any]) -> Around:
        made = Around(self.run)
        made.load_state_dict(self.state_dict())
        return made.to(next(self.parameters()).dtype)

    def forward(self, x: Any) -> Any:
        return self.blocks[1](self.run(self.blocks[0], x))


def checkpointed(block: Any, x: Any) -> Any:
    return checkpoint(block, x, use_reentrant=False)


def nested(block: Any, x: Any) -> Any:
    def inner(y: Any) -> Any:
        return checkpoint(block[1:], block[0](y), use_reentrant=False)

    return checkpoint(inner, x, use_reentrant=False)


def selective(block: Any, x: Any) -> Any:
    def policy(_: Any, op: Any, *__: Any, **___: Any) -> Any:
        saved = op == torch.ops.aten.addmm.default
        return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE

    def contexts() -> Any:
        return create_selective_checkpoint_contexts(policy)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


def reentrant(block: Any, x: Any) -> Any:
    return checkpoint(block, x if x.requires_grad else x.clone().requires_grad_(), use_reentrant=True)


def on_cpu(block: Any, x: Any) -> Any:
    with save_on_cpu():
        return block(x)


def taken_once(block: Any, x: Any) -> Any:
    """Has hooks that give each saved tensor back once."""
    kept: dict[object, Any] = {}

    def pack(tensor: Any) -> Any:
        key = object()
        kept[key] = tensor
        return key

    with saved_tensors_hooks(pack, kept.pop):
        return block(x)


def checkpoint_in_hooks(block: Any, x: Any) -> Any:
    return taken_once(lambda y: checkpointed(block, y), x)


class Whole(torch.autograd.Function):
    """A linear function whose context holds its tensors as attributes until its backward, which runs once."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, scale: float, note: str | None) -> Any:
        ctx.x, ctx.weight, ctx.scale, ctx.note = x, weight, scale, note
        return x @ weight.T * scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Any) -> Any:
        x, weight = ctx.x, ctx.weight
        del ctx.x, ctx.weight
        return gradient @ weight * ctx.scale, gradient.T @ x * ctx.scale, None, None


class Reversed(torch.autograd.Function):
    """Turns the gradient around."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return -gradient


class Quantized(torch.autograd.Function):
    """Rounds weights and passes their gradient straight through, once."""

    @staticmethod
    def forward(ctx: Any, weight: Any) -> Any:
        ctx.runs = 0
        return (weight * 8).round() / 8

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        ctx.runs += 1
        if ctx.runs > 1:
            raise RuntimeError("it ran twice")
        return gradient


def by_a_function(block: Any, x: Any) -> Any:
    return Whole.apply(x, block[0].weight, 0.5, None)


def turned(block: Any, x: Any) -> Any:
    return Reversed.apply(block(Reversed.apply(x)))


def quantized(block: Any, x: Any) -> Any:
    return nn.functional.linear(x, Quantized.apply(block[0].weight), block[0].bias)


def hooked(block: Any, x: Any) -> Any:
    """Doubles gradients on their way, in a hook on a tensor."""
    y = block[0](x)
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient * 2)
    return block[1:](y)


def derived(block: Any, x: Any) -> Any:
    """Takes a derivative in the forward."""
    return torch.func.vmap(torch.func.grad(lambda row: block(row).sum()))(x)


def shared(block: Any, x: Any) -> Any:
    return checkpointed(block, x) @ block[0].weight


def written(block: Any, x: Any) -> Any:
    y = block(x)
    y[0].mul_(2)
    return y


KINDS: dict[str, Any] = {
    "checkpoint": checkpointed,
    "checkpoint in a checkpoint": nested,
    "selective checkpoint": selective,
    "reentrant checkpoint": reentrant,
    "saved on the host": on_cpu,
    "hooks that give back once": taken_once,
    "a checkpoint within hooks": checkpoint_in_hooks,
    "a function with tensors in its context": by_a_function,
    "a function on the way": turned,
    "a function on a weight": quantized,
    "a hook on a tensor": hooked,
    "a derivative in the forward": derived,
    "a weight within and beside a checkpoint": shared,
    "a write into a view": written,
}


def batch(count: int = MICROBATCHES, dtype: Any = torch.float64) -> list[Any]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(ROWS, SIZE, dtype=dtype, generator=generator) for _ in range(count)]


def hold_to_one_process(
    module: nn.Module, *, split: bool, recompute: bool, is_first: bool = False, close: float = 1e-10, dtype: Any = None
) -> Stage:
    """Run micro-batches through a stage, all in flight at once, and through a copy of the module one by one."""
    twin, inputs = copy.deepcopy(module), batch(dtype=dtype or torch.float64)
    expected = []
    for each in inputs:
        leaf = each.clone().requires_grad_(not is_first)
        output = twin(leaf.clone())
        output.backward(torch.ones_like(output) * 2)
        expected.append((output.detach(), leaf.grad))
    stage = Stage(3, module, recompute=recompute, training=True, is_first=is_first)
    for m, each in enumerate(inputs):
        given = each.clone()
        (output,) = stage.forward(m, (given,), None, split=split)
        torch.testing.assert_close(output, expected[m][0], rtol=close, atol=close)
        assert not is_first or torch.equal(given, each), "nobody changes the batch"
    for m in (1, 0, 2):
        found = stage.backward(m, [torch.ones_like(expected[m][0]) * 2], split=split)
        if not is_first:
            torch.testing.assert_close(found[0], expected[m][1], rtol=close, atol=close)
    for m in (0, 2, 1) if split else ():
        stage.run_weights(m)
    for (name, weight), other in zip(module.named_parameters(), twin.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None), name
        if other.grad is not None:
            torch.testing.assert_close(
                weight.grad, other.grad, rtol=close, atol=close, msg=lambda m, n=name: f"{n}: {m}"
            )
    for (name, buffer), other in zip(module.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=close, atol=close, msg=lambda m, n=name: f"{n}: {m}")
    return stage


@pytest.mark.parametrize("is_first", [False, True], ids=["fed", "first"])
@pytest.mark.parametrize(("split", "recompute"), WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_stands_in_a_stage(kind: str, split: bool, recompute: bool, is_first: bool) -> None:
    torch.manual_seed(1)
    hold_to_one_process(Around(KINDS[kind]).double(), split=split, recompute=recompute, is_first=is_first)


@pytest.mark.parametrize(("kind", "told"), [
    ("checkpoint", "I computes gradients of weights too, for a node with saved tensors that hooks packed"),
    ("reentrant checkpoint", "I is a whole backward, and W does nothing, for CheckpointFunctionBackward in its graph"),
    ("a function with tensors in its context", "I computes gradients of weights too, for WholeBackward in its graph"),
    ("a hook on a tensor", "I is a whole backward, and W does nothing, for hooks that its forward registers"),
    ("a write into a view", "what CopySlices saved is kept until W"),
])  # fmt: skip
def test_what_is_not_as_the_schedule_has_it_is_told_once(kind: str, told: str, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, "schedverify"):
        hold_to_one_process(Around(KINDS[kind]).double(), split=False, recompute=False)
        assert caplog.messages == []
        hold_to_one_process(Around(KINDS[kind]).double(), split=True, recompute=False)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"stage 3: {told}")


@pytest.mark.parametrize("kind", [lambda block, x: block(x), turned, quantized])
def test_where_all_can_be_split_nothing_is_told(kind: Any, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, "schedverify"):
        hold_to_one_process(Around(kind).double(), split=True, recompute=False)
    assert caplog.messages == []


def test_a_weight_beside_a_checkpoint_still_gets_its_gradient_in_w() -> None:
    module = Around(checkpointed)
    stage = Stage(0, module, recompute=False, training=True, is_first=False)
    stage.forward(0, (torch.ones(ROWS, SIZE),), None, split=True)
    stage.backward(0, [torch.ones(ROWS, SIZE)], split=True)
    assert [weight.grad is None for weight in module.parameters()] == [False] * 4 + [True] * 4
    stage.run_weights(0)
    assert all(weight.grad is not None for weight in module.parameters())


def test_a_checkpointed_matrix() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return checkpoint(self.f, x, use_reentrant=False)

    module = Checkpointed()
    stage = Stage(0, module, recompute=False, training=True, is_first=False)
    stage.forward(0, (torch.ones(2, 3),), None, split=True)
    stage.backward(0, [torch.ones(2, 3)], split=True)
    stage.run_weights(0)
    assert torch.equal(module.f.weight.grad, torch.full((3, 3), 2.0))


def test_hooks_around_a_step() -> None:
    torch.manual_seed(1)
    with save_on_cpu():
        hold_to_one_process(Around(checkpointed).double(), split=True, recompute=False)
        hold_to_one_process(blocks().double(), split=True, recompute=False)


@pytest.mark.parametrize("split", [False, True])
def test_hooks_on_weights_run_once_a_microbatch(split: bool) -> None:
    module = Around(shared)
    ran: list[str] = []
    for name, weight in module.named_parameters():
        weight.register_hook(lambda gradient, n=name: ran.append(f"before {n}"))
        weight.register_post_accumulate_grad_hook(lambda _, n=name: ran.append(f"behind {n}"))
    stage = Stage(0, module, recompute=False, training=True, is_first=False)
    stage.forward(0, (torch.ones(ROWS, SIZE),), None, split=split)
    stage.backward(0, [torch.ones(ROWS, SIZE)], split=split)
    if split:
        stage.run_weights(0)
    assert sorted(ran) == sorted(
        f"{when} {name}" for name, _ in module.named_parameters() for when in ("before", "behind")
    )


# Writes at the edges of a stage


class Halved(nn.Module):
    """Halves its input in place, before anything else reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIZE, SIZE)

    def forward(self, x: Any) -> Any:
        return self.linear(x.mul_(0.5))


class Slice(nn.Module):
    """Writes into a part of its input, reads the rest, and returns a part of what it made."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(1, 2, SIZE))

    def forward(self, x: Any) -> Any:
        x[:, 0] = x[:, 1].clone() * self.weight[0]
        return (x * self.weight)[:, 1:]


def relus() -> nn.Module:
    return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(SIZE, SIZE), nn.ReLU(inplace=True), nn.Linear(SIZE, SIZE))


class Scaled(nn.Module):
    """Returns its input itself, changed in place by a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(1, 2, SIZE))

    def forward(self, x: Any) -> Any:
        return x.mul_(self.weight)


WRITES = {"halved": Halved, "a slice": Slice, "ReLU in place": relus, "the input itself": Scaled}


@pytest.mark.parametrize("is_first", [False, True], ids=["fed", "first"])
@pytest.mark.parametrize(("split", "recompute"), WAYS)
@pytest.mark.parametrize("kind", WRITES)
def test_writes_into_inputs(kind: str, split: bool, recompute: bool, is_first: bool) -> None:
    torch.manual_seed(2)
    hold_to_one_process(WRITES[kind]().double(), split=split, recompute=recompute, is_first=is_first)


# Recomputation


class Counting(nn.Module):
    """Binds a buffer anew, adds one in its first forward, and has one that is not saved and one without a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(SIZE), persistent=False)
        self.register_buffer("none", None)
        self.linear = nn.Linear(SIZE, SIZE)

    def forward(self, x: Any) -> Any:
        self.count = self.count + 1
        if "first" not in self._buffers:
            self.register_buffer("first", x.detach().mean(0))
        y = self.linear(x) * (1 + self.mean) / self.count + self.first
        self.mean.data.lerp_(x.detach().mean(0), 0.25)
        return y


def spectral() -> nn.Module:
    return nn.Sequential(
        torch.nn.utils.parametrizations.spectral_norm(nn.Linear(SIZE, SIZE)),
        nn.Tanh(),
        torch.nn.utils.parametrizations.spectral_norm(nn.Linear(SIZE, SIZE)),
    )


BUFFERED = {
    "batch norm": lambda: nn.Sequential(nn.Linear(SIZE, SIZE), nn.BatchNorm1d(SIZE), nn.Linear(SIZE, SIZE)),
    "batch norm by all": lambda: nn.Sequential(nn.BatchNorm1d(SIZE, momentum=None), nn.Linear(SIZE, SIZE)),
    "spectral norm": spectral,
    "counters": Counting,
}


@pytest.mark.parametrize(("split", "recompute"), WAYS)
@pytest.mark.parametrize("kind", BUFFERED)
def test_buffers_are_written_once(kind: str, split: bool, recompute: bool) -> None:
    torch.manual_seed(3)
    hold_to_one_process(BUFFERED[kind]().double(), split=split, recompute=recompute)


def test_backwards_between_forwards_leave_buffers_as_forwards_alone_do() -> None:
    torch.manual_seed(4)
    module = BUFFERED["counters"]().double()
    twin = copy.deepcopy(module)
    inputs = batch()
    stage = Stage(0, module, recompute=True, training=True, is_first=False)
    for m in range(3):
        stage.forward(m, (inputs[m].clone(),), None, split=False)
        if m:
            stage.backward(m - 1, [torch.ones(ROWS, SIZE)], split=False)
    stage.backward(2, [torch.ones(ROWS, SIZE)], split=False)
    for each in inputs:
        twin(each.clone()).backward(torch.ones(ROWS, SIZE))
    for buffer, other in zip(module.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(buffer, other)
    for weight, other in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, other.grad)


def test_buffers_of_two_parts_stay_one() -> None:
    module = nn.Sequential(nn.BatchNorm1d(SIZE), nn.BatchNorm1d(SIZE))
    module[1].running_mean = module[0].running_mean
    stage = Stage(0, module, recompute=True, training=True, is_first=False)
    stage.forward(0, (torch.randn(ROWS, SIZE),), None, split=False)
    before = module[0].running_mean.clone()
    stage.backward(0, [torch.ones(ROWS, SIZE)], split=False)
    assert module[0].running_mean is module[1].running_mean
    assert torch.equal(module[0].running_mean, before)


@pytest.mark.parametrize("recompute", [False, True])
def test_an_output_that_is_a_buffer_is_not_written_into_behind_its_back(recompute: bool) -> None:
    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(2))

        def forward(self, x: Any) -> Any:
            self.count.add_(1)
            return x * 2, self.count[:1]

    stage = Stage(0, Told(), recompute=recompute, training=True, is_first=False)
    told = [stage.forward(m, (torch.ones(1),), None, split=False)[1] for m in range(3)]
    assert torch.cat(told).tolist() == [1, 2, 3]


# Compiled parts


class Compiled(nn.Module):
    """A module that is compiled as a whole, or in parts by the function ``run``; draws by its input."""

    def __init__(self, module: nn.Module, backend: str, run: Any = None) -> None:
        super().__init__()
        self.module, self.backend, self.run = module, backend, run
        self.compiled = [torch.compile(module if run is None else module[0], backend=backend)]

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return Compiled(copy.deepcopy(self.module), self.backend, self.run)

    def forward(self, x: Any) -> Any:
        torch.manual_seed(int(x.abs().sum() * 1000))
        return self.compiled[0](x) if self.run is None else self.run(self.module, self.compiled[0], x)


COMPILED = {
    "a part": lambda backend: Compiled(blocks(), backend, lambda both, part, x: both[1](part(x))),
    "a shared weight": lambda backend: Compiled(blocks(), backend, lambda both, part, x: part(x) @ both[0][0].weight),
    "in a checkpoint": lambda backend: Compiled(
        blocks(), backend, lambda both, part, x: both[1](checkpointed(part, x))
    ),
    "all": lambda backend: Compiled(nn.Sequential(blocks(), nn.BatchNorm1d(SIZE)), backend),
    "all, writing in place": lambda backend: Compiled(nn.Sequential(nn.ReLU(inplace=True), blocks()), backend),
    "all, with dropout": lambda backend: Compiled(nn.Sequential(nn.Dropout(), blocks(), nn.Dropout()), backend),
}
BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_first", [False, True], ids=["fed", "first"])
@pytest.mark.parametrize(("split", "recompute"), WAYS)
@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_parts(backend: str, kind: str, split: bool, recompute: bool, is_first: bool) -> None:
    torch.manual_seed(6)
    torch.compiler.reset()
    module = COMPILED[kind](backend)
    hold_to_one_process(module, split=split, recompute=recompute, is_first=is_first, close=1e-6, dtype=torch.float32)
