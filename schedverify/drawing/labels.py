"""The words and colours of a picture: what stands in a cell, in a tooltip, in a legend; and text made harmless.

People with any colour vision tell the colours apart (Okabe and Ito), and black letters can be read on them.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from schedverify.core.errors import printable
from schedverify.core.op import Join, Kind, Op, Step

MEANINGS: Final = {
    Kind.F: "forward",
    Kind.B: "backward",
    Kind.I: "backward, input part",
    Kind.W: "backward, weight part",
    Kind.SEND_F: "send activations",
    Kind.RECV_F: "receive activations",
    Kind.SEND_B: "send gradients",
    Kind.RECV_B: "receive gradients",
    Kind.UNSHARD: "unshard",
    Kind.RESHARD: "reshard",
    Kind.REDUCE_GRAD: "reduce gradients",
    Kind.WAIT_SEND_F: "wait until activations are sent",
    Kind.WAIT_SEND_B: "wait until gradients are sent",
    Kind.WAIT_REDUCE_GRAD: "wait until gradients are reduced",
}
LETTERS: Final = {
    Kind.SEND_F: ">F",
    Kind.RECV_F: "<F",
    Kind.SEND_B: ">B",
    Kind.RECV_B: "<B",
    Kind.UNSHARD: "U",
    Kind.RESHARD: "R",
    Kind.REDUCE_GRAD: "G",
    Kind.WAIT_SEND_F: "~F",
    Kind.WAIT_SEND_B: "~B",
    Kind.WAIT_REDUCE_GRAD: "~G",
}
"""Short names of the kinds whose own name is long."""

PAIR_LETTER: Final = "O"
GROUP_LETTER: Final = "#"
IDLE: Final = "."


def clean(text: str, most: int = 400) -> str:
    """Return text that is safe to show, in letters and in XML alike, and not too long; see :func:`printable`."""
    safe = printable(text[: most + 1])
    return safe if len(safe) <= most else safe[: most - 3] + "..."


def letter(kind: Kind) -> str:
    """Return the short name of a kind."""
    return LETTERS.get(kind, kind.name)


def candidates(step: Step, *, stage: bool) -> list[str]:
    """Return the texts that may be written into a cell for a step, the longest first.

    Parameters
    ----------
    stage
        Whether the longest text names the stage.
    """
    first = step.ops[0]
    if step.join is Join.BEGIN:
        short = letter(first.kind)
        texts = [short + _number(first), short, short[0]]
        return [f"{first.stage}{texts[0]}", *texts] if stage else texts
    if step.join is Join.OVERLAP:
        return ["".join(_plain(op, stage=stage) for op in step.ops), PAIR_LETTER]
    return ["[" + " ".join(_plain(op, stage=stage) for op in step.ops) + "]", GROUP_LETTER]


def number(count: int) -> str:
    """Return a whole number in a few letters: exact below 100,000, else with a suffix and three figures."""
    for power, suffix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power and count >= 100_000:
            return f"{float(Fraction(count, 10**power)):.4g}{suffix}"
    return str(count)


def percent(share: Fraction) -> str:
    """Return an exact share as a percentage with one decimal."""
    return f"{float(round(share * 1000)) / 10:.1f}%"


def plural(unit: str) -> str:
    """Return a unit as it is written after a number: ``ticks`` and ``positions`` in the plural, others unchanged."""
    return f"{unit}s" if unit in ("tick", "position") else clean(unit, 12)


def _number(op: Op) -> str:
    return "" if op.microbatch is None else str(op.microbatch)


def _plain(op: Op, *, stage: bool) -> str:
    return f"{op.stage if stage else ''}{letter(op.kind)}{_number(op)}"


INK: Final = "#111111"
"""The letters on every bar."""
FAULT: Final = "#d1242f"
_BASE: Final = {Kind.F: "#56b4e9", Kind.B: "#18a57e", Kind.I: "#e69f00", Kind.W: "#cc79a7"}
_OTHER: Final = "#a8b0b8"
_PALEST: Final = 0.62


def colour(kind: Kind, chunk: int = 0, chunks: int = 1) -> str:
    """Return the colour of a kind on the ``chunk``-th of its rank's stages: later ones are paler.

    Parameters
    ----------
    chunks
        The most stages that any rank of the picture has.
    """
    base = _BASE.get(kind, _OTHER)
    if chunks < 2 or kind not in _BASE:
        return base
    pale = _PALEST * min(chunk, chunks - 1) / (chunks - 1)
    channels = (int(base[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (255 - channel) * pale):02x}" for channel in channels)
