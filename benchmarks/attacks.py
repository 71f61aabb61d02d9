"""Is anything false believed: plans that claim too much and bent certificates, for as long as one likes.

``python benchmarks/attacks.py`` draws plans, changes one key of each or several, makes the digest anew and asks the
reader and the verifier. What they believe is printed, unless the oracle of the tests, which shares no code with them,
derives it as well: then the plan claims less than before, or something else that is true.

Each family of attacks is a function from random numbers to an :class:`Outcome`, in :data:`FAMILIES`.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import bent_certificates
from printing import arguments, progress, publish, table, where

from schedverify.core.errors import SchedverifyError
from schedverify.core.schedule import Schedule
from schedverify.formats.plan_files import to_json
from schedverify.planner.plans import plan_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import attacked_plans
from support.random_schedules import base

REFUSED, BELIEVED, TRUE = "refused", "believed", "true all the same"
VERDICTS = (REFUSED, "violated", "undecided", "not applicable", TRUE, BELIEVED)
MOST_BASES, MOST_TOLD = 200, 20


class Outcome(NamedTuple):
    """What became of one attack: one of :data:`VERDICTS`, and the attack in a line."""

    verdict: str
    told: str


def one_key(rng: random.Random) -> Outcome:
    """Change one key of a plan, take it away, or add one."""
    data = drawn_plan(rng)
    change = attacked_plans.random_change(rng, data)
    return outcome(change.data, change.told, lambda: bool(attacked_plans.why_believed(data, change)))


def several_keys(rng: random.Random) -> Outcome:
    """Change two to five keys of a plan, one after another."""
    data, told = drawn_plan(rng), []
    for _ in range(rng.randint(2, 5)):
        change = attacked_plans.random_change(rng, data, alike=True)
        data = change.data
        told.append(change.told)
    return outcome(data, "; ".join(told), lambda: attacked_plans.is_true(data))


def raised_figures(rng: random.Random) -> Outcome:
    """Add the same ticks to all figures of a plan that are equal to one of them: a lie that agrees with itself."""
    data = drawn_plan(rng)
    lie, figures = json.loads(json.dumps(data)), [value for value in _numbers(data) if value]
    if not figures:
        return Outcome(REFUSED, "no figures")
    figure, more = rng.choice(figures), rng.choice([-1, 1, 2])
    for name in ("measures", "lowered", "timeline", "value", "bound", "certificate", "then"):
        lie[name] = _raised(lie[name], figure, more)
    return outcome(lie, f"every {figure} becomes {figure + more}", lambda: attacked_plans.is_true(lie))


def bent_certificate(rng: random.Random) -> Outcome:
    """Claim a bound above the best of a problem, with bent evidence; see :mod:`bent_certificates`."""
    subject, evidence = known_problem(rng.randrange(MOST_BASES))
    name, certificate = bent_certificates.bent(rng, evidence)
    found = bent_certificates.attacked(rng, subject, certificate, name)
    return Outcome(found.said, f"{found.attack} {found.story}")


@cache
def known_problem(number: int) -> tuple[bent_certificates.Subject, list[bent_certificates.Certificate]]:
    """Return a problem whose best schedules are known, and evidence of every rule."""
    rng = random.Random(f"certificate {number}")
    subject = bent_certificates.subject_of(rng)
    return subject, bent_certificates.evidence_of(subject.problem, rng)


FAMILIES: dict[str, Callable[[random.Random], Outcome]] = {
    "a plan, one key": one_key,
    "a plan, several keys": several_keys,
    "a plan, one figure throughout": raised_figures,
    "a bent certificate": bent_certificate,
}


def outcome(data: dict[str, Any], told: str, is_true: Callable[[], bool]) -> Outcome:
    """Return what the reader and the verifier say of a plan, and what the oracle says where they believe it."""
    report = attacked_plans.report_on(data)
    if report is None:
        return Outcome(REFUSED, told)
    if not report.ok:
        return Outcome(report.verdict.value, told)
    try:
        believed_rightly = is_true()
    except (ArithmeticError, AttributeError, LookupError, SchedverifyError, TypeError, ValueError):
        believed_rightly = False  # of what the oracle cannot even read nothing follows
    return Outcome(TRUE if believed_rightly else BELIEVED, told)


def drawn_plan(rng: random.Random) -> dict[str, Any]:
    """Return the data of a plan: of every kind in turn, or of a random order of a random problem."""
    if rng.random() < 0.5:
        return json.loads(attacked_plans.plan_text(rng.choice(sorted(attacked_plans.plans()))))
    return json.loads(random_plan(rng.randrange(MOST_BASES)))


@cache
def random_plan(number: int) -> str:
    """Return the file of the plan of the first random order from a number on that keeps its limits with messages."""
    found = base(number)
    try:
        return to_json(plan_of(Schedule.of(found.rows), found.problem))
    except SchedverifyError:
        return random_plan(number + 1)


def _numbers(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [number for name, item in value.items() if name != "problem" for number in _numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if type(value) is int else []


def _raised(value: Any, figure: int, more: int) -> Any:
    if isinstance(value, dict):
        return {name: _raised(item, figure, more) for name, item in value.items()}
    if isinstance(value, list):
        return [_raised(item, figure, more) for item in value]
    return value + more if type(value) is int and value == figure else value


def attacked(family: str, seed: int, count: int, seconds: float) -> tuple[Counter[str], list[str]]:
    """Return how often each verdict was given to a family's attacks, and those that were believed."""
    counts, believed = Counter[str](), list[str]()
    until = time.monotonic() + seconds if seconds else None
    with progress() as shown:
        task = shown.add_task(family, total=None if until else count)
        number = 0
        while time.monotonic() < until if until else number < count:
            found = FAMILIES[family](random.Random(f"{family} {seed} {number}"))
            counts[found.verdict] += 1
            believed += [f"{family}, {number}: {found.told}"] * (found.verdict == BELIEVED)
            number += 1
            shown.advance(task)
    return counts, believed


def main() -> int:
    """Attack, print what became of it, and return whether anything false was believed."""
    parser = arguments(__doc__.partition("\n")[0], 0)
    parser.add_argument("--count", type=int, default=1000, help="attacks of each family, where no seconds are given")
    parser.add_argument("--seed", type=int, default=0, help="of the first attack")
    parser.add_argument("--family", choices=FAMILIES, action="append", help="all by default")
    given = parser.parse_args()
    rows, believed = [], []
    for family in given.family or FAMILIES:
        counts, lies = attacked(family, given.seed, given.count, given.seconds)
        rows.append([family, counts.total(), *(counts[verdict] for verdict in VERDICTS)])
        believed += lies
    text = f"{where('numpy')}; seed {given.seed}.\n\n" + table(["attack", "tried", *VERDICTS], rows)
    publish("attacks", text, update=given.update)
    print("\n".join(believed[:MOST_TOLD]), end="\n" if believed else "")
    return 1 if believed else 0


if __name__ == "__main__":
    sys.exit(main())
