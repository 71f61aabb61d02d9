"""The grammar that PyTorch's CSV had until 2.5: B was the input part of the backward, and BW the whole of it.

Since then they are I and B. A file of F, B and communication alone reads the same in both.
"""

from __future__ import annotations

import re
from typing import Final

from schedverify.core.errors import Fault, InputError
from schedverify.formats.csv_layout import LINE

NAME: Final = "torch-2.5-csv"
_WHOLE: Final = re.compile(r"(?<![0-9])[0-9]+BW[0-9]+")
_INPUT: Final = re.compile(r"[0-9]I[0-9]")
_BACKWARD: Final = re.compile(r"(?<![0-9])([0-9]+)B([0-9]+)")
_WEIGHT: Final = re.compile(r"(?<![0-9])([0-9]+)W([0-9]+)")
_EITHER: Final = re.compile(r"([0-9])(BW|B)([0-9])")


def refuse_old(text: str) -> None:
    """Raise where a CSV is in the old grammar: BW stands in it, or no I at all and B beside W of one micro-batch.

    Raises
    ------
    InputError
        With row and column of the first sign, and the command that rewrites the file.
    """
    sign = _sign(text)
    if sign is not None:
        found, again = f"{sign[0][:60]!r} stands in it", ""
        if "W" not in sign[0]:
            found = f"{sign[0][:60]!r} stands beside the W of its stage and micro-batch, and I nowhere"
            again = "; if B is the whole backward here, give the schedule as text to have it judged"
        message = (
            f"{found}: so it was until PyTorch 2.5, with B for the input part of the backward and BW for the whole"
        )
        hint = f"schedverify convert --from {NAME} OLD.csv NEW.csv rewrites it with I and B{again}"
        raise InputError(Fault(_place(text, sign.start()), message, hint))


def modernized(text: str) -> str:
    """Return a CSV of the old grammar in today's: B becomes I, and BW becomes B. Nothing else changes.

    A file without a sign of the old grammar (F, B and communication alone) comes back as it is.

    Raises
    ------
    InputError
        If I stands in it, which the old grammar does not have; with row and column.
    """
    today = _INPUT.search(text)
    if today is not None:
        place = _place(text, today.start())
        raise InputError(Fault(place, f"I is not in the grammar of {NAME}", "leave --from away"))
    return _EITHER.sub(_renamed, text) if _sign(text) else text


def _renamed(match: re.Match[str]) -> str:
    return f"{match[1]}{'I' if match[2] == 'B' else 'B'}{match[3]}"


def _sign(text: str) -> re.Match[str] | None:
    """Return the first cell that only the old grammar can mean, if there is one."""
    if "W" not in text:
        return None
    whole = _WHOLE.search(text) if "BW" in text else None
    if whole is not None or _INPUT.search(text) is not None:
        return whole
    weights = {match.groups() for match in _WEIGHT.finditer(text)}
    return next((match for match in _BACKWARD.finditer(text) if match.groups() in weights), None)


def _place(text: str, start: int) -> str:
    ends = list(LINE.finditer(text, 0, start))
    column = text.count(",", ends[-1].end() if ends else 0, start) + 1
    return f"row {len(ends) + 1}, column {column}"
