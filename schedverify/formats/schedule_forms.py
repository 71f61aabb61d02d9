"""The forms in which a schedule stands in text: which one a text has, and the reader of each.

The text form is read here; the other readers are imported where a file has their form.
"""

from __future__ import annotations

import re
from typing import Final

from schedverify.core.errors import Fault, InputError
from schedverify.core.schedule import Schedule
from schedverify.formats.table_marks import is_megatron_table, is_printed_table

_TOML: Final = re.compile(r"\s*(?:#[^\n]*\n\s*)*(?:[A-Za-z_\"'][^\n=]{0,200}=|\[\[?[A-Za-z_\"'])")
_COMMA: Final = re.compile(r"^[^#\n]*,", re.MULTILINE)


def form_of_text(text: str, form: str) -> str:
    """Return the form of a text: ``printed``, ``megatron``, ``csv``, ``text``, ``json`` or ``toml``.

    Parameters
    ----------
    form
        What the name of its file shows; empty where that shows none. ``text`` may be the table of another program,
        and ``json`` a list, which is Megatron's.
    """
    listed = form == "json" and text.lstrip().startswith("[")
    if form in ("", "text") or listed:
        if is_printed_table(text):
            return "printed"
        if is_megatron_table(text):
            return "megatron"
    return form or _sniffed(text)


def _sniffed(text: str) -> str:
    """Return the form of a text, by its first line that is no comment, or by its commas."""
    if text.lstrip().startswith("{"):
        return "json"
    if _TOML.match(text):
        return "toml"
    return "csv" if looks_like_csv(text) else "text"


def parse_schedule(text: str, form: str, ranks: int | None = None) -> Schedule:
    """Return the schedule of a text in one of the forms of schedules.

    Parameters
    ----------
    ranks
        How many its problem has, where that is known: a table of Megatron's may not say it.
    """
    if form == "csv":
        from schedverify.formats.torch_csv import parse_csv

        return parse_csv(text)
    if form == "printed":
        from schedverify.formats.printed_tables import parse_printed_table

        return parse_printed_table(text).schedule
    if form == "megatron":
        from schedverify.formats.megatron_tables import parse_megatron_table

        return parse_megatron_table(text, ranks)
    return parse_text(text)


def parse_text(text: str) -> Schedule:
    """Read the text form of a schedule; see :meth:`Schedule.parse`."""
    try:
        return Schedule.parse(text)
    except InputError as error:
        if not looks_like_csv(text):
            raise
        hint = Fault("", "there are commas in it", "PyTorch's CSV is read from files that end in .csv")
        raise InputError([*error.faults, hint]) from None


def looks_like_csv(text: str) -> bool:
    """Whether a comma stands in the text outside comments; none does in the text form."""
    return _COMMA.search(text) is not None
