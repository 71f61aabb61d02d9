"""Which schedule class of torch runs an order."""

from __future__ import annotations

from schedverify.core.errors import InputError, UnsupportedError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.torch_bridge.class_orders import torch_order
from schedverify.torch_bridge.stand_ins import torch_classes


def class_that_runs(order: Schedule, problem: Problem) -> str:
    """Return the first class of ``torch.distributed.pipelining`` that runs just this order of compute.

    Empty where none does, or torch is not installed or cannot be used.
    """
    virtual = -(-problem.stages // problem.ranks)
    try:
        for name in torch_classes():
            try:
                runs = torch_order(name, ranks=problem.ranks, microbatches=problem.microbatches, virtual=virtual)
            except UnsupportedError:
                raise
            except InputError:
                continue  # the class does not take the shape
            if runs == order:
                return name
    except UnsupportedError:
        pass
    return ""
