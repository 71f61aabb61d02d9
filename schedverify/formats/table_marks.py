"""By what the tables and lists are known in which other programs print a schedule."""

from __future__ import annotations

import re
from typing import Final

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


def is_printed_table(text: str) -> bool:
    """Whether the table that PyTorch prints of an order stands in a text."""
    return "Rank 0" in text and PRINTED_HEADER.search(text) is not None


def is_megatron_table(text: str) -> bool:
    """Whether a text is Megatron's printed table, its list of pairs, or an order of chunks for each rank."""
    if "|" in text and {MICROBATCH_ROW, CHUNK_ROW} <= {match[1] for match in MEGATRON_ROW.finditer(text)}:
        return True
    begun = MEGATRON_SIZE.sub("", text, count=1)
    return _PAIRS.match(begun) is not None or (_ORDERS.match(begun) is not None and _BACKWARD.search(text) is not None)
