"""The problem: stages, ranks, micro-batches, costs, links, memory and limits, in full."""

from schedverify.core.problem.expansion import expand
from schedverify.core.problem.fields import Boundary, Problem

__all__ = ["Boundary", "Problem", "expand"]
