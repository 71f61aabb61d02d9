"""PyTorch's own schedules under proof: every class on a grid of shapes, its communication judged under each discipline.

``python benchmarks/torch_under_proof.py`` judges what the lowering of the PyTorch that is installed gives, by default
and with deferred receives (``defer_pp_recv=True``), from 2.15 on within budgets of sends too
(``max_outstanding_sends``), the orders that classes publish, the loops that are written by hand, and our own lowering
of the same compute orders. A sample of them then runs in PyTorch's runtime, in real processes over gloo, and its
gradients are compared with those of one process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from printing import progress, publish, table, where

from schedverify import Problem, Report, Schedule, lower, verify
from schedverify.core.discipline import Discipline
from schedverify.core.errors import InputError
from schedverify.formats.torch_csv import to_csv
from schedverify.lowering import add_late_waits
from schedverify.planner.export import WITH_WAITS, for_torch
from schedverify.torch_bridge import torch_loop, torch_problem, torch_schedule

SEVERAL = ("Interleaved1F1B", "InterleavedZeroBubble", "LoopedBFS", "ZBVZeroBubble", "DualPipeV")
SINGLE = ("GPipe", "1F1B", "ForwardOnly")
LOWERINGS = ("PyTorch's", "PyTorch's, receives deferred", "ours")
BUDGETS = (1, 2, 4)
FINE, HANGS, SWAPPED, OTHER, REFUSED = "proved", "hangs", "swapped", "other", "refused by PyTorch"
SWAPPING = {"SV302"}
HANGING = {"SV201", "SV301", "SV304"}
DISCIPLINES_OF_2_15 = (Discipline.EDGE, Discipline.PAIR)
"""Its runtime is the first, on NCCL and gloo; until 2.14 it was the second on NCCL."""
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
    """What was found of one order: by discipline how it fares, and the first counterexample.

    The budget is of sends begun and not yet waited for on a rank; None for no limit.
    """

    shape: Shape
    how: str
    budget: int | None
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
    real = table(("shape", "communication", "sends begun", "under edge", "real run"), real_runs(findings, chosen))
    text = f"""{where("torch", "numpy")}; seed {chosen.seed} for the sample of real runs.

{len(shapes)} shapes, P from 2 to {chosen.most[0]}, V to {chosen.most[1]}, M to {chosen.most[2]}, as far as the class
takes them. How many are proved under each discipline; of the others, how many hang, and how many train on swapped
tensors.

{table(("class", "communication", "shapes", *map(str, Discipline)), lines(findings))}
{within_budgets(findings)}
The first counterexamples:

```text
{chr(10).join(counterexamples(findings))}
```

A sample in real processes over gloo, where messages meet as under `edge`. The error is that of the gradients, relative
to those of one process. Where PyTorch's swap tensors or hang, ours runs the same order.

{real}"""
    publish(f"torch-under-proof-{'.'.join(version('torch').split('.')[:2])}", text, update=chosen.update)


def within_budgets(findings: list[Finding]) -> str:
    """Return the table of what is found where sends have a budget, which PyTorch has from 2.15 on."""
    if not has_budgets():
        return ""
    columns = [f"{discipline}, {budget}" for discipline in DISCIPLINES_OF_2_15 for budget in BUDGETS]
    return f"""
With at most 1, 2 or 4 sends begun and not yet waited for on a rank:

{table(("class", "communication", *columns), budget_lines(findings))}
"""


def has_budgets() -> bool:
    """Whether the runtime of this PyTorch waits for sends where the order says so, and can keep to a budget of them."""
    from torch.distributed.pipelining import schedules

    return hasattr(schedules, "_add_wait_send_budget")


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
    if shape.name in SINGLE:
        return [found(shape, how, None, order, problem) for how, order in loops(shape, problem)]
    compute = torch_schedule(shape.name, **shape.keys)
    ours = lower(compute, problem)
    findings = []
    for budget in (None, *BUDGETS) if has_budgets() else (None,):
        for deferred, how in enumerate(LOWERINGS[:2]):
            try:
                order = by_torch(shape, deferred=bool(deferred), budget=budget)
            except InputError as error:
                findings.append(Finding(shape, how, budget, dict.fromkeys(Discipline, REFUSED), str(error)))
            else:
                findings.append(found(shape, how, budget, order, within(problem, budget)))
        findings.append(found(shape, LOWERINGS[2], budget, waiting(ours, problem, budget), within(problem, budget)))
    return findings


def by_torch(shape: Shape, *, deferred: bool, budget: int | None) -> Schedule:
    """Return what PyTorch's lowering makes of a class.

    Raises
    ------
    InputError
        If PyTorch cannot keep to the budget; with its own words.
    """
    options: dict[str, Any] = {"defer_receives": deferred} | (
        {} if budget is None else {"max_outstanding_sends": budget}
    )
    return torch_schedule(shape.name, **shape.keys, lowered=True, **options)


def within(problem: Problem, budget: int | None) -> Problem:
    """Return a problem with a limit of sends begun and not yet waited for."""
    return dataclasses.replace(problem, outstanding_sends=None if budget is None else (budget,) * problem.ranks)


def waiting(lowered: Schedule, problem: Problem, budget: int | None) -> Schedule:
    """Return our lowering with waits within a budget, free of deadlock under every discipline."""
    return lowered if budget is None else add_late_waits(lowered, within(problem, budget), "block")


def loops(shape: Shape, problem: Problem) -> Iterator[tuple[str, Schedule]]:
    """Yield the orders of a class with one stage a rank, each with how it came about."""
    loop = torch_loop(shape.name, ranks=shape.ranks, microbatches=shape.microbatches)
    if shape.name != "ForwardOnly":
        yield "published order", torch_schedule(shape.name, **shape.keys)
    yield "loop by hand", loop
    yield "ours", lower(loop.compute_only(), problem)


def found(shape: Shape, how: str, budget: int | None, order: Schedule, problem: Problem) -> Finding:
    """Judge an order under every discipline; where it is proved under the strictest, it is under all of them."""
    strictest = judged(order, problem, Discipline.BLOCK)
    if not strictest.violations:
        return Finding(shape, how, budget, dict.fromkeys(Discipline, FINE), "")
    reports = {discipline: judged(order, problem, discipline) for discipline in Discipline}
    first = next(report.violations[0] for report in reports.values() if report.violations)
    return Finding(
        shape, how, budget, {discipline: fares(report) for discipline, report in reports.items()}, str(first)
    )


def judged(order: Schedule, problem: Problem, discipline: Discipline) -> Report:
    """Judge structure, dependencies and communication."""
    return verify(order, problem, select=("SV1", "SV2", "SV3", "SV404"), discipline=discipline)


def fares(report: Report) -> str:
    """Return how an order fares: a hang is told before swapped tensors, which it never comes to."""
    codes = {violation.code for violation in report.violations}
    return FINE if not codes else HANGS if codes & HANGING else SWAPPED if codes & SWAPPING else OTHER


def lines(findings: Iterable[Finding]) -> Iterator[tuple[object, ...]]:
    """Yield a line for each class and kind of communication without a budget."""
    for kind, members in kinds(findings).items():
        unlimited = [finding for finding in members if finding.budget is None]
        yield *kind, len(unlimited), *(counts(unlimited, discipline) for discipline in Discipline)


def budget_lines(findings: Iterable[Finding]) -> Iterator[tuple[object, ...]]:
    """Yield a line for each class with budgets and kind of communication."""
    for kind, members in kinds(finding for finding in findings if finding.budget is not None).items():
        limited = {budget: [finding for finding in members if finding.budget == budget] for budget in BUDGETS}
        yield *kind, *(counts(limited[budget], discipline) for discipline in DISCIPLINES_OF_2_15 for budget in BUDGETS)


def kinds(findings: Iterable[Finding]) -> dict[tuple[str, str], list[Finding]]:
    """Return findings by class and kind of communication."""
    by: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        by[finding.shape.name, finding.how].append(finding)
    return by


def counts(members: list[Finding], discipline: Discipline) -> str:
    """Return how many fare how under a discipline."""
    count = Counter(finding.fares[discipline] for finding in members)
    kinds_in_order = (FINE, HANGS, SWAPPED, OTHER, REFUSED)
    return ", ".join(f"{count[kind]} {kind}" for kind in kinds_in_order if count[kind])


def counterexamples(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield the first counterexample of each class, kind of communication and property."""
    seen = set()
    for finding in findings:
        key = finding.shape.name, finding.how, finding.counterexample[:5]
        if finding.budget is None and finding.counterexample and key not in seen:
            seen.add(key)
            yield f"{finding.shape}, {finding.how}:\n  {finding.counterexample}"


def real_runs(findings: list[Finding], chosen: argparse.Namespace) -> Iterator[tuple[object, ...]]:
    """Run a sample in PyTorch's runtime: proved and not, with 2 to 4 ranks; gloo's messages meet as under ``edge``."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support.gloo_pool import GlooPool
    from support.torch_runs import error_of, in_one_process, of_a_class, of_a_csv

    for ranks in (2, 3, 4):
        with GlooPool(ranks) as pool:
            for finding in sample(findings, ranks, chosen):
                shape, expected = finding.shape, finding.fares[Discipline.EDGE]
                problem = torch_problem(shape.name, **shape.keys)
                true = in_one_process(problem.stages, shape.microbatches)
                told = (str(shape), finding.how, "any" if finding.budget is None else finding.budget)
                asked = (
                    shape.name,
                    problem.owner_rank,
                    shape.microbatches,
                    finding.how == LOWERINGS[1],
                    finding.budget,
                )
                outcomes = pool.run(of_a_class, *asked, timeout=10 if expected == HANGS else 60)
                yield *told, expected, shown(outcomes, true, error_of)
                if expected != FINE:
                    text = as_csv(shape, problem, finding.budget)
                    outcomes = pool.run(of_a_csv, text, problem.owner_rank, shape.microbatches, timeout=60)
                    yield told[0], LOWERINGS[2], told[2], FINE, shown(outcomes, true, error_of)


def shown(outcomes: list[Any], true: Any, error_of: Any) -> str:
    """Return how a run ended: the error of its gradients, or that it hung."""
    if any(outcome.value is None for outcome in outcomes):
        failed = next((outcome.error for outcome in outcomes if outcome.error), None)
        return "hangs" if failed is None else failed.strip().splitlines()[-1]
    return f"error {error_of([outcome.value for outcome in outcomes], true):.0e}"


def as_csv(shape: Shape, problem: Problem, budget: int | None) -> str:
    """Return PyTorch's CSV, with communication, of our lowering of an order."""
    ours = lower(torch_schedule(shape.name, **shape.keys), problem)
    exported = for_torch(ours, within(problem, budget), profile=WITH_WAITS if has_budgets() else "torch")
    return to_csv(exported, comms=True)


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
