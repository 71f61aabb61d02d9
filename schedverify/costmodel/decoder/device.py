"""The values Device and Link: how fast a device computes and how fast it sends, and what that makes of a pass."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

DECODER_UNIT: Final = "GB"
"""What the bytes of a decoder are told in, where its device's memory is given in no other unit."""


@dataclass(frozen=True)
class Link:
    """A link of a device, in one direction.

    Attributes
    ----------
    bandwidth
        Bytes per second; None for no limit.
    latency
        Seconds that each message takes beside its bytes.
    """

    bandwidth: Fraction | None = None
    latency: Fraction = Fraction(0)

    def seconds(self, sent: int | Fraction) -> Fraction:
        """Return the seconds in which ``sent`` bytes go over the link."""
        return self.latency + (Fraction(0) if self.bandwidth is None else sent / self.bandwidth)

    def ring(self, sent: int, devices: int) -> Fraction:
        """Return the seconds of an all-reduce of ``sent`` bytes over ``d`` devices in a ring.

        It has ``2 (d-1)`` steps, each with a d-th of the bytes. A reduce-scatter and an all-gather one after another
        take as long.

        Source: Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of workstations.
        """
        return 2 * (devices - 1) * self.seconds(Fraction(sent, devices)) if devices > 1 else Fraction(0)


@dataclass(frozen=True)
class Device:
    """A device that computes.

    Attributes
    ----------
    peak
        FLOP per second of matrix products in the dtype that is trained in.
    efficiency
        The part of the peak that they reach.
    memory
        Bytes; 0 for no limit.
    reserved
        Bytes of the memory that hold no tensors: the driver's context, communication buffers.
    memory_bandwidth
        Bytes per second between memory and compute; None for no limit.
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
        """Return the seconds of a pass that computes ``flops`` and moves ``moved`` bytes: the longer of the two.

        Source: Williams, Waterman and Patterson 2009, Roofline.
        """
        moving = Fraction(0) if self.memory_bandwidth is None else moved / self.memory_bandwidth
        return max(flops / (self.peak * self.efficiency), moving)
