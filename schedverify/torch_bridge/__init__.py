"""PyTorch's pipeline runtime, both ways: the only room that knows its private names."""

from schedverify.torch_bridge.class_orders import torch_order
from schedverify.torch_bridge.importing import from_torch, problem_from_torch, torch_problem, torch_schedule
from schedverify.torch_bridge.loading import LoadedPlan, load_verified
from schedverify.torch_bridge.lowering_options import LoweringOptions
from schedverify.torch_bridge.recognition import class_that_runs
from schedverify.torch_bridge.stand_ins import live_schedule, torch_classes, torch_loop
from schedverify.torch_bridge.versions import TESTED, require_torch

__all__ = [
    "TESTED", "LoadedPlan", "LoweringOptions", "class_that_runs", "from_torch", "live_schedule", "load_verified",
    "problem_from_torch", "require_torch", "torch_classes", "torch_loop", "torch_order", "torch_problem",
    "torch_schedule",
]  # fmt: skip
