"""PyTorch's own schedules under proof: every class on a grid of shapes, its communication judged under each discipline.

``python benchmarks/torch_under_proof.py`` judges what PyTorch's lowering gives, by default and with deferred receives
(``defer_pp_recv=True``), the orders that classes publish, the loops that are written by hand, and our own lowering of
the same compute orders. A sample of them then runs in PyTorch's runtime, in real processes over gloo, and its gradients
are compared with those of one process.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from printing import progress, publish, table, where

from schedverify import Problem, Report, Schedule, lower, verify
from schedverify.core.discipline import Discipline
from schedverify.core.errors import InputError
from schedverify.torch_bridge import torch_loop, torch_problem, torch_schedule

SEVERAL = ("Interleaved1F1B", "InterleavedZeroBubble", "LoopedBFS", "ZBVZeroBubble", "DualPipeV")
SINGLE = ("GPipe", "1F1B", "ForwardOnly")
LOWERINGS = ("PyTorch's", "PyTorch's, receives deferred", "ours")
FINE, HANGS, SWAPPED, OTHER = "proved", "hangs", "swapped", "other"
SWAPPING = {"SV302"}
HANGING = {"SV201", "SV301", "SV304"}
MOST_RANKS, MOST_VIRTUAL, MOST_MICROBATCHES = 8, 3, 24


class Shape(NamedTuple):
    """A class of PyTorch on a shape."""

    name: str
    ranks: int
    virtual: int
    microbatches: int

    @property
    def keys(self) -> dict[str, int]:
        """The shape as keywords of the bridge."""
        return {"ranks": self.ranks, "virtual": self.virtual, "microbatches": self.microbatches}

    def __str__(self) -> str:
        return f"{self.name}, P = {self.ranks}, V = {self.virtual}, M = {self.microbatches}"


class Finding(NamedTuple):
    """What was found of one order: by discipline how it fares, and the first counterexample."""

    shape: Shape
    how: str
    fares: dict[Discipline, str]
    counterexample: str


def main() -> None:
    """Judge all shapes, run a sample of them, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", nargs=3, type=int, default=(MOST_RANKS, MOST_VIRTUAL, MOST_MICROBATCHES),
                        metavar=("P", "V", "M"), help="the largest shape")  # fmt: skip
    parser.add_argument("--sample", type=int, default=8, help="real runs of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--json", type=Path, help="file for all findings")
    parser.add_argument("--update", action="store_true", help="put what is printed into docs/benchmarks.md")
    chosen = parser.parse_args()
    shapes = list(grid(*chosen.most))
    findings = list(judge_all(shapes))
    if chosen.json:
        chosen.json.write_text(json.dumps([finding._asdict() for finding in findings]) + "\n", encoding="utf-8")
    real = table(("class", "receives", "predicted under edge", "real run"), real_runs(findings, chosen))
    text = f"""{where("torch", "numpy")}; seed {chosen.seed} for the sample of real runs.

{len(shapes)} shapes, P from 2 to {chosen.most[0]}, V to {chosen.most[1]}, M to {chosen.most[2]}, as far as the class
takes them. How many are proved under each discipline; of the others, how many hang, and how many train on swapped
tensors.

{table(("class", "communication", "shapes", *map(str, Discipline)), lines(findings))}

The first counterexamples:

```text
{chr(10).join(counterexamples(findings))}
```

A sample in real processes over gloo, where messages meet as under `edge`. The error is that of the gradients, relative
to those of one process.

{real}"""
    publish("torch-under-proof", text, update=chosen.update)


def grid(most_ranks: int, most_virtual: int, most_microbatches: int) -> Iterator[Shape]:
    """Yield every shape that its class takes."""
    for name in (*SEVERAL, *SINGLE):
        for ranks in range(2, most_ranks + 1):
            for virtual in range(1, 2) if name in SINGLE else range(2, most_virtual + 1):
                for microbatches in range(1, most_microbatches + 1):
                    shape = Shape(name, ranks, virtual, microbatches)
                    if takes(shape):
                        yield shape


def takes(shape: Shape) -> bool:
    """Whether the class takes the shape."""
    try:
        torch_problem(shape.name, **shape.keys)
    except InputError:
        return False
    return True


def judge_all(shapes: list[Shape]) -> Iterator[Finding]:
    """Judge all shapes, on all cores, and show how far it is."""
    with progress() as bar, ProcessPoolExecutor() as pool:
        for found in bar.track(pool.map(judge, shapes, chunksize=8), len(shapes), description="proving"):
            yield from found


def judge(shape: Shape) -> list[Finding]:
    """Judge every order that there is for a shape."""
    problem = torch_problem(shape.name, **shape.keys)
    return [found(shape, how, order, problem) for how, order in orders(shape, problem)]


def orders(shape: Shape, problem: Problem) -> Iterator[tuple[str, Schedule]]:
    """Yield the orders of a shape, each with how it came about."""
    if shape.name in SINGLE:
        loop = torch_loop(shape.name, ranks=shape.ranks, microbatches=shape.microbatches)
        if shape.name != "ForwardOnly":
            yield "published order", torch_schedule(shape.name, **shape.keys)
        yield "loop by hand", loop
        yield "ours", lower(loop.compute_only(), problem)
        return
    order = torch_schedule(shape.name, **shape.keys)
    yield LOWERINGS[0], torch_schedule(shape.name, **shape.keys, lowered=True)
    yield LOWERINGS[1], torch_schedule(shape.name, **shape.keys, lowered=True, defer_receives=True)
    yield LOWERINGS[2], lower(order, problem)


def found(shape: Shape, how: str, order: Schedule, problem: Problem) -> Finding:
    """Judge an order under every discipline; where it is proved under the strictest, it is under all of them."""
    strictest = judged(order, problem, Discipline.BLOCK)
    if not strictest.violations:
        return Finding(shape, how, dict.fromkeys(Discipline, FINE), "")
    reports = {discipline: judged(order, problem, discipline) for discipline in Discipline}
    first = next(report.violations[0] for report in reports.values() if report.violations)
    return Finding(shape, how, {discipline: fares(report) for discipline, report in reports.items()}, str(first))


def judged(order: Schedule, problem: Problem, discipline: Discipline) -> Report:
    """Judge structure, dependencies and communication."""
    return verify(order, problem, select=("SV1", "SV2", "SV3"), discipline=discipline)


def fares(report: Report) -> str:
    """Return how an order fares: a hang is told before swapped tensors, which it never comes to."""
    codes = {violation.code for violation in report.violations}
    return FINE if not codes else HANGS if codes & HANGING else SWAPPED if codes & SWAPPING else OTHER


def lines(findings: Iterable[Finding]) -> Iterator[tuple[object, ...]]:
    """Yield a line for each class and kind of communication."""
    kinds: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        kinds[finding.shape.name, finding.how].append(finding)
    for (name, how), members in kinds.items():
        cells = []
        for discipline in Discipline:
            count = Counter(finding.fares[discipline] for finding in members)
            cells.append(", ".join(f"{count[kind]} {kind}" for kind in (FINE, HANGS, SWAPPED, OTHER) if count[kind]))
        yield name, how, len(members), *cells


def counterexamples(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield the first counterexample of each class, kind of communication and property."""
    seen = set()
    for finding in findings:
        key = finding.shape.name, finding.how, finding.counterexample[:5]
        if finding.counterexample and key not in seen:
            seen.add(key)
            yield f"{finding.shape}, {finding.how}:\n  {finding.counterexample}"


def real_runs(findings: list[Finding], chosen: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Run a sample in PyTorch's runtime: proved and not, with 2 to 4 ranks; gloo's messages meet as under ``edge``."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support.gloo_pool import GlooPool
    from support.torch_runs import error_of, in_one_process, of_a_class

    for ranks in (2, 3, 4):
        with GlooPool(ranks) as pool:
            for finding in sample(findings, ranks, chosen):
                shape, deferred = finding.shape, finding.how == LOWERINGS[1]
                owner_rank = torch_problem(shape.name, **shape.keys).owner_rank
                expected = finding.fares[Discipline.EDGE]
                outcomes = pool.run(
                    of_a_class,
                    shape.name,
                    owner_rank,
                    shape.microbatches,
                    deferred,
                    timeout=5 if expected == HANGS else 60,
                )
                shown = "hangs"
                if all(outcome.value is not None for outcome in outcomes):
                    true = in_one_process(len(owner_rank), shape.microbatches)
                    shown = f"error {error_of([outcome.value for outcome in outcomes], true):.0e}"
                yield str(shape), "deferred" if deferred else "default", expected, shown


def sample(findings: list[Finding], ranks: int, chosen: argparse.Namespace) -> list[Finding]:
    """Return findings of PyTorch's lowerings on so many ranks, of each kind a third of what was asked for."""
    rng = random.Random(chosen.seed + ranks)
    picked = []
    for how in LOWERINGS[:2]:
        for kind in (FINE, SWAPPED, HANGS):
            members = [
                finding
                for finding in findings
                if finding.how == how and finding.shape.ranks == ranks and finding.fares[Discipline.EDGE] == kind
            ]
            picked += rng.sample(members, min(len(members), -(-chosen.sample // 3)))
    return picked


if __name__ == "__main__":
    main()
