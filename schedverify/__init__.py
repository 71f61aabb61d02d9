"""Verified and optimal schedules for pipeline-parallel training.

The names below are the public ones. Each is loaded when it is first used, so that ``import schedverify`` stays light.
Rooms that are public as a whole are names too: ``schedverify.models``, ``schedverify.lowering``, and
``schedverify.torch``, the bridge to PyTorch, whose room is ``schedverify.torch_bridge``.
"""

from __future__ import annotations

from schedverify.core import VERSION, lazy_names

TYPE_CHECKING = False  # without typing: what this loads, a command has loaded before it can answer a signal
if TYPE_CHECKING:
    from schedverify import conformance, lowering, models, profiling, runner, testing, torch_bridge  # noqa: F401 - they are rooms
    from schedverify import torch_bridge as torch  # noqa: F401
    from schedverify.conformance import conform, trace
    from schedverify.conversion import convert
    from schedverify.core.discipline import Communication, Discipline
    from schedverify.core.errors import (
        InfeasibleError,
        InputError,
        ScheduleError,
        SchedverifyError,
        UndecidedError,
        UnknownNameError,
        UnsupportedError,
    )
    from schedverify.core.explanation import CriticalWay, Explanation, Gain, PathLink, Relief
    from schedverify.core.op import Join, Kind, Op, Step
    from schedverify.core.plan import Lowered, Part, Plan, SecondaryObjective
    from schedverify.core.problem import Boundary, Problem
    from schedverify.core.result import PropertyResult, Report, Violation
    from schedverify.core.schedule import Schedule
    from schedverify.core.timeline import Measures, StepTime, Timeline
    from schedverify.core.verdict import Scope, Status, Verdict
    from schedverify.drawing import Drawing, beside, draw
    from schedverify.formats import load, load_with_layout, new, save
    from schedverify.formats.plan_files import plan_digest
    from schedverify.generators import Family, families, generate
    from schedverify.launching import profile, run
    from schedverify.linting import Linted, lint
    from schedverify.models import partition
    from schedverify.planner.explanation import explain
    from schedverify.planner.export import for_torch
    from schedverify.planner.joint import Joint, TriedPartition, partition_jointly
    from schedverify.planner.plans import optimize, plan_of
    from schedverify.planner.proved_lowering import lower
    from schedverify.simulator.delay_reasons import Delay, delays
    from schedverify.simulator.engine import simulate
    from schedverify.sweeping import Outcome, sweep
    from schedverify.verifier.graph import critical_path, dependency_graph
    from schedverify.verifier.lowered_graph import LoweredEvent
    from schedverify.verifier.verification import verify

__version__ = VERSION

__all__ = [
    "Boundary", "Communication", "CriticalWay", "Delay", "Discipline", "Drawing", "Explanation", "Family", "Gain",
    "InfeasibleError", "InputError", "Join", "Joint", "Kind", "Linted", "Lowered", "LoweredEvent", "Measures", "Op",
    "Outcome", "Part", "PathLink", "Plan", "Problem", "PropertyResult", "Relief", "Report", "Schedule", "ScheduleError",
    "SchedverifyError", "Scope", "SecondaryObjective", "Status", "Step", "StepTime", "Timeline", "TriedPartition",
    "UndecidedError", "UnknownNameError", "UnsupportedError", "Verdict", "Violation", "beside", "conform", "convert",
    "critical_path", "delays", "dependency_graph", "draw", "explain", "families", "for_torch", "generate", "lint",
    "load", "load_with_layout", "lower", "new", "optimize", "partition", "partition_jointly", "plan_digest", "plan_of",
    "profile", "run", "save", "simulate", "sweep", "trace", "verify",
]  # fmt: skip

_MODULES = {
    "conformance": "conform trace",
    "conversion": "convert",
    "core.discipline": "Communication Discipline",
    "core.errors": "InfeasibleError InputError ScheduleError SchedverifyError UndecidedError UnknownNameError "
    "UnsupportedError",
    "core.explanation": "CriticalWay Explanation Gain PathLink Relief",
    "core.op": "Join Kind Op Step",
    "core.plan": "Lowered Part Plan SecondaryObjective",
    "core.problem": "Boundary Problem",
    "core.result": "PropertyResult Report Violation",
    "core.schedule": "Schedule",
    "core.timeline": "Measures StepTime Timeline",
    "core.verdict": "Scope Status Verdict",
    "drawing": "Drawing beside draw",
    "formats": "load load_with_layout new save",
    "formats.plan_files": "plan_digest",
    "generators": "Family families generate",
    "launching": "profile run",
    "linting": "Linted lint",
    "models": "partition",
    "planner.explanation": "explain",
    "planner.export": "for_torch",
    "planner.joint": "Joint TriedPartition partition_jointly",
    "planner.plans": "optimize plan_of",
    "planner.proved_lowering": "lower",
    "simulator.delay_reasons": "Delay delays",
    "simulator.engine": "simulate",
    "sweeping": "Outcome sweep",
    "verifier.graph": "critical_path dependency_graph",
    "verifier.lowered_graph": "LoweredEvent",
    "verifier.verification": "verify",
}
_ROOMS = {
    name: name for name in ("conformance", "lowering", "models", "profiling", "runner", "testing", "torch_bridge")
} | {"torch": "torch_bridge"}
"""Public names that are rooms, with the names of the rooms."""

__getattr__ = lazy_names(__name__, _MODULES, _ROOMS)


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS, "__version__"])
