"""Pictures of schedules: letters for the terminal, SVG, and a page with it."""

from schedverify.drawing.picture import Drawing, beside, draw, picture_suffix

__all__ = ["Drawing", "beside", "draw", "picture_suffix"]
