"""Evidence of every rule with something bent, offered for bounds above the best schedules, which are known.

Small problems whose best schedules are known, by all their orders, are claimed to have a bound that is too high, with
numbers of true evidence moved, rules and places exchanged, lists cut and doubled, another objective, a higher bound.
Right is that each claim is refused, violated or undecided. What is bent here shares nothing with what judges it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from oracle.brute_force import brute_force
from oracle.compute_orders import peaks
from oracle.law import Law
from oracle.span import batch_of, by_cycle_means
from oracle.times import Clock, measures
from schedverify.core.errors import SchedverifyError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.optimizer.bounds.formulas import best_bound
from schedverify.optimizer.counts.bound import count_bounds
from schedverify.verifier.certificates import EvidenceError, proved_bound, proved_peak
from schedverify.verifier.verification import verify
from support.random_schedules import random_data, random_rows, with_limits

OBJECTIVES: Final = ("makespan", "span", "peak-memory")
REFUSED, VIOLATED, UNDECIDED, BELIEVED = "refused", "violated", "undecided", "believed"
MOST_OPERATIONS: Final = 20
"""So many operations can be tried in all orders in a moment."""
DRAWN: Final = 10
"""Schedules drawn of a problem beside the best, to make false claims of."""

Rows = list[list[str]]
Certificate = dict[str, Any]


class Attack(NamedTuple):
    """What became of one attack: the rule and what was bent, what the verifier said, and all of it where it got by."""

    kind: str
    said: str
    story: str = ""


class Known(NamedTuple):
    """A schedule and what it comes to, by the oracle's account."""

    rows: Rows
    values: dict[str, int]


# Problems whose best schedules are known


class Subject:
    """A problem, schedules of it that are known, among them the best where all orders could be tried."""

    def __init__(self, problem: Problem, rows: list[Rows]) -> None:
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
        law = Law(Problem.of(data).to_dict())
        if len(list(law.pairs())) * len(law_kinds(law)) <= MOST_OPERATIONS:
            break
    if rng.random() < 0.2:
        data["costs"] = scaled(data["costs"], rng.choice([0, 1 << 40]))
    rows = random_rows(rng, law)
    data, fits = with_limits(rng, data, rows)
    problem = Problem.of(data)
    found = [rows] if fits else []
    # Pairs that cost less than their sum are no part of the brute force; what is drawn has some.
    found += [each for each in (random_rows(rng, law) for _ in range(DRAWN)) if verify(Schedule.of(each), problem).ok]
    found += brute_force(problem).rows.values()
    subject = Subject(problem, found)
    if subject.known and rng.random() < 0.2:
        limit = max(1, rng.choice(subject.known).values["makespan"])
        limited = data | {"limits": data.get("limits", {}) | {"makespan": limit}}
        subject = Subject(Problem.of(limited), found)
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


def evidence_of(problem: Problem, rng: random.Random) -> list[Certificate]:
    """Return evidence of every rule at every place, true or not, and what the search finds of the rule counts."""
    ranks, stages = range(problem.ranks), range(problem.total_stages)
    found: list[Certificate] = [{"rule": rule, "rank": rank} for rule in ("load", "idle", "sequence") for rank in ranks]
    found += [{"rule": "pair", "stages": [s, t]} for s in stages for t in stages]
    found += [{"rule": "memory", "stage": s} for s in stages]
    for objective in ("makespan", "span"):
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


def attacked(rng: random.Random, subject: Subject, certificate: Certificate, name: str) -> Attack:
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
    kind = f"{certificate.get('rule')}: {name}" if isinstance(certificate.get("rule"), str) else f"none: {name}"
    said = answer(subject.problem, shown.rows, claims)
    proved = derived(subject.problem, objective, certificate, ceiling)
    if said == BELIEVED or proved > best:
        story = f"best known {best}, derived {proved}; claims {claims}\nrows {shown.rows}\nproblem {subject.data}"
        return Attack(kind, BELIEVED, story)
    return Attack(kind, said)


def answer(problem: Problem, rows: Rows, claims: dict[str, Any]) -> str:
    """Return what the verifier says of claims of which at least one is false."""
    try:
        report = verify(Schedule.of(rows), problem, select=["SV5"], claims=claims)
    except SchedverifyError:
        return REFUSED
    verdicts = {result.verdict for result in report.properties}
    if "violated" in verdicts:
        return VIOLATED
    return UNDECIDED if "undecided" in verdicts else BELIEVED


def derived(problem: Problem, objective: str, certificate: Certificate, ceiling: tuple[str, int] | None) -> int:
    """Return the bound that is derived from evidence itself, whatever is claimed; 0 where it is none."""
    prove = proved_peak if objective == "peak-memory" else proved_bound
    try:
        return prove(problem, objective, certificate, ceiling)
    except EvidenceError:
        return 0
