"""Holds a run against its plan: what was followed, what it took, and what to optimize next time."""

from schedverify.conformance.measured_costs import Cost, measured_problem
from schedverify.conformance.observed_run import ObservedRun
from schedverify.conformance.order_check import Departure
from schedverify.conformance.run_files import trace
from schedverify.conformance.run_report import Conformance, conform, data_of, timeline_of_run
from schedverify.core.trace import RunTrace, StepSpan
from schedverify.formats.trace_reader import load_run

__all__ = [
    "Conformance", "Cost", "Departure", "ObservedRun", "RunTrace", "StepSpan", "conform", "data_of", "load_run",
    "measured_problem", "timeline_of_run", "trace",
]  # fmt: skip
