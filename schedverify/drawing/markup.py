"""Pieces of SVG (numbers, escaped text, elements), and the page around it for those who see it or need the text."""

from __future__ import annotations

from xml.sax.saxutils import escape

from schedverify.drawing.labels import clean


def escaped(text: str) -> str:
    """Return text that can stand between tags and inside quotes."""
    return escape(text, {'"': "&quot;", "'": "&#39;"})


def px(value: float) -> str:
    """Return a length with at most two decimals, without idle zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def element(name: str, content: str = "", **attributes: str | float) -> str:
    """Return an element. In an attribute's name an underscore becomes a hyphen, and is dropped at the end.

    ``content`` goes in as it is; attributes are escaped.
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value) if isinstance(value, str) else px(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{pairs}>{content}</{name}>" if content else f"<{name}{pairs}/>"


def box_at(x: float, y: float, width: float, height: float, fill: str, content: str = "") -> str:
    """Return a rectangle filled with a colour; an empty ``fill`` gives it the colour of idle time."""
    painted = {"fill": fill} if fill else {"class_": "sv-l"}
    return element("rect", content, x=px(x), y=px(y), width=px(width), height=px(height), **painted)


_STYLE = """body{margin:0;padding:24px;font-family:system-ui,sans-serif;background:#fff;color:#1f2328}
main{max-width:1280px;margin:0 auto}svg{max-width:100%;height:auto}pre{overflow-x:auto;font-size:13px}
@media (prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}}"""


def page(heading: str, svg: str, text: str) -> str:
    """Return a complete HTML page without scripts; its policy forbids it to load anything.

    Parameters
    ----------
    heading
        The page's title; it is escaped here.
    svg
        The picture, which goes in as it is.
    text
        The picture in letters; it is escaped here.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(clean(heading))}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<main>
{svg.rstrip()}
<details>
<summary>The same as text</summary>
<pre>
{escaped(text)}
</pre>
</details>
</main>
</body>
</html>
"""
