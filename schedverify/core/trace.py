"""What ranks really did: one value for each step that ran, whoever ran it, and all of a run together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class StepSpan(NamedTuple):
    """One step that ran: where it stands in the order, what it was, and when it began and ended.

    Times are nanoseconds: on a rank those of its own monotonic clock (:func:`time.perf_counter_ns`), in a
    :class:`RunTrace` those of one clock for all ranks.
    """

    rank: int
    position: int
    """The step's position in the rank's order, lowered or not, as executed."""
    step: str
    """Its text, such as ``2F0`` or ``0SEND_F1``."""
    start: int
    end: int
    came: int | None = None
    """When the rank came to what it waited for in front of the step, where the wait held up its program and that is
    known."""


class BoundaryTransfer(NamedTuple):
    """What left a stage for another, or reached it, at one end of a boundary."""

    source: int
    """The stage, of all copies, that made it."""
    target: int
    microbatch: int
    backward: bool
    """Whether it is the gradient of what ``target`` gave to ``source``."""
    outgoing: bool
    """Whether it left ``source``; else it reached ``target``."""
    local: bool
    """Whether both stages stand on one rank."""
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    """Dtype and shape of each tensor."""
    bytes: int
    checksums: tuple[int, ...] = ()
    """CRC-32 of each tensor's bytes, where they were asked for."""


@dataclass(frozen=True)
class RunTrace:
    """What all ranks did in some steps of training.

    Attributes
    ----------
    plan
        The digest of the plan that ran; empty where the run is not one of ours, and so does not say it.
    ranks
        How many there were.
    steps
        For each step of training what ran, by rank and position.
    errors
        By rank, the nanoseconds by which its times may differ from those of rank 0's clock.
    """

    plan: str
    ranks: int
    steps: tuple[tuple[StepSpan, ...], ...]
    errors: tuple[int, ...]


@dataclass(frozen=True)
class BoundaryLog:
    """What crossed between stages in some steps of training, at both ends alike; nothing else did.

    Attributes
    ----------
    plan
        The digest of the plan that ran.
    ranks
        How many there were.
    steps
        For each step of training what crossed, once each, by boundary, micro-batch and direction.
    """

    plan: str
    ranks: int
    steps: tuple[tuple[BoundaryTransfer, ...], ...]


class RecordedTransfer(NamedTuple):
    """A send or receive that a process group recorded.

    Attributes
    ----------
    rank, peer
        Whose it is and who is at the other end, both counted over all processes of the job.
    is_send
        Whether it sends.
    done
        Whether it was complete when the recorder was read.
    queue
        What it goes through with others, one after another: the process group and the peer, or the whole group where
        several transfers were batched.
    sizes
        The sizes of the tensor; empty where they were not recorded.
    """

    rank: int
    peer: int
    is_send: bool
    done: bool
    queue: tuple[str, int | None]
    sizes: tuple[int, ...] = ()


class Recording(NamedTuple):
    """The sends and receives of one rank, in the order in which they were begun.

    Attributes
    ----------
    rank
        Which rank of the job it is; None where it recorded no transfer, and its file names no rank.
    lost
        Whether older transfers were dropped, because the recorder keeps only so many.
    """

    source: str
    rank: int | None
    transfers: tuple[RecordedTransfer, ...]
    lost: bool = False
