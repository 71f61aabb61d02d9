"""Searches for the best order of a problem, and proves how good it is. Knows nothing of the verifier."""

from schedverify.optimizer.effort import Effort
from schedverify.optimizer.lexicographic import LexicographicResult, minimize
from schedverify.optimizer.peak_memory import least_peak
from schedverify.optimizer.solving import solve
from schedverify.optimizer.values import Hint, OpKey, Progress, Solution, hint_of

__all__ = [
    "Effort",
    "Hint",
    "LexicographicResult",
    "OpKey",
    "Progress",
    "Solution",
    "hint_of",
    "least_peak",
    "minimize",
    "solve",
]
