"""Random uneven problems: how many are proved optimal, how far the others are open, and what the families leave.

``python benchmarks/random_uneven.py`` draws 300 problems by seed, half with one stage a rank and half with two: 3 to 8
ranks, up to three micro-batches a rank, every stage with costs of its own, latency, and room on each rank for half as
many to twice as many micro-batches as there are ranks. ``--count 20`` takes a sample. The peer is the best family that
keeps the limits of the problem, not counting ``naive``, which runs one micro-batch after another; ``shorter`` is by how
much of its makespan ours is below it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from printing import arguments, progress, publish, table, where

from schedverify import Problem, optimize
from schedverify.core.result import Plan, Status
from schedverify.planner.warm_starts import candidates


class Case(NamedTuple):
    """The stages a rank of one problem, its plan, and the makespan of the best family that keeps its limits, if any."""

    virtual: int
    plan: Plan
    family: int | None


def main() -> None:
    """Solve the problems and print a line for each number of stages a rank."""
    parser = arguments(__doc__ or "", seconds=10)
    parser.add_argument("--count", type=int, default=300, help="how many problems")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first problem; the others follow")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.count)
    with progress() as bar:
        cases = [
            _case(draw(seed), options.seconds, options.workers)
            for seed in bar.track(seeds, description="random uneven problems")
        ]
    head = ("stages a rank", "problems", "proved", "mean gap", "largest gap", "with a family", "shorter", "most")
    rows = [_line(virtual, [case for case in cases if case.virtual == virtual]) for virtual in (1, 2)]
    text = f"""{where("ortools")}; seeds {seeds.start} to {seeds.stop - 1}.

{options.workers} threads and {options.seconds:g} s for each search.

{table(head, rows)}"""
    publish("random-uneven", text, update=options.update)


def draw(seed: int) -> Problem:
    """Return the problem of a seed: one stage a rank where it is even, two where it is odd."""
    rng = random.Random(seed)
    virtual = 1 + seed % 2
    ranks = rng.randint(3, 8)
    form = rng.choice(["fused", "split", "split"])
    costs: dict[str, Any] = {
        name: [rng.randint(least, most) for _ in range(ranks * virtual)]
        for name, least, most in (("forward", 5, 12), ("backward_input", 5, 12), ("backward_weight", 3, 9))
    }
    return Problem.chain(
        ranks=ranks,
        microbatches=rng.randint(ranks // 2 + 1, 3 * ranks),
        virtual=virtual,
        placement=rng.choice(["loop", "v"]) if virtual == 2 else "loop",
        form=form,
        **costs,
        latency=rng.randint(0, 4),
        activation=2,
        weight_stash=1 if form == "split" else 0,
        capacity=2 * virtual * rng.randint((ranks + 1) // 2, 2 * ranks),
    )


def _case(problem: Problem, seconds: float, workers: int) -> Case:
    valid = (c.timeline.makespan for c in candidates(problem) if c.report.ok and c.family != "naive")
    family = min(valid, default=None)
    return Case(problem.total_stages // problem.ranks, optimize(problem, time_limit=seconds, workers=workers), family)


def _line(virtual: int, cases: Sequence[Case]) -> tuple[object, ...]:
    gaps = [float(case.plan.gap) for case in cases if case.plan.gap is not None]
    proved = sum(case.plan.status in (Status.OPTIMAL, Status.INFEASIBLE) for case in cases)
    gains = [
        float(1 - Fraction(case.plan.value, case.family))
        for case in cases
        if case.family and case.plan.value is not None
    ]
    return (
        virtual,
        len(cases),
        _share([proved / len(cases)] if cases else []),
        _share(gaps),
        _share(gaps, largest=True),
        len(gains),
        _share(gains),
        _share(gains, largest=True),
    )


def _share(shares: Sequence[float], *, largest: bool = False) -> str:
    """Return the mean or the largest of some shares as a percentage."""
    if not shares:
        return "-"
    return f"{100 * (max(shares) if largest else sum(shares) / len(shares)):.1f}%"


if __name__ == "__main__":
    main()
