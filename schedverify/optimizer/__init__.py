"""Searches for the best order of a problem, and proves how good it is. Knows nothing of the verifier."""

from schedverify.optimizer.effort import Effort
from schedverify.optimizer.incumbent import Progress
from schedverify.optimizer.lexicographic import LexicographicResult, minimize
from schedverify.optimizer.orders import Hint, hint_of
from schedverify.optimizer.peak_memory import least_peak
from schedverify.optimizer.portfolio import solve
from schedverify.optimizer.search_state import Solution
from schedverify.optimizer.tasks import OpKey

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
