"""The problem: stages, ranks, micro-batches, costs, links, memory and limits, in full."""

from schedverify.problem.expansion import expand
from schedverify.problem.value import Boundary, Problem

__all__ = ["Boundary", "Problem", "expand"]
