"""Verified and optimal schedules for pipeline-parallel training.

The names below are the public ones. Each is loaded when it is first used, so that ``import schedverify`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from schedverify.core.discipline import Communication, Discipline
    from schedverify.core.errors import InputError, ScheduleError, SchedverifyError, UnknownNameError, UnsupportedError
    from schedverify.core.explanation import Explanation
    from schedverify.core.op import Join, Kind, Op, Step
    from schedverify.core.problem import Boundary, Problem
    from schedverify.core.result import Plan, PropertyResult, Report, Scope, Status, Verdict, Violation
    from schedverify.core.schedule import Schedule
    from schedverify.core.timeline import Measures, Timeline
    from schedverify.drawing import draw
    from schedverify.formats import load, save
    from schedverify.generators import families, generate
    from schedverify.planner.explanation import explain
    from schedverify.planner.joint import Joint, partition_jointly
    from schedverify.planner.plans import optimize
    from schedverify.planner.proved_lowering import lower
    from schedverify.simulator.engine import simulate
    from schedverify.sweeping import sweep
    from schedverify.verifier.graph import critical_path, dependency_graph
    from schedverify.verifier.verification import verify

__version__: Final = "0.1.0"

__all__ = [
    "Boundary", "Communication", "Discipline", "Explanation", "InputError", "Join", "Joint", "Kind", "Measures",
    "Op", "Plan", "Problem", "PropertyResult", "Report", "Schedule", "ScheduleError", "SchedverifyError", "Scope",
    "Status", "Step", "Timeline", "UnknownNameError", "UnsupportedError", "Verdict", "Violation", "critical_path",
    "dependency_graph", "draw", "explain", "families", "generate", "load", "lower", "optimize", "partition_jointly",
    "save", "simulate", "sweep", "verify",
]  # fmt: skip

_MODULES: Final = {
    "core.discipline": "Communication Discipline",
    "drawing": "draw",
    "core.errors": "InputError ScheduleError SchedverifyError UnknownNameError UnsupportedError",
    "formats": "load save",
    "generators": "families generate",
    "verifier.graph": "critical_path dependency_graph",
    "planner.joint": "Joint partition_jointly",
    "core.op": "Join Kind Op Step",
    "planner.plans": "optimize",
    "core.problem": "Boundary Problem",
    "planner.proved_lowering": "lower",
    "planner.explanation": "explain",
    "core.explanation": "Explanation",
    "core.result": "Plan PropertyResult Report Scope Status Verdict Violation",
    "core.timeline": "Measures Timeline",
    "core.schedule": "Schedule",
    "sweeping": "sweep",
    "simulator.engine": "simulate",
    "verifier.verification": "verify",
}
_HOMES: Final = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'schedverify' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"schedverify.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
