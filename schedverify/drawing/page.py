"""A picture as a page of its own: the SVG, and the same as text for those who cannot see it."""

from __future__ import annotations

from schedverify.drawing.labels import clean
from schedverify.drawing.markup import escaped

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
