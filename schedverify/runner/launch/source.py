"""A user's model, named ``MODULE:FUNCTION``: its blocks, cut into stages, and the batches and loss of a step.

Blocks are cut by the plan's partition, or contiguously and evenly where the plan has none.
"""

from __future__ import annotations

import copy
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from schedverify.core.errors import Fault, InputError, clean, shown
from schedverify.core.model import even_parts
from schedverify.core.problem.stage_graph import chain_edges
from schedverify.core.result import Plan
from schedverify.runner.compute.randoms import Blocks

ROWS: Final = 4
"""Rows of a micro-batch, where the model brings no batches."""
WORDS: Final = 8
"""Tokens of a row, where a model that begins with an embedding brings no batches."""
_NOTHING: Final = "a model, an nn.Sequential or list of blocks, or (model, batch, loss)"
Batch = Callable[[int], tuple[Any, Any]]


class Source(NamedTuple):
    """A user's model, as ``FUNCTION()`` returned it."""

    blocks: tuple[tuple[str, Any], ...]
    """The blocks in their order, each with its name."""
    batch: Batch
    """Takes the number of a step and returns its inputs and targets."""
    loss: Callable[[Any, Any], Any]


def load_source(reference: str, microbatches: int, seed: int = 0) -> Source:
    """Call the function that ``MODULE:FUNCTION`` names, with the random numbers seeded, and return its model.

    The current folder is on the path of modules while it is imported.

    Raises
    ------
    InputError
        If there is no such module or function, it fails, or it returns something else.
    """
    function = _function(reference)
    torch.manual_seed(seed)
    try:
        given = function()
    except Exception as error:
        raise _failed(reference, error) from error
    model, batch, loss = given if isinstance(given, tuple) and len(given) == 3 else (given, None, None)
    blocks = _blocks(model, reference)
    if batch is None:
        return Source(blocks, _random_batches([block for _, block in blocks], microbatches, reference), _to_zero)
    if not callable(batch) or not callable(loss):
        raise InputError(Fault("model", f"{reference} returns a tuple of three", "batch and loss are functions"))
    return Source(blocks, batch, loss)


def _function(reference: str) -> Callable[[], Any]:
    module_name, colon, name = reference.partition(":")
    if not colon or not module_name or not name:
        raise InputError(Fault("model", f"{reference[:80]!r} names no function", "such as my_model:build"))
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        hint = f"the current folder, {folder}, is on the path"
        raise InputError(Fault("model", f"there is no module {error.name!r}", hint)) from None
    except Exception as error:
        raise _failed(f"import {module_name}", error) from error
    function: Callable[[], Any] | None = getattr(module, name, None)
    if not callable(function):
        raise InputError(Fault("model", f"module {module_name} has no function {name!r}", "check the name behind ':'"))
    return function


def _failed(what: str, error: Exception) -> InputError:
    """Return an error for the failure of the user's own code, with the last line of it that was reached."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(Path.cwd())] or frames
    place = "" if isinstance(error, SyntaxError) else f"{Path(own[-1].filename).name}, line {own[-1].lineno}"
    return InputError(Fault("model", f"{what} fails: {type(error).__name__}: {error}", place))


def _blocks(model: Any, reference: str) -> tuple[tuple[str, Any], ...]:
    """Return the blocks of a model: a list's members, else the children of a module, which must run in that order."""
    if isinstance(model, Sequence) and not isinstance(model, str | bytes):
        blocks = [(str(i), block) for i, block in enumerate(model)]
    elif isinstance(model, nn.Module):
        children = model._modules.items()  # where a child stands twice, it runs twice
        blocks = [(name, child) for name, child in children if child is not None] or [("0", model)]
    else:
        blocks = []
    if not blocks or not all(isinstance(block, nn.Module) for _, block in blocks):
        message = f"{reference} returns {type(model).__name__}, where {_NOTHING} is expected"
        raise InputError(Fault("model", message))
    if isinstance(model, nn.Module) and not isinstance(model, nn.Sequential | nn.ModuleList) and len(blocks) > 1:
        _check_in_order(model, blocks, reference)
    return tuple(blocks)


def _check_in_order(model: Any, blocks: list[tuple[str, Any]], reference: str) -> None:
    """Raise an InputError unless a model is its children one after the other, as far as one input shows."""
    try:
        inputs = _inputs([block for _, block in blocks], 2, reference)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            whole = model(inputs)
            torch.manual_seed(0)
            for _, block in blocks:
                inputs = block(inputs)
        same = torch.allclose(whole, inputs)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, InputError):
        same = False
    if not same:
        message = f"{reference} returns a {type(model).__name__} that is not its children one after the other"
        raise InputError(Fault("model", message, "return an nn.Sequential or a list of the blocks"))


def _random_batches(blocks: Sequence[Any], microbatches: int, reference: str) -> Batch:
    _inputs(blocks, 1, reference)

    def batch(step: int) -> tuple[Any, Any]:
        inputs = _inputs(blocks, ROWS * microbatches, reference, seed=step)
        return inputs, torch.zeros(len(inputs))

    return batch


def _inputs(blocks: Sequence[Any], rows: int, reference: str, seed: int = 0) -> Any:
    """Return random inputs of the shape that the first Linear or Embedding takes."""
    numbers = torch.Generator().manual_seed(seed)
    for module in (module for block in blocks for module in block.modules()):
        if isinstance(module, nn.Embedding):
            return torch.randint(0, module.num_embeddings, (rows, WORDS), generator=numbers)
        if isinstance(module, nn.Linear):
            return torch.randn(rows, module.in_features, generator=numbers, dtype=module.weight.dtype)
    message = f"{reference} has no Linear and no Embedding that would show what it takes"
    raise InputError(Fault("model", message, "return (model, batch, loss)"))


def _to_zero(output: Any, target: Any) -> Any:  # noqa: ARG001 - every target is zero
    """Return the mean squared error to zeros."""
    return (output**2).mean()


Named = tuple[tuple[str, Any], ...]


def parts_of(plan: Plan, blocks: Named) -> list[Named]:
    """Return by stage of one copy of the model its blocks.

    Raises
    ------
    InputError
        If the stages are no chain, there are fewer blocks than stages, or the plan's partition has other layers.
    """
    problem = plan.problem
    if problem.edges != chain_edges(problem.stages):
        hint = "use schedverify.runner.Runner, with a module for each stage"
        raise InputError(Fault("problem.edges", "the plan's stages are no chain, as a list of blocks is", hint))
    if plan.partition is not None:
        return _by_partition(plan.partition, blocks, problem.stages)
    return [blocks[part.start : part.stop] for part in even_parts(len(blocks), problem.stages)]


def stages_of(plan: Plan, blocks: Named, rank: int) -> dict[int, Any]:
    """Return the module of each stage of a rank; copies of the model begin with equal weights.

    Stages of one copy share on their rank what their blocks share.

    Raises
    ------
    InputError
        As :func:`parts_of` does.
    """
    problem, parts = plan.problem, parts_of(plan, blocks)
    firsts = accumulate(map(len, parts), initial=0)
    modules = [Blocks(first, (block for _, block in part)) for first, part in zip(firsts, parts, strict=False)]
    made: dict[int, Any] = {}
    for first in range(0, problem.total_stages, problem.stages):
        own = {
            number: modules[number - first]
            for number in problem.stages_of[rank]
            if problem.copy_of(number) == first // problem.stages
        }
        made |= copy.deepcopy(own) if problem.replicas > 1 else own
    return made


def _by_partition(partition: Sequence[Sequence[str]], blocks: Named, stages: int) -> list[Named]:
    """Return the blocks of each stage: in the model's order, each once, under its own name or under one for all of it.

    A partition that names a block where the model has another one is refused: its layers would run in another order.
    """
    names, own = [name for layers in partition for name in layers], [name for name, _ in blocks]
    if len(names) != len(blocks) or len(partition) != stages:
        found = f"{len(blocks)} blocks, where the plan's partition has {len(names)} layers in {len(partition)} stages"
        raise InputError(Fault("model", found, "a block for each layer, in their order"))
    for name, block in zip(names, own, strict=True):
        if name != block and (name in own or names.count(name) > 1):
            message = f"the plan's partition {_told(partition)} has {shown(name)} where the model has {shown(block)}"
            raise InputError(
                Fault("partition", message, "its layers are the model's blocks, in their order, each once")
            )
    left = iter(blocks)
    return [tuple(next(left) for _ in layers) for layers in partition]


def _told(partition: Sequence[Sequence[str]]) -> str:
    return clean(str([list(layers) for layers in partition]), 200)
