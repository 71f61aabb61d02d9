"""Derives a claimed lower bound again, from the problem alone; shares nothing with what found it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from schedverify.core.problem import Problem
from schedverify.verifier.certificates.counts import counted_bound
from schedverify.verifier.certificates.derivation import Derivation
from schedverify.verifier.certificates.error import EvidenceError
from schedverify.verifier.certificates.idle import proved_idle

__all__ = ["Derivation", "EvidenceError", "chosen_rule", "proved_bound"]

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
        If the rule or the place is unknown, or the rule does not hold for the problem.
    """
    if objective not in ("makespan", "span"):
        raise EvidenceError(f"no rule bounds the {objective}")
    rules = {"load": Derivation.load, "pair": Derivation.pair, "idle": proved_idle, "counts": counted_bound}
    return chosen_rule(rules, objective, certificate)(Derivation(problem, objective, ceiling), certificate)


def chosen_rule(rules: Mapping[str, Rule], objective: str, certificate: Mapping[str, Any]) -> Rule:
    """Return the rule that a certificate names; raise an EvidenceError where it is none, or for another objective."""
    if certificate.get("objective", objective) != objective:
        raise EvidenceError(f"it is for the {certificate['objective']}, the claim is for the {objective}")
    rule = rules.get(str(certificate.get("rule")))
    if rule is None:
        raise EvidenceError(f"unknown rule {str(certificate.get('rule'))[:40]!r}; known: {', '.join(rules)}")
    return rule
