"""What the pool's processes do in tests of the profile: a small GPT, run by a plan, and what its ranks hold counted."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from schedverify.profiling.blocks import Chain, LiveStorages
from schedverify.profiling.figures import BlockBytes, ModelProfile
from schedverify.profiling.session import ProfileSettings, measure
from schedverify.runner import Runner
from schedverify.runner.compute.stages import Stage
from schedverify.runner.launch.source import Source
from support.scripts import module_at

EXAMPLE = Path(__file__).parents[2] / "examples" / "gpt" / "model.py"
DEPTH = 7


def example() -> Any:
    """Return the module of the example's model."""
    return module_at(EXAMPLE, "gpt_example")


def gpt() -> list[Any]:
    """Return the blocks of the example's GPT without pauses: the embedding, equal blocks, the head."""
    model = example()
    torch.manual_seed(1)
    head = nn.Sequential(nn.LayerNorm(model.WIDTH), nn.Linear(model.WIDTH, len(model.LETTERS)))
    return [model.Embedding(), *(model.Block(0.0) for _ in range(DEPTH)), head]


def profiled(microbatches: int, *, split: bool) -> list[BlockBytes]:
    """Return what each block holds, by the profile."""
    model = example()
    named = tuple((str(i), block) for i, block in enumerate(gpt()))
    source = Source(named, lambda step: model.batch(step, microbatches), model.loss)
    return Chain(source, microbatches).measure_bytes(split=split)


def profile_of_two(rank: int) -> ModelProfile | None:
    """Profile two blocks as a rank of a process group does; rank 0 has the result."""
    blocks = (("first", nn.Linear(6, 4)), ("second", nn.Linear(4, 2)))
    source = Source(blocks, lambda _: (torch.ones(4, 6), torch.zeros(4, 2)), nn.functional.mse_loss)
    return measure(ProfileSettings("two blocks", microbatches=2, rounds=3, warmup=1), source=source)


class Held:
    """A tensor that autograd saved; it goes when autograd lets go of it."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor.detach()


def measured(rank: int, plan: Any, parts: list[list[int]]) -> dict[str, Any]:
    """Run a plan, and return the bytes of this rank's weights, and the most that its micro-batches held at once.

    With B, what autograd holds is counted as it saves it, by hooks. With I and W the stages have hooks of their own,
    and what is alive is counted behind each operation, messages that wait to leave or to be read among it.
    """
    model = example()
    blocks, problem = gpt(), plan.problem
    own = {stage: nn.Sequential(*(blocks[i] for i in parts[stage])) for stage in problem.stages_of[rank]}
    weights = [weight for module in own.values() for weight in module.parameters()]
    runner = Runner(plan, own, model.loss, timeout=60)
    batch = model.batch(0, problem.microbatches)
    runner.step(*batch)
    peaks = [0]
    split = any("I" in step for step in plan.schedule.strings()[rank])
    with alive(weights, peaks) if split else saved(weights, peaks):
        runner.step(*batch)
    return {"peak": max(peaks), "parameters": sum(weight.nbytes for weight in weights)}


@contextmanager
def saved(weights: list[Any], peaks: list[int]) -> Iterator[None]:
    """Count what autograd saves and has not let go of."""
    alive: weakref.WeakSet[Held] = weakref.WeakSet()
    others = {weight.untyped_storage().data_ptr() for weight in weights}

    def hold(tensor: Any) -> Held:
        held = Held(tensor)
        alive.add(held)
        storages = {each.tensor.untyped_storage().data_ptr(): each.tensor.untyped_storage().nbytes() for each in alive}
        peaks.append(sum(size for address, size in storages.items() if address not in others))
        return held

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda held: held.tensor):
        yield


@contextmanager
def alive(weights: list[Any], peaks: list[int]) -> Iterator[None]:
    """Count what was made and is still there, behind each operation of a stage."""
    live, plain = LiveStorages(), {name: getattr(Stage, name) for name in ("forward", "backward", "run_weights")}

    def counting(run: Any) -> Any:
        def counted(*arguments: Any, **named: Any) -> Any:
            made = run(*arguments, **named)
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            peaks.append(live.live_bytes([*weights, *gradients]))
            return made

        return counted

    try:
        for name, run in plain.items():
            setattr(Stage, name, counting(run))
        with live:
            yield
    finally:
        for name, run in plain.items():
            setattr(Stage, name, run)
