"""One stage on this rank: runs its module forward and backward, and keeps what a micro-batch needs in between.

What a forward leaves is freed at the end of B or I, but for what W reads. The outputs themselves are not kept.

A module gets what it would get in the middle of a model: inputs that are not leaves and may be changed in place. Nobody
else sees such a change: not the batch, another stage, the message of an output, or a forward that is run again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, Final

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from schedverify.core.problem import Problem
from schedverify.runner.compute.batches import Tensors
from schedverify.runner.compute.buffers import Buffers, BufferValues
from schedverify.runner.compute.losses import Loss
from schedverify.runner.compute.parcels import Parcel, called, needs_of, structure_of
from schedverify.runner.compute.randoms import Randoms, first_block
from schedverify.runner.compute.split_backward import WeightPart, input_part, whole_backward
from schedverify.runner.compute.structures import TENSOR, Structure, taken_apart
from schedverify.runner.p2p.messages import is_differentiable

log = logging.getLogger("schedverify")


class _InFlight:
    """What a micro-batch leaves at a stage from its F to its B or I."""

    __slots__ = "buffers", "call", "entries", "hooked", "inputs", "loss", "microbatch", "roots", "seed"

    def __init__(self, microbatch: int, inputs: Sequence[Any], call: Structure | None, loss: Loss | None) -> None:
        self.microbatch = microbatch
        self.inputs, self.call = inputs, call
        """Those that may be run again; none once the graph is there."""
        self.entries: tuple[Any, ...] = ()
        """By differentiable input, its leaf in the graph; None where it needs no gradient."""
        self.loss = loss
        self.roots: list[Any] = []
        """By differentiable output, the edge at which its gradient arrives; None where it needs none."""
        self.seed: Any = None
        """The gradient of the loss, where there is one."""
        self.hooked = False
        """Whether hooks were registered in the forward."""
        self.buffers: BufferValues = ()
        """In recomputation, what the buffers held before F."""


_KEEPS: Final = nullcontext()


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
    randoms
        Those of the rank; by default no random numbers are seeded.
    within
        The stage's number in one copy of the model, where it stands in another copy.
    """

    def __init__(
        self, number: int, module: Any, *, recompute: bool, training: bool, is_first: bool,
        randoms: Randoms | None = None, within: int | None = None,
    ) -> None:  # fmt: skip
        self.number, self.module, self._place = number, module, f"stage {number}"
        self._randoms = Randoms() if randoms is None else randoms
        self._block = first_block(module, number if within is None else within, self._randoms)
        self._recompute, self._training, self._is_first = recompute, training, is_first
        self._in_flight: dict[int, _InFlight] = {}
        self._weight_parts: dict[int, WeightPart] = {}
        self._has_told = False
        self.begin()

    def begin(self) -> None:
        """Begin a step of training, with no micro-batch in flight."""
        self.look_up_weights()
        self._buffers = Buffers(self.module)
        self._in_flight.clear()
        self._weight_parts.clear()

    def look_up_weights(self) -> None:
        """Take the module's parameters anew: those of a sharded module are others when it is gathered."""
        self._weights = list(self.module.parameters())

    def forward(self, microbatch: int, inputs: Tensors, loss: Loss | None, *, split: bool) -> Tensors:
        """Run F and return the outputs; of a last stage in training the loss follows them."""
        leaves = list(map(self._leaf, inputs, needs_of(inputs)))
        state = _InFlight(microbatch, leaves, structure_of(inputs), loss)
        if self._training:
            self._in_flight[microbatch] = state
            if not self._recompute:
                return self._run(state, split)
            state.buffers = self._buffers.copies()
        # In training to see what needs a gradient; the graph is gone again behind it.
        with torch.set_grad_enabled(self._training):
            return self._passed_on(*self._outputs(state, again=self._recompute))

    def backward(self, microbatch: int, gradients: Sequence[Any], *, split: bool) -> Tensors:
        """Run B, or I where the backward is split, and return the gradients of the differentiable inputs.

        An input that needs no gradient has None.

        Parameters
        ----------
        gradients
            One for each differentiable output, None where none came; none of a last stage, whose gradient is that of
            its loss.
        """
        state = self._in_flight[microbatch]
        if self._recompute:
            with self._buffers.holding(state.buffers):
                self._run(state, split)
        inputs = [each for each in state.entries if each is not None]
        roots, arrived = [], []
        for root, each in zip(state.roots, gradients if state.seed is None else (state.seed,), strict=True):
            if root is not None and each is not None:
                roots.append(root)
                arrived.append(each)
        if split:
            part = input_part(roots, arrived, inputs, self._weights, hooked=state.hooked)
            self._weight_parts[microbatch] = part
            self._tell(part.notice)
        elif roots:
            whole_backward(roots, arrived, inputs, self._weights)
        found = tuple(_gradient_of(each) for each in state.entries)
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
            outputs, structure = self._outputs(state)
        inputs = () if self._is_first else state.inputs
        differentiable = [each for each in inputs if is_differentiable(each.dtype)]
        state.entries = tuple([each if each.requires_grad else None for each in differentiable])
        state.inputs, state.hooked = (), split and RemovableHandle.next_id != handles
        leading = [each for each in outputs if is_differentiable(each.dtype)]
        if state.loss is not None:
            leading, state.seed = [outputs[-1]], torch.full_like(outputs[-1], state.loss.seed)
        state.roots = [_edge(each) if each.requires_grad else None for each in leading]
        return self._passed_on(outputs, structure)

    def _outputs(self, state: _InFlight, *, again: bool = False) -> tuple[list[Any], Structure]:
        """Run the module and the loss; return the outputs, the loss behind them, and the structure of the others.

        Parameters
        ----------
        again
            Whether the inputs are needed again.
        """
        inputs = [_inner(each, apart=again or self._is_first) for each in state.inputs]
        self._randoms.begin(state.microbatch, self._block)
        outputs: list[Any] = []
        structure = taken_apart(called(self.module, state.call, inputs), outputs, self._place)
        if state.loss is not None:
            whole = tuple(outputs) if structure == TENSOR else Parcel.of(outputs, structure, ())
            outputs.append(state.loss.of(whole))
        return outputs, structure

    def _passed_on(self, outputs: list[Any], structure: Structure) -> Parcel:
        """Return outputs as other stages get them: without their graph, and not in the memory of a buffer."""
        needs = [each.requires_grad for each in outputs]
        tensors = [each.detach() if each.requires_grad else self._buffers.apart(each) for each in outputs]
        return Parcel.of(tensors, structure, needs)

    def _tell(self, notice: str) -> None:
        """Log once what of I and W is not as the schedule has it."""
        if notice and not self._has_told:
            self._has_told = True
            log.warning("stage %d: %s", self.number, notice)

    def _leaf(self, tensor: Any, needed: bool) -> Any:
        if self._training and needed and not self._is_first:
            return tensor.detach().requires_grad_()
        return tensor.detach() if tensor.requires_grad else tensor


def stages_of_rank(problem: Problem, modules: Mapping[int, Any], randoms: Randoms) -> dict[int, Stage]:
    """Return the stages of a rank by their numbers, from its modules."""
    training, recompute, feeders = problem.form != "inference", problem.recompute, problem.predecessors
    return {
        number: Stage(
            number, module, recompute=recompute[number], training=training, is_first=not feeders[number],
            randoms=randoms, within=number % problem.stages,
        )
        for number, module in modules.items()
    }  # fmt: skip


def _edge(tensor: Any) -> Any:
    """Return the gradient edge of a tensor; ``get_gradient_edge`` does so with more checks, and of leaves."""
    node = tensor.grad_fn
    return get_gradient_edge(tensor) if node is None else GradientEdge(node, tensor.output_nr)


def _inner(tensor: Any, *, apart: bool) -> Any:
    """Return an input that is no leaf, nor a view of one: it may be changed in place.

    Of the functions that are no views to autograd the first takes half of the second's time, but needs a dimension.

    Parameters
    ----------
    apart
        Whether it has memory of its own, since what it is made of is read again or is the user's.
    """
    if apart:
        return tensor.clone()
    if not tensor.requires_grad:
        return tensor
    if tensor.dim():
        return torch.unsafe_split(tensor, tensor.shape[0] or 1)[0]
    return torch.ops.aten._unsafe_view.default(tensor, tensor.shape)


def _gradient_of(leaf: Any) -> Any:
    """Return the gradient of an input; zeros where none arrived, None where it needs none."""
    if leaf is None:
        return None
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _free_data(inputs: Sequence[Any]) -> None:
    """Free the memory of inputs, and their gradients, while they stay in the graph for W."""
    for leaf in inputs:
        leaf.grad = None
        leaf.data = _empty(leaf.dtype, leaf.device)


@lru_cache(maxsize=64)
def _empty(dtype: Any, device: Any) -> Any:
    return torch.empty(0, dtype=dtype, device=device)
