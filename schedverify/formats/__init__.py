"""Files and what is printed as JSON: problems, schedules, plans, traces, reports."""

from schedverify.formats.csv_layout import Layout
from schedverify.formats.github import annotations
from schedverify.formats.loading import load, load_judged, load_problem, load_schedule, load_with_layout, save
from schedverify.formats.outputs import dumps, report_data, search_data, timeline_data
from schedverify.formats.runs.boundary_logs import save_boundaries
from schedverify.formats.runs.run_reader import load_run
from schedverify.formats.runs.run_traces import save_run
from schedverify.formats.template_file import new
from schedverify.formats.trace_files import trace
from schedverify.formats.writing import write_text

__all__ = [
    "Layout",
    "annotations",
    "dumps",
    "load",
    "load_judged",
    "load_problem",
    "load_run",
    "load_schedule",
    "load_with_layout",
    "new",
    "report_data",
    "save",
    "save_boundaries",
    "save_run",
    "search_data",
    "timeline_data",
    "trace",
    "write_text",
]
