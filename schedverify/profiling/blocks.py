"""Measures the blocks of a model, each run as the runner runs a stage: the time of F, B, I and W, and the live bytes.

Each block is a stage of its own, one after the other. Its inputs are copies, as if they had come from another rank; its
gradients come from the block behind it. Live bytes are those of every storage that an operation made, until the last
reference to it is gone.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from schedverify.core.errors import Fault, InputError
from schedverify.profiling.equal_blocks import groups_of, signature_of
from schedverify.profiling.figures import BlockBytes, SharedBlocks
from schedverify.runner.compute.batches import Tensors, alone, rows_of
from schedverify.runner.compute.losses import Loss
from schedverify.runner.compute.microbatches import microbatches_of
from schedverify.runner.compute.parcels import Parcel, call_of, called, first_call_of, needs_of, parcel_of, structure_of
from schedverify.runner.compute.stages import Stage
from schedverify.runner.launch.source import Source

Samples = dict[str, list[int]]
"""Nanoseconds of each round, by kind."""


class Chain:
    """The blocks of a model and one micro-batch for them.

    Parameters
    ----------
    microbatches
        Number of micro-batches in a batch of the source; the blocks compute the first of them.
    clock
        Returns the time in nanoseconds; by default that of the process, when all that was launched is done.

    Raises
    ------
    InputError
        If the source's batch cannot be made or cut.
    """

    def __init__(self, source: Source, microbatches: int, clock: Callable[[], int] | None = None) -> None:
        self._clock = _now if clock is None else clock
        self.names = [name for name, _ in source.blocks]
        self.modules = [module for _, module in source.blocks]
        self._stages = [
            Stage(number, module, recompute=False, training=True, is_first=number == 0)
            for number, module in enumerate((*self.modules, nn.Identity()))
        ]
        """One for each block, and one behind them for the loss, which is timed for itself."""
        self._given: list[Tensors] = []
        """By block, what it was given in the last round."""
        with _named("batch(0)"):
            inputs, targets = source.batch(0)
        self._inputs: Tensors = microbatches_of(inputs, microbatches, "batch")[0]
        target = alone(_copies(microbatches_of(targets, microbatches, "target")[0]))
        self._targets = [each for each in tree_leaves(target) if isinstance(each, torch.Tensor)]
        """They are the user's, and no micro-batch holds them, whatever a loss saves."""
        last = len(self.modules) - 1
        self._loss = Loss(lambda outputs: source.loss(alone(outputs), target), last, 1 / microbatches)
        self.rows = rows_of(self._inputs)

    def time_round(self, samples: Sequence[Samples], *, split: bool, forward: bool = True) -> None:
        """Run one round and add its times to the samples of each block.

        Parameters
        ----------
        samples
            By block, and behind the blocks of the loss, the nanoseconds of each round by kind.
        split
            Whether the backward runs in its two parts.
        forward
            Whether the forward counts.
        """
        tensors = self._inputs
        self._given.clear()
        for number, block in enumerate(samples):
            self._given.append(tensors)
            tensors, took = self._timed(number, "forward", _copies(tensors), split=split)
            if forward:
                block.setdefault("forward", []).append(took)
        gradients: Tensors = ()
        for number in reversed(range(len(samples))):
            kind = "backward_input" if split else "backward"
            gradients, took = self._timed(number, kind, _copies(gradients), split=split)
            samples[number].setdefault(kind, []).append(took)
            if split:
                _, took = self._timed(number, "backward_weight", (), split=True)
                samples[number].setdefault("backward_weight", []).append(took)

    def measure_bytes(self, *, split: bool) -> list[BlockBytes]:
        """Run one round and return the live bytes of each block meanwhile.

        A round goes before, in which blocks may make tensors that they then keep for ever. Without a split backward
        nothing waits for W.
        """
        self.time_round([{} for _ in self._stages], split=split)
        live = [LiveStorages() for _ in self.names]
        found: list[dict[str, int]] = [{} for _ in self.names]
        tensors: Tensors = self._inputs
        before = tuple(False for _ in tensors)
        for number, count in enumerate(live):
            needed, after = self._saved(number, tensors, before)
            inputs = zip(tensors, before, needed, strict=True) if number else ()
            found[number]["entry"] = sum(each.nbytes for each, saved, own in inputs if saved or not own)
            tensors, found[number]["activation"] = self._counted(number, "forward", tensors, count, split)
            before = after
            if number == len(live) - 1:
                tensors = tensors[:-1]  # behind it stands the loss
            found[number]["output"] = sum(each.nbytes for each in tensors)
        gradients: Tensors = ()
        kind = "backward_input" if split else "backward"
        for number in reversed(range(len(live))):
            gradients, waiting = self._counted(number, kind, gradients, live[number], split)
            found[number]["waiting"] = waiting if split else 0
            if split:
                self._do(number, "backward_weight", (), split=True, last=len(live) - 1)
        return [BlockBytes(**count, **_resident(module)) for count, module in zip(found, self.modules, strict=True)]

    def tied(self) -> Iterator[tuple[str, ...]]:
        """Yield the groups of blocks, by name, that share a weight."""
        users: dict[int, list[str]] = {}
        for name, module in zip(self.names, self.modules, strict=True):
            for weight in module.parameters():
                users.setdefault(id(weight), []).append(name)
        yield from dict.fromkeys(tuple(names) for names in users.values() if len(names) > 1)

    def equal(self) -> list[list[int]]:
        """Return the groups of equal blocks, by position, as they were in the last round."""
        return groups_of([signature_of(*pair) for pair in zip(self.modules, self._given, strict=False)])

    def tied_weights(self) -> Iterator[SharedBlocks]:
        """Yield the weights that several blocks have, in the order of the first blocks that have them."""
        users: dict[int, dict[str, str]] = {}
        weights: dict[int, Any] = {}
        for block, module in zip(self.names, self.modules, strict=True):
            for name, weight in module.named_parameters():
                users.setdefault(id(weight), {})[block] = name
                weights[id(weight)] = weight
        for number, own in users.items():
            if len(own) > 1:
                yield SharedBlocks(
                    tuple(own), tuple(own.values()), weights[number].nbytes, weights[number].requires_grad
                )

    def drop_gradients(self) -> None:
        """Drop the gradients of all weights."""
        for module in self.modules:
            module.zero_grad()

    def _timed(self, number: int, kind: str, given: Tensors, *, split: bool) -> tuple[Tensors, int]:
        began = self._clock()
        made = self._do(number, kind, given, split=split, last=len(self.names))
        return made, self._clock() - began

    def _counted(self, number: int, kind: str, given: Tensors, live: LiveStorages, split: bool) -> tuple[Tensors, int]:
        """Run an operation on copies of its inputs; return copies of its outputs, and the live bytes of the stage."""
        given = _copies(given)
        live.note(each for each in given if each is not None)
        with live:
            made = self._do(number, kind, given, split=split, last=len(self.names) - 1)
        copied = _copies(made)
        del made, given
        return copied, live.live_bytes([*_own(self.modules[number]), *self._targets])

    def _saved(self, number: int, given: Tensors, before: Sequence[bool]) -> tuple[list[bool], tuple[bool, ...]]:
        """Return by input, and by output, whether a graph that is all that is left of a forward keeps it alive.

        Parameters
        ----------
        before
            By input, whether a block before it keeps the input alive; then so is an output that is this input.
        """
        with torch.enable_grad(), _named(f"the forward of block {self.names[number]!r}"):
            leaves = zip(given, needs_of(given), strict=True)
            inputs = tuple(_clone(each.detach().requires_grad_(needed)) for each, needed in leaves)
            arguments = self._call(number, given.holding(inputs) if isinstance(given, Parcel) else inputs)
            outputs = parcel_of(
                called(self.modules[number], structure_of(arguments), arguments), f"block {self.names[number]}"
            )
            del arguments
            loss = self._loss.of(outputs) if number == len(self.names) - 1 else None
        into, out = storages_of(inputs), storages_of(outputs)
        alive = {storage.cdata for storage, saved in zip(into, before, strict=True) if saved}
        graph = [get_gradient_edge(each) for each in (*outputs, loss) if each is not None and each.requires_grad]
        del inputs, outputs, loss
        gc.collect(1)
        found = [not each.expired() for each in into], tuple(not each.expired() or each.cdata in alive for each in out)
        del graph
        return found

    def _do(self, number: int, kind: str, given: Tensors, *, split: bool, last: int) -> Tensors:
        """Run an operation of a block, or of what stands behind them; the loss belongs to number ``last``."""
        stage, where = self._stages[number], f"block {self.names[number]!r}" if number < len(self.names) else "the loss"
        with _named(f"the {kind.replace('_', ', ')} of {where}"):
            if kind == "forward":
                return stage.forward(0, self._call(number, given), self._loss if number == last else None, split=split)
            if kind == "backward_weight":
                stage.run_weights(0)
                return ()
            return stage.backward(0, given, split=split)

    def _call(self, number: int, given: Tensors) -> Tensors:
        """Return the arguments of a block: what the batch holds or the block before it returned."""
        if not isinstance(given, Parcel):
            return given
        module = self._stages[number].module
        return call_of(module, [given]) if number else first_call_of(module, given, None)


def _copies(tensors: Tensors) -> Tensors:
    copied = (None if each is None else _clone(each.detach()) for each in tensors)
    return tensors.holding(copied) if isinstance(tensors, Parcel) else tuple(copied)


def _clone(tensor: Any) -> Any:
    return tensor.clone(memory_format=torch.contiguous_format)


def _now() -> int:
    """Return the time in nanoseconds, when all that was launched is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter_ns()


def _own(module: Any) -> list[Any]:
    """Return the tensors of a module that no micro-batch makes: weights, their gradients, buffers."""
    weights = list(module.parameters())
    return [*weights, *(weight.grad for weight in weights if weight.grad is not None), *module.buffers()]


def _resident(module: Any) -> dict[str, int]:
    weights = list(module.parameters())
    return {
        "parameters": sum(weight.nbytes for weight in weights),
        "gradients": sum(weight.nbytes for weight in weights if weight.requires_grad),
        "buffers": sum(buffer.nbytes for buffer in module.buffers()),
    }


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn an exception within this context into an InputError that names what failed."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip() or "no reason is given"
        message = f"{what} fails: {type(error).__name__}: {reason}"
        raise InputError(Fault("model", message, "a block takes what the one before it returns")) from error


class LiveStorages(TorchDispatchMode):  # type: ignore[misc]
    """A context that notes every storage that an operation makes, forward or backward, without keeping it alive.

    Views share a storage, which is counted once and whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self._noted: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note what it made."""
        made = func(*args, **(kwargs or {}))
        self.note(each for each in tree_leaves(made) if isinstance(each, torch.Tensor))
        return made

    def note(self, tensors: Iterable[Any]) -> None:
        """Note tensors that were made elsewhere."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            # while the reference stands, no other storage gets its address
            self._noted.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))

    def live_bytes(self, besides: Iterable[Any]) -> int:
        """Return the bytes of the storages that are noted and still alive, without those of some tensors."""
        gc.collect(1)  # what is new; a whole collection takes long
        others = {tensor.untyped_storage()._cdata for tensor in besides}
        return sum(size for address, (reference, size) in self._noted.items()
                   if address not in others and not reference.expired())  # fmt: skip


def storages_of(tensors: Iterable[Any]) -> list[Any]:
    """Return weak references to the storages of tensors, each with ``expired()``."""
    return [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]
