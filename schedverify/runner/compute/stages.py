"""One stage on this rank: runs its module forward and backward, and keeps what a micro-batch needs in between.

What a forward leaves is freed at the end of B or I, but for what W reads. The outputs themselves are not kept.

A module gets what it would get in the middle of a model: inputs that are not leaves and may be changed in place. Nobody
else sees such a change: not the batch, another stage, the message of an output, or a forward that is run again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Final

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from schedverify.runner.compute.batches import Loss, Tensors, as_tensors
from schedverify.runner.compute.buffers import Buffers, BufferValues
from schedverify.runner.compute.split_backward import WeightPart, input_part, whole_backward
from schedverify.runner.p2p.messages import is_differentiable

log = logging.getLogger("schedverify")


class _InFlight:
    """What a micro-batch leaves at a stage from its F to its B or I."""

    def __init__(self, inputs: Tensors, loss: Loss | None) -> None:
        self.inputs = inputs
        """Those that need a gradient, once the graph is there."""
        self.loss = loss
        self.roots: list[Any] = []
        """By differentiable output, the edge at which its gradient arrives; None where it needs none."""
        self.seed: Any = None
        """The gradient of the loss, where there is one."""
        self.hooked = False
        """Whether hooks were registered in the forward."""
        self.random: Any = None
        self.buffers: BufferValues = ()
        """In recomputation, what the buffers held before F."""


_KEEPS: Final = nullcontext()
_NOT_RUN: Final = _InFlight((), None)
"""Stands for a micro-batch whose F has not made its state yet."""


class Stage:
    """A stage of the problem as this rank runs it.

    Parameters
    ----------
    recompute
        Whether F keeps its inputs and a copy of the buffers only, and B or I runs the forward again from them, with the
        same random numbers; what that changes in the buffers is undone.
    training
        Whether there is a backward.
    is_first
        Whether no stage feeds it: then the gradients of its inputs are not computed.
    """

    def __init__(self, number: int, module: Any, *, recompute: bool, training: bool, is_first: bool) -> None:
        self.number, self.module = number, module
        self._recompute, self._training, self._is_first = recompute, training, is_first
        self._in_flight: dict[int, _InFlight] = {}
        self._weight_parts: dict[int, WeightPart] = {}
        self._has_told = False
        self.begin()

    def begin(self) -> None:
        """Begin a step of training, with no micro-batch in flight."""
        self._weights = list(self.module.parameters())
        self._buffers = Buffers(self.module)
        self._in_flight.clear()
        self._weight_parts.clear()

    def enter(self, microbatch: int) -> None:
        """Count a micro-batch as in flight, from the beginning of the step that runs its F."""
        self._in_flight.setdefault(microbatch, _NOT_RUN)

    @property
    def in_flight(self) -> int:
        """The number of micro-batches from the beginning of their F to the end of their B or I."""
        return len(self._in_flight)

    def forward(self, microbatch: int, inputs: Tensors, loss: Loss | None, *, split: bool) -> Tensors:
        """Run F and return the outputs; of a last stage in training the loss follows them."""
        state = _InFlight(tuple(map(self._leaf, inputs)), loss)
        if not self._training:
            self._in_flight.pop(microbatch, None)
        else:
            self._in_flight[microbatch] = state
            if not self._recompute:
                return self._run(state, split)
            state.random, state.buffers = _random_state(inputs), self._buffers.copies()
        with torch.no_grad():
            return self._passed_on(self._outputs(state, again=self._recompute))

    def backward(self, microbatch: int, gradients: Sequence[Any], *, split: bool) -> Tensors:
        """Run B, or I where the backward is split, and return the gradients of the differentiable inputs.

        Parameters
        ----------
        gradients
            One for each differentiable output; none of a last stage, whose gradient is that of its loss.
        """
        state = self._in_flight[microbatch]
        if self._recompute:
            with _replayed(state.random), self._buffers.holding(state.buffers):
                self._run(state, split)
        inputs = state.inputs
        given = gradients if state.seed is None else (state.seed,)
        pairs = [(root, each) for root, each in zip(state.roots, given, strict=True) if root is not None]
        roots, arrived = [root for root, _ in pairs], [each for _, each in pairs]
        if split:
            part = input_part(roots, arrived, inputs, self._weights, hooked=state.hooked)
            self._weight_parts[microbatch] = part
            self._tell(part.notice)
        elif roots:
            whole_backward(roots, arrived, inputs, self._weights)
        found = tuple(each.grad if each.grad is not None else torch.zeros_like(each) for each in inputs)
        if split:
            _free_data(inputs)
        del self._in_flight[microbatch]
        return found

    def run_weights(self, microbatch: int) -> None:
        """Run W: add the gradients of the weights to their ``grad``."""
        self._weight_parts.pop(microbatch).run()

    def _run(self, state: _InFlight, split: bool) -> Tensors:
        handles = RemovableHandle.next_id
        with _KEEPS if torch.is_grad_enabled() else torch.enable_grad():
            outputs = self._outputs(state)
        state.inputs = tuple([each for each in state.inputs if each.requires_grad])
        state.hooked = split and RemovableHandle.next_id != handles
        leading = [each for each in outputs if is_differentiable(each.dtype)]
        if state.loss is not None:
            leading, state.seed = [outputs[-1]], torch.full_like(outputs[-1], state.loss.weight)
        state.roots = [_edge(each) if each.requires_grad else None for each in leading]
        return self._passed_on(outputs)

    def _outputs(self, state: _InFlight, *, again: bool = False) -> Tensors:
        """Run the module and the loss; ``again`` where the inputs are needed again."""
        if again or self._is_first:
            inputs = tuple(each.detach().clone() for each in state.inputs)
        else:
            inputs = tuple(_inner(each) if each.requires_grad else each for each in state.inputs)
        outputs = as_tensors(self.module(*inputs), f"stage {self.number}")
        return outputs if state.loss is None else (*outputs, state.loss.of(outputs))

    def _passed_on(self, outputs: Tensors) -> Tensors:
        """Return outputs as other stages get them: without their graph, and not in the memory of a buffer."""
        return tuple([each.detach() if each.requires_grad else self._buffers.apart(each) for each in outputs])

    def _tell(self, notice: str) -> None:
        """Log once what of I and W is not as the schedule has it."""
        if notice and not self._has_told:
            self._has_told = True
            log.warning("stage %d: %s", self.number, notice)

    def _leaf(self, tensor: Any) -> Any:
        leaf = tensor.detach()
        return leaf.requires_grad_(self._training and not self._is_first and is_differentiable(leaf.dtype))


def _edge(tensor: Any) -> Any:
    """Return the gradient edge of a tensor; ``get_gradient_edge`` does so with more checks, and of leaves."""
    node = tensor.grad_fn
    return get_gradient_edge(tensor) if node is None else GradientEdge(node, tensor.output_nr)


def _inner(leaf: Any) -> Any:
    """Return a tensor in the memory of a leaf that is no leaf, nor a view of one: it may be changed in place.

    The first of these functions that are not views to autograd takes half of the second's time, but needs a dimension.
    """
    if leaf.dim():
        return torch.unsafe_split(leaf, leaf.shape[0] or 1)[0]
    return torch.ops.aten._unsafe_view.default(leaf, leaf.shape)


def _free_data(inputs: Sequence[Any]) -> None:
    """Free the memory of inputs, and their gradients, while they stay in the graph for W."""
    for leaf in inputs:
        leaf.grad = None
        leaf.data = _empty(leaf.dtype, leaf.device)


@lru_cache(maxsize=64)
def _empty(dtype: Any, device: Any) -> Any:
    return torch.empty(0, dtype=dtype, device=device)


def _random_state(inputs: Tensors) -> Any:
    """Return the states of the random number generators: the host's, and by index those of the inputs' devices."""
    devices = sorted({each.device.index for each in inputs if each.device.type == "cuda"})
    return torch.get_rng_state(), {device: torch.cuda.get_rng_state(device) for device in devices}


@contextmanager
def _replayed(states: Any) -> Iterator[None]:
    """Have the random numbers within this context be those that followed earlier states."""
    host, by_device = states
    with torch.random.fork_rng(devices=list(by_device)):
        torch.set_rng_state(host)
        for device, state in by_device.items():
            torch.cuda.set_rng_state(state, device)
        yield
