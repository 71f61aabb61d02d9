"""How good is a verifier: faults planted in schedules of every family, and who takes the wrong or refuses the right.

``python benchmarks/false_accepts.py`` plants faults in compute orders and in schedules with communication: most
of them blindly, so that some come out right, the others by the test kit, each for a property that it names. Four in ten
are of drawn problems and orders that no family has, with every feature, under any discipline. What is
true of a mutant says the oracle of the tests, which shares no code with the verifier. Beside ours stand PyTorch's
``_validate_schedule``, the loading of a CSV (``compute_only``, ``compute_comms``), and loading followed by
``_simulate_comms_compute``. PyTorch is asked only of what its CSV can hold, and not of limits and shapes, which it does
not know.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from printing import progress, publish, table, where

import schedverify as sv
from schedverify.core.discipline import Discipline
from schedverify.core.errors import InputError
from schedverify.testing.faults import faults_at, places
from schedverify.torch_bridge.stand_ins import StandInStage

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracle.communication import Judge
from oracle.compute_orders import judge as judge_order
from oracle.law import Law
from oracle.lowered import shared_verdicts
from oracle.messages import Wires
from support.mutants import faulty
from support.mutants import mutant as order_mutant
from support.mutants_communication import faulty_lowered, lowered_mutant
from support.random_lowered import lowered, lowered_base, with_marks

MUTANTS, CHUNK, MUTANTS_OF_A_BASE = 100_000, 250, 50
SHAPES = ((2, 2), (2, 3), (2, 4), (3, 3), (3, 4), (4, 4))
DISCIPLINE = Discipline.EDGE
ORDERS, LOWERED = "compute orders", "with communication"
NAMED_ORDERS, NAMED_LOWERED = f"{ORDERS}, by the kit", f"{LOWERED}, by the kit"
DRAWN_ORDERS, DRAWN_LOWERED, DRAWN_NAMED = "drawn orders", "drawn, with communication", "drawn, by the kit"
KINDS = (
    ORDERS, LOWERED, ORDERS, LOWERED, NAMED_ORDERS, NAMED_LOWERED,
    DRAWN_ORDERS, DRAWN_LOWERED, DRAWN_LOWERED, DRAWN_NAMED,
)  # fmt: skip
"""In what a mutant's fault is planted, and by whom; they take turns."""
LIMITS = ("SV306", "SV401", "SV402")
"""What PyTorch knows nothing of."""
OURS, VALIDATE, LOADED, SIMULATED = "ours", "_validate_schedule", "CSV", "CSV, then simulated"
JUDGES = (OURS, VALIDATE, LOADED, SIMULATED)
MARKS = re.compile(r"[0-9]+(UNSHARD|RESHARD|REDUCE_GRAD)")

Rows = list[list[str]]
Counts = Counter[tuple[str, str, str, bool, bool]]
"""How often: what it was planted in, fault, judge, whether the mutant is right, whether the judge takes it."""


class Base(NamedTuple):
    """A right schedule of a family, as a compute order and with communication."""

    problem: sv.Problem
    rows: Rows
    lowered: Rows


class Mutant(NamedTuple):
    """A schedule with a fault or several planted in it, which may be right all the same."""

    base: Base
    within: str
    fault: str
    rows: Rows
    code: str = ""
    """The property that the fault is for, where the test kit planted it."""
    discipline: Discipline = DISCIPLINE

    @property
    def is_right(self) -> bool:
        """What the oracle says."""
        data = self.base.problem.to_dict()
        if self.within in (ORDERS, NAMED_ORDERS, DRAWN_ORDERS):
            return not any(judge_order(self.rows, data).values())
        oracle = Judge(self.rows, data)
        verdicts = shared_verdicts(oracle.program)
        return not any(verdicts.values()) and not any(oracle.verdicts(self.discipline).values())


def main() -> None:
    """Plant the faults, ask the judges, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=MUTANTS, help="mutants in all, every other one with communication")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--update", action="store_true", help="put what is printed into docs/benchmarks.md")
    chosen = parser.parse_args()
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.count)
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    counts: Counts = Counter()
    with progress() as bar, ProcessPoolExecutor() as pool:
        for found in bar.track(pool.map(judged, chunks), len(chunks), description="judging"):
            counts.update(found)
    text = f"""{where("torch")}; seeds {seeds[0]} to {seeds[-1]}.

{len(seeds)} mutants of {len(families())} families; with communication under `{DISCIPLINE}`.

{table(("planted in", "judge", "wrong", "false accepts", "rate", "right", "false rejects", "rate"), lines(counts))}

False accepts by fault, of those mutants that have this fault alone; in brackets, of how many wrong ones:

{table(("planted in", "fault", *JUDGES), by_fault(counts))}"""
    publish("false-accepts", text, update=chosen.update)


def judged(seeds: Iterable[int]) -> Counts:
    """Ask every judge about the mutants of some seeds."""
    counts: Counts = Counter()
    for mutant in map(mutant_of, seeds):
        is_right = mutant.is_right
        for judge, accepts in judges(mutant):
            counts[mutant.within, mutant.fault, judge, is_right, accepts(mutant)] += 1
    return counts


def mutant_of(seed: int) -> Mutant:
    """Return the mutant of a seed."""
    rng = random.Random(f"false accepts {seed}")
    names = families()
    number, within = seed // MUTANTS_OF_A_BASE, KINDS[seed % len(KINDS)]
    if within in (DRAWN_ORDERS, DRAWN_LOWERED, DRAWN_NAMED):
        return drawn_mutant(rng, within, seed)
    name, shape = names[number % len(names)], SHAPES[number // len(names) % len(SHAPES)]
    if within in (NAMED_ORDERS, NAMED_LOWERED):
        return named_mutant(rng, within, limited_base_of(name, *shape))
    base = base_of(name, *shape)
    data = base.problem.to_dict()
    if within == LOWERED:
        rows, fault = faulty_lowered(rng, base.lowered, Wires(data))
        return Mutant(base, LOWERED, fault, rows)
    rows, fault = faulty(rng, base.rows, Law(data))
    return Mutant(base, ORDERS, fault, rows)


def named_mutant(rng: random.Random, within: str, base: Base) -> Mutant:
    """Return one of the faults that the test kit plants at some place."""
    schedule = sv.Schedule.of(base.rows if within == NAMED_ORDERS else base.lowered)
    found = rng.choice(list(faults_at(schedule, rng.choice(places(schedule)), base.problem)))
    return Mutant(base, within, found.fault, found.schedule.strings(), found.code)


def drawn_mutant(rng: random.Random, within: str, seed: int) -> Mutant:
    """Return a mutant of a schedule of no family: of any problem and order, and under any discipline."""
    discipline = rng.choice(list(Discipline))
    if within == DRAWN_ORDERS:
        problem, rows, fault = order_mutant(seed)
        return Mutant(Base(problem, rows, []), within, fault, rows)
    if within == DRAWN_LOWERED:
        problem, rows, fault = lowered_mutant(seed)
        return Mutant(Base(problem, [], rows), within, fault, rows, discipline=discipline)
    base = lowered_base(seed // MUTANTS_OF_A_BASE)
    schedule = sv.Schedule.of(base.rows)
    found = rng.choice(list(faults_at(schedule, rng.choice(places(schedule)), base.problem)))
    return Mutant(Base(base.problem, [], base.rows), within, found.fault, found.schedule.strings(), found.code)


@lru_cache
def families() -> tuple[str, ...]:
    """Return the names of all families."""
    return tuple(family.name for family in sv.families())


@lru_cache(maxsize=128)
def base_of(name: str, ranks: int, microbatches: int) -> Base:
    """Return a family's schedule of a shape, or of so many micro-batches a rank where it does not take that."""
    problem = problem_of(name, ranks, microbatches) or problem_of(name, ranks, ranks)
    if problem is None:
        raise SystemExit(f"{name} takes no problem of {ranks} ranks")
    rows = sv.generate(name, problem).strings()
    with_messages = lowered(random.Random(f"{name} {ranks} {microbatches}"), rows, Wires(problem.to_dict()))
    return Base(problem, rows, [[re.sub("[<>][0-9]+", "", text) for text in row] for row in with_messages])


@lru_cache(maxsize=128)
def limited_base_of(name: str, ranks: int, microbatches: int) -> Base:
    """Return a base whose problem has limits at its schedule's peaks and declares shapes, with parameters gathered."""
    plain = base_of(name, ranks, microbatches)
    data = plain.problem.to_dict()
    data["memory"] |= {"activation": 2, "weight_stash": int(data["form"] == "split")}
    timeline = sv.simulate(sv.Schedule.of(plain.rows), sv.Problem.of(data))
    data["memory"]["capacity"], data["limits"] = timeline.peak_memory, {"in_flight": timeline.peak_in_flight}
    data["boundary"] = [{"from": s, "to": s + 1, "shape": [s + 1]} for s in range(plain.problem.stages - 1)]
    problem = sv.Problem.of(data)
    rng = random.Random(f"{name} {ranks} {microbatches} marks")
    return Base(problem, plain.rows, with_marks(rng, plain.lowered, Wires(problem.to_dict())))


def problem_of(name: str, ranks: int, microbatches: int) -> sv.Problem | None:
    """Return a problem that a family takes; of split form if it can be, as PyTorch takes B, I and W of any."""
    for form in ("split", "fused"):
        for virtual, placement in ((1, "loop"), (2, "loop"), (2, "v")):
            problem = sv.Problem.chain(
                ranks=ranks, microbatches=microbatches, virtual=virtual, placement=placement, form=form
            )
            try:
                sv.generate(name, problem)
            except InputError:
                continue
            return problem
    return None


def judges(mutant: Mutant) -> Iterator[tuple[str, Callable[[Mutant], bool]]]:
    """Yield who can be asked.

    PyTorch's CSV (2.13) has no groups, no named peers and no waits, its simulation no overlapped pairs; of what is
    drawn it is not asked.
    """
    yield OURS, ours
    if mutant.within in (DRAWN_ORDERS, DRAWN_LOWERED, DRAWN_NAMED):
        return
    text = "".join(map("".join, mutant.rows))
    if not re.search(r"[\[<>]|WAIT", text) and mutant.code not in LIMITS:
        if mutant.within in (ORDERS, NAMED_ORDERS):
            yield VALIDATE, validates
        yield LOADED, loads
        if "OVERLAP" not in text:
            yield SIMULATED, simulates


def ours(mutant: Mutant) -> bool:
    """Whether our verifier takes a mutant."""
    return sv.verify(sv.Schedule.of(mutant.rows), mutant.base.problem, discipline=mutant.discipline).ok


def validates(mutant: Mutant) -> bool:
    """Whether ``_validate_schedule`` takes it."""
    from torch.distributed.pipelining import schedules

    problem = mutant.base.problem

    def ask() -> None:
        actions = {rank: [schedules._Action.from_str(text) for text in row] for rank, row in enumerate(mutant.rows)}
        schedules._validate_schedule(actions, problem.ranks, problem.stages, problem.microbatches)

    return is_taken(ask)


def loads(mutant: Mutant) -> bool:
    """Whether the runtime loads it from a CSV."""
    return is_taken(lambda: loaded(mutant))


def simulates(mutant: Mutant) -> bool:
    """Whether the runtime loads it, and the simulation runs to its end; that does not know UNSHARD and its like."""
    from torch.distributed.pipelining import schedules

    def ask() -> None:
        runtime = loaded(mutant)
        order = {
            rank: [action for action in actions if action is None or not MARKS.fullmatch(str(action))]
            for rank, actions in runtime.pipeline_order_with_comms.items()
        }
        owner_rank = runtime.stage_index_to_group_rank
        schedules._simulate_comms_compute(order, lambda stage: owner_rank[stage], mutant.base.problem.stages)

    return is_taken(ask)


def loaded(mutant: Mutant) -> Any:
    """Return PyTorch's runtime with the mutant in it, as far as one can be had without a process group."""
    from torch.distributed.pipelining import schedules

    problem = mutant.base.problem
    own = [stage for stage, home in enumerate(problem.owner_rank) if home == 0]
    stages: list[Any] = [StandInStage(stage, problem.stages, problem.ranks) for stage in own]
    runtime = schedules._PipelineScheduleRuntime(stages, problem.microbatches)
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.write("".join(",".join(row) + "\n" for row in mutant.rows))
        file.flush()
        runtime._load_csv(file.name, "compute_only" if mutant.within in (ORDERS, NAMED_ORDERS) else "compute_comms")
    return runtime


def is_taken(ask: Callable[[], object]) -> bool:
    """Whether a judge says nothing; any exception refuses, and what is printed is dropped."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            ask()
    except Exception:  # assertions, KeyErrors and all else
        return False
    return True


def lines(counts: Counts) -> Iterator[tuple[object, ...]]:
    """Yield a line for each judge and what faults were planted in."""
    for within in dict.fromkeys(KINDS):
        for judge in JUDGES:
            found: Counter[tuple[bool, bool]] = Counter()
            for (place, _, who, is_right, accepts), count in counts.items():
                if (place, who) == (within, judge):
                    found[is_right, accepts] += count
            wrong, right = (found[is_right, True] + found[is_right, False] for is_right in (False, True))
            if wrong + right:
                accepted, refused = found[False, True], found[True, False]
                yield within, judge, wrong, accepted, rate(accepted, wrong), right, refused, rate(refused, right)


def by_fault(counts: Counts) -> Iterator[tuple[object, ...]]:
    """Yield a line for each fault: the false accepts of each judge, and of how many wrong mutants."""
    for within, fault in sorted({key[:2] for key in counts if " + " not in key[1]}):
        cells = []
        for judge in JUDGES:
            accepted, refused = (counts[within, fault, judge, False, accepts] for accepts in (True, False))
            cells.append(f"{accepted} ({accepted + refused})" if accepted + refused else "")
        yield within, fault, *cells


def rate(part: int, whole: int) -> str:
    """Return a share in per cent."""
    return f"{100 * part / whole:.1f}%" if whole else ""


if __name__ == "__main__":
    main()
