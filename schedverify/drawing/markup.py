"""Pieces of SVG: numbers, escaped text, elements."""

from __future__ import annotations

from xml.sax.saxutils import escape


def escaped(text: str) -> str:
    """Return text that can stand between tags and inside quotes."""
    return escape(text, {'"': "&quot;", "'": "&#39;"})


def px(value: float) -> str:
    """Return a length with at most two decimals, without idle zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def element(name: str, content: str = "", **attributes: str | float) -> str:
    """Return an element; an underscore in an attribute's name becomes a hyphen, one at its end is dropped.

    ``content`` goes in as it is; attributes are escaped.
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value) if isinstance(value, str) else px(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{pairs}>{content}</{name}>" if content else f"<{name}{pairs}/>"


def box_at(x: float, y: float, width: float, height: float, fill: str, content: str = "") -> str:
    """Return a rectangle of a colour; of that of an idle lane where ``fill`` is empty."""
    painted = {"fill": fill} if fill else {"class_": "sv-l"}
    return element("rect", content, x=px(x), y=px(y), width=px(width), height=px(height), **painted)
