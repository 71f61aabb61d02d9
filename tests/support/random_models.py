"""Random small models in random pipelines: what is drawn, the modules that it names, and the same in one process.

A model is written in words, each an operation on the hidden numbers, shape ``(rows, WIDTH)``. What in-place operations,
dropout, buffers and shared weights do is that of a chain of modules in one process, micro-batch after micro-batch; the
masks that dropout drew in the pipeline are handed to that process.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from oracle.messages import Wires
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from support.random_schedules import random_rows

WIDTH, RANKS = 4, 3


class Drawn(NamedTuple):
    """A model, how it is cut and run, and its batches.

    Attributes
    ----------
    stages
        The words of each stage.
    placement
        The rank of each stage.
    recompute
        By stage.
    rows
        By step and micro-batch, the rows.
    side
        Whether a mask that needs no gradient crosses beside the hidden numbers, and a tensor that does.
    seed
        Of weights, numbers and the order.
    """

    stages: tuple[tuple[str, ...], ...]
    placement: tuple[int, ...]
    recompute: tuple[bool, ...]
    rows: tuple[tuple[int, ...], ...]
    side: bool
    seed: int


class Dropout(nn.Module):
    """Drops half, and writes down by its input what it drew, or takes what is handed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: dict[bytes, Any] = {}
        self.given: list[Any] | None = None

    def forward(self, x: Any) -> Any:
        if self.given is not None:
            return x * self.given.pop(0)
        mask = functional.dropout(torch.ones_like(x), 0.5)
        known = self.drawn.setdefault(x.detach().numpy().tobytes(), mask)
        if not torch.equal(known, mask):
            raise RuntimeError("a second forward of a micro-batch drew another mask")
        return x * mask


class Product(torch.autograd.Function):
    """A function written in Python that saves what it reads."""

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        a, b = ctx.saved_tensors
        return gradient * b, (gradient * a).sum(0)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x: Any) -> Any:
        return Product.apply(x, self.factor)


class Residual(nn.Module):
    """Uses its input and its weight twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Any) -> Any:
        return x + torch.tanh(self.inner(torch.tanh(self.inner(x))))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Any) -> Any:
        return checkpoint(self.inner, x, use_reentrant=False)


class Counted(nn.Module):
    """Has a buffer of its own that each forward changes, and reads no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.weight = nn.Parameter(torch.rand(WIDTH))
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x: Any) -> Any:
        self.seen += 1
        return x * self.weight


class Transposed(nn.Module):
    """Uses the matrix of a shared layer the other way round, with a bias of its own."""

    def __init__(self, weight: Any) -> None:
        super().__init__()
        self.weight, self.bias = weight, nn.Parameter(torch.rand(WIDTH))

    def forward(self, x: Any) -> Any:
        return x @ self.weight + self.bias


class Inplace(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.mul_(0.5).add_(1)


def frozen() -> Any:
    return nn.Linear(WIDTH, WIDTH).requires_grad_(False)


SIMPLE: dict[str, Any] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "norm": lambda: nn.LayerNorm(WIDTH),
    "batchnorm": lambda: nn.BatchNorm1d(WIDTH),
    "frozen": frozen,
    "counted": Counted,
    "dropout": Dropout,
    "scale": Scale,
    "residual": Residual,
    "checkpointed": Checkpointed,
    "relu": lambda: nn.LeakyReLU(0.1),
    "tanh": nn.Tanh,
    "relu_": lambda: nn.LeakyReLU(0.1, inplace=True),
    "mul_": Inplace,
}
SHARED = ("shared", "transposed")
"""Both use one matrix, wherever they stand."""
WORDS = (*SIMPLE, *SHARED)
TRAINED = ("linear", "norm", "batchnorm", "counted", "scale", "residual", "checkpointed", *SHARED)
INPLACE = ("relu_", "mul_")
KEEPERS = ("relu", "tanh", "relu_", "scale", "residual", "counted", "dropout")
"""Behind these stands no operation in place: autograd saved their outputs, or what they read may be theirs."""


class Chunk(nn.Module):
    """A stage: its words one after the other on the first tensor; the mask and the branch pass by, or are used."""

    def __init__(self, ops: list[nn.Module], *, first: bool, side: bool) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)
        self.branch = nn.Linear(WIDTH, WIDTH) if first and side else None
        self.side = side

    def forward(self, x: Any, *others: Any) -> Any:
        if self.branch is not None:
            others = (*others, self.branch(x.clone()))  # what stands in place behind it changes x
        for op in self.ops:
            x = op(x)
        if not self.side:
            return x
        mask, branch = others
        return x + branch * mask, mask, branch * 0.5


def modules(drawn: Drawn) -> list[Chunk]:
    """Return the stages of a model; shared weights are one tensor."""
    torch.manual_seed(drawn.seed)
    shared = nn.Parameter(torch.randn(WIDTH, WIDTH))
    made = []
    for number, words in enumerate(drawn.stages):
        ops: list[Any] = []
        for word in words:
            if word not in SHARED:
                ops.append(SIMPLE[word]())
                continue
            ops.append(Transposed(shared) if word == "transposed" else nn.Linear(WIDTH, WIDTH))
            ops[-1].weight = shared
        made.append(Chunk(ops, first=number == 0, side=drawn.side).double())
    return made


def shared_by(made: Sequence[nn.Module]) -> dict[str, dict[int, str]]:
    """Return by a word for it the names of the shared matrix, where several stages have it."""
    names: dict[int, dict[int, str]] = {}
    for stage, module in enumerate(made):
        for name, weight in module.named_parameters():
            names.setdefault(id(weight), {})[stage] = name
    return {f"shared {i}": found for i, found in enumerate(names.values()) if len(found) > 1}


def problem(drawn: Drawn) -> Problem:
    return Problem.chain(
        ranks=RANKS,
        placement=list(drawn.placement),
        microbatches=len(drawn.rows[0]),
        form="split",
        recompute=list(drawn.recompute),
    )


def order(drawn: Drawn) -> Schedule:
    """Return a random order of all that the problem needs, whole and split backwards mixed."""
    law = Wires(problem(drawn).to_dict())
    return Schedule.of(random_rows(random.Random(drawn.seed), law))


def batch(drawn: Drawn, step: int) -> tuple[list[Any], list[Any]]:
    """Return the inputs and targets of each micro-batch of a step."""
    numbers = torch.Generator().manual_seed(100 * drawn.seed + step)
    inputs: list[Any] = []
    targets = []
    for rows in drawn.rows[step]:
        x, mask, target = (torch.randn(rows, WIDTH, generator=numbers, dtype=torch.float64) for _ in range(3))
        inputs.append((x, (mask > 0).double()) if drawn.side else x)
        targets.append(target)
    return inputs, targets


def loss(output: Any, target: Any) -> Any:
    output = output[0] if isinstance(output, tuple) else output
    return ((output - target) ** 2).mean()


def alone(
    drawn: Drawn, orders: dict[int, list[int]], masks: dict[int, list[list[Any]]]
) -> tuple[list[Chunk], list[float]]:
    """Train in one process; return the modules with their gradients and buffers, and the loss of each step.

    Parameters
    ----------
    orders
        By stage, the micro-batches in the order of their forwards, in which buffers take them.
    masks
        By stage, of each of its dropouts what it drew, in the order of the steps and forwards.
    """
    made = modules(drawn)
    for stage, module in enumerate(made):
        for dropout, given in zip(dropouts(module), masks[stage], strict=True):
            dropout.given = list(given)
    losses = []
    for step, rows in enumerate(drawn.rows):
        tensors, targets = batch(drawn, step)
        for stage, module in enumerate(made):
            for m in orders[stage]:
                tensors[m] = module(*tensors[m]) if isinstance(tensors[m], tuple) else module(tensors[m])
        pairs = zip(tensors, targets, strict=True)
        whole = sum(loss(output, target) * (len(target) / sum(rows)) for output, target in pairs)
        whole.backward()
        losses.append(float(whole.detach()))
    return made, losses


def states(drawn: Drawn) -> set[str]:
    """Return the names of all weights and buffers, each with its stage."""
    return {
        f"{stage} {name}"
        for stage, module in enumerate(modules(drawn))
        for named in (module.named_parameters(), module.named_buffers())
        for name, _ in named
    }


def dropouts(module: nn.Module) -> list[Dropout]:
    return [each for each in module.modules() if isinstance(each, Dropout)]


@st.composite
def models(draw: Any, words: Sequence[str] = WORDS, recompute: bool = True) -> Drawn:
    """Draw a model that one process can train, and a pipeline for it."""
    count = draw(st.integers(2, 5))
    behind, stages = "mul_", []
    for _ in range(count):
        chosen: list[str] = []
        for _ in range(draw(st.integers(1, 3))):
            behind = draw(st.sampled_from([word for word in words if word not in INPLACE or behind not in KEEPERS]))
            chosen.append(behind)
        stages.append(tuple(chosen))
    if not any(set(chosen) & set(TRAINED) for chosen in stages):
        stages[-1] += ("linear",)
    microbatches, steps = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    return Drawn(
        stages=tuple(stages),
        placement=tuple(draw(st.lists(st.integers(0, RANKS - 1), min_size=count, max_size=count))),
        recompute=tuple(recompute and draw(st.booleans()) for _ in range(count)),
        rows=tuple(tuple(draw(st.integers(2, 4)) for _ in range(microbatches)) for _ in range(steps)),
        side=draw(st.booleans()),
        seed=draw(st.integers(0, 999)),
    )
