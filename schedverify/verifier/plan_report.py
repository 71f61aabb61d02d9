"""What a report on a plan adds to those on its two schedules: one verdict of both, and what else the plan claims."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

from schedverify.core.errors import shown
from schedverify.core.problem import Problem
from schedverify.core.result import MOST_TOLD, Lowered, Plan, PropertyResult, Report, Verdict, Violation
from schedverify.core.schedule import is_transfer
from schedverify.verifier.rules import REGISTRY

_OF_BOTH: Final = "SV5"
"""The beginning of the codes of which a plan is told what is wrong with either schedule, each apart."""


def joined(report: Report, lowered: Report) -> Report:
    """Add to the report on a plan's schedule what is wrong with its lowered part, and what only that can show."""
    pairs = zip(report.properties, lowered.properties, strict=True)
    return dataclasses.replace(
        report,
        properties=tuple(_of_both(own, other) for own, other in pairs),
        communication=lowered.communication,
    )


def _of_both(own: PropertyResult, other: PropertyResult) -> PropertyResult:
    """Return the result of a property for the compute order and the lowered one together."""
    named = tuple(dataclasses.replace(v, message=f"lowered: {v.message}") for v in other.violations)
    if own.verdict is Verdict.NOT_APPLICABLE:
        return dataclasses.replace(other, violations=named)
    if named and (own.verdict is not Verdict.VIOLATED or own.code.startswith(_OF_BOTH)):
        return told(other, own.violations + named, own.more + other.more)
    if own.verdict is Verdict.HOLDS and other.verdict is Verdict.UNDECIDED:
        return dataclasses.replace(other, reason=f"lowered: {other.reason}")
    return own


def with_messages_missing(report: Report, lowered: Lowered, problem: Problem) -> Report:
    """Add to the report on a plan's lowered part that it has no messages, where some are needed."""
    if any(is_transfer(row).any() for row in lowered.schedule.rows) or not _has_messages(problem):
        return report
    silent = (Violation("SV301", "no send and no receive stands in it"),)
    return dataclasses.replace(
        report,
        properties=tuple(violated(each, silent) if each.code == "SV301" else each for each in report.properties),
    )


def _has_messages(problem: Problem) -> bool:
    """Whether a micro-batch passes from a rank to another: through a copy of the model that any goes through."""
    owner_rank = problem.owner_rank
    edges = [(source, target) for source, targets in enumerate(problem.successors) for target in targets]
    return any(problem.microbatch_counts[a] and owner_rank[a] != owner_rank[b] for a, b in edges)


def with_own_claims(report: Report, plan: Plan, follows: Mapping[str, Verdict]) -> Report:
    """Add to SV501 of a report what is wrong with a plan's lowered order, its partition and the verdicts it claims.

    Parameters
    ----------
    follows
        The verdict that follows from the plan, for each code that exists and of which the plan claims one.
    """
    wrong = (*_other_order(plan), *_wrong_partition(plan), *_wrong_verdicts(plan, follows))
    results = []
    for each in report.properties:
        if each.code == "SV501" and wrong:
            results.append(violated(each, each.violations + wrong))
        elif each.code == "SV501" and each.verdict is Verdict.NOT_APPLICABLE and plan.verdicts:
            results.append(dataclasses.replace(each, verdict=Verdict.HOLDS, reason="", remedy=""))
        else:
            results.append(each)
    return dataclasses.replace(report, properties=tuple(results))


def claimed_codes(plan: Plan) -> set[str]:
    """Return the codes of which a plan claims a verdict, as far as they exist."""
    return set(plan.verdicts) & set(REGISTRY)


def _other_order(plan: Plan) -> Iterator[Violation]:
    """Yield that a plan's lowered order is not that of its schedule, where it is another."""
    if plan.lowered is None or plan.schedule is None:
        return
    if plan.lowered.schedule.compute_only() != plan.schedule.compute_only():
        yield Violation("SV501", "lowered: the rows are not the plan's schedule with communication in it")


def _wrong_partition(plan: Plan) -> Iterator[Violation]:
    """Yield that a plan's partition is none of its problem, as far as that can be told without the model."""
    if plan.partition is None or plan.partition == plan.problem.partition:
        return
    names = [name for layers in plan.partition for name in layers]
    if plan.problem.partition:
        yield Violation("SV501", "the partition has other layers in its stages than the problem")
    elif len(plan.partition) != plan.problem.stages or not all(plan.partition):
        yield Violation("SV501", f"the partition has not a row of layers for each of {plan.problem.stages} stages")
    elif len(set(names)) < len(names):
        yield Violation("SV501", "a layer stands twice in the partition")


def _wrong_verdicts(plan: Plan, follows: Mapping[str, Verdict]) -> Iterator[Violation]:
    """Yield each claimed verdict that is not what follows; that on the claims themselves claims nothing."""
    for code, verdict in plan.verdicts.items():
        if code not in REGISTRY:
            yield Violation("SV501", f"a verdict on {shown(code)} is claimed, and there is no such property")
        elif code != "SV501" and follows[code] != verdict:
            yield Violation(
                "SV501", f"{code} is claimed to be {shown(verdict)}; what follows is {shown(follows[code])}"
            )


def violated(result: PropertyResult, violations: tuple[Violation, ...]) -> PropertyResult:
    """Return the result of a property as violated."""
    whole = dataclasses.replace(result, verdict=Verdict.VIOLATED, reason="", remedy="")
    return told(whole, violations, result.more)


def told(result: PropertyResult, violations: tuple[Violation, ...], more: int) -> PropertyResult:
    """Return a result with the first of some violations; the others are counted with those that already are."""
    rest = max(len(violations) - MOST_TOLD, 0)
    return dataclasses.replace(result, violations=violations[:MOST_TOLD], more=more + rest)
