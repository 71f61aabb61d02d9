"""The pictures themselves: one schedule, or several under one time axis; as letters, SVG or a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from schedverify.core.argument_types import check_types
from schedverify.core.discipline import DEFAULT_DISCIPLINE
from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Report, Status
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Timeline
from schedverify.drawing.arrange import DrawnOrder, arrange, order_of
from schedverify.drawing.markup import page
from schedverify.drawing.panel import Panel
from schedverify.drawing.svg import svg_document
from schedverify.drawing.terminal import Line, Paint, picture_lines

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

SUFFIXES: Final = (".svg", ".html", ".txt")


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture of one schedule or of several; make one with :func:`draw` or :func:`beside`.

    It is a picture in Jupyter, text in a terminal, and in colour where rich prints it.

    Attributes
    ----------
    panels
        What is shown of each schedule, from top to bottom.
    title
        The heading over all of them; empty for none.
    """

    panels: tuple[Panel, ...]
    title: str = ""

    def text(self, width: int | None = None, colour: bool = False) -> str:
        """Return the picture as lines of letters.

        Parameters
        ----------
        width
            How many letters a line may have (at least 40 are used); by default the terminal's width, or 100.
        colour
            Whether to paint them, with the escape sequences that terminals know.
        """
        paint = Paint.BLOCKS if colour else Paint.NONE
        lines = picture_lines(self.panels, self.title, width or shutil.get_terminal_size((100, 24)).columns, paint)
        if not colour:
            return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)
        return _painted(lines)

    def svg(self) -> str:
        """Return the picture as an SVG document, which needs nothing else to be shown."""
        return svg_document(self.panels, self.title)

    def html(self) -> str:
        """Return a page that shows the picture, and the same as text; it needs no scripts and no other files."""
        heading = self.title or self.panels[0].title
        return page(heading, self.svg(), self.text(100))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture to a file: ``.svg``, ``.html`` or ``.txt``, by its suffix.

        Raises
        ------
        InputError
            If the suffix is another one, or the file cannot be written.
        """
        from schedverify.formats.text_files import naming, write_text

        with naming(path):
            suffix = picture_suffix(path)
        content = {".svg": self.svg, ".html": self.html}.get(suffix, lambda: self.text(100) + "\n")()
        write_text(path, content)

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        return self.svg()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        paint = Paint.COLOURS if options.ascii_only else Paint.BLOCKS
        if console.color_system is None or console.no_color:
            paint = Paint.NONE
        for line in picture_lines(self.panels, self.title, options.max_width, paint):
            yield _rich(line)


def draw(
    schedule: Schedule | Plan | Timeline,
    problem: Problem | None = None,
    *,
    report: Report | None = None,
    title: str | None = None,
    critical: bool = False,
    discipline: str = DEFAULT_DISCIPLINE,
    eager_bytes: int = 0,
) -> Drawing:
    r"""Draw a schedule: its timeline where it can run, else the order of its steps, a column for each position.

    Parameters
    ----------
    schedule
        What to draw. A plan and a timeline bring their own problem.
    problem
        The costs; without one it is read off the schedule, with unit costs, and the picture says so.
    report
        What the verifier says; its violations are marked in the picture and listed under it.
    title
        The heading; by default the problem's name and shape.
    critical
        Whether the SVG underlines the steps of the critical path; not where communication stands in the schedule.
    discipline, eager_bytes
        What blocks what where communication stands in the schedule; a timeline brings its own.

    Raises
    ------
    InputError
        If a plan has no schedule, or is one of another problem.

    Examples
    --------
    >>> problem = Problem.chain(ranks=2, microbatches=2)
    >>> schedule = Schedule.parse("0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1")
    >>> print(draw(schedule, problem).text(width=60))
    2 ranks, 2 micro-batches
    ticks   0              5             in flight  memory
    rank 0  F0 F1 ......B0--- ...B1---           2       2
    rank 1  ...F0 B0--- F1 B1--- ....            1       1
    makespan 9 ticks, span 9 ticks, bubble 33.3%, peak in flight
    2, peak memory 2 units
    F forward   B backward   . idle
    """
    check_types("draw", schedule=(schedule, Schedule, Plan, Timeline), problem=(problem, Problem, type(None)))
    if not isinstance(schedule, Schedule) and problem is not None and problem != schedule.problem:
        raise InputError(f"the {type(schedule).__name__.lower()} is of another problem than the one given")
    if isinstance(schedule, Schedule):
        order, note = order_of(schedule, problem, discipline, eager_bytes), ""
    elif isinstance(schedule, Timeline):
        order, note = DrawnOrder(schedule.schedule, schedule.problem, schedule), ""
    elif schedule.schedule is None:
        raise InputError(Fault("", f"a plan without a schedule ({schedule.status}) cannot be drawn", schedule.reason))
    else:
        order = order_of(schedule.schedule, schedule.problem)
        note = f", optimal {schedule.objective}" if schedule.status is Status.OPTIMAL else ""
    heading = _title(order) + note if title is None else title
    return Drawing((arrange(order, report, heading, critical=critical),))


def picture_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a picture's file, in small letters.

    Raises
    ------
    InputError
        If it is none of :data:`SUFFIXES`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        hint = "save .svg and convert it" if suffix == ".png" else ""
        message = f"a picture is saved as {', '.join(SUFFIXES)}, not as {suffix or 'a file without suffix'}"
        raise InputError(Fault("", message, hint))
    return suffix


def beside(*drawings: Drawing, title: str = "") -> Drawing:
    """Put pictures below each other under one time axis, so that their lengths compare.

    Parameters
    ----------
    title
        A heading over all of them.

    Raises
    ------
    InputError
        If there is no picture.
    """
    for drawing in drawings:
        check_types("beside", drawing=(drawing, Drawing))
    panels = tuple(panel for drawing in drawings for panel in drawing.panels)
    if not panels:
        raise InputError("expected at least one drawing")
    return Drawing(panels, title)


def _title(order: DrawnOrder) -> str:
    ranks = f"{order.schedule.ranks} rank{'s' * (order.schedule.ranks > 1)}"
    if order.problem is None:
        return ranks
    microbatches = order.problem.microbatches
    shape = f"{ranks}, {microbatches} micro-batch{'es' * (microbatches > 1)}"
    return f"{order.problem.name}: {shape}" if order.problem.name else shape


def _rich(line: Line) -> Text:
    from rich.text import Text

    return Text.assemble(*line, no_wrap=True, overflow="crop")


def _painted(lines: Iterator[Line]) -> str:
    from rich.console import Console

    console = Console(force_terminal=True, color_system="256", no_color=False, width=10_000, legacy_windows=False)
    with console.capture() as capture:
        for line in lines:
            console.print(_rich(line), soft_wrap=True)
    return capture.get().removesuffix("\n")
