"""One process of a profile: measures the blocks, then with the other ranks the links; rank 0 gathers the results.

A link is measured by messages that go there and back between neighbouring ranks, one pair of ranks at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist

from schedverify.profiling.blocks import Chain, Samples
from schedverify.profiling.equal_blocks import apart, figures_of
from schedverify.profiling.figures import BlockProfile, Figure, LinkProfile, ModelProfile
from schedverify.runner.backends import gloo_group
from schedverify.runner.control.exchange import as_list, collect, transfer, whole
from schedverify.runner.launch.source import Source, load_source

Progress = Callable[[int, int], None]
"""Called on rank 0 with the number of rounds that are done, and of all rounds."""


class ProfileSettings(NamedTuple):
    """The options of a profile.

    Attributes
    ----------
    model
        ``MODULE:FUNCTION``.
    microbatches
        Micro-batches of a batch; one of them is measured.
    rounds, warmup
        Rounds that count, and rounds before them.
    fused
        Whether the whole backward alone is measured, not its two parts.
    timeout
        Seconds that a rank waits for another.
    """

    model: str
    microbatches: int = 1
    rounds: int = 20
    warmup: int = 3
    fused: bool = False
    timeout: float = 60.0


class _RankMeasurements(NamedTuple):
    """What one rank measured: samples by block and of the loss; trips by pair, short and long; bytes of a long one."""

    samples: list[Samples]
    trips: tuple[dict[Pair, list[int]], dict[Pair, list[int]]]
    size: int


def measure(
    settings: ProfileSettings, progress: Progress | None = None, *, source: Source | None = None
) -> ModelProfile | None:
    """Measure a model; in a process group every rank calls it, all measure at the same time, rank 0 has the result.

    Parameters
    ----------
    source
        The blocks, batches and loss themselves, where ``settings.model`` is but a name.

    Raises
    ------
    InputError
        If there is no such model, or one of its blocks fails; names the block.
    TimedOutError
        If a rank does not come.
    """
    given = load_source(settings.model, settings.microbatches) if source is None else source
    chain = Chain(given, settings.microbatches)
    memory = chain.measure_bytes(split=not settings.fused)
    if dist.is_initialized():
        dist.barrier()
    samples = _sampled(chain, settings, progress)
    chain.drop_gradients()
    size = long_size(max(each.output for each in memory))
    found = _gathered(_RankMeasurements(samples, _trips(settings, size), size), settings.timeout)
    if not found:
        return None
    groups, by_rank = chain.equal(), [rank.samples for rank in found]
    figures = figures_of(by_rank, groups)
    blocks = tuple(BlockProfile(*each) for each in zip(chain.names, figures, memory, strict=True))
    return ModelProfile(
        settings.model, blocks, tuple(chain.tied()), _links(found), chain.rows, settings.rounds, settings.warmup,
        len(found), torch.get_num_threads(), tuple(apart(by_rank, groups, chain.names)), tuple(chain.tied_weights()),
    )  # fmt: skip


def _sampled(chain: Chain, settings: ProfileSettings, progress: Progress | None) -> list[Samples]:
    """Return the samples of the blocks and of the loss; forwards count with the kind of backward that is asked for."""
    samples: list[Samples] = [{} for _ in (*chain.names, "the loss")]
    rounds = settings.warmup + settings.rounds
    for number in range(rounds):
        if number == settings.warmup:
            for block in samples:
                block.clear()
        if not settings.fused:
            chain.time_round(samples, split=True)
        chain.time_round(samples, split=False, forward=settings.fused)
        if progress is not None and not (dist.is_initialized() and dist.get_rank()):
            progress(number + 1, rounds)
    return samples


def _trips(settings: ProfileSettings, size: int) -> tuple[dict[Pair, list[int]], dict[Pair, list[int]]]:
    """Return the round trips of short and long messages; none in a process that is alone."""
    if not dist.is_initialized():
        return {}, {}
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    rounds, warmup, timeout = settings.rounds, settings.warmup, settings.timeout
    measure = partial(round_trips, dist.group.WORLD, rounds=rounds, warmup=warmup, timeout=timeout, device=device)
    return measure(SHORT), measure(size)


def _gathered(own: _RankMeasurements, timeout: float) -> list[_RankMeasurements]:
    """Return on rank 0 the measurements of all ranks, by rank; nothing on the others."""
    if not dist.is_initialized():
        return [own]
    world = dist.group.WORLD
    group = gloo_group(world, timeout)
    trips = [[[*pair, taken] for pair, taken in found.items()] for found in own.trips]

    def read(data: Any) -> _RankMeasurements:
        samples, (short, long), size = as_list(data, 3)
        blocks = [_samples_of(block, like) for block, like in zip(samples, own.samples, strict=True)]
        return _RankMeasurements(blocks, (_trips_of(short), _trips_of(long)), whole(size))

    return collect([own.samples, trips, own.size], group, timeout, "the profile", read, most=_MOST_BYTES) or []


def _samples_of(data: Any, like: Samples) -> Samples:
    """Return the samples of a block of another rank, which has the kinds of this rank's."""
    return {kind: _nanoseconds(data[kind]) for kind in like}


def _trips_of(data: Any) -> dict[Pair, list[int]]:
    rows = [as_list(row, 3) for row in as_list(data)]
    return {(whole(first), whole(second)): _nanoseconds(taken) for first, second, taken in rows}


def _nanoseconds(data: Any) -> list[int]:
    found = [whole(each) for each in as_list(data)]
    if not found:
        raise ValueError("nothing measured")
    return found


def _links(found: list[_RankMeasurements]) -> tuple[LinkProfile, ...]:
    return tuple(
        LinkProfile(pair, Figure.of(trips), Figure.of(rank.trips[1][pair]), rank.size)
        for rank in found
        for pair, trips in rank.trips[0].items()
    )


SHORT: Final = 8
"""Bytes of a message that shows the latency."""
LEAST, MOST = 1 << 20, 1 << 26
"""Bounds for the bytes of a message that shows the bandwidth."""
Pair = tuple[int, int]
_MOST_BYTES: Final = 1 << 26
"""The most bytes of a rank's measurements."""
_LINK: Final = "the link"
"""The part of the run, in messages of errors."""


def neighbours(ranks: int) -> list[Pair]:
    """Return the pairs of ranks between which a pipeline sends: around the ring, each once."""
    return [(rank, rank + 1) for rank in range(ranks - 1)] + ([(ranks - 1, 0)] if ranks > 2 else [])


def long_size(largest: int) -> int:
    """Return the bytes of the long message: those of the largest output, within bounds."""
    return min(max(largest, LEAST), MOST)


def round_trips(
    group: Any, size: int, *, rounds: int, warmup: int, timeout: float, device: Any
) -> dict[Pair, list[int]]:
    """Return half of each round trip in nanoseconds, by the pairs that begin at this rank; every rank calls it.

    One pair is at work at a time.

    Parameters
    ----------
    size
        Bytes of a message.
    timeout
        Seconds that a rank waits for another.

    Raises
    ------
    TimedOutError
        If a message does not come in time.
    """
    rank, found = dist.get_rank(group), {}
    buffer = torch.zeros(size, dtype=torch.uint8, device=device)
    for first, second in neighbours(dist.get_world_size(group)):
        dist.barrier(group)
        if rank == first:
            trips = [_there_and_back(buffer, second, group, timeout) for _ in range(warmup + rounds)]
            found[first, second] = [trip // 2 for trip in trips[warmup:]]
        elif rank == second:
            for _ in range(warmup + rounds):
                _receive(buffer, first, group, timeout)
                transfer(buffer, first, group, timeout, _LINK, sends=True)
    return found


def _there_and_back(buffer: Any, peer: int, group: Any, timeout: float) -> int:
    """Return the nanoseconds of a round trip."""
    began = time.perf_counter_ns()
    transfer(buffer, peer, group, timeout, _LINK, sends=True)
    _receive(buffer, peer, group, timeout)
    return time.perf_counter_ns() - began


def _receive(buffer: Any, peer: int, group: Any, timeout: float) -> None:
    transfer(buffer, peer, group, timeout, _LINK, sends=False)
    if buffer.is_cuda:
        torch.cuda.synchronize()
