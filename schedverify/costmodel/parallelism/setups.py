"""A cluster, what may be chosen on it, and every way to deal out its devices, with the reason why some are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Final, NamedTuple

from schedverify.costmodel.decoder import Decoder, Device, Training, faults_of

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Choices:
    """What may be chosen; an empty tuple leaves a degree free, every divisor of the number of devices.

    Attributes
    ----------
    tensor_parallel, pipeline_parallel, data_parallel
        Devices that share a layer, ranks of the pipeline, copies of the model.
    virtual
        Stages on a rank.
    microbatch_size
        Sequences of a micro-batch.
    recompute
        What the backward computes again: ``none``, ``selective``, ``full``.
    """

    tensor_parallel: Ints = ()
    pipeline_parallel: Ints = ()
    data_parallel: Ints = ()
    virtual: Ints = (1, 2, 4)
    microbatch_size: Ints = (1, 2, 4, 8)
    recompute: tuple[str, ...] = ("selective", "full")


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal devices.

    Attributes
    ----------
    nodes, devices
        Nodes, and devices of each.
    batch
        Sequences of a step, over all copies of the model.
    device
        What computes, with its links inside a node and between nodes.
    """

    nodes: int
    devices: int
    batch: int
    device: Device
    choices: Choices = field(default_factory=Choices)

    @property
    def size(self) -> int:
        """The number of all devices."""
        return self.nodes * self.devices

    def inside(self, span: int) -> bool:
        """Whether each of the groups of ``span`` devices in a row, from the first on, lies in one node."""
        return self.nodes == 1 or self.devices % span == 0


MOST_OPERATIONS: Final = 1 << 19
"""Operations of a step that is priced: it is simulated, about a second for so many."""
INNER: Final = ("data", "pipeline")
"""What comes next in the row of devices behind those that share a layer: copies of the stage, or the next stages."""


class SetUp(NamedTuple):
    """One way to deal out the devices, and how they train.

    Attributes
    ----------
    tensor_parallel
        Devices that share each layer.
    pipeline_parallel
        Ranks of the pipeline.
    data_parallel
        Copies of the model.
    virtual
        Stages on a rank.
    microbatch_size
        Sequences of a micro-batch.
    recompute
        What the backward computes again; one of ``RECOMPUTE``.
    inner
        What comes next in the row of devices behind those that share a layer; one of ``INNER``.
    microbatches
        Micro-batches of a step on each copy.
    """

    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    virtual: int
    microbatch_size: int
    recompute: str
    inner: str
    microbatches: int

    def training(self, like: Training) -> Training:
        """Return the training with these degrees."""
        return replace(
            like, tensor_parallel=self.tensor_parallel, data_parallel=self.data_parallel,
            microbatch_size=self.microbatch_size, recompute=self.recompute,
        )  # fmt: skip


class Rejected(NamedTuple):
    """A set-up, or what several of them have in common, and why it is not for this model and cluster.

    Attributes
    ----------
    setup
        The degrees that it is about, by name.
    reason
        What is wrong with them, in a sentence.
    missing
        Bytes that the fullest device lacks; 0 where it is not for want of memory.
    """

    setup: dict[str, int | str]
    reason: str
    missing: int = 0


def setups_of(shape: Decoder, training: Training, cluster: Cluster) -> tuple[list[SetUp], list[Rejected]]:
    """Return every set-up of a cluster that the numbers allow, and what they do not allow."""
    found: list[SetUp] = []
    rejected = list(_wrong_degrees(cluster))
    for outcome in _outcomes(shape, training, cluster):
        if isinstance(outcome, SetUp):
            found.append(outcome)
        elif outcome not in rejected:
            rejected.append(outcome)
    return found, rejected


def why_none(cluster: Cluster) -> tuple[str, str]:
    """Return why nothing that may be chosen is a set-up, though each of it may be, and what would do."""
    if not any(True for _ in _degrees(cluster)):
        message = f"no degrees among them multiply to {cluster.size} devices: tensor x pipeline x data"
        return message, "leave one of the three open"
    return "several stages on a rank are for pipelines of several ranks, and there is none", "add 1 to virtual"


def _outcomes(shape: Decoder, training: Training, cluster: Cluster) -> Iterator[SetUp | Rejected]:
    """Yield every set-up, and why some are none, the same reason as often as it comes."""
    for tensor, pipeline, data in _degrees(cluster):
        if fault := next(faults_of(shape, replace(training, tensor_parallel=tensor)), None):
            yield Rejected({"tensor_parallel": tensor}, fault.message)
            continue
        for virtual in cluster.choices.virtual:
            if virtual > 1 and pipeline == 1:
                continue
            if pipeline * virtual > shape.layers + 2:
                message = f"{pipeline * virtual} stages for {shape.layers} layers with embedding and head"
                yield Rejected({"pipeline_parallel": pipeline, "virtual": virtual}, message)
            else:
                yield from _with_microbatches(cluster, tensor, pipeline, data, virtual)


def _degrees(cluster: Cluster) -> Iterator[tuple[int, int, int]]:
    """Yield tensor, pipeline and data degrees whose product is the number of devices."""
    size, choices = cluster.size, cluster.choices
    for tensor in _divisors(size, choices.tensor_parallel):
        for pipeline in _divisors(size // tensor, choices.pipeline_parallel):
            data = size // tensor // pipeline
            if not choices.data_parallel or data in choices.data_parallel:
                yield tensor, pipeline, data


def _divisors(number: int, wanted: Sequence[int]) -> list[int]:
    """Return the divisors of a number, of which only the wanted ones where any are."""
    return [d for d in range(1, number + 1) if number % d == 0 and (not wanted or d in wanted)]


def _wrong_degrees(cluster: Cluster) -> Iterator[Rejected]:
    """Yield the chosen degrees that do not divide the number of devices."""
    for name in ("tensor_parallel", "pipeline_parallel", "data_parallel"):
        for degree in getattr(cluster.choices, name):
            if cluster.size % degree:
                yield Rejected({name: degree}, f"{degree} does not divide {cluster.size} devices")


def _with_microbatches(
    cluster: Cluster, tensor: int, pipeline: int, data: int, virtual: int
) -> Iterator[SetUp | Rejected]:
    """Yield the set-ups of some degrees, or why the batch cannot be dealt out.

    Where both copies and stages are several, either may be next to each other in a row; both are tried if some group
    then lies in one node.
    """
    for size, recompute in product(cluster.choices.microbatch_size, cluster.choices.recompute):
        microbatches, left = divmod(cluster.batch, data * size)
        if left or not microbatches:
            message = f"{data} copies with {size} sequences at a time do not divide a batch of {cluster.batch}"
            yield Rejected({"data_parallel": data, "microbatch_size": size}, message)
            continue
        if (operations := 2 * pipeline * virtual * microbatches) > MOST_OPERATIONS:
            told = f"{microbatches} micro-batches through {pipeline * virtual} stages make {operations} operations"
            about = {"pipeline_parallel": pipeline, "data_parallel": data, "virtual": virtual, "microbatch_size": size}
            yield Rejected(dict[str, int | str](about), f"{told}, and at most {MOST_OPERATIONS} are priced")
            continue
        near = (data, pipeline) if data > 1 < pipeline and cluster.nodes > 1 else ()
        for inner in INNER if any(cluster.inside(tensor * degree) for degree in near) else INNER[:1]:
            yield SetUp(tensor, pipeline, data, virtual, size, recompute, inner, microbatches)
