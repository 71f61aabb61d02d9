"""Derives a claimed lower bound again, from the problem alone; shares nothing with what found it.

The bounds are on the makespan or the span (:func:`proved_bound`), in ticks, on the peak memory (:func:`proved_peak`),
in bytes, and on what is in flight at once (:func:`proved_in_flight`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from schedverify.core.errors import shown
from schedverify.core.problem import Problem
from schedverify.core.problem.keys import OBJECTIVES
from schedverify.verifier.certificates.counts import counted_bound
from schedverify.verifier.certificates.derivation import (
    Derivation,
    EvidenceError,
    SilentEvidenceError,
    admission_peak,
    sequence_in_flight,
    sequence_on_stage,
    sequence_peak,
)  # fmt: skip
from schedverify.verifier.certificates.idle import proved_idle

__all__ = ["Derivation", "EvidenceError", "SilentEvidenceError", "proved_bound", "proved_in_flight", "proved_peak"]

TIMES: Final = ("makespan", "span")
"""The objectives that are ticks."""
Rule = Callable[[Any, Mapping[str, Any]], int]
"""From a derivation and a certificate to the bound that follows."""
_PLACES: Final = {
    "load": "rank", "pair": "stages", "idle": "rank", "counts": "rows", "sequence": "rank", "memory": "stage",
    "in_flight": "rank", "in_flight_stage": "stage",
}  # fmt: skip
"""What a certificate names beside its rule, its objective and its bound."""


def proved_bound(
    problem: Problem, objective: str, certificate: Mapping[str, Any], ceiling: tuple[str, int] | None = None
) -> int:
    """Return the lower bound on ``objective`` that a certificate's rule gives at its place.

    Parameters
    ----------
    ceiling
        An objective and a value of it: the bound need only hold of schedules that have no more.

    Raises
    ------
    EvidenceError
        If the rule or the place is unknown.
    SilentEvidenceError
        If the rule does not speak of the problem.
    """
    if objective not in TIMES:
        raise EvidenceError(f"no rule bounds the {_told(objective)}")
    rules = {"load": Derivation.load, "pair": Derivation.pair, "idle": proved_idle, "counts": counted_bound}
    return _chosen_rule(rules, objective, certificate)(Derivation(problem, objective, ceiling), certificate)


def proved_peak(
    problem: Problem, objective: str, certificate: Mapping[str, Any], ceiling: tuple[str, int] | None = None
) -> int:
    """Return the bytes that some rank must hold by a certificate's rule at its place.

    Parameters
    ----------
    ceiling
        An objective and a value of it. Where it is ``makespan`` or ``span``, the bound need only hold of schedules that
        do not pass it, nor the problem's own makespan limit.

    Raises
    ------
    EvidenceError
        If the rule or the place is unknown.
    SilentEvidenceError
        If the rule does not speak of the problem.
    """
    rule = _chosen_rule({"sequence": sequence_peak, "memory": admission_peak}, objective, certificate)
    timed = ceiling if ceiling is not None and ceiling[0] in TIMES else None  # bytes are not read as ticks
    return rule(Derivation(problem, timed[0] if timed else "makespan", timed), certificate)


def proved_in_flight(problem: Problem, certificate: Mapping[str, Any]) -> int:
    """Return how many micro-batches must be in flight at once on a rank or a stage by a certificate's rule.

    Raises
    ------
    EvidenceError
        If the rule or the place is unknown.
    SilentEvidenceError
        If the rule does not speak of the problem.
    """
    rules = {"in_flight": sequence_in_flight, "in_flight_stage": sequence_on_stage}
    return _chosen_rule(rules, "in-flight", certificate)(Derivation(problem, "makespan", None), certificate)


def _told(objective: object) -> str:
    """Return the name of an objective, as a message may show it."""
    return objective if isinstance(objective, str) and objective in OBJECTIVES else shown(objective)


def _chosen_rule(rules: Mapping[str, Rule], objective: str, certificate: Mapping[str, Any]) -> Rule:
    """Return the rule that a certificate names; raise an EvidenceError where it is none, or for another objective."""
    if certificate.get("objective", objective) != objective:
        raise EvidenceError(f"it is for the {_told(certificate['objective'])}, the claim is for the {objective}")
    name = str(certificate.get("rule"))
    rule = rules.get(name)
    if rule is None:
        raise EvidenceError(f"unknown rule {name[:40]!r}; known: {', '.join(rules)}")
    unknown = [key for key in certificate if key not in ("rule", "objective", "bound", _PLACES[name])]
    if unknown:
        raise EvidenceError(f"the rule {name} has no {shown(unknown[0])}")
    return rule
