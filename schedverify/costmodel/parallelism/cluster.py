"""The values Cluster and Choices: what there is to train on, and what may be chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

from schedverify.costmodel.decoder import Device

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
        """All devices."""
        return self.nodes * self.devices

    def inside(self, span: int) -> bool:
        """Whether each of the groups of ``span`` devices in a row, from the first on, lies in one node."""
        return self.nodes == 1 or self.devices % span == 0
