"""What the pool's processes do in tests of the runner: a small model, run by the plan and in one process."""

from __future__ import annotations

import copy
import logging
import time
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from schedverify.core.problem import Problem
from schedverify.runner import RefusedError, Runner, TimedOutError

WIDTH = 6


class Block(nn.Module):
    """Takes the outputs of all stages that feed it; its weights hang on the graph in different ways."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.full((WIDTH,), 1.0 + stage / 10))

    def forward(self, *inputs: Any) -> Any:
        x = sum(inputs[1:], inputs[0])
        return x * self.scale + self.down(torch.tanh(self.up(self.norm(x))))


class Embedded(Block):
    """A first stage whose inputs have no gradients."""

    def __init__(self, stage: int) -> None:
        super().__init__(stage)
        self.table = nn.Embedding(7, WIDTH)

    def forward(self, *inputs: Any) -> Any:
        return super().forward(self.table(inputs[0]))


class Twice(Block):
    """A stage that uses each of its weights twice."""

    def forward(self, *inputs: Any) -> Any:
        return super().forward(super().forward(*inputs))


class Pair(Block):
    """A stage that makes and reads a tuple of tensors, of which one has no gradient and one is not always read."""

    def forward(self, *inputs: Any) -> Any:
        x = super().forward(inputs[0])
        if len(inputs) > 1:
            x = x + inputs[1].sum(1, keepdim=True) * inputs[2][:, None]
        return x, (x[:, :2] > 0).long(), x[:, 0] * 2


class Writing(Block):
    """A stage that changes in place what another stage gave it."""

    def __init__(self, stage: int) -> None:
        super().__init__(stage)
        self.is_first = stage == 0

    def forward(self, *inputs: Any) -> Any:
        return super().forward(inputs[0] if self.is_first else inputs[0].mul_(self.scale))


class Bits(Block):
    """A stage that gives whole numbers only, and one that reads them: no gradient goes back."""

    def forward(self, *inputs: Any) -> Any:
        y = super().forward(*(each.double() for each in inputs))
        return y if inputs[0].dtype == torch.int64 else (y > 0).long()


class Views(Block):
    """A stage that gives tensors which are not what lies in memory: conjugates, transposes, a scalar, none."""

    def forward(self, *inputs: Any) -> Any:
        if len(inputs) > 1:
            turned, lying, alone, none = inputs
            whole = turned.conj()
            return super().forward(whole.real - whole.imag + lying.T * alone + none.sum())
        x = super().forward(*inputs)
        return torch.complex(x, 2 * x).conj(), x.T, self.scale.sum(), x[:0]


class Nothing(Block):
    """A stage that gives nothing, and one that reads nothing."""

    def forward(self, *inputs: Any) -> Any:
        return () if inputs else super().forward(self.scale.detach()[None])


class Still(nn.Module):
    """A stage without weights."""

    def forward(self, *inputs: Any) -> Any:
        return torch.sin(sum(inputs[1:], inputs[0]))


def modules_of(problem: Problem, kinds: dict[int, type[nn.Module]]) -> list[Any]:
    """Make the modules of one copy; tied stages share theirs."""
    torch.manual_seed(7)
    made: list[Any] = []
    for stage in range(problem.stages):
        kind = kinds.get(stage, Block)
        made.append((kind() if kind is Still else kind(stage)).double())
    for group in problem.tied:
        for stage in group[1:]:
            made[stage] = made[group[0]]
    return made


def data_of(problem: Problem, rows: int, kinds: dict[int, type[nn.Module]]) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(rows)
    target = torch.randn(rows, WIDTH, dtype=torch.float64, generator=generator)
    if Embedded in kinds.values():
        return torch.randint(0, 7, (rows,), generator=generator), target
    return torch.randn(rows, WIDTH, dtype=torch.float64, generator=generator), target


def mean_square(output: Any, target: Any) -> Any:
    output = output[0] if isinstance(output, tuple) else output
    return ((output - target) ** 2).mean()


def reference(problem: Problem, modules: list[Any], batch: Any, target: Any) -> tuple[Any, dict[int, Any]]:
    """Run the stage graph in one process; return the loss and the outputs of last stages."""
    made: dict[int, tuple[Any, ...]] = {}
    while len(made) < problem.stages:
        for stage in range(problem.stages):
            sources = problem.predecessors[stage]
            if stage not in made and all(source in made for source in sources):
                inputs = [each for source in sources for each in made[source]] if sources else [batch]
                output = modules[stage](*inputs)
                made[stage] = output if isinstance(output, tuple) else (output,)
    lasts = {stage: made[stage] for stage in range(problem.stages) if not problem.successors[stage]}
    return sum(mean_square(outputs, target) for outputs in lasts.values()), lasts


def error_of(found: Any, expected: Any) -> float:
    """Return the relative error of a module's gradients."""
    errors = [0.0]
    for own, other in zip(found.parameters(), expected.parameters(), strict=True):
        if other.grad is None:
            errors.append(0.0 if own.grad is None or not own.grad.any() else float("inf"))
        elif own.grad is None:
            errors.append(float(other.grad.norm() > 0) and float("inf"))
        else:
            errors.append(float((own.grad - other.grad).norm() / other.grad.norm().clamp_min(1e-30)))
    return max(errors)


def train(
    rank: int, plan: Any, rows: int = 0, kinds: dict[int, type[nn.Module]] | None = None, steps: int = 1, **options: Any
) -> dict[str, Any]:
    """Run a plan; return the worst error of this rank's gradients, its share of the loss, and what was counted."""
    problem, kinds = plan.problem, kinds or {}
    modules = modules_of(problem, kinds)
    batch, target = data_of(problem, rows or 2 * problem.microbatches + 1, kinds)
    loss, _ = reference(problem, modules, batch, target)
    own = {stage: copy.deepcopy(modules[stage % problem.stages]) for stage in problem.stages_of[rank]}
    loss.backward()
    runner = Runner(plan, own, mean_square, timeout=30, **options)
    for _ in range(steps):
        for module in own.values():
            module.zero_grad()
        result = runner.step(batch, target)
    errors = [error_of(module, modules[stage % problem.stages]) for stage, module in own.items()]
    return {
        "error": max(errors, default=0.0),
        "share": None if result.loss is None else float(result.loss),
        "loss": float(loss.detach()),
        "peak": result.peak_in_flight,
        "ran": [(each.position, each.step, each.start <= each.end) for each in result.ran],
    }


class Slice(nn.Module):
    """Gives a slice of a large tensor, and notes which of those are held when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.made: list[StorageWeakRef] = []

    def forward(self, x: Any) -> Any:
        made = (x * self.weight)[:1].repeat(4000, 8)
        self.made.append(StorageWeakRef(made.untyped_storage()))
        return made[:1]


def slices_held(rank: int, plan: Any, steps: int = 1) -> int:
    """Return how many large tensors of the last step are held at the first stage's last backward; 0 on other ranks."""
    module = Slice() if rank == 0 else nn.Linear(8 * WIDTH, 8 * WIDTH)
    held = []
    batch, target = torch.ones(plan.problem.microbatches, WIDTH), torch.ones(plan.problem.microbatches, 8 * WIDTH)

    def look(*_: Any) -> None:
        for _ in range(500):  # the thread that waits for sends frees them when they have left
            held.append(sum(not made.expired() for made in module.made))
            if held[-1] <= 1:
                return
            time.sleep(0.01)

    def last(crossing: Any) -> None:
        if rank == 0 and crossing.backward and crossing.microbatch == plan.problem.microbatches - 1:
            look()

    runner = Runner(plan, [module], mean_square, timeout=30, hooks=[last])
    for _ in range(steps):
        runner.step(batch, target)
    return held[-1] if held else 0


def train_without_tags(rank: int, plan: Any) -> dict[str, Any]:
    """Go the way of NCCL, with gloo beneath: messages are matched by their order alone."""
    from unittest import mock

    with mock.patch("torch.distributed.get_backend", return_value="nccl"):
        try:
            return train(rank, plan, 2 * plan.problem.microbatches)
        except RefusedError as error:
            return {"refused": str(error)}


def infer(rank: int, plan: Any) -> float:
    """Run an inference plan and return the error of what came out here."""
    problem = plan.problem
    modules = modules_of(problem, {})
    batch, target = data_of(problem, 2 * problem.microbatches + 1, {})
    with torch.no_grad():
        _, lasts = reference(problem, modules, batch, target)
    own = {stage: modules[stage % problem.stages] for stage in problem.stages_of[rank]}
    result = Runner(plan, own, timeout=30).step(batch)
    errors = [
        float((outputs[0] - lasts[stage % problem.stages][0].tensor_split(problem.microbatches)[m]).abs().max())
        for (stage, m), outputs in result.outputs.items()
    ]
    return max(errors, default=0.0)


def optimize(rank: int, plan: Any, steps: int) -> float:
    """Train some steps with the optimizer's hook, and in one process; return the greatest difference of weights."""
    problem = plan.problem
    modules = modules_of(problem, {})
    own = {stage: copy.deepcopy(modules[stage % problem.stages]) for stage in problem.stages_of[rank]}
    mine = torch.optim.SGD([w for module in own.values() for w in module.parameters()], lr=0.1)
    whole = torch.optim.SGD([w for module in set(modules) for w in module.parameters()], lr=0.1)

    def update() -> None:
        mine.step()
        mine.zero_grad()

    runner = Runner(plan, own, mean_square, timeout=30, optimizer=update)
    for step in range(steps):
        batch, target = data_of(problem, 2 * problem.microbatches + step, {})
        whole.zero_grad()
        reference(problem, modules, batch, target)[0].backward()
        whole.step()
        runner.relearn()
        runner.step(batch, target)
    return max(
        float((a - b).detach().abs().max())
        for stage, module in own.items()
        for a, b in zip(module.parameters(), modules[stage % problem.stages].parameters(), strict=True)
    )


def add_up(rank: int, plan: Any, steps: int) -> float:
    """Train some steps and never forget a gradient, here and in one process; return the error."""
    problem = plan.problem
    modules = modules_of(problem, {})
    own = {stage: copy.deepcopy(modules[stage % problem.stages]) for stage in problem.stages_of[rank]}
    runner = Runner(plan, own, mean_square, timeout=30)
    for step in range(steps):
        batch, target = (each + step for each in data_of(problem, 2 * problem.microbatches, {}))
        reference(problem, modules, batch, target)[0].backward()
        runner.step(batch, target)
    return max((error_of(module, modules[stage % problem.stages]) for stage, module in own.items()), default=0.0)


def in_parallel(rank: int, plan: Any) -> float:
    """Run two pipelines side by side on halves of the batch, gradients averaged; return the error."""
    import torch.distributed as dist

    size = plan.problem.ranks
    pipelines = [dist.new_group(list(range(first, first + size))) for first in (0, size)]
    replicas = [dist.new_group([place, place + size]) for place in range(size)]
    number, place = divmod(rank, size)
    problem = plan.problem
    modules = modules_of(problem, {})
    batch, target = data_of(problem, 4 * problem.microbatches, {})
    reference(problem, modules, batch, target)[0].backward()
    own = {stage: copy.deepcopy(modules[stage % problem.stages]) for stage in problem.stages_of[place]}
    for module in own.values():
        module.zero_grad()
    half = [each.tensor_split(2)[number] for each in (batch, target)]
    runner = Runner(plan, own, mean_square, group=pipelines[number], data_parallel=replicas[place], timeout=30)
    runner.step(*half)
    return max(error_of(module, modules[stage % problem.stages]) for stage, module in own.items())


def admit(rank: int, plans: list[Any], unverified: bool = False, late: int | None = None) -> tuple[str, list[str]]:
    """Make a runner of the plan for this rank; return the refusal, and what was logged."""
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("schedverify")
    logger.addHandler(handler)
    plan = plans[rank]
    try:
        if rank != late:
            Runner(plan, [Block(rank)], mean_square, unverified=unverified, timeout=2 if late is not None else 30)
    except (RefusedError, TimedOutError) as error:
        return f"{type(error).__name__}: {error}", logged
    finally:
        logger.removeHandler(handler)
    return "", logged
