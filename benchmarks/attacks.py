"""Is anything false believed: plans that claim too much and bent certificates, for as long as one likes.

``python benchmarks/attacks.py`` draws plans, changes one key of each or several, makes the digest anew and asks the
reader and the verifier. What they believe is printed, unless the oracle of the tests, which shares no code with them,
derives it as well: then the plan claims less than before, or something else that is true. It also claims bounds above
the best schedules of small problems, with bent evidence of every rule, of which none may be believed; these are told
by rule in a table of their own. ``--family "a bent certificate" --count 40000`` tries so many of these alone.

Each family of attacks is a function from random numbers, and the number of the plan or problem that is attacked, to an
:class:`Outcome`, in :data:`FAMILIES`.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from printing import arguments, progress, publish, table, where

from schedverify.core.errors import SchedverifyError
from schedverify.core.schedule import Schedule
from schedverify.formats.plan_files import to_json
from schedverify.planner.plans import plan_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import attacked_certificates, attacked_plans
from support.random_schedules import base

REFUSED, BELIEVED, TRUE = "refused", "believed", "true all the same"
VERDICTS = (REFUSED, "violated", "undecided", "not applicable", TRUE, BELIEVED)
OF_CLAIMS = (REFUSED, "violated", "undecided", BELIEVED)
ATTACKS_OF_A_BASE, BASES_OF_A_SEED, MOST_TOLD = 100, 100_000, 20
CERTIFICATES = "a bent certificate"


class Outcome(NamedTuple):
    """What became of one attack: one of :data:`VERDICTS`, the attack in a line, and of which kind in its family."""

    verdict: str
    told: str
    kind: str = ""


def one_key(rng: random.Random, base_number: int) -> Outcome:
    """Change one key of a plan, take it away, or add one."""
    data = drawn_plan(rng, base_number)
    change = attacked_plans.random_change(rng, data)
    return outcome(change.data, change.told, lambda: bool(attacked_plans.why_believed(data, change)))


def several_keys(rng: random.Random, base_number: int) -> Outcome:
    """Change two to five keys of a plan, one after another."""
    data, told = drawn_plan(rng, base_number), []
    for _ in range(rng.randint(2, 5)):
        change = attacked_plans.random_change(rng, data, alike=True)
        data = change.data
        told.append(change.told)
    return outcome(data, "; ".join(told), lambda: attacked_plans.is_true(data))


def raised_figures(rng: random.Random, base_number: int) -> Outcome:
    """Add the same ticks to all figures of a plan that are equal to one of them: a lie that agrees with itself."""
    data = drawn_plan(rng, base_number)
    lie, figures = json.loads(json.dumps(data)), [value for value in _numbers(data) if value]
    if not figures:
        return Outcome(REFUSED, "no figures")
    figure, more = rng.choice(figures), rng.choice([-1, 1, 2])
    for name in ("measures", "lowered", "timeline", "value", "bound", "certificate", "then"):
        lie[name] = _raised(lie[name], figure, more)
    return outcome(lie, f"every {figure} becomes {figure + more}", lambda: attacked_plans.is_true(lie))


def bent_certificate(rng: random.Random, base_number: int) -> Outcome:
    """Claim a bound above the best of a problem, with bent evidence."""
    subject, evidence = known_problem(base_number)
    name, certificate = attacked_certificates.bent(rng, evidence)
    found = attacked_certificates.attacked(rng, subject, certificate, name)
    return Outcome(found.said, f"{found.kind} {found.story}", found.kind)


@lru_cache(maxsize=2)
def known_problem(number: int) -> tuple[attacked_certificates.Subject, list[attacked_certificates.Certificate]]:
    """Return a problem whose best schedules are known, and evidence of every rule."""
    rng = random.Random(f"certificate {number}")
    subject = attacked_certificates.subject_of(rng)
    return subject, attacked_certificates.evidence_of(subject.problem, rng)


FAMILIES: dict[str, Callable[[random.Random, int], Outcome]] = {
    "a plan, one key": one_key,
    "a plan, several keys": several_keys,
    "a plan, one figure throughout": raised_figures,
    CERTIFICATES: bent_certificate,
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


def drawn_plan(rng: random.Random, base_number: int) -> dict[str, Any]:
    """Return the data of a plan: of every kind in turn, or of a random order of a random problem."""
    if rng.random() < 0.5:
        return json.loads(attacked_plans.plan_text(rng.choice(sorted(attacked_plans.plans()))))
    return json.loads(random_plan(base_number))


@lru_cache(maxsize=2)
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


def attacked(family: str, seed: int, count: int, seconds: float) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Return how often each verdict was given to a family's attacks, by their kinds, and those that were believed."""
    counts, believed = Counter[tuple[str, str]](), list[str]()
    until = time.monotonic() + seconds if seconds else None
    with progress() as shown:
        task = shown.add_task(family, total=None if until else count)
        number = 0
        while time.monotonic() < until if until else number < count:
            base_number = BASES_OF_A_SEED * seed + number // ATTACKS_OF_A_BASE
            found = FAMILIES[family](random.Random(f"{family} {seed} {number}"), base_number)
            counts[found.kind, found.verdict] += 1
            believed += [f"{family}, {number}: {found.told}"] * (found.verdict == BELIEVED)
            number += 1
            shown.advance(task)
    return counts, believed


def told(counts: Counter[tuple[str, str]], what: str, verdicts: Sequence[str], seed: int) -> str:
    """Return the table of how often each verdict was given, by kind and in all."""
    rows = [[kind, *(counts[kind, verdict] for verdict in verdicts)] for kind in sorted({kind for kind, _ in counts})]
    rows.append(["all", *(sum(row[1 + i] for row in rows) for i in range(len(verdicts)))])
    shown = table([what, "tried", *verdicts], ([row[0], sum(row[1:]), *row[1:]] for row in rows))
    return f"{where('numpy', 'ortools')}; seed {seed}.\n\n{shown}"


def main() -> int:
    """Attack, print what became of it, and return whether anything false was believed."""
    parser = arguments(__doc__.partition("\n")[0], 0)
    parser.add_argument("--count", type=int, default=1000, help="attacks of each family, where no seconds are given")
    parser.add_argument("--seed", type=int, default=0, help="of the first attack")
    parser.add_argument("--family", choices=FAMILIES, action="append", help="all by default")
    given = parser.parse_args()
    of_plans, lies = Counter[tuple[str, str]](), list[str]()
    for family in given.family or FAMILIES:
        counts, believed = attacked(family, given.seed, given.count, given.seconds)
        lies += believed
        if family == CERTIFICATES:
            publish("bent-certificates", told(counts, "rule: what is bent", OF_CLAIMS, given.seed), update=given.update)
        else:
            of_plans.update({(family, verdict): count for (_, verdict), count in counts.items()})
    if of_plans:
        publish("attacks", told(of_plans, "attack", VERDICTS, given.seed), update=given.update)
    print("\n".join(lies[:MOST_TOLD]), end="\n" if lies else "")
    return 1 if lies else 0


if __name__ == "__main__":
    sys.exit(main())
