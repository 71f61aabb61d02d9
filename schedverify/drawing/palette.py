"""Colours that people with any colour vision tell apart (Okabe and Ito), readable under black letters."""

from __future__ import annotations

from typing import Final

from schedverify.core.op import Kind

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
    return "#" + "".join(_mixed(base[i : i + 2], pale) for i in (1, 3, 5))


def _mixed(channel: str, pale: float) -> str:
    value = int(channel, 16)
    return f"{round(value + (255 - value) * pale):02x}"
