"""What models of transformers hold: as a profile predicts it, and as a run of a plan keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from schedverify.core.model import Layer, Model
from schedverify.core.result import Plan
from schedverify.generators import generate
from schedverify.partitioner.stage_problem import cut
from schedverify.planner.plans import plan_of
from schedverify.profiling import BlockProfile, Figure
from schedverify.profiling.blocks import Chain
from schedverify.runner import Runner
from schedverify.runner.launch.source import Source
from support import transformer_models as models
from support.profile_jobs import alive, saved
from support.training_jobs import Piece

ROWS, SIZE = 2, models.Size(width=64, length=48)


class Prediction(NamedTuple):
    """A plan for a profiled model, and what it says that each rank holds."""

    plan: Plan
    layers: tuple[Layer, ...]
    parts: list[list[int]]
    """By stage, the blocks."""

    @property
    def in_flight(self) -> list[int]:
        """The most bytes of micro-batches, by rank."""
        measures, problem = self.plan.measures, self.plan.problem
        assert measures is not None
        assert measures.peak_memory is not None
        return [peak - held for peak, held in zip(measures.peak_memory, problem.static, strict=True)]

    @property
    def weights(self) -> list[int]:
        """The bytes of weights, by rank."""
        problem = self.plan.problem
        return [
            sum(self.layers[i].parameters for stage in problem.stages_of[rank] for i in self.parts[stage])
            for rank in range(problem.ranks)
        ]


def predicted(name: str, family: str, *, ranks: int, microbatches: int, split: bool) -> Prediction:
    """Profile the bytes of a model, cut it by them, and plan it with a family."""
    case = models.made(name, SIZE)
    named = tuple((str(i), block) for i, block in enumerate(case.blocks))
    source = Source(named, lambda step: models.batch(name, ROWS * microbatches, SIZE, step), models.mean_loss)
    kinds = ("forward", "backward", "backward_input", "backward_weight") if split else ("forward", "backward")
    times = dict.fromkeys(kinds, Figure(1, 1, 1, 1))
    blocks = Chain(source, microbatches).measure_bytes(split=split)
    layers = tuple(BlockProfile(str(i), times, held).layer(1, copies=0) for i, held in enumerate(blocks))
    found = cut(Model(name, layers), ranks=ranks, microbatches=microbatches, family=family)
    return Prediction(plan_of(generate(family, found.problem), found.problem), layers,
                      [list(part) for part in found.partition.layers])  # fmt: skip


class Held(NamedTuple):
    """The bytes of a rank's weights, and the most that its micro-batches held at once."""

    weights: int
    in_flight: int


def held(rank: int, plan: Plan, name: str, parts: Sequence[Sequence[int]], split: bool) -> Held:
    """Run two steps of a plan, and count in the second."""
    case, problem = models.made(name, SIZE), plan.problem
    own = {stage: Piece(case.blocks[i] for i in parts[stage]) for stage in problem.stages_of[rank]}
    weights = list({id(weight): weight for module in own.values() for weight in module.parameters()}.values())
    runner = Runner(plan, own, models.mean_loss, timeout=60)
    batch = models.batch(name, ROWS * problem.microbatches, SIZE)
    runner.step(*batch)
    peaks = [0]
    with alive(weights, peaks) if split else saved(weights, peaks):
        runner.step(*batch)
    return Held(sum(weight.nbytes for weight in weights), max(peaks))
