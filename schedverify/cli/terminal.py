"""Where text goes: standard output for data, standard error for remarks and progress."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@cache
def out() -> Console:
    """Return the console of standard output; a pipe gets wide lines and no colour."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 140
    return Console(highlight=False, width=width, markup=False, emoji=False)


@cache
def err() -> Console:
    """Return the console of standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def remark(text: str) -> None:
    """Print a remark to standard error."""
    err().print(text, style="dim")


def print_markdown(text: str) -> None:
    """Print Markdown: as it is into a pipe, laid out on a terminal."""
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.markdown import Markdown

    out().print(Markdown(text))
