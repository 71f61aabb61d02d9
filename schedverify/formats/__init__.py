"""Files and what is printed as JSON: problems, schedules, plans, traces, reports.

Each name is loaded when it is first used, so that reading a schedule as text loads no reader of anything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from schedverify.core import lazy_names

if TYPE_CHECKING:
    from schedverify.formats.destinations import Destination, check_destinations, plan_size
    from schedverify.formats.flight_recorder import is_recording, load_recordings
    from schedverify.formats.layouts import load_with_layout, load_with_lines
    from schedverify.formats.loading import form_of_file, load, load_judged, load_problem, load_schedule, save
    from schedverify.formats.outputs import (
        advice_data,
        annotations_at,
        dumps,
        error_annotations,
        joint_data,
        partition_data,
        report_data,
        search_data,
        timeline_data,
    )
    from schedverify.formats.problem_files import new
    from schedverify.formats.text_files import write_text
    from schedverify.formats.torch_csv import Layout
    from schedverify.formats.trace_files import save_boundaries, save_run, trace
    from schedverify.formats.trace_reader import load_run

__all__ = [
    "Destination", "Layout", "advice_data", "annotations_at", "check_destinations", "dumps", "error_annotations",
    "form_of_file", "is_recording", "joint_data", "load", "load_judged", "load_problem", "load_recordings", "load_run",
    "load_schedule", "load_with_layout", "load_with_lines", "new", "partition_data", "plan_size", "report_data", "save",
    "save_boundaries", "save_run", "search_data", "timeline_data", "trace", "write_text",
]  # fmt: skip

_MODULES: Final = {
    "destinations": "Destination check_destinations plan_size",
    "flight_recorder": "is_recording load_recordings",
    "layouts": "load_with_layout load_with_lines",
    "loading": "form_of_file load load_judged load_problem load_schedule save",
    "outputs": "advice_data annotations_at dumps error_annotations joint_data partition_data report_data search_data"
    " timeline_data",
    "problem_files": "new",
    "text_files": "write_text",
    "torch_csv": "Layout",
    "trace_files": "save_boundaries save_run trace",
    "trace_reader": "load_run",
}
__getattr__ = lazy_names(__name__, _MODULES)
