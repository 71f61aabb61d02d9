"""The command ``profile``: a model measured block by block, in this process, in several, or under torchrun."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from schedverify.cli.app import OK
from schedverify.cli.delivery import deliver
from schedverify.cli.options import Backend, ModelFunction, Patience, TextOrJson, file, flag, json_taken, number
from schedverify.core.errors import printable

if TYPE_CHECKING:
    from schedverify.profiling import ModelProfile
    from schedverify.profiling.figures import Figure

Tick = Literal["ns", "us", "ms", "s"]


def profile(  # noqa: PLR0913 - each is an option of the command line
    model: ModelFunction,
    *,
    output: Annotated[str | None, file("Model file, .toml or .json.", "--output", "-o")] = None,
    microbatches: Annotated[int, number("Micro-batches of the batch that the model brings; one is measured.")] = 1,
    ranks: Annotated[int | None, number("Processes that measure at the same time, and the links between them.")] = None,
    rounds: Annotated[int, number("Rounds that count.")] = 20,
    warmup: Annotated[int, number("Rounds before them.", least=0)] = 3,
    fused: Annotated[bool, flag("Measure the whole backward alone, not its input and weight part.")] = False,
    optimizer_copies: Annotated[int, number("How often the optimizer holds the weights; Adam: 2.", least=0)] = 0,
    tick: Annotated[Tick, Parameter(help="The unit of durations in the model file.")] = "us",
    timeout: Patience = 60.0,
    backend: Backend = "gloo",
    output_format: TextOrJson = "text",
) -> int:
    """Measure the blocks of a model, and links between ranks, and write the model file that partition takes."""
    from schedverify import launching
    from schedverify.cli.terminal import remark
    from schedverify.formats import Destination, check_destinations
    from schedverify.formats.models.model_files import check_model_suffix

    target = Destination("--output", output, check_model_suffix)
    check_destinations(target, printed=json_taken(output_format))
    if not launching.in_torchrun():
        remark(f"processes: {ranks or 1}; {Path.cwd()} is on the path of modules")
    with _progress() as progress:
        found = launching.profile(
            model, microbatches=microbatches, ranks=ranks, rounds=rounds, warmup=warmup, fused=fused, timeout=timeout,
            backend=backend, progress=progress,
        )  # fmt: skip
    if found is not None:
        _tell(found, (tick, optimizer_copies), output, output_format)
        if found.busy:
            remark("equal work differs by more than a factor of 2: the machine is busy, measure again when it is not")
    return OK


def _tell(found: ModelProfile, units: tuple[Tick, int], output: str | None, output_format: str) -> None:
    """Print the figures of a profile, and write its model.

    Parameters
    ----------
    units
        The tick, and copies of the weights that the optimizer holds.
    output
        The file of the model, ``-`` for standard output, None for no file.
    """
    from schedverify import formats
    from schedverify.formats.models.model_files import save_model

    def show() -> None:
        if output_format == "json":
            print(formats.dumps(_data(found, *units)))
        elif output != "-":
            print("\n".join(map(printable, _lines(found, units[0]))))

    def save(path: str) -> None:
        save_model(found.as_model(*units), path, **found.remarks(units[0]))

    deliver(show, (output, save), rescue=output_format == "text")


@contextmanager
def _progress() -> Iterator[Any]:
    """Show on a terminal how many rounds are done, from the first one on."""
    from schedverify.cli.terminal import err

    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    bar = Progress(console=err(), transient=True)
    task = bar.add_task("rounds")

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        bar.stop()


def _data(found: ModelProfile, tick: Tick, copies: int) -> dict[str, object]:
    from schedverify.profiling.figures import TICKS

    def in_ticks(figure: Figure) -> dict[str, int]:
        return figure.ticks(TICKS[tick])._asdict()

    blocks = [
        {"name": block.name}
        | {kind: in_ticks(figure) for kind, figure in block.times.items()}
        | {name: size for name, size in block.memory._asdict().items() if block.split or name != "waiting"}
        for block in found.blocks
    ]
    links = [
        {"ranks": list(link.ranks), "bytes": link.size, "short": in_ticks(link.short), "long": in_ticks(link.long)}
        for link in found.links
    ]
    devices = found.as_model(tick, copies).devices
    about = {name: getattr(found, name) for name in ("rows", "rounds", "warmup", "ranks", "threads")}
    equal = [{"blocks": list(group.names)} | {kind: list(ends) for kind, ends in group.ticks(TICKS[tick]).items()}
             for group in found.equal]  # fmt: skip
    measured = {
        "blocks": blocks,
        "equal": equal,
        "busy": found.busy,
        "tied": [list(group) for group in found.tied],
        "tied_weights": [each._asdict() for each in found.tied_weights],
        "links": links,
    }
    between = {"latency": devices.latency, "bandwidth": devices.bandwidth}
    return {"model": found.model, "tick": tick, **about, **measured, **between}


def _lines(found: ModelProfile, tick: Tick) -> Iterator[str]:
    from schedverify.profiling.figures import TICKS

    yield f"{found.model}: {found.rows} rows a micro-batch; medians of {found.rounds} rounds, quartiles in brackets"
    kinds = list(found.blocks[0].times)
    head = ["block", *(f"{kind.replace('_', ' ')}, {tick}" for kind in kinds)]
    rows = [[*head, "activation", "waits for W", "output", "weights"]]
    for block in found.blocks:
        times = [figure.ticks(TICKS[tick]) for figure in block.times.values()]
        sizes = block.memory
        cells = [f"{each.median} [{each.lower}, {each.upper}]" for each in times]
        waiting = sizes.waiting if block.split else "-"
        rows.append([block.name, *cells, *map(str, (sizes.activation, waiting, sizes.output, sizes.parameters))])
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    for equal in found.equal:
        ends = ", ".join(f"{kind.replace('_', ' ')} {least} to {most}"
                         for kind, (least, most) in equal.ticks(TICKS[tick]).items())  # fmt: skip
        yield printable(f"equal, with one figure: {', '.join(equal.names)}; medians of each, {tick}: {ends}")
    for link in found.links:
        latency, rate = link.short.ticks(TICKS[tick]), link.bandwidth(TICKS[tick]) or "any number of"
        yield (f"link of ranks {link.ranks[0]} and {link.ranks[1]}: latency {latency.median} [{latency.lower}, "
               f"{latency.upper}] {tick}, {rate} bytes per {tick}")  # fmt: skip
    for group in found.tied:
        yield f"share weights: {', '.join(group)}"
