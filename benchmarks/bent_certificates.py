"""Bends certificates of every rule, for as long as one likes: whether any proves more than the best schedule has.

``python benchmarks/bent_certificates.py --seconds 600`` takes one small problem after another, whose best schedules are
known, claims a bound that is too high, and offers evidence of every rule with something bent: numbers moved, rules and
places exchanged, lists cut and doubled, another objective, a higher bound. Right is that each is refused, violated or
undecided. What is believed is printed with all that it takes to see it again, and ends with exit code 1.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

from printing import publish, table, where

import schedverify as sv
from schedverify.core.errors import SchedverifyError
from schedverify.optimizer.bounds.formulas import best_bound
from schedverify.optimizer.counts.bound import count_bounds
from schedverify.verifier.certificates import EvidenceError, proved_bound, proved_peak

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracle.brute_force import brute_force
from oracle.compute_orders import peaks
from oracle.law import Law
from oracle.span import batch_of, by_cycle_means
from oracle.times import Clock, measures
from support.random_schedules import random_data, random_rows, with_limits

OBJECTIVES: Final = ("makespan", "span", "peak-memory")
REFUSED, VIOLATED, UNDECIDED, BELIEVED = "refused", "violated", "undecided", "believed"
MOST_OPERATIONS: Final = 20
"""So many operations can be tried in all orders in a moment."""
DRAWN: Final = 10
"""Schedules drawn of a problem beside the best, to make false claims of."""
BENT_OF_A_PROBLEM: Final = 120

Rows = list[list[str]]
Certificate = dict[str, Any]


class Outcome(NamedTuple):
    """What became of one attack: what it was in a few words, what the verifier said, and all of it where it got by."""

    attack: str
    said: str
    story: str = ""


class Known(NamedTuple):
    """A schedule and what it comes to, by the oracle's account."""

    rows: Rows
    values: dict[str, int]


# Problems whose best schedules are known


class Subject:
    """A problem, schedules of it that are known, among them the best where all orders could be tried."""

    def __init__(self, problem: sv.Problem, rows: list[Rows]) -> None:
        self.problem, self.data = problem, problem.to_dict()
        within = problem.makespan_limit
        known = [Known(each, self.values(each)) for each in rows]
        self.known = [each for each in known if within is None or each.values["makespan"] <= within]

    def values(self, rows: Rows) -> dict[str, int]:
        """Return what a schedule comes to by each objective."""
        found = measures(rows, self.data)
        held = max(peaks(rows, self.data)["capacity"])
        return {
            "makespan": found["makespan"],
            "span": by_cycle_means(batch_of(Clock(rows, self.data)), len(rows)),
            "peak-memory": held,
        }

    def best(self, objective: str, ceiling: tuple[str, int] | None = None) -> int | None:
        """Return the least value that is known, among the schedules within a ceiling."""
        fitting = (each.values for each in self.known if ceiling is None or each.values[ceiling[0]] <= ceiling[1])
        return min((values[objective] for values in fitting), default=None)


def subject_of(rng: random.Random) -> Subject:
    """Draw a problem with the schedules that are known of it."""
    while True:
        data = random_data(rng)
        law = Law(sv.Problem.of(data).to_dict())
        if len(list(law.pairs())) * len(law_kinds(law)) <= MOST_OPERATIONS:
            break
    if rng.random() < 0.2:
        data["costs"] = scaled(data["costs"], rng.choice([0, 1 << 40]))
    rows = random_rows(rng, law)
    data, fits = with_limits(rng, data, rows)
    problem = sv.Problem.of(data)
    found = [rows] if fits else []
    # Pairs that cost less than their sum are no part of the brute force; what is drawn has some.
    found += [
        each for each in (random_rows(rng, law) for _ in range(DRAWN)) if sv.verify(sv.Schedule.of(each), problem).ok
    ]
    found += brute_force(problem).rows.values()
    subject = Subject(problem, found)
    if subject.known and rng.random() < 0.2:
        limit = max(1, rng.choice(subject.known).values["makespan"])
        limited = data | {"limits": data.get("limits", {}) | {"makespan": limit}}
        subject = Subject(sv.Problem.of(limited), found)
    return subject if subject.known else subject_of(rng)


def law_kinds(law: Law) -> str:
    """Return the kinds of the operations that a micro-batch has on a stage."""
    return {"fused": "FB", "split": "FIW", "inference": "F"}[law.form]


def scaled(costs: Any, factor: int) -> Any:
    """Return costs times a factor; the stages of an overlapped pair stay."""
    if isinstance(costs, dict):
        return {key: value if key in ("forward", "backward") and "cost" in costs and isinstance(value, int)
                else scaled(value, factor) for key, value in costs.items()}  # fmt: skip
    return [scaled(value, factor) for value in costs] if isinstance(costs, list) else costs * factor


# Evidence, true and bent


def evidence_of(problem: sv.Problem, rng: random.Random) -> list[Certificate]:
    """Return evidence of every rule at every place, true or not, and what the search finds of the rule counts."""
    ranks, stages = range(problem.ranks), range(problem.total_stages)
    found: list[Certificate] = [{"rule": rule, "rank": rank} for rule in ("load", "idle", "sequence") for rank in ranks]
    found += [{"rule": "pair", "stages": [s, t]} for s in stages for t in stages]
    found += [{"rule": "memory", "stage": s} for s in stages]
    takes_time = any((*problem.forward, *problem.backward, *problem.backward_input, *problem.backward_weight))
    for objective in ("makespan", "span") if takes_time else ():
        bound = best_bound(problem, objective)
        lower = 0 if rng.random() < 0.5 or bound is None else bound.value
        found += [dict(each.evidence) for each in count_bounds(problem, objective, lower=lower, upper=None, seconds=1)]
    return found


def bent(rng: random.Random, evidence: list[Certificate]) -> tuple[str, Certificate]:
    """Return evidence with one to three things bent, and their names."""
    certificate = copy.deepcopy(rng.choice(evidence))
    chosen = rng.choices(list(BENDS), k=rng.choice([1, 1, 2, 3]))
    for name in chosen:
        BENDS[name](rng, certificate, evidence)
    return chosen[0] if len(chosen) == 1 else "several", certificate


def another_number(rng: random.Random, value: Any) -> Any:
    """Return a number near another, or far from it, or none."""
    near = value if isinstance(value, int) else 0
    return rng.choice(
        [near + 1, near - 1, 2 * near, -near, 0, near + rng.randint(2, 9), 1 << 62, -1, True, None, "1", 0.5]
    )


def move_a_number(rng: random.Random, certificate: Certificate, _: list[Certificate]) -> None:
    """Move one number, wherever it stands."""
    places = list(numbers(certificate))
    if places:
        holder, key = rng.choice(places)
        holder[key] = another_number(rng, holder[key])


def numbers(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every number in evidence, as what holds it and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        if isinstance(item, int):
            yield value, key
        yield from numbers(item)


def another_rule(rng: random.Random, certificate: Certificate, _: list[Certificate]) -> None:
    """Name another rule for the same place or rows."""
    certificate["rule"] = rng.choice(["load", "pair", "idle", "counts", "sequence", "memory"])


def another_place(rng: random.Random, certificate: Certificate, evidence: list[Certificate]) -> None:
    """Exchange ranks and stages: those of other evidence, or a rank's number for a stage's."""
    other = rng.choice(evidence)
    for key in ("rank", "stage", "stages"):
        if key in other and rng.random() < 0.7:
            certificate[key] = copy.deepcopy(other[key])
    if "stages" in certificate and rng.random() < 0.5:
        certificate["stages"] = certificate["stages"][::-1] if isinstance(certificate["stages"], list) else [0, 0]


def another_row(rng: random.Random, certificate: Certificate, evidence: list[Certificate]) -> None:
    """Give a row of weights another name or place, cut or double a list, or take over a row of other evidence."""
    rows = certificate.get("rows")
    if not isinstance(rows, list) or not rows:
        certificate["rows"] = copy.deepcopy(rng.choice(evidence).get("rows", []))
        return
    row = rng.choice(rows)
    what = rng.randrange(6)
    if what == 0:
        rows.append(copy.deepcopy(row))
    elif what == 1:
        rows.remove(row)
    elif what == 2 and isinstance(row, dict):
        row["row"] = rng.choice(
            ["forward", "gradient", "turn", "weight", "rank", "bytes", "in_flight", "in_flight_stage"]
        )
    elif what == 3 and isinstance(row, dict) and isinstance(row.get("at"), list):
        row["at"] = row["at"][::-1] if rng.random() < 0.5 else row["at"] + [0]
    elif isinstance(row, dict) and isinstance(row.get("weights"), list) and isinstance(row.get("times"), list):
        cut = rng.choice(["weights", "times"])
        row[cut] = row[cut][:-1] if what == 4 else row[cut][::-1]


def more_weight(rng: random.Random, certificate: Certificate, _: list[Certificate]) -> None:
    """Let one row weigh more, or for longer."""
    rows = certificate.get("rows")
    row = rng.choice(rows) if isinstance(rows, list) and rows else None
    if isinstance(row, dict) and isinstance(row.get("weights"), list) and isinstance(row.get("times"), list):
        if rng.random() < 0.5:
            row["weights"] = [weight * 3 if isinstance(weight, int) else weight for weight in row["weights"]]
        elif row["times"] and isinstance(row["times"][-1], int):
            row["times"][-1] += rng.choice([1, 5, 1 << 20])


def another_objective(rng: random.Random, certificate: Certificate, _: list[Certificate]) -> None:
    """Name an objective in the evidence, another or none that there is."""
    certificate["objective"] = rng.choice([*OBJECTIVES, "period", None, ["makespan"]])


def merged(rng: random.Random, certificate: Certificate, evidence: list[Certificate]) -> None:
    """Add the keys of other evidence."""
    certificate |= {key: copy.deepcopy(value) for key, value in rng.choice(evidence).items() if key not in certificate}


def dropped_key(rng: random.Random, certificate: Certificate, _: list[Certificate]) -> None:
    """Leave a key away."""
    certificate.pop(rng.choice([*certificate, ""]), None)


def nothing(_rng: random.Random, _certificate: Certificate, _evidence: list[Certificate]) -> None:
    """Bend nothing but the bound, which the claim raises."""


BENDS: dict[str, Callable[[random.Random, Certificate, list[Certificate]], None]] = {
    "only a higher bound": nothing,
    "a number moved": move_a_number,
    "another rule": another_rule,
    "another place": another_place,
    "another row": another_row,
    "more weight": more_weight,
    "another objective": another_objective,
    "keys of two": merged,
    "a key less": dropped_key,
}


# Claims


def certificates(rng: random.Random) -> Iterator[Outcome]:
    """Claim too high bounds of one problem, each with bent evidence."""
    subject = subject_of(rng)
    evidence = evidence_of(subject.problem, rng)
    for _ in range(BENT_OF_A_PROBLEM):
        name, certificate = bent(rng, evidence)
        yield attacked(rng, subject, certificate, name)


def attacked(rng: random.Random, subject: Subject, certificate: Certificate, name: str) -> Outcome:
    """Claim a bound above the best that is known, alone or behind another objective; say what the verifier says."""
    # A schedule that is the best itself refutes any bound above it; one that is worse leaves that to the evidence.
    worse = [
        (objective, each)
        for objective in OBJECTIVES
        for each in subject.known
        if each.values[objective] > (subject.best(objective) or 0)
    ]
    objective, shown = rng.choice(worse or [(one, each) for one in OBJECTIVES for each in subject.known])
    others = ["makespan", "span"] if objective == "peak-memory" else ["peak-memory"]
    first = rng.choice([None, None, *others])
    ceiling = None if first is None else (first, shown.values[first])
    best = subject.best(objective, ceiling)
    assert best is not None, "the schedule itself is within its own ceiling"
    claimed = best + rng.choice([1, 1, 1, 2, 5])
    stated = [
        claimed,
        claimed,
        claimed,
        derived(subject.problem, objective, certificate, ceiling),
        another_number(rng, claimed),
    ]
    certificate["bound"] = rng.choice(stated)
    goal = {"objective": objective, "value": shown.values[objective], "bound": claimed, "certificate": certificate}
    claims = goal if ceiling is None else {"objective": ceiling[0], "value": ceiling[1], "then": goal}
    attack = f"{certificate.get('rule')}: {name}" if isinstance(certificate.get("rule"), str) else f"none: {name}"
    said = answer(subject.problem, shown.rows, claims)
    proved = derived(subject.problem, objective, certificate, ceiling)
    if said == BELIEVED or proved > best:
        story = f"best known {best}, derived {proved}; claims {claims}\nrows {shown.rows}\nproblem {subject.data}"
        return Outcome(attack, BELIEVED, story)
    return Outcome(attack, said)


def answer(problem: sv.Problem, rows: Rows, claims: dict[str, Any]) -> str:
    """Return what the verifier says of claims of which at least one is false."""
    try:
        report = sv.verify(sv.Schedule.of(rows), problem, select=["SV5"], claims=claims)
    except SchedverifyError:
        return REFUSED
    verdicts = {result.verdict for result in report.properties}
    if "violated" in verdicts:
        return VIOLATED
    return UNDECIDED if "undecided" in verdicts else BELIEVED


def derived(problem: sv.Problem, objective: str, certificate: Certificate, ceiling: tuple[str, int] | None) -> int:
    """Return the bound that is derived from evidence itself, whatever is claimed; 0 where it is none."""
    prove = proved_peak if objective == "peak-memory" else proved_bound
    try:
        return prove(problem, objective, certificate, ceiling)
    except EvidenceError:
        return 0


FAMILIES: dict[str, Callable[[random.Random], Iterator[Outcome]]] = {"certificates": certificates}
"""By name, attacks of one kind: each takes random numbers and yields the outcomes of what it tries."""


def outcomes(families: list[str], seed: int) -> Iterator[tuple[str, Outcome]]:
    """Yield the outcomes of one attack after another, of all families in turn, for ever; the same of the same seed."""
    for number in count():
        for family in families:
            rng = random.Random(f"{family} {seed} {number}")
            yield from ((family, outcome) for outcome in FAMILIES[family](rng))


def main() -> None:
    """Attack, count, and print what was believed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help=f"of {', '.join(FAMILIES)}; all by default")
    parser.add_argument("--count", type=int, help="attacks after which it ends")
    parser.add_argument("--seconds", type=float, help="seconds after which it ends; 60 where no count is given either")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--update", action="store_true", help="put what is printed into docs/benchmarks.md")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.families if name not in FAMILIES]
    if unknown:
        parser.error(f"no attacks named {', '.join(unknown)}; known: {', '.join(FAMILIES)}")
    seconds = 60.0 if chosen.seconds is None and chosen.count is None else chosen.seconds
    end = None if seconds is None else time.monotonic() + seconds
    tried: Counter[tuple[str, str, str]] = Counter()
    believed = []
    for family, outcome in outcomes(chosen.families or list(FAMILIES), chosen.seed):
        tried[family, outcome.attack, outcome.said] += 1
        if outcome.said == BELIEVED:
            believed.append(f"{family}, {outcome.attack}:\n{outcome.story}")
            print(believed[-1], file=sys.stderr, flush=True)
        if tried.total() == chosen.count or (end is not None and time.monotonic() > end):
            break
    publish("bent-certificates", told(tried, chosen.seed), update=chosen.update)
    sys.exit(1 if believed else 0)


def told(tried: Counter[tuple[str, str, str]], seed: int) -> str:
    """Return the table of what was tried and what was said of it."""
    said = (REFUSED, VIOLATED, UNDECIDED, BELIEVED)
    attacks = sorted({key[:2] for key in tried})
    rows = [[*attack, *(tried[(*attack, each)] for each in said)] for attack in attacks]
    rows.append(["all", "", *(sum(row[2 + i] for row in rows) for i in range(len(said)))])
    return f"{where('ortools')}; {tried.total()} attacks, seed {seed}.\n\n{table(['family', 'attack', *said], rows)}"


if __name__ == "__main__":
    main()
