"""Searches for the best order of a problem, and proves how good it is. Knows nothing of the verifier."""

from schedverify.optimizer.solving import solve
from schedverify.optimizer.values import Hint, OpKey, Progress, Solution

__all__ = ["Hint", "OpKey", "Progress", "Solution", "solve"]
