"""Stages whose forward, I and W sleep, so that many ranks fit on few cores and a step takes what its order says."""

from __future__ import annotations

import time
from typing import Any

import torch


class Sleep(torch.autograd.Function):
    """Passes a tensor on, and sleeps on the way there and on the way back."""

    @staticmethod
    def forward(context: Any, tensor: Any, there: float, back: float) -> Any:
        """Sleep ``there`` seconds."""
        context.back = back
        time.sleep(there)
        return tensor.clone()

    @staticmethod
    def backward(context: Any, gradient: Any) -> tuple[Any, None, None]:
        """Sleep ``back`` seconds."""
        time.sleep(context.back)
        return gradient, None, None


class Sleeper(torch.nn.Module):
    """A stage of so many seconds for each of F, I and W, whatever of its inputs needs a gradient.

    The sleep of I stands between the output and the place where the weights come in; that of W on the way to a weight.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.weight, self.bias = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Any) -> Any:
        """Sleep once, in front of what I passes on its way back."""
        weight = Sleep.apply(self.weight, 0.0, self.seconds)
        return Sleep.apply(inputs * weight + self.bias, self.seconds, self.seconds)
