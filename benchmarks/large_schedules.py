"""Large schedules: how long it takes to verify millions of operations, and to lower and verify a hundred thousand.

``python benchmarks/large_schedules.py`` verifies 1F1B with 256 ranks, each size in a process of its own, and lowers and
verifies interleaved 1F1B with 64 ranks beside PyTorch's ``_add_send_recv`` and ``_simulate_comms_compute``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from printing import publish, ratio, table, where

from schedverify import Problem, Schedule, generate, lower, verify

RANKS = 256
MILLION = 1_000_000
MILLIONS = (1, 2, 5, 10)
KIB, GB = 1024, 1e9
RUNS = 5


class Pace(NamedTuple):
    """How long verifying took, and the most memory that the whole process held, in bytes."""

    operations: int
    seconds: float
    memory: int


def main() -> None:
    """Measure both parts, and print a line for each size and each of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="put what is printed into docs/benchmarks.md")
    update = parser.parse_args().update
    alone(verified, 1)  # compiles the loops where no process has done so before
    paces = [alone(verified, millions) for millions in MILLIONS]
    rows = [
        (f"{pace.operations:,}", f"{pace.seconds:.2f}", f"{pace.seconds / pace.operations * 1e9:.0f}",
         f"{pace.memory / GB:.2f}") for pace in paces
    ]  # fmt: skip
    lines = list(beside_torch(64, 512, 2))
    text = f"""{where("numpy", "numba", "torch")}; no seed, nothing is drawn.

1F1B with {RANKS} ranks and a limit in flight of {RANKS}, verified in full:

{table(("operations", "seconds", "ns for each", "GB"), rows)}

Interleaved 1F1B with 64 ranks, 512 micro-batches and 2 stages a rank, 131,072 compute operations:

{table(("step", "ours, seconds", "PyTorch, seconds", "ratio"), lines)}"""
    publish("large-schedules", text, update=update)


def alone(work: Callable[[int], Pace], argument: int) -> Pace:
    """Do some work in a new process, so that its memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (argument,))


def verified(millions: int) -> Pace:
    """Verify 1F1B of so many million operations, once, with all that loading the compiled loops takes."""
    problem = Problem.chain(ranks=RANKS, microbatches=millions * MILLION // (2 * RANKS), in_flight=RANKS)
    schedule = generate("1f1b", problem)
    seconds = timed(lambda: verify(schedule, problem).raise_for_violations())[0]
    return Pace(len(schedule), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB)


def beside_torch(ranks: int, microbatches: int, virtual: int) -> list[tuple[str, ...]]:
    """Return a line for lowering, one for checking what comes out, and one for both."""
    from torch.distributed.pipelining import schedules

    problem = Problem.chain(ranks=ranks, microbatches=microbatches, virtual=virtual)
    order = generate("interleaved-1f1b", problem)
    lowered = lower(order, problem)
    verify(lowered, problem).raise_for_violations()
    ours = [
        median(lambda: lower(order, problem)),
        median(lambda: verify(lowered, problem).raise_for_violations()),
    ]
    stages = problem.total_stages
    actions = as_actions(order)
    first, added = timed(lambda: schedules._add_send_recv(actions, problem.owner_rank.__getitem__, stages))
    second, _ = timed(lambda: schedules._simulate_comms_compute(added, problem.owner_rank.__getitem__, stages))
    theirs = [first, second]
    names = ("lowering", "checking", "both")
    pairs = zip(names, [*ours, sum(ours)], [*theirs, sum(theirs)], strict=True)
    return [(name, f"{own:.2f}", f"{other:.2f}", ratio((True, own), (True, other))) for name, own, other in pairs]


def as_actions(schedule: Schedule) -> dict[int, list[Any]]:
    """Return the steps of each rank as PyTorch's own actions."""
    from torch.distributed.pipelining.schedules import _Action

    rows = schedule.strings()
    return {rank: [_Action.from_str(text) for text in row] for rank, row in enumerate(rows)}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that some work takes, and what it returns."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def median(work: Callable[[], Any]) -> float:
    """Return the median of the seconds of several runs."""
    return statistics.median(timed(work)[0] for _ in range(RUNS))


if __name__ == "__main__":
    main()
