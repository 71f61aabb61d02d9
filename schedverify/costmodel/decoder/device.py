"""The values Device and Link: how fast a device computes and how fast it sends, and what that makes of a pass."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Link:
    """A link of a device, in one direction.

    Attributes
    ----------
    bandwidth
        Bytes per second; None for no limit.
    latency
        Seconds.
    """

    bandwidth: Fraction | None = None
    latency: Fraction = Fraction(0)

    def seconds(self, sent: int | Fraction) -> Fraction:
        """Return how long some bytes take."""
        return self.latency + (Fraction(0) if self.bandwidth is None else sent / self.bandwidth)

    def ring(self, sent: int, devices: int) -> Fraction:
        """Return how long an all-reduce of some bytes takes: ``2 (d-1)`` steps, each with a d-th of the bytes.

        A reduce-scatter and an all-gather one after another take as long.

        Source: Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of workstations.
        """
        return 2 * (devices - 1) * self.seconds(Fraction(sent, devices)) if devices > 1 else Fraction(0)


@dataclass(frozen=True)
class Device:
    """What computes.

    Attributes
    ----------
    peak
        FLOP per second of matrix products in the dtype that is trained in.
    efficiency
        The part of it that they reach.
    memory
        Bytes; 0 for no limit.
    reserved
        Bytes of it that hold no tensors: the driver's context, communication buffers.
    memory_bandwidth
        Bytes per second; None for no limit.
    inside, between
        Links to the devices of the same node, and to those of others.
    """

    peak: Fraction
    efficiency: Fraction = Fraction(1)
    memory: int = 0
    reserved: int = 0
    memory_bandwidth: Fraction | None = None
    inside: Link = Link()
    between: Link = Link()

    def seconds(self, flops: int | Fraction, moved: int) -> Fraction:
        """Return how long a pass takes that computes and moves so much: the longer of the two.

        Source: Williams, Waterman and Patterson 2009, Roofline.
        """
        moving = Fraction(0) if self.memory_bandwidth is None else moved / self.memory_bandwidth
        return max(flops / (self.peak * self.efficiency), moving)
