"""What every benchmark prints: where it ran, and a table in Markdown that goes into docs/benchmarks.md as it is."""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def arguments(about: str, seconds: float, workers: int = 2) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seconds", type=float, default=seconds, help="time limit of each search")
    parser.add_argument("--workers", type=int, default=workers, help="threads of each search")
    parser.add_argument("--update", action="store_true", help="put what is printed into docs/benchmarks.md")
    return parser


def progress() -> Progress:
    """Return a progress bar on standard error that is gone when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def where(*packages: str) -> str:
    """Return the machine, the interpreter and the versions of the solvers, as a sentence."""
    solvers = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {solvers}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def ratio(ours: tuple[bool, float], theirs: tuple[bool, float]) -> str:
    """Return their seconds over ours; a bound where only one of the two is done, nothing where none is."""
    times = theirs[1] / ours[1]
    sign = {(True, True): "", (True, False): "> ", (False, True): "< "}.get((ours[0], theirs[0]))
    return "" if sign is None else f"{sign}{times:.1f}" if times < 10 else f"{sign}{times:.0f}"


def publish(name: str, text: str, *, update: bool) -> None:
    """Print a part of the page on benchmarks, and put it there between its marks if that is wished."""
    print(text)
    if update:
        page = PAGE.read_text(encoding="utf-8")
        part = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not part.search(page):
            raise SystemExit(f"{PAGE} has no place for {name}")
        PAGE.write_text(part.sub(lambda match: f"{match[1]}{text}\n{match[2]}", page), encoding="utf-8")


def _processor() -> str:
    """Return the name of the processor where Linux tells it, else its architecture."""
    about = Path("/proc/cpuinfo")
    names = (
        re.findall(r"^model name\s*: (.*)$", about.read_text(encoding="utf-8"), re.MULTILINE) if about.exists() else []
    )
    return f"{names[0] if names else platform.processor() or 'unknown processor'} ({platform.machine()})"
