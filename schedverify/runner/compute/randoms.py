"""Random numbers by seed, step, micro-batch and block: what a block draws depends on nothing else.

Before a block runs, torch's generators are seeded by a hash of these. So a mask of dropout is the same wherever the
model is cut, in whatever order a rank works, and when a forward runs again; and ranks that began with one random state
draw different numbers. Behind the step the generators have the state that they had before it. A backward that draws by
itself, as a hook may, goes on where the forward that ran last ended. Generators of the user's own, of Python's
``random`` and of numpy are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from struct import Struct
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn

from schedverify.runner.compute.replicas import Replicas

SEEDS: Final = 1 << 64
"""Seeds are whole numbers from 0 to below this one."""
_KEY: Final = Struct("<Q3q")


class Randoms:
    """The random numbers of one rank's steps.

    Parameters
    ----------
    first
        The number of the rank's first micro-batch: replicas of a stage count theirs on from one to the next.
    devices
        Those whose generators are seeded beside that of the host and of the current device.
    """

    def __init__(self, seed: int = 0, *, first: int = 0, devices: Iterable[Any] = ()) -> None:
        self._seed, self._first = seed % SEEDS, first
        self._devices = {device.index for device in devices if device.type == "cuda"}
        self._generators: list[Any] = []
        self._microbatch = 0
        self.step = 0
        """The number of the step that is run."""

    @contextmanager
    def within_step(self) -> Iterator[None]:
        """Seed generators within this context only, and leave them behind it as they were before it."""
        generators = [torch.default_generator]
        if torch.cuda.is_initialized():
            devices = self._devices | {torch.cuda.current_device()}
            generators += [torch.cuda.default_generators[device] for device in sorted(devices)]
        states = [generator.get_state() for generator in generators]
        self._generators = generators
        try:
            yield
        finally:
            self._generators = []
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)

    def begin(self, microbatch: int, block: int) -> None:
        """Seed the generators for a block of a micro-batch, by its number in one copy of the model.

        A loss goes on where the last block ended.
        """
        self._microbatch = self._first + microbatch
        if self._generators:
            self.enter(block)

    def enter(self, block: int) -> None:
        """Seed the generators for another block of the micro-batch that was begun."""
        seed = seed_of(self._seed, self.step, self._microbatch, block) if self._generators else 0
        for generator in self._generators:
            generator.manual_seed(seed)


def seed_of(seed: int, step: int, microbatch: int, block: int) -> int:
    """Return 64 bits that are a hash of the numbers; the host's generator takes 32 of them."""
    return int.from_bytes(blake2b(_KEY.pack(seed, step, microbatch, block), digest_size=8).digest(), "little")


class Blocks(nn.Sequential):  # type: ignore[misc]
    """Blocks of a model that are one stage; each draws its own random numbers.

    Parameters
    ----------
    first
        The number of the first of them in the model.
    """

    def __init__(self, first: int, blocks: Iterable[Any]) -> None:
        super().__init__(*blocks)
        self.first = first
        self.randoms = Randoms()

    def forward(self, given: Any) -> Any:
        """Run the blocks one after the other; the random numbers of the first were begun with those of the stage."""
        for number, block in enumerate(self, self.first):
            if number > self.first:
                self.randoms.enter(number)
            given = block(given)
        return given


def first_block(module: Any, stage: int, randoms: Randoms) -> int:
    """Return the number of a stage's first block, and have its blocks draw of ``randoms``.

    It is that of the stage in one copy of the model where the stage is not known to be made of blocks.
    """
    for each in module.modules():
        if isinstance(each, Blocks):
            each.randoms = randoms
            return each.first
    return stage


def devices_of(modules: Mapping[int, Any], device: Any) -> set[Any]:
    """Return the devices of all weights and buffers, and one more."""
    tensors = (each for module in modules.values() for each in (*module.parameters(), *module.buffers()))
    return {torch.device(device), *(tensor.device for tensor in tensors)}


def replica_of(stages: Iterable[Replicas]) -> int:
    """Return which replica of its stages this rank has, counted in the groups that average their gradients."""
    number = 0
    for group in next((stage.groups for stage in stages if stage.groups), ()):
        number = number * dist.get_world_size(group) + dist.get_rank(group)
    return number
