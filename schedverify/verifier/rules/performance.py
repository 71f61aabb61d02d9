"""SV5: what is claimed of a schedule's performance is what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from fractions import Fraction
from typing import Any, Final, NamedTuple

from schedverify.core.result import Scope, Violation
from schedverify.core.timeline import Measures
from schedverify.verifier.rules.base import Case, NotApplicable, Undecided, rule

MEASURED: Final = ("makespan", "span", "peak-memory")
CLAIMABLE: Final = tuple(field.name for field in fields(Measures))


@rule("SV501", "claimed measures", Scope.THESE_COSTS)
def measures_as_claimed(case: Case) -> Iterator[Violation]:
    """A claimed makespan, span, bubble or peak is exactly what follows.

    What it checks

    Each measure that a plan claims (makespan, span, bubbles, work and peaks by rank) and the value of each of its
    objectives equal what the schedule and the problem's costs imply, to the tick, to the byte and to the exact
    fraction. The value of peak-memory is the most bytes that any rank holds, its static ones included.

    Why it matters

    Plans are compared and chosen by these figures. A figure that does not follow from the schedule is a plan for
    another machine, or a slip of the pen.

    Example

    1F1B on four ranks with eight micro-batches, forward 1 and backward 2, has a makespan of 33; a plan that claims 32
    is refused.

    Formally

    For every claimed measure x: x = x(timeline), where the timeline starts every step as early as its rank, its inputs
    and the links allow.
    """
    claimed = [(name, case.claims[name]) for name in CLAIMABLE if case.claims.get(name) is not None]
    goals = [goal for goal in _goals(case) if goal.value is not None and goal.objective in MEASURED]
    if not claimed and not goals:
        raise NotApplicable("no measure is claimed", "a plan claims some, and claims= takes them")
    if case.measures is None:
        raise Undecided("the schedule cannot run to its end as a whole, so no measure follows")
    figures = [(name, value, getattr(case.measures, name)) for name, value in claimed]
    figures += [(f"{goal.objective} (value)", goal.value, case.measures.value(goal.objective)) for goal in goals]
    for name, value, follows in figures:
        if _plain(follows) != _plain(value):
            yield Violation("SV501", f"{name} is claimed to be {value}; what follows is {follows}")


class _Goal(NamedTuple):
    """What is claimed of one objective; ``ceiling`` is the first objective and its value, for the second."""

    objective: str
    value: Any
    bound: Any
    certificate: Any
    ceiling: tuple[str, int] | None = None


def _goals(case: Case) -> Iterator[_Goal]:
    """Yield what is claimed of the objective, and of the one behind it."""
    first = str(case.claims.get("objective") or case.problem.minimize)
    value, then = case.claims.get("value"), case.claims.get("then")
    yield _Goal(first, value, case.claims.get("bound"), case.claims.get("certificate"))
    if then:
        ceiling = (first, value) if first in MEASURED and value is not None else None
        yield _Goal(then["objective"], then.get("value"), then.get("bound"), then.get("certificate"), ceiling)


def _plain(value: Any) -> Any:
    """Return a measure in one form: a fraction may be written as text (``"1/5"``), figures by rank as any sequence."""
    if isinstance(value, str):
        try:
            return Fraction(value)
        except (ValueError, ZeroDivisionError):
            return value
    return list(value) if isinstance(value, tuple) else value


@rule("SV502", "claimed lower bound", Scope.THESE_COSTS)
def bound_has_evidence(case: Case) -> Iterator[Violation]:
    """A claimed lower bound comes with evidence, and the evidence checks.

    What it checks

    The certificate beside a claimed bound names a rule and its place (a rank, a pair of stages, a stage), or weights
    for the rows of the rule counts. The bound is derived again from the problem alone and must come out at least as
    high as the certificate says. A bound above what its certificate proves is the solver's word: undecided, and so is
    one by a rule that does not speak of the problem. A bound above the schedule's own value is refuted. The bound on a
    second objective is derived for the schedules that have no more of the first one than the plan.

    Why it matters

    "Optimal" ends a search. If the bound is wrong, a faster schedule is never looked for, and nobody can tell.

    Example

    Two ranks, four micro-batches, forward 1, backward 2: rank 1 works 12 ticks after a head of 1 and before a tail of
    2, so `{ rule = "load", rank = 1, bound = 15 }` checks, and 16 does not.

    Formally

    bound <= rule(problem, place) for the named rule (see the page on bounds), and bound <= the objective's value.
    """
    goals = [goal for goal in _goals(case) if goal.bound is not None]
    if not goals:
        raise NotApplicable("no lower bound is claimed", "a plan claims one, and claims= takes one")
    open_ends = []
    for goal in goals:
        try:
            yield from _judge(case, goal)
        except Undecided as reason:
            open_ends.append(str(reason))
    if open_ends:
        raise Undecided("; ".join(open_ends))


def _judge(case: Case, goal: _Goal) -> Iterator[Violation]:
    """Yield what is wrong with one bound and its evidence; raise Undecided where it is the solver's word."""
    from schedverify.verifier.certificates import EvidenceError, SilentEvidenceError, proved_bound, proved_peak

    value = None if case.measures is None else case.measures.value(goal.objective)
    bound, certificate = goal.bound, goal.certificate
    if value is not None and bound > value:
        text = f"the bound on the {goal.objective} is claimed to be {bound}, but this schedule has {value}"
        yield Violation("SV502", text)
        return
    if certificate is None:
        raise Undecided(f"no evidence is given for the bound {bound}: it is the solver's word")
    try:
        prove = proved_peak if goal.objective == "peak-memory" else proved_bound
        proved = prove(case.problem, goal.objective, certificate, goal.ceiling)
    except SilentEvidenceError as error:
        raise Undecided(f"the evidence for the bound {bound} does not speak of this problem: {error}") from None
    except EvidenceError as error:
        yield Violation("SV502", f"the evidence for the bound {bound} does not check: {error}")
        return
    stated = certificate.get("bound")
    if not isinstance(stated, int) or proved < stated:
        yield Violation("SV502", f"the evidence states a bound of {stated}; what follows from it is {proved}")
    elif proved < bound:
        raise Undecided(f"the evidence proves {proved}; the rest of the bound {bound} is the solver's word")
