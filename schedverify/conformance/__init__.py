"""Holds a run against its plan: what was followed, what it took, and what to optimize next time."""

from schedverify.conformance.conforming import Conformance, conform, data_of, timeline_of_run
from schedverify.conformance.following import Departure
from schedverify.conformance.measuring import Cost, measured_problem

__all__ = ["Conformance", "Cost", "Departure", "conform", "data_of", "measured_problem", "timeline_of_run"]
