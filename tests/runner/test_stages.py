"""A stage computes in two parts what it computes in one, and lets go of what it does not need any more."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils.parametrizations import weight_norm

from schedverify import Problem
from schedverify.core.errors import InputError
from schedverify.runner.compute.batches import feed_of
from schedverify.runner.compute.randoms import Randoms
from schedverify.runner.compute.stages import Stage

SIZE = 4


class Product(torch.autograd.Function):
    """A function written in Python that saves its inputs."""

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        a, b = ctx.saved_tensors
        return gradient * b, gradient * a


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(1, 2, SIZE, dtype=torch.float64))

    def forward(self, x: Any) -> Any:
        return Product.apply(x, self.factor)


class Shared(nn.Module):
    """Uses a matrix twice, once transposed, and its bias in a branch that its output does not pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIZE, SIZE)

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.linear(x)) @ self.linear.weight + self.linear.bias.detach()


class Squared(nn.Module):
    """A matrix that stands twice in one product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, SIZE * SIZE, dtype=torch.float64).view(SIZE, SIZE))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Any) -> Any:
        return x @ (self.weight @ self.weight.T)


class Sum(nn.Module):
    """The sum of two matrices, used twice: both have the same gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.eye(SIZE, dtype=torch.float64) * i) for i in (1, 2))

    def forward(self, x: Any) -> Any:
        weight = self.first + self.second
        return x @ weight, x + weight[:3]


class Shift(nn.Module):
    """Adds a view of a weight: the gradient of the weight may be a view of the input's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3 * SIZE))

    def forward(self, x: Any) -> Any:
        return x + self.weight.view(3, SIZE)


class Views(Shift):
    """Adds views of a weight and the input: both gradients may be views of one tensor."""

    def forward(self, x: Any) -> Any:
        return (x.view(1, 3, SIZE) + self.weight.view(1, 3, SIZE)).tanh().view(3, SIZE)


class Assembled(nn.Module):
    """A matrix that is written into in place: its rows are views."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.row = nn.Parameter(torch.eye(SIZE) * 2), nn.Parameter(torch.linspace(1, 2, SIZE))

    def forward(self, x: Any) -> Any:
        weight = self.weight.clone()
        weight[0].mul_(self.row)
        return x @ weight


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(SIZE), nn.MultiheadAttention(SIZE, 2, batch_first=True)

    def forward(self, x: Any) -> Any:
        h = self.norm(x)[None]
        return x + self.heads(h, h, h, need_weights=False)[0][0]


class Two(nn.Module):
    """Two outputs, of which the second is made of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(5, SIZE), nn.Linear(SIZE, SIZE)

    def forward(self, x: Any) -> Any:
        rows = self.table((x[:, 0] > 0).long()) if x.is_floating_point() else self.table(x)
        return rows, self.linear(rows)


def twice() -> nn.Module:
    module = nn.Linear(SIZE, SIZE)
    return nn.Sequential(module, nn.Tanh(), module)


def normed() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(SIZE, SIZE)), nn.GELU(), weight_norm(nn.Linear(SIZE, 3)))


def frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh(), nn.Linear(SIZE, SIZE))
    module[0].weight.requires_grad_(False)
    return module


MODULES: dict[str, Any] = {
    "linear": lambda: nn.Sequential(nn.Linear(SIZE, SIZE), nn.ReLU(), nn.Linear(SIZE, SIZE)),
    "norms": lambda: nn.Sequential(nn.LayerNorm(SIZE), nn.BatchNorm1d(SIZE), nn.Linear(SIZE, SIZE, bias=False)),
    "convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, SIZE)), nn.Conv1d(1, 2, 3, padding=1), nn.Flatten()),
    "weight norm": normed,
    "a function in Python": lambda: nn.Sequential(Scaled(), nn.Tanh(), Scaled()),
    "shared weights": Shared,
    "one module twice": twice,
    "a matrix times itself": Squared,
    "a sum of two matrices": Sum,
    "a view of a weight": Shift,
    "views of a weight and the input": Views,
    "a matrix assembled in place": Assembled,
    "attention": Attention,
    "two outputs": Two,
    "frozen weights": frozen,
    "no weights": nn.Tanh,
    "the input itself": nn.Identity,
}


def module_of(name: str) -> Any:
    torch.manual_seed(3)
    return MODULES[name]().double()


def outputs_of(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("is_first", [False, True], ids=["fed", "first"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("split", [False, True], ids=["B", "I and W"])
@pytest.mark.parametrize("name", MODULES)
def test_gradients_are_those_of_autograd(name: str, split: bool, recompute: bool, is_first: bool) -> None:
    module, inputs = module_of(name), [torch.randn(3, SIZE, dtype=torch.float64) for _ in range(3)]
    twin = copy.deepcopy(module)
    stage = Stage(0, module, recompute=recompute, training=True, is_first=is_first)
    expected = []
    for each in inputs:
        leaf = each.clone().requires_grad_(not is_first)
        outputs = outputs_of(twin(leaf))
        gradients = [torch.ones_like(output) * (i + 2) for i, output in enumerate(outputs)]
        if any(output.requires_grad for output in outputs):
            pairs = [(o, g.clone()) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
            torch.autograd.backward(*zip(*pairs, strict=True))
        expected.append((outputs, gradients, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone()))
    for m, each in enumerate(inputs):
        for made, output in zip(stage.forward(m, (each,), None, split=split), expected[m][0], strict=True):
            torch.testing.assert_close(made, output.detach())
    found = {m: stage.backward(m, expected[m][1], split=split) for m in (1, 0, 2)}
    for m in (0, 2, 1) if split else ():
        stage.run_weights(m)
    for m, gradients in found.items():
        assert len(gradients) == (0 if is_first else 1)
        for gradient in gradients:
            torch.testing.assert_close(gradient, expected[m][2])
    for (key, weight), other in zip(module.named_parameters(), twin.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None), key
        if other.grad is not None:
            torch.testing.assert_close(weight.grad, other.grad, rtol=1e-10, atol=1e-12)


class Woven(nn.Module):
    """Weaves its input and three weights into tensors, each made of those before it, as another is told each time."""

    def __init__(self, moves: list[list[tuple[str, int, int]]]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.linspace(-1, i, SIZE * SIZE).view(SIZE, SIZE) for i in range(3))
        self.moves = moves

    def forward(self, x: Any) -> Any:
        made = [x, *self.weights]
        for move, i, j in self.moves.pop(0):
            a, b = made[i % len(made)], made[j % len(made)]
            made.append({"product": a @ b / SIZE, "sum": a + b, "tanh": a.tanh(), "halves": a.chunk(2)[j % 2]}[move])
            if move == "halves":
                made[-1] = torch.cat([made[-1]] * 2)
        return made[-1], made[-2]


MOVES = st.tuples(st.sampled_from(["product", "sum", "tanh", "halves"]), st.integers(0, 20), st.integers(0, 20))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(MOVES, min_size=2, max_size=9), min_size=1, max_size=3), st.booleans())
def test_a_graph_of_any_form_is_cut_well_and_forms_may_come_again(moves: list[Any], is_first: bool) -> None:
    moves = [*moves, *moves]
    whole, cut = (Woven(list(moves)).double() for _ in range(2))
    stage = Stage(0, cut, recompute=False, training=True, is_first=is_first)
    inputs = [torch.linspace(-1, 1 + m, SIZE * SIZE, dtype=torch.float64).view(SIZE, SIZE) for m in range(len(moves))]
    found, expected = [], []
    for m, each in enumerate(inputs):
        leaf = each.clone().requires_grad_(not is_first)
        outputs = [output for output in whole(leaf) if output.requires_grad]
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
        expected.append(torch.zeros_like(each) if leaf.grad is None else leaf.grad)
        stage.forward(m, (each,), None, split=True)
    for m, each in enumerate(inputs):
        found += stage.backward(m, [torch.ones_like(each)] * 2, split=True)
    for m in range(len(inputs)):
        stage.run_weights(m)
    for each, other in zip(found, [] if is_first else expected, strict=True):
        torch.testing.assert_close(each, other)
    for each, other in zip(cut.parameters(), whole.parameters(), strict=True):
        zeros = torch.zeros_like(each)
        torch.testing.assert_close(*(zeros if weight.grad is None else weight.grad for weight in (each, other)))


def test_a_gradient_of_another_shape_is_told() -> None:
    for split in (False, True):
        stage = Stage(0, nn.Linear(SIZE, SIZE), recompute=False, training=True, is_first=False)
        stage.forward(0, (torch.ones(3, SIZE),), None, split=split)
        with pytest.raises(RuntimeError, match="shape"):
            stage.backward(0, [torch.ones(2, SIZE)], split=split)


class Watched(nn.Module):
    """Notes its input and what each of its parts makes, so that a test can see which of it is held."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.made: list[StorageWeakRef] = []

    def forward(self, x: Any) -> Any:
        self.made.append(StorageWeakRef(x.untyped_storage()))
        for part in self.parts:
            x = part(x)
            self.made.append(StorageWeakRef(x.untyped_storage()))
        return x

    def held(self) -> list[int]:
        gc.collect()
        return [place for place, made in enumerate(self.made) if not made.expired()]


class Exponential(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.exp()


def watched_stage(recompute: bool = False) -> tuple[Stage, Watched]:
    module = Watched(nn.Linear(SIZE, SIZE), Exponential(), nn.Softmax(1), nn.Linear(SIZE, SIZE), nn.Tanh())
    return Stage(0, module, recompute=recompute, training=True, is_first=False), module


def test_b_lets_go_of_everything() -> None:
    stage, module = watched_stage()
    stage.forward(0, (torch.randn(3, SIZE),), None, split=False)
    assert module.held() == [0, 2, 3, 5]
    stage.backward(0, [torch.ones(3, SIZE)], split=False)
    assert module.held() == []


def test_i_lets_go_of_what_w_does_not_read() -> None:
    stage, module = watched_stage()
    stage.forward(0, (torch.randn(3, SIZE),), None, split=True)
    assert module.held() == [0, 2, 3, 5]
    stage.backward(0, [torch.ones(3, SIZE)], split=True)
    assert module.held() == [0, 3], "W reads the inputs of the two matrices"
    stage.run_weights(0)
    assert module.held() == []


def test_an_input_that_only_i_reads_is_let_go() -> None:
    module = Watched(Exponential(), nn.Linear(SIZE, SIZE))
    stage = Stage(0, module, recompute=False, training=True, is_first=False)
    stage.forward(0, (torch.randn(3, SIZE),), None, split=True)
    assert module.held() == [0, 1]
    stage.backward(0, [torch.ones(3, SIZE)], split=True)
    assert module.held() == [1]


def test_a_checkpoint_within_a_stage_is_not_recomputed_to_see_what_it_saved() -> None:
    runs = []

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.Sequential(*(nn.Linear(SIZE, SIZE) for _ in range(4)))
            self.parts.register_forward_pre_hook(lambda *_: runs.append(1))

        def forward(self, x: Any) -> Any:
            return torch.utils.checkpoint.checkpoint(self.parts, x, use_reentrant=False)

    stage = Stage(0, Checkpointed(), recompute=False, training=True, is_first=False)
    stage.forward(0, (torch.ones(3, SIZE),), None, split=True)
    stage.backward(0, [torch.ones(3, SIZE)], split=True)
    assert len(runs) == 2, "in F and in I"


@pytest.mark.parametrize("split", [False, True])
def test_a_stage_that_recomputes_keeps_its_input_only(split: bool) -> None:
    stage, module = watched_stage(recompute=True)
    given = torch.randn(3, SIZE)
    kept = StorageWeakRef(given.untyped_storage())
    stage.forward(0, (given,), None, split=split)
    del given
    assert module.held() == []
    assert not kept.expired()
    stage.backward(0, [torch.ones(3, SIZE)], split=split)
    assert module.held() == ([6, 9] if split else [])
    assert kept.expired() != split, "W reads it"


def test_recomputing_draws_the_same_random_numbers_and_disturbs_none() -> None:
    module = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Dropout(0.5), nn.Tanh())
    results = []
    for recompute in (False, True):
        torch.manual_seed(11)
        module.zero_grad()
        randoms = Randoms()
        stage = Stage(0, module, recompute=recompute, training=True, is_first=False, randoms=randoms)
        with randoms.within_step():
            for m in range(2):
                stage.forward(m, (torch.ones(3, SIZE),), None, split=False)
            for m in range(2):
                stage.backward(m, [torch.ones(3, SIZE)], split=False)
        results.append([*(weight.grad.clone() for weight in module.parameters()), torch.rand(3)])
    for kept, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(kept, recomputed)


def test_what_is_changed_in_place_is_told() -> None:
    class Careless(nn.Module):
        def forward(self, x: Any) -> Any:
            y = (x * 2).exp()
            y.add_(1)
            return y

    stage = Stage(0, Careless(), recompute=False, training=True, is_first=False)
    stage.forward(0, (torch.ones(2),), None, split=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stage.backward(0, [torch.ones(2)], split=True)


def test_inference_holds_nothing() -> None:
    module = Watched(nn.Linear(SIZE, SIZE), nn.Tanh())
    stage = Stage(0, module, recompute=False, training=False, is_first=False)
    stage.forward(0, (torch.randn(3, SIZE),), None, split=False)
    assert module.held() == []


def test_a_weight_gets_its_gradient_in_w_alone() -> None:
    module = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh(), nn.Linear(SIZE, SIZE))
    stage = Stage(0, module, recompute=False, training=True, is_first=False)
    stage.forward(0, (torch.randn(3, SIZE),), None, split=True)
    stage.backward(0, [torch.ones(3, SIZE)], split=True)
    assert all(weight.grad is None for weight in module.parameters())
    stage.run_weights(0)
    assert all(weight.grad is not None for weight in module.parameters())


def test_a_loss_is_a_scalar() -> None:
    problem = Problem.chain(ranks=1, microbatches=1)
    batch = torch.ones(4, SIZE)
    for loss, found in ((lambda *_: batch.sum(1), "a tensor of 4 numbers"), (lambda *_: 1.0, "float")):
        made = feed_of(problem, 0, batch, batch, loss).loss(0, 0)
        assert made is not None
        with pytest.raises(InputError, match=f"loss: of stage 0 it is {found}"):
            made.of((batch,))


def test_a_set_is_no_output() -> None:
    class Wrong(nn.Module):
        def forward(self, x: Any) -> set[int]:
            return {1}

    stage = Stage(5, Wrong(), recompute=False, training=True, is_first=True)
    with pytest.raises(InputError, match=r"stage 5: expected a tensor, found set"):
        stage.forward(0, (torch.ones(2),), None, split=False)
