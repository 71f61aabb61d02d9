"""The forms in which a schedule stands in text: which one a text has, and the reader of each.

The text form is read here; the other readers are imported where a file has their form.
"""

from __future__ import annotations

import re
from typing import Final

from schedverify.core.errors import Fault, InputError
from schedverify.core.schedule import Schedule

_TOML: Final = re.compile(r"\s*(?:#[^\n]*\n\s*)*(?:[A-Za-z_\"'][^\n=]{0,200}=|\[\[?[A-Za-z_\"'])")
_COMMA: Final = re.compile(r"^[^#\n]*,", re.MULTILINE)
PRINTED_HEADER: Final = re.compile(r"^[^#\n]*?\bRank 0(?:[ \t]+Rank [0-9]+)*+[ \t\r]*+$", re.MULTILINE)
"""The first line of the table that PyTorch prints of an order, with what a logger put before it."""
MICROBATCH_ROW, CHUNK_ROW = "microbatch_id", "model_chunk_id"
MEGATRON_ROW: Final = re.compile(r"^[ \t]*(\w+)[ \t]*\|", re.MULTILINE)
MEGATRON_SIZE: Final = re.compile(
    r"^[ \t]*(?:--)?(?:ranks|pipeline[-_]model[-_]parallel[-_]size)[ \t=:]+([0-9]{1,9})[ \t\r]*$", re.MULTILINE
)
_PAIRS: Final = re.compile(  # what begins them: schedule_table = [(0, 0), as Python has it, or a list of lists
    r"\s*+(?:(?:[A-Za-z_]\w{0,99}+[ \t]*+=\s*+)?\[\s*+\(|\[\s*+\[)\s*+[0-9]++\s*+,\s*+[0-9]++\s*+[\])]"
)
_ORDERS: Final = re.compile(  # lists in a list or by rank, or a line with numbers alone
    r"\s*+(?:[\[({]\s*+(?:[0-9]++\s*+:\s*+)?[\[(]\s*+[+-]?[0-9]++\s*+[,\])]"
    r"|(?:[Rr]ank[ \t]*+0[ \t]*+[:|])?[ \t]*+[\[(]?[ \t]*+[+-]?[0-9]++"
    r"(?:(?:[ \t]*+,[ \t]*+|[ \t]++)[+-]?[0-9]++)*+[ \t]*+,?[\])]?[ \t\r]*+$)",
    re.MULTILINE,
)
_BACKWARD: Final = re.compile(r"(?<![\w.])-[0-9]")
"""What an order of chunks has somewhere."""


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
        if "Rank 0" in text and PRINTED_HEADER.search(text):
            return "printed"
        if _is_megatron_table(text):
            return "megatron"
    return form or _sniffed(text)


def _is_megatron_table(text: str) -> bool:
    """Whether a text is the printed table, a list of pairs, or an order of chunks for each rank."""
    if "|" in text and {MICROBATCH_ROW, CHUNK_ROW} <= {match[1] for match in MEGATRON_ROW.finditer(text)}:
        return True
    begun = MEGATRON_SIZE.sub("", text, count=1)
    return _PAIRS.match(begun) is not None or (_BACKWARD.search(text) is not None and _ORDERS.match(begun) is not None)


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
