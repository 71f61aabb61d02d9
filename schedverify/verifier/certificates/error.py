"""What is said of evidence that shows nothing."""

from __future__ import annotations


class EvidenceError(ValueError):
    """Evidence that names an unknown rule or an absent place, or a rule that does not hold for this problem."""
