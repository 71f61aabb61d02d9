"""The results of a profile: medians with their spread, bytes and links; and the model that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import quantiles
from typing import Any, Final, NamedTuple

from schedverify.core.model import Devices, Layer, Model, TiedWeight

TICKS: Final = {"ns": 1, "us": 1000, "ms": 1_000_000, "s": 1_000_000_000}
"""Nanoseconds of each unit that a profile can be written in."""
BUSY: Final = 2
"""By which factor equal work differs on a busy machine."""
KINDS: Final = ("forward", "backward", "backward_input", "backward_weight")


class Figure(NamedTuple):
    """Nanoseconds over several rounds: the median, the quartiles that enclose half of them, and the least."""

    median: int
    lower: int
    upper: int
    least: int

    @classmethod
    def of(cls, samples: Sequence[int]) -> Figure:
        """Return the figure of at least one sample."""
        lower, middle, upper = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [*samples] * 3
        return cls(round(middle), round(lower), round(upper), min(samples))

    def ticks(self, nanoseconds: int) -> Figure:
        """Return the figure in whole ticks of so many nanoseconds, each at least one tick."""
        return Figure(*(max(round(each / nanoseconds), 1) for each in self))

    def plus(self, other: Figure) -> Figure:
        """Return the figure of two things, one behind the other."""
        return Figure(*(own + more for own, more in zip(self, other, strict=True)))


class BlockBytes(NamedTuple):
    """The live bytes of a block, of one micro-batch or (weights, gradients and buffers) at all times.

    Attributes
    ----------
    activation
        Bytes that live from the end of F to the end of B or I: inputs, and what autograd saved.
    entry
        The part of ``activation`` that would not be added if the block before it were in the same stage: inputs which
        that block keeps alive as its outputs, or which this block does not need itself.
    waiting
        Bytes that live from the end of I to the end of W: what W reads of the forward, and the gradients it waits with.
    output
        Bytes of the tensors that leave the block.
    parameters
        Bytes of the weights.
    gradients
        Bytes of the gradients of the trainable weights.
    buffers
        Bytes of the tensors that are part of the block and no weights.
    """

    activation: int
    entry: int
    waiting: int
    output: int
    parameters: int
    gradients: int
    buffers: int


class BlockProfile(NamedTuple):
    """The measurements of one block.

    Attributes
    ----------
    times
        By kind (``forward``, ``backward`` and, where the backward was split, ``backward_input``, ``backward_weight``),
        in nanoseconds.
    memory
        The live bytes.
    """

    name: str
    times: Mapping[str, Figure]
    memory: BlockBytes

    @property
    def split(self) -> bool:
        """Whether the backward was measured in two parts, too."""
        return "backward_input" in self.times

    def layer(self, nanoseconds: int, copies: int) -> Layer:
        """Return the block as a layer, with so many nanoseconds a tick and copies of the weights in the optimizer.

        ``weight_stash`` is a part of ``activation``. Where more waits for W than F left, since gradients wait as well,
        the activation is taken for as much: memory is never counted too low.
        """
        memory = self.memory
        stash = memory.waiting if self.split else 0
        activation = max(memory.activation, stash)
        costs: dict[str, Any] = {kind: figure.ticks(nanoseconds).median for kind, figure in self.times.items()}
        return Layer(
            self.name, **costs, activation=activation, entry=min(memory.entry, activation - stash), weight_stash=stash,
            parameters=memory.parameters, state=memory.gradients * (1 + copies) + memory.buffers, output=memory.output,
        )  # fmt: skip


class LinkProfile(NamedTuple):
    """The measurements of a link between two ranks: half the round trips of a short and a long message."""

    ranks: tuple[int, int]
    short: Figure
    long: Figure
    size: int
    """Bytes of the long message."""

    @property
    def latency(self) -> int:
        """Nanoseconds of a message without content worth mentioning."""
        return self.short.median

    def bandwidth(self, nanoseconds: int) -> int | None:
        """Return bytes per tick, at least 1; None where the long message took no longer than the short one.

        The quickest of each are compared: others had to wait for a processor.
        """
        longer = self.long.least - self.short.least
        return max(self.size * nanoseconds // longer, 1) if longer > 0 else None


class EqualBlocks(NamedTuple):
    """Blocks that are equal, and how far their own medians are apart.

    Attributes
    ----------
    medians
        By kind, the least and the greatest median, in nanoseconds, of those of the blocks that do the same work.
    """

    names: tuple[str, ...]
    medians: Mapping[str, tuple[int, int]]

    def ticks(self, nanoseconds: int) -> dict[str, tuple[int, int]]:
        """Return the medians in whole ticks of so many nanoseconds, each at least one tick."""
        return {kind: (max(round(least / nanoseconds), 1), max(round(most / nanoseconds), 1))
                for kind, (least, most) in self.medians.items()}  # fmt: skip

    @property
    def busy(self) -> bool:
        """Whether they are so far apart that the machine was busy with something else."""
        return any(most > BUSY * max(least, 1) for least, most in self.medians.values())


class SharedBlocks(NamedTuple):
    """A weight that several blocks have.

    Attributes
    ----------
    blocks
        Their names, in their order.
    weights
        Its name in each of them.
    size
        Its bytes.
    trained
        Whether it has a gradient, of as many bytes.
    """

    blocks: tuple[str, ...]
    weights: tuple[str, ...]
    size: int
    trained: bool


class ModelProfile(NamedTuple):
    """The results of a profile.

    Attributes
    ----------
    model
        ``MODULE:FUNCTION``.
    tied
        Groups of blocks, by name, that share weights.
    links
        Those between neighbouring ranks; empty where one process measured.
    rows
        Of a micro-batch.
    rounds, warmup
        Rounds that count, on each rank, and those before them that do not.
    ranks, threads
        Processes that measured at the same time, and threads of each.
    equal
        The groups of equal blocks, which have one figure.

    tied_weights
        The weights that blocks share.
    """

    model: str
    blocks: tuple[BlockProfile, ...]
    tied: tuple[tuple[str, ...], ...]
    links: tuple[LinkProfile, ...]
    rows: int
    rounds: int
    warmup: int
    ranks: int
    threads: int
    equal: tuple[EqualBlocks, ...] = ()
    tied_weights: tuple[SharedBlocks, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether equal blocks, or the rounds of one block, are so far apart that the machine did something else."""
        figures = [figure for block in self.blocks for figure in block.times.values()]
        return any(each.busy for each in self.equal) or any(each.upper > BUSY * max(each.lower, 1) for each in figures)

    @property
    def slowest(self) -> LinkProfile | None:
        """The link over which the long message took longest: a model file knows one kind of link."""
        return max(self.links, key=lambda link: link.long.median, default=None)

    def as_model(self, tick: str = "us", copies: int = 0) -> Model:
        """Return the model, a layer for each block.

        Parameters
        ----------
        tick
            The unit of durations: ``ns``, ``us``, ``ms`` or ``s``.
        copies
            How often the optimizer holds the trainable weights: 2 for Adam.
        """
        nanoseconds, positions = TICKS[tick], {block.name: i for i, block in enumerate(self.blocks)}
        layers = tuple(block.layer(nanoseconds, copies) for block in self.blocks)
        tied = tuple(tuple(positions[name] for name in group) for group in self.tied)
        weights = tuple(
            TiedWeight(
                tuple(positions[name] for name in each.blocks), each.weights, each.size,
                each.size * (1 + copies) if each.trained else 0,
            )
            for each in self.tied_weights
        )  # fmt: skip
        devices, link = Devices(), self.slowest
        if link is not None:
            devices = Devices(latency=round(link.latency / nanoseconds), bandwidth=link.bandwidth(nanoseconds))
        return Model(self.model, layers, tick, tied=tied, devices=devices, unit="MiB", tied_weights=weights)

    def remarks(self, tick: str = "us") -> dict[str, Any]:
        """Return keys of the model's file for its readers, which a model does not have: ``source`` and ``spread``."""
        medians = f"schedverify profile {self.model}: medians of {self.rounds} rounds behind {self.warmup}"
        shape = f"rows of a micro-batch: {self.rows}, processes at once: {self.ranks}, threads of each: {self.threads}"
        spread = {
            block.name: {kind: list(figure.ticks(TICKS[tick])[1:3]) for kind, figure in block.times.items()}
            for block in self.blocks
        }
        equal = "equal blocks have one figure; " if self.equal else ""
        return {"source": f"{medians}; {shape}; {equal}spread: lower and upper quartile", "spread": spread}


def pooled(samples: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Figure]:
    """Return the figures of one block by kind, from the samples of all ranks, in nanoseconds."""
    return {kind: Figure.of([each for rank in samples for each in rank[kind]]) for kind in KINDS if kind in samples[0]}
