"""The problem: stages, ranks, micro-batches, costs, links, memory and limits, in full."""

from schedverify.core.problem.fields import Boundary
from schedverify.core.problem.problem import Problem

__all__ = ["Boundary", "Problem"]
