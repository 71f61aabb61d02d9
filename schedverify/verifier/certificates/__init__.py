"""Derives a claimed lower bound again, from the problem alone; shares nothing with what found it.

The bounds are on the makespan or the span (:func:`proved_bound`), in ticks, and on the peak memory
(:func:`proved_peak`), in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from schedverify.core.problem import Problem
from schedverify.verifier.certificates.counts import counted_bound
from schedverify.verifier.certificates.derivation import (
    Derivation,
    EvidenceError,
    SilentEvidenceError,
    admission_peak,
    sequence_peak,
)  # fmt: skip
from schedverify.verifier.certificates.idle import proved_idle

__all__ = ["Derivation", "EvidenceError", "SilentEvidenceError", "proved_bound", "proved_peak"]

Rule = Callable[[Any, Mapping[str, Any]], int]
"""From a derivation and a certificate to the bound that follows."""


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
    if objective not in ("makespan", "span"):
        raise EvidenceError(f"no rule bounds the {objective}")
    rules = {"load": Derivation.load, "pair": Derivation.pair, "idle": proved_idle, "counts": counted_bound}
    return _chosen_rule(rules, objective, certificate)(Derivation(problem, objective, ceiling), certificate)


def proved_peak(
    problem: Problem, objective: str, certificate: Mapping[str, Any], ceiling: tuple[str, int] | None = None
) -> int:
    """Return the bytes that some rank must hold by a certificate's rule at its place.

    Parameters
    ----------
    ceiling
        ``makespan`` or ``span`` and its most ticks: the bound need only hold of schedules that do not pass it, nor the
        problem's own makespan limit.

    Raises
    ------
    EvidenceError
        If the rule or the place is unknown.
    SilentEvidenceError
        If the rule does not speak of the problem.
    """
    rule = _chosen_rule({"sequence": sequence_peak, "memory": admission_peak}, objective, certificate)
    return rule(Derivation(problem, ceiling[0] if ceiling else "makespan", ceiling), certificate)


def _chosen_rule(rules: Mapping[str, Rule], objective: str, certificate: Mapping[str, Any]) -> Rule:
    """Return the rule that a certificate names; raise an EvidenceError where it is none, or for another objective."""
    if certificate.get("objective", objective) != objective:
        raise EvidenceError(f"it is for the {certificate['objective']}, the claim is for the {objective}")
    rule = rules.get(str(certificate.get("rule")))
    if rule is None:
        raise EvidenceError(f"unknown rule {str(certificate.get('rule'))[:40]!r}; known: {', '.join(rules)}")
    return rule
