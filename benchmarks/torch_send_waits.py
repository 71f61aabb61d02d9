"""PyTorch's waits for sends, and what its dry run says of plans, beside ours; of torch 2.15 and later.

``python benchmarks/torch_send_waits.py`` draws 1,000 orders: shapes of PyTorch's classes, each with receives deferred
or not, and with so many sends that may be begun and not yet waited for on a rank (``max_outstanding_sends``). PyTorch's
passes lower each. Waits and receives are then moved by chance, as by an edit by hand, and PyTorch's dry run
(``_simulate_comms_compute``) and our verifier are asked whether each plan runs. In the same orders our pass places the
waits anew, and both placements are compared. Of each kind a sample runs over gloo.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from printing import progress, publish, table, where
from torch_under_proof import BUDGETS, FINE, HANGS, SEVERAL, Shape, by_torch, fares, grid, has_budgets, judged, within

from schedverify import Problem, Schedule, ScheduleError, simulate
from schedverify.core.discipline import Discipline
from schedverify.core.errors import InputError
from schedverify.core.op import Kind
from schedverify.lowering import add_late_waits
from schedverify.torch_bridge import torch_problem

RUNS, STOPS, NOT_READ = "runs", "stops", "not read"
AS_LOWERED, EARLIER_WAITS, EARLIER_RECEIVES, LATER_RECEIVES = (
    "as PyTorch lowers it", "waits moved forward", "receives moved forward", "receives moved back",
)  # fmt: skip
WAITS = (Kind.WAIT_SEND_F, Kind.WAIT_SEND_B)
RECEIVES = (Kind.RECV_F, Kind.RECV_B)
_SEND_OF = {Kind.WAIT_SEND_F: Kind.SEND_F, Kind.WAIT_SEND_B: Kind.SEND_B}
_READERS = {Kind.RECV_F: (Kind.F,), Kind.RECV_B: (Kind.B, Kind.I)}
_NOT_SIMULATED = (Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE_GRAD, Kind.WAIT_REDUCE_GRAD)
"""What PyTorch's dry run refuses to read; left out for it."""


class Drawn(NamedTuple):
    """A shape, what is asked of PyTorch's lowering, and the seed of what is moved."""

    shape: Shape
    deferred: bool
    budget: int | None
    seed: int

    def __str__(self) -> str:
        budget = "any number of" if self.budget is None else f"at most {self.budget}"
        return f"{self.shape}, {'receives deferred' if self.deferred else 'default'}, {budget} sends begun"


class Verdicts(NamedTuple):
    """What is said of one plan: by PyTorch's dry run, and by our verifier under two disciplines."""

    drawn: Drawn
    how: str
    theirs: str
    edge: str
    pair: str


class Placed(NamedTuple):
    """How our waits stand in an order beside PyTorch's; counts are None where one of the two has none.

    Attributes
    ----------
    theirs, ours
        How each fares under ``edge``, or that it was refused.
    moved
        How many of our waits stand later, at the same place, and earlier, between the operations that are no waits.
    ticks
        What both take under ``edge``, PyTorch's first: operations and messages take one tick, a B two.
    """

    drawn: Drawn
    theirs: str
    ours: str
    moved: tuple[int, int, int] | None = None
    ticks: tuple[int, int] | None = None


def main() -> None:
    """Draw orders, judge them, run a sample, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=1000, help="how many are drawn")
    parser.add_argument("--most", nargs=3, type=int, default=(6, 3, 12), metavar=("P", "V", "M"),
                        help="the largest shape")  # fmt: skip
    parser.add_argument("--sample", type=int, default=3, help="real runs of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--update", action="store_true", help="put what is printed into docs/benchmarks.md")
    chosen = parser.parse_args()
    if not has_budgets():
        raise SystemExit("torch 2.15 or later is needed: the one installed has no waits for sends")
    verdicts, placed = judge_all(drawn(chosen))
    dry_run = table(("plan", "PyTorch's dry run", "plans", "edge", "pair"), verdict_lines(verdicts))
    head = (
        "receives",
        "sends begun",
        "orders",
        "PyTorch's under edge",
        "ours under edge",
        "of our waits",
        "our makespan",
    )
    real = table(("plan", "PyTorch's dry run", "edge", "real run"), real_runs(verdicts, chosen))
    text = f"""{where("torch", "numpy")}; seed {chosen.seed}.

{len(placed)} orders on {len({each.drawn.shape for each in placed})} shapes, drawn from the classes of several stages a
rank with P from 2 to {chosen.most[0]}, V to {chosen.most[1]}, M to {chosen.most[2]}. What is said of them as they are,
and with waits or receives moved by chance; `{NOT_READ}` are overlapped pairs, which the dry run does not know:

{dry_run}

PyTorch's waits and ours in the same orders, where nothing hangs and no tensors are swapped without waits. Makespans are
under `edge`, with one tick for each operation and message, two for a B.

{table(head, placement_lines(placed))}

A sample of what the two say under `edge`, in real processes over gloo; the error is that of the gradients, relative to
those of one process:

{real}"""
    publish("torch-send-waits", text, update=chosen.update)


def drawn(chosen: argparse.Namespace) -> list[Drawn]:
    """Draw different orders: a shape and the options of PyTorch's lowering."""
    shapes = [shape for shape in grid(*chosen.most) if shape.name in SEVERAL]
    every = list(itertools.product(shapes, (False, True), (None, *BUDGETS)))
    picked = random.Random(chosen.seed).sample(every, min(chosen.orders, len(every)))
    return [Drawn(*options, seed) for seed, options in enumerate(picked)]


def judge_all(cases: list[Drawn]) -> tuple[list[Verdicts], list[Placed]]:
    """Judge all that was drawn, on all cores, and show how far it is."""
    verdicts, placed = [], []
    with progress() as bar, ProcessPoolExecutor() as pool:
        for found in bar.track(pool.map(judge, cases, chunksize=8), len(cases), description="judging"):
            verdicts += found[0]
            placed.append(found[1])
    return verdicts, placed


def judge(case: Drawn) -> tuple[list[Verdicts], Placed]:
    """Judge one order as it is and with parts of it moved, and its waits beside ours."""
    problem = torch_problem(case.shape.name, **case.shape.keys, latency=1)
    limited = within(problem, case.budget)
    unlimited = by_torch(case.shape, deferred=case.deferred, budget=None)
    try:
        lowered = by_torch(case.shape, deferred=case.deferred, budget=case.budget)
    except InputError:
        return [], beside(case, None, unlimited, limited)
    plans = [(how, plan, verdict(plan, problem)) for how, plan in variants(lowered, random.Random(case.seed))]
    verdicts = [Verdicts(case, how, *verdict) for how, _, verdict in plans]
    return verdicts, beside(case, lowered, unlimited, limited)


def verdict(plan: Schedule, problem: Problem) -> tuple[str, str, str]:
    """Return what PyTorch's dry run says of a plan, and our verifier under ``edge`` and ``pair``."""
    ours = (fares(judged(plan, problem, discipline)) for discipline in (Discipline.EDGE, Discipline.PAIR))
    return dry_run(plan, problem), *ours


def dry_run(plan: Schedule, problem: Problem) -> str:
    """Return what PyTorch's own dry run says of a plan."""
    from torch.distributed.pipelining import schedules

    rows = [[step for step in plan.steps(rank) if step.ops[0].kind not in _NOT_SIMULATED] for rank in range(plan.ranks)]
    if any(len(step.ops) > 1 for row in rows for step in row):
        return NOT_READ
    order = {rank: [schedules._Action.from_str(str(step)) for step in row] for rank, row in enumerate(rows)}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            schedules._simulate_comms_compute(order, problem.owner_rank.__getitem__, problem.stages)
    except ValueError as error:
        if "not progressing" not in str(error):
            raise
        return STOPS
    except IndexError:  # it cannot print where it stopped, where a rank has not begun
        return STOPS
    return RUNS


def variants(lowered: Schedule, rng: random.Random) -> Iterator[tuple[str, Schedule]]:
    """Yield an order as it is, and with a quarter of its waits or receives moved by chance.

    No step goes before what the runtime asks to stand before it, or behind what reads it.
    """
    yield AS_LOWERED, lowered
    rows = [[str(step) for step in lowered.steps(rank)] for rank in range(lowered.ranks)]
    for how, kinds, forward in (
        (EARLIER_WAITS, WAITS, True), (EARLIER_RECEIVES, RECEIVES, True), (LATER_RECEIVES, RECEIVES, False),
    ):  # fmt: skip
        yield how, Schedule.of(moved(lowered, rank, row, kinds, forward, rng) for rank, row in enumerate(rows))


def moved(
    lowered: Schedule, rank: int, row: list[str], kinds: tuple[Kind, ...], forward: bool, rng: random.Random
) -> list[str]:
    """Return a row with a quarter of the steps of some kinds moved, as far as they may."""
    result, bounds = list(row), {}
    for step in lowered.steps(rank):
        op = step.ops[0]
        if op.kind in WAITS:
            bounds[str(step)] = f"{op.stage}{_SEND_OF[op.kind].name}{op.microbatch}"
    for step in lowered.steps(rank):
        if step.ops[0].kind not in kinds or rng.random() > 0.25:
            continue
        at = result.index(str(step))
        if forward:
            first = result.index(bounds[str(step)]) + 1 if str(step) in bounds else 0
            to = rng.randint(max(first, at - 12), at)
        else:
            to = rng.randint(at, reader(lowered, rank, step.ops[0], result) - 1)
        result.insert(to, result.pop(at))
    return result


def reader(lowered: Schedule, rank: int, receive: Any, row: list[str]) -> int:
    """Return where the step stands that reads what is received."""
    wanted = _READERS[receive.kind]
    for step in lowered.steps(rank):
        if any(
            op.kind in wanted and (op.stage, op.microbatch) == (receive.stage, receive.microbatch) for op in step.ops
        ):
            return row.index(str(step))
    return len(row)


def beside(case: Drawn, theirs: Schedule | None, unlimited: Schedule, limited: Problem) -> Placed:
    """Place our waits in PyTorch's order, and compare."""
    bare = without_waits(unlimited)
    if fares(judged(bare, within(limited, None), Discipline.EDGE)) != FINE:
        return Placed(case, "wrong without waits", "wrong without waits")
    told = "refused" if theirs is None else fares(judged(theirs, limited, Discipline.EDGE))
    try:
        ours = add_late_waits(bare, limited, Discipline.EDGE)
    except ScheduleError:
        return Placed(case, told, "refused")
    found = fares(judged(ours, limited, Discipline.EDGE))
    if theirs is None or told != FINE or found != FINE:
        return Placed(case, told, found)
    ticks = tuple(simulate(each, limited, discipline="edge").makespan for each in (theirs, ours))
    return Placed(case, told, found, shifts(theirs, ours), (ticks[0], ticks[1]))


def without_waits(plan: Schedule) -> Schedule:
    """Return a plan without its waits for sends."""
    return Schedule.of(
        [str(step) for step in plan.steps(rank) if step.ops[0].kind not in WAITS] for rank in range(plan.ranks)
    )


def shifts(theirs: Schedule, ours: Schedule) -> tuple[int, int, int]:
    """Return how many of our waits stand later, at the same place, and earlier."""
    count: Counter[int] = Counter()
    for rank in range(theirs.ranks):
        before, after = places(theirs, rank), places(ours, rank)
        count.update((after[name] > before[name]) - (after[name] < before[name]) for name in before)
    return count[1], count[0], count[-1]


def places(plan: Schedule, rank: int) -> dict[str, int]:
    """Return behind how many steps that are no waits each wait of a rank stands."""
    found, passed = {}, 0
    for step in plan.steps(rank):
        if step.ops[0].kind in WAITS:
            found[str(step)] = passed
        else:
            passed += 1
    return found


def verdict_lines(verdicts: Iterable[Verdicts]) -> Iterator[tuple[object, ...]]:
    """Yield a line for each kind of plan and what PyTorch's dry run says of it."""
    of: dict[tuple[str, str], list[Verdicts]] = {}
    for each in verdicts:
        of.setdefault((each.how, each.theirs), []).append(each)
    for how in (AS_LOWERED, EARLIER_WAITS, EARLIER_RECEIVES, LATER_RECEIVES):
        for theirs in (RUNS, STOPS, NOT_READ):
            if members := of.get((how, theirs)):
                yield how, theirs, len(members), counted(m.edge for m in members), counted(m.pair for m in members)


def placement_lines(placed: Iterable[Placed]) -> Iterator[tuple[object, ...]]:
    """Yield a line for each kind of receives and budget."""
    of: dict[tuple[bool, int | None], list[Placed]] = {}
    for each in placed:
        of.setdefault((each.drawn.deferred, each.drawn.budget), []).append(each)
    for deferred in (False, True):
        for budget in (None, *BUDGETS):
            members = of.get((deferred, budget), [])
            shift = [sum(numbers) for numbers in zip(*(m.moved for m in members if m.moved), strict=True)] or [0] * 3
            waits = ", ".join(f"{n} {word}" for n, word in zip(shift, ("later", "same", "earlier"), strict=True) if n)
            signs = (
                ("shorter", "equal", "longer")[(b > a) - (b < a) + 1] for a, b in (m.ticks for m in members if m.ticks)
            )
            words = ("deferred" if deferred else "default", "any" if budget is None else budget, len(members))
            yield *words, counted(m.theirs for m in members), counted(m.ours for m in members), waits, counted(signs)


def counted(words: Iterable[str]) -> str:
    """Return how often each word occurs, the most frequent first."""
    return ", ".join(f"{number} {word}" for word, number in Counter(words).most_common())


def real_runs(verdicts: list[Verdicts], chosen: argparse.Namespace) -> Iterator[tuple[object, ...]]:
    """Run a sample of the plans of two ranks."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from torch_under_proof import shown

    from support.gloo_pool import GlooPool
    from support.torch_runs import error_of, in_one_process, of_a_csv

    with GlooPool(2) as pool:
        for each in sampled(verdicts, chosen):
            case = each.drawn
            problem = torch_problem(case.shape.name, **case.shape.keys)
            lowered = by_torch(case.shape, deferred=case.deferred, budget=case.budget)
            plan = dict(variants(lowered, random.Random(case.seed)))[each.how]
            text = "\n".join(",".join(row) for row in plan.strings()) + "\n"
            timeout = 10 if each.edge == HANGS else 60
            outcomes = pool.run(of_a_csv, text, problem.owner_rank, case.shape.microbatches, timeout=timeout)
            true = in_one_process(problem.stages, case.shape.microbatches)
            yield f"{case}; {each.how}", each.theirs, each.edge, shown(outcomes, true, error_of)


def sampled(verdicts: list[Verdicts], chosen: argparse.Namespace) -> Iterator[Verdicts]:
    """Yield some plans of two ranks of each kind, as dry run and verifier say, but for those on which both say yes."""
    rng, of = random.Random(chosen.seed), dict[tuple[str, str], list[Verdicts]]()
    for each in verdicts:
        if each.drawn.shape.ranks == 2 and each.theirs != NOT_READ and (each.theirs, each.edge) != (RUNS, FINE):
            of.setdefault((each.theirs, each.edge), []).append(each)
    for _, members in sorted(of.items()):
        yield from rng.sample(members, min(len(members), chosen.sample))


if __name__ == "__main__":
    main()
