"""Loads a schedule with what its text has beside it: the lines in which the ranks stand, and the layout of a CSV."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError, UnknownNameError
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.core.row_text import text_rows
from schedverify.core.schedule import Schedule
from schedverify.formats.loading import judged, read_value
from schedverify.formats.text_files import PathLike, Reader, read_text

if TYPE_CHECKING:
    from schedverify.formats.schedule_dumps import Dump
    from schedverify.formats.torch_csv import Layout


def load_with_lines(
    path: PathLike, problem: Problem | None = None, *, read: Reader = read_text
) -> tuple[Schedule | Plan | Dump, tuple[int, ...]]:
    """Return what can be judged in a file, and by rank the line in which its order stands; none where it is not so.

    Parameters
    ----------
    problem
        As in :func:`load_schedule`.
    read
        What reads the file.
    """
    value, text, form = read_value(path, "a schedule or a plan", read=read, ranks=problem.ranks if problem else None)
    subject = judged(value, path, problem)
    if form == "text":
        return subject, tuple(number for number, _ in text_rows(text))
    rows = subject.ranks if form == "csv" and isinstance(subject, Schedule) else 0
    return subject, tuple(range(1, rows + 1))


def load_with_layout(
    path: PathLike, problem: Problem | None = None, grammar: str | None = None
) -> tuple[Schedule | Plan | Dump, Layout]:
    """Return what can be judged in a file, and how it is laid out if PyTorch wrote it; :func:`save` takes both.

    A schedule does not hold line ends and idle cells. With the layout a CSV that PyTorch wrote is written again as the
    same text, and the table that it prints of an order as a CSV with the same idle cells.

    Parameters
    ----------
    problem
        As in :func:`load_schedule`.
    grammar
        ``torch-2.5-csv`` for a CSV in the grammar that PyTorch had until 2.5, with B for the input part of the backward
        and BW for the whole; it is read with I and B in their place.

    Raises
    ------
    InputError
        As :func:`load_schedule`, or if the file is not in the grammar that is named.
    """
    from schedverify.formats.printed_tables import parse_printed_table
    from schedverify.formats.torch_csv import PLAIN, layout_of

    check_types("load_with_layout", path=(path, os.PathLike, str))
    rewrite = None if grammar is None else partial(_today, grammar)
    ranks = problem.ranks if problem else None
    value, text, form = read_value(path, "a schedule or a plan", rewrite, ranks=ranks)
    layout = layout_of(text) if form == "csv" else parse_printed_table(text).layout if form == "printed" else PLAIN
    return judged(value, path, problem), layout


def _today(grammar: str, text: str, form: str) -> str:
    from schedverify.formats.torch_csv import OLD_GRAMMAR, modernized

    if grammar != OLD_GRAMMAR:
        raise UnknownNameError.among("grammar", grammar, [OLD_GRAMMAR])
    if form != "csv":
        raise InputError(Fault("", f"no CSV, where {grammar} is expected", "its name ends in .csv"))
    return modernized(text)
