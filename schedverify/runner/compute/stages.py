"""One stage on this rank: runs its module forward and backward, and holds what a micro-batch needs in between.

What a forward keeps is let go at the end of B or I, but for what W reads. The outputs themselves are not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge

from schedverify.runner.compute.autograd import Saved, add_gradients, own
from schedverify.runner.compute.batches import Loss, Tensors, as_tensors
from schedverify.runner.compute.split_backward import WeightPart, input_part
from schedverify.runner.p2p.messages import is_differentiable


class _Kept:
    """What a micro-batch leaves at a stage from F to B or I."""

    def __init__(self, inputs: Tensors, loss: Loss | None) -> None:
        self.inputs = inputs
        self.loss = loss
        self.roots: list[Any] = []
        """By differentiable output, the edge at which its gradient arrives; None where it needs none."""
        self.seed: Any = None
        """The gradient of the loss, where there is one."""
        self.saved = Saved()
        self.random: Any = None


class Stage:
    """A stage of the problem as this rank runs it.

    Parameters
    ----------
    recompute
        Whether F keeps its inputs only, and B or I pays the forward again (with the same random numbers).
    training
        Whether there is a backward.
    is_first
        Whether no stage feeds it: then nobody reads the gradients of its inputs.
    """

    def __init__(self, number: int, module: Any, *, recompute: bool, training: bool, is_first: bool) -> None:
        self.number, self.module = number, module
        self._recompute, self._training, self._is_first = recompute, training, is_first
        self._kept: dict[int, _Kept] = {}
        self._weight_parts: dict[int, WeightPart] = {}
        self.begin()

    def begin(self) -> None:
        """Begin a step: nothing is held."""
        self._weights = list(self.module.parameters())
        self._kept.clear()
        self._weight_parts.clear()

    def hold(self, microbatch: int) -> None:
        """Count a micro-batch as held, from the begin of the step that runs its F."""
        self._kept.setdefault(microbatch, _Kept((), None))

    @property
    def held(self) -> int:
        """How many micro-batches wait for their B or I."""
        return len(self._kept)

    def forward(self, microbatch: int, inputs: Tensors, loss: Loss | None, *, split: bool) -> Tensors:
        """Run F and return the outputs; of a last stage in training the loss follows them."""
        kept = _Kept(tuple(map(self._leaf, inputs)), loss)
        if not self._training:
            self._kept.pop(microbatch, None)
        else:
            self._kept[microbatch] = kept
        if self._training and not self._recompute:
            return self._run(kept, split)
        if self._training:
            kept.random = _random_state(inputs)
        with torch.no_grad():
            return self._outputs(kept)

    def backward(self, microbatch: int, gradients: Sequence[Any], *, split: bool) -> Tensors:
        """Run B, or I where the backward is split, and return the gradients of the differentiable inputs.

        Parameters
        ----------
        gradients
            One for each differentiable output; none of a last stage, whose gradient is that of its loss.
        """
        kept = self._kept[microbatch]
        if self._recompute:
            with _replayed(kept.random):
                self._run(kept, split)
        inputs = [each for each in kept.inputs if each.requires_grad]
        given = gradients if kept.seed is None else (kept.seed,)
        pairs = [(root, each) for root, each in zip(kept.roots, given, strict=True) if root is not None]
        roots, arrived = [root for root, _ in pairs], [each for _, each in pairs]
        if split:
            self._weight_parts[microbatch] = input_part(roots, arrived, inputs, kept.saved)
        elif roots:
            self._whole(roots, arrived, inputs)
        found = tuple(each.grad if each.grad is not None else torch.zeros_like(each) for each in inputs)
        if split:
            _let_go(inputs)
        del self._kept[microbatch]
        return found

    def _whole(self, roots: Sequence[Any], arrived: Sequence[Any], inputs: Sequence[Any]) -> None:
        fresh = [weight for weight in self._weights if weight.grad is None]
        add_gradients(roots, arrived)
        own(fresh, [*arrived, *(each.grad for each in inputs)])

    def weights(self, microbatch: int) -> None:
        """Run W: add the gradients of the weights to their ``grad``."""
        self._weight_parts.pop(microbatch).run()

    def _run(self, kept: _Kept, split: bool) -> Tensors:
        with torch.enable_grad(), kept.saved.hooks() if split else nullcontext():
            outputs = self._outputs(kept)
        leading = [each for each in outputs if is_differentiable(each.dtype)]
        if kept.loss is not None:
            leading, kept.seed = [outputs[-1]], torch.full_like(outputs[-1], kept.loss.weight)
        kept.roots = [get_gradient_edge(each) if each.requires_grad else None for each in leading]
        return tuple(each.detach() for each in outputs)

    def _outputs(self, kept: _Kept) -> Tensors:
        outputs = as_tensors(self.module(*kept.inputs), f"stage {self.number}")
        return outputs if kept.loss is None else (*outputs, kept.loss.of(outputs))

    def _leaf(self, tensor: Any) -> Any:
        leaf = tensor.detach()
        return leaf.requires_grad_(self._training and not self._is_first and is_differentiable(leaf.dtype))


def _let_go(inputs: Sequence[Any]) -> None:
    """Free the data of inputs whose place in the graph must stay for W."""
    for leaf in inputs:
        leaf.grad = None
        leaf.data = leaf.new_empty(0)


def _random_state(inputs: Tensors) -> Any:
    """Return the state of the random numbers, on the host and on the devices of the inputs."""
    devices = sorted({each.device.index for each in inputs if each.device.type == "cuda"})
    return torch.get_rng_state(), {device: torch.cuda.get_rng_state(device) for device in devices}


class _replayed:  # noqa: N801 - a context, used like a function
    """A context in which the random numbers are those of an earlier time."""

    def __init__(self, state: Any) -> None:
        self._state = state
        self._context = torch.random.fork_rng(devices=list(state[1]))

    def __enter__(self) -> None:
        self._context.__enter__()
        torch.set_rng_state(self._state[0])
        for device, state in self._state[1].items():
            torch.cuda.set_rng_state(state, device)

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)
