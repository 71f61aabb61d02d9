"""Models of torchvision and timm in a pipeline of two ranks, beside the same micro-batches in one process.

``python vision_models.py MODEL SCHEDULE`` prints the largest relative error of a gradient or buffer. It is a program of
its own, run by the interpreter that has these libraries, and needs nothing of the tests but what it imports.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from schedverify import Problem, generate
from schedverify.core.model import even_parts
from schedverify.planner.plans import plan_of
from schedverify.runner import Runner
from support.gloo_pool import GlooPool

RANKS, MICROBATCHES, CLASSES = 2, 4, 10


class Patches(nn.Module):
    """Patches of a picture with their places, as the layers of a ViT take them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embed, self.cls_token, self.pos_embed = model.patch_embed, model.cls_token, model.pos_embed

    def forward(self, pictures: Any) -> Any:
        patches = self.embed(pictures)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed


class Classes(nn.Module):
    """The last norm of a ViT and its head on the first token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.norm, self.head = model.norm, model.head

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(x)[:, 0])


def resnet50() -> tuple[Any, list[nn.Module]]:
    import torchvision

    model = torchvision.models.resnet50(num_classes=CLASSES)
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    layers = [block for layer in (model.layer1, model.layer2, model.layer3, model.layer4) for block in layer]
    return model, [stem, *layers, nn.Sequential(model.avgpool, nn.Flatten(), model.fc)]


def vit() -> tuple[Any, list[nn.Module]]:
    import timm

    shape = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 6, "num_heads": 3}
    model = timm.models.VisionTransformer(**shape, num_classes=CLASSES)
    return model, [Patches(model), *model.blocks, Classes(model)]


MODELS = {"resnet50": resnet50, "vit": vit}


def made(name: str) -> tuple[Any, list[nn.Module]]:
    torch.manual_seed(3)
    model, blocks = MODELS[name]()
    model.double().train()
    return model, blocks


def error(found: Any, wanted: Any) -> float:
    if found is None or wanted is None:
        return 0.0 if found is wanted else float("inf")
    return float((found - wanted).double().norm() / wanted.double().norm().clamp_min(1e-30))


def train(rank: int, plan: Any, name: str) -> float:
    """Run a step by a plan and in one process; return the largest relative error on this rank."""
    numbers = torch.Generator().manual_seed(4)
    pictures = torch.randn(2 * MICROBATCHES, 3, 64, 64, dtype=torch.float64, generator=numbers)
    targets = torch.randint(0, CLASSES, (len(pictures),), generator=numbers)
    model, _ = made(name)
    for part, wanted in zip(pictures.tensor_split(MICROBATCHES), targets.tensor_split(MICROBATCHES), strict=True):
        (functional.cross_entropy(model(part), wanted) / MICROBATCHES).backward()
    own, blocks = made(name)
    parts = even_parts(len(blocks), plan.problem.stages)
    stages = {s: nn.Sequential(*blocks[parts[s].start : parts[s].stop]) for s in plan.problem.stages_of[rank]}
    Runner(plan, stages, functional.cross_entropy, timeout=250).step(pictures, targets)
    mine = {id(tensor) for stage in stages.values() for tensor in (*stage.parameters(), *stage.buffers())}
    errors = [error(a.grad, b.grad) for a, b in zip(own.parameters(), model.parameters(), strict=True) if id(a) in mine]
    errors += [error(a, b) for a, b in zip(own.buffers(), model.buffers(), strict=True) if id(a) in mine]
    return max(errors)


def main() -> None:
    name, family = sys.argv[1:]
    shape: dict[str, Any] = {"interleaved-1f1b": {"virtual": 2}, "zb-v": {"virtual": 2, "placement": "v"}}
    problem = Problem.chain(ranks=RANKS, microbatches=MICROBATCHES, form="split", **shape.get(family, {}))
    with GlooPool(RANKS) as pool:
        outcomes = pool.run(train, plan_of(generate(family, problem), problem), name, timeout=280)
    for outcome in outcomes:
        if outcome.value is None:
            raise SystemExit(outcome.error or "a rank hangs")
    print(max(outcome.value for outcome in outcomes))


if __name__ == "__main__":
    main()
