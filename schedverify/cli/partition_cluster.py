"""``partition --cluster``: the degrees of hybrid parallelism for a decoder on a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schedverify.costmodel.parallelism import Advice, Rejected

DEGREES = ("tensor_parallel", "pipeline_parallel", "data_parallel")
HEADINGS = ("tensor", "pipeline", "data", "virtual", "micro-batch", "recompute", "next to it", "step s", "of peak",
            "bubble", "all-reduces", "gradients s", "memory GB")  # fmt: skip


def show(advice: Advice) -> None:
    """Print the advice: a table of the fastest choices, and why others are not in it."""
    if advice.ranked:
        print_ranked(advice)
    for line in remarks(advice):
        print(line)


def print_ranked(advice: Advice) -> None:
    """Print the ranked set-ups as a table."""
    from schedverify.cli.report_text import print_lines
    from schedverify.cli.terminal import line_width
    from schedverify.core.presentation import Span, table

    rows: list[tuple[str, ...]] = [HEADINGS]
    for priced in advice.ranked:
        setup = priced.setup
        degrees = (*setup[:3], setup.virtual, setup.microbatch_size)
        rows.append((
            *map(str, degrees), setup.recompute, setup.inner, _digits(priced.step / 1e6, 3),
            f"{float(advice.pricing.utilization(priced)):.1%}", f"{float(priced.bubble):.1%}",
            f"{float(priced.sharing):.1%}", _digits(priced.reducing / 1e6, 3), _digits(priced.peak / 1e9, 1),
        ))  # fmt: skip
    left = ("recompute", "next to it")
    right = [i for i, heading in enumerate(HEADINGS) if heading not in left]
    print_lines(table([tuple(map(Span, row)) for row in rows], line_width(), right))


def remarks(advice: Advice) -> Iterator[str]:
    """Yield the reasons for which set-ups are not in the table.

    Each reason has one line; lack of memory has a line for each set of degrees, with the set-up that lacks least.
    """
    if advice.unpriced:
        yield f"the search was stopped: {advice.unpriced} more were not looked at"
    if advice.slower:
        yield f"{len(advice.slower)} more take longer"
    groups: dict[tuple[Any, ...], list[Rejected]] = {}
    for rejected in advice.rejected:
        about = (True, *(rejected.setup[name] for name in DEGREES)) if rejected.missing else (False, rejected.reason)
        groups.setdefault(about, []).append(rejected)
    for _, group in sorted(groups.items(), key=lambda item: item[0] if item[0][0] else (False,)):
        nearest = min(group, key=lambda rejected: rejected.missing)
        several = f", the nearest of {len(group)}" if nearest.missing else f" and {len(group) - 1} more"
        yield f"{_called(nearest.setup)}{several if len(group) > 1 else ''}: {nearest.reason}"


def _digits(number: float, decimals: int) -> str:
    """Return a number with so many decimals, or a small one with as many as show its first two digits."""
    return f"{number:.{decimals}f}" if not 0 < number < 10 ** (1 - decimals) else f"{Decimal(f'{number:.2g}'):f}"


def _called(setup: Mapping[str, int | str]) -> str:
    hidden = ("inner", "microbatches")
    return ", ".join(f"{_words(name)} {value}" for name, value in setup.items() if name not in hidden)


def _words(name: str) -> str:
    return name.removesuffix("_parallel").replace("microbatch_size", "micro-batch").replace("_", " ")
