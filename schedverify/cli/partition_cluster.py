"""``partition --cluster``: the degrees of hybrid parallelism for a decoder on a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from schedverify.costmodel.parallelism import Advice, Priced, Rejected

DEGREES = ("tensor_parallel", "pipeline_parallel", "data_parallel")
HEADINGS = ("tensor", "pipeline", "data", "virtual", "micro-batch", "recompute", "next to it", "step s", "of peak",
            "bubble", "all-reduces", "gradients s", "memory GB")  # fmt: skip


def show(advice: Advice) -> None:
    """Print the advice: a table of the fastest choices, and why others are not in it."""
    from schedverify.cli.console import out

    if advice.ranked:
        out().print(table(advice))
    for line in remarks(advice):
        print(line)


def data(advice: Advice) -> dict[str, object]:
    """Return what ``--format json`` prints."""
    return {
        "ranked": [_priced(advice, priced) for priced in advice.ranked],
        "rejected": [{"setup": one.setup, "reason": one.reason, "missing": one.missing} for one in advice.rejected],
        "slower": [{"setup": setup._asdict(), "least": least} for setup, least in advice.slower],
    }


def _priced(advice: Advice, priced: Priced) -> dict[str, object]:
    model = advice.pricing.model(priced.setup)
    return {
        "setup": priced.setup._asdict(),
        "step": priced.step,
        "reducing": priced.reducing,
        "bubble_fraction": float(priced.bubble),
        "tensor_share": float(priced.sharing),
        "utilization": float(advice.pricing.utilization(priced)),
        "peak_memory": priced.peak,
        "layers": [[model.layers[i].name for i in stage] for stage in priced.layers],
    }


def table(advice: Advice) -> Table:
    """Return the ranked set-ups as a table."""
    from rich.table import Table

    grid = Table(box=None, padding=(0, 2, 0, 0))
    for heading in HEADINGS:
        grid.add_column(heading, justify="left" if heading in ("recompute", "next to it") else "right")
    for priced in advice.ranked:
        setup = priced.setup
        degrees = (*setup[:3], setup.virtual, setup.microbatch_size)
        grid.add_row(
            *map(str, degrees), setup.recompute, setup.inner, f"{priced.step / 1e6:.3f}",
            f"{float(advice.pricing.utilization(priced)):.1%}", f"{float(priced.bubble):.1%}",
            f"{float(priced.sharing):.1%}", f"{priced.reducing / 1e6:.3f}", f"{priced.peak / 1e9:.1f}",
        )  # fmt: skip
    return grid


def remarks(advice: Advice) -> Iterator[str]:
    """Yield why others are not in the table.

    One line for each reason; of those that lack memory one for each set of degrees, with the set-up that lacks least.
    """
    if advice.slower:
        yield f"{len(advice.slower)} more take longer"
    groups: dict[tuple[Any, ...], list[Rejected]] = {}
    for one in advice.rejected:
        about = (True, *(one.setup[name] for name in DEGREES)) if one.missing else (False, one.reason)
        groups.setdefault(about, []).append(one)
    for _, group in sorted(groups.items(), key=lambda item: item[0] if item[0][0] else (False,)):
        nearest = min(group, key=lambda one: one.missing)
        several = f", the nearest of {len(group)}" if nearest.missing else f" and {len(group) - 1} more"
        yield f"{_called(nearest.setup)}{several if len(group) > 1 else ''}: {nearest.reason}"


def _called(setup: Mapping[str, int | str]) -> str:
    hidden = ("inner", "microbatches")
    return ", ".join(_words(item) for item in setup.items() if item[0] not in hidden)


def _words(item: tuple[str, int | str]) -> str:
    words: Iterable[str] = item[0].removesuffix("_parallel").replace("microbatch_size", "micro-batch").split("_")
    return f"{' '.join(words)} {item[1]}"
