"""What the commands print for programs: reports, timelines and results as JSON, and violations as GitHub takes them.

Ratios are numbers in this JSON. GitHub's workflow commands put each violation at the line of its rank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from schedverify.core.errors import Fault, InputError, SchedverifyError, printable
from schedverify.core.explanation import Explanation, PathLink
from schedverify.core.result import Plan, PropertyResult, Report
from schedverify.core.timeline import Timeline
from schedverify.formats.plan_files import measures_data, second_data

if TYPE_CHECKING:
    from schedverify.costmodel.parallelism import Advice, Priced
    from schedverify.partitioner.stage_problem import Cut
    from schedverify.planner.joint import Joint

_LINE: Final = re.compile(r"line ([0-9]{1,9})\b")


def dumps(data: Any) -> str:
    """Return data as one line of JSON, without NaN, and with letters beyond ASCII and commands to runners escaped."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False).replace("##[", "\\u0023#[")


def report_data(report: Report) -> dict[str, Any]:
    """Return what ``verify --format json`` prints."""
    return {
        "verdict": report.verdict.value,
        "ok": report.ok,
        "properties": [_property(result) for result in report.properties],
        "measures": None if report.measures is None else measures_data(report.measures, float),
        "communication": None if report.communication is None else asdict(report.communication),
        "remarks": list(report.remarks),
    }


def timeline_data(timeline: Timeline) -> dict[str, Any]:
    """Return what ``simulate --format json`` prints."""
    rows = []
    for rank, (starts, ends) in enumerate(zip(timeline.starts, timeline.ends, strict=True)):
        times = zip(timeline.schedule.steps(rank), starts.tolist(), ends.tolist(), strict=True)
        rows.append([{"op": str(step), "start": start, "end": end} for step, start, end in times])
    return {"measures": measures_data(timeline.measures, float), "timeline": rows}


def search_data(plan: Plan, explanation: Explanation | None = None) -> dict[str, Any]:
    """Return what ``optimize --format json`` prints."""
    parts = [part._replace(began=round(part.began, 3), seconds=round(part.seconds, 3)) for part in plan.parts]
    return {
        "status": plan.status.value, "objective": plan.objective, "value": plan.value, "bound": plan.bound,
        "gap": None if plan.gap is None else float(plan.gap), "seconds": round(plan.seconds, 3), "seed": plan.seed,
        "schedule": None if plan.schedule is None else plan.schedule.strings(),
        "measures": None if plan.measures is None else measures_data(plan.measures, float),
        "certificate": None if plan.certificate is None else dict(plan.certificate),
        "then": None if plan.then is None else second_data(plan.then),
        "reason": plan.reason, "parts": [part._asdict() for part in parts],
        "explanation": None if explanation is None else _explanation(explanation),
    }  # fmt: skip


def _explanation(explanation: Explanation) -> dict[str, Any]:
    data = {"text": str(explanation)} | asdict(explanation)
    del data["status"], data["objective"], data["units"]
    ways = [way._asdict() | {"path": _links(way.path)} for way in explanation.critical_cycle]
    return data | {"critical_path": _links(explanation.critical_path), "critical_cycle": ways}


def _links(path: Iterable[PathLink]) -> list[dict[str, str]]:
    return [link._asdict() for link in path]


def _property(result: PropertyResult) -> dict[str, Any]:
    data = asdict(result)
    violations = data.pop("violations")  # as the last key; a count is of what lacks alone
    told = [{key: value for key, value in each.items() if key != "picture"} for each in violations]
    data["violations"] = [{k: v for k, v in each.items() if (k, v) != ("count", None)} for each in told]
    return data


def partition_data(found: Cut) -> dict[str, Any]:
    """Return what ``partition --format json`` prints, but for the cut in the form of a framework."""
    partition, own = found.partition, found.timeline()
    return {
        "layers": found.names, "placement": found.problem.owner_rank, "tick": found.problem.tick,
        "bottleneck": partition.bottleneck, "bytes": partition.crossing, "proved": partition.proved,
        "linearized": partition.linearized, "family": found.family, "makespan": own.makespan,
        "peak_memory": own.peak_memory,
    }  # fmt: skip


def joint_data(joint: Joint) -> dict[str, Any]:
    """Return what ``partition --joint --format json`` prints: the keys of ``optimize``, and keys of its own."""
    first = joint.first
    before = None if first is None else {"layers": first.partition, "makespan": first.value, "bound": first.bound}
    return search_data(joint.plan) | {
        "status": joint.status.value, "bound": joint.bound, "gap": None if joint.gap is None else float(joint.gap),
        "reason": joint.reason, "layers": joint.plan.partition, "placement": joint.plan.problem.owner_rank,
        "own_bound": joint.plan.bound, "partition_first": before,
        "gain": None if joint.gain is None else float(joint.gain), "partitions": joint.partitions,
        "linearized": joint.linearized, "tried": [asdict(trial) for trial in joint.tried],
    }  # fmt: skip


def advice_data(advice: Advice) -> dict[str, Any]:
    """Return what ``partition --cluster FILE --format json`` prints."""
    return {
        "ranked": [_priced(advice, priced) for priced in advice.ranked],
        "rejected": [each._asdict() for each in advice.rejected],
        "slower": [{"setup": setup._asdict(), "least": least} for setup, least in advice.slower],
    }


def _priced(advice: Advice, priced: Priced) -> dict[str, Any]:
    model = advice.pricing.model(priced.setup)
    return {
        "setup": priced.setup._asdict(), "step": priced.step, "reducing": priced.reducing,
        "bubble_fraction": float(priced.bubble), "tensor_share": float(priced.sharing),
        "utilization": float(advice.pricing.utilization(priced)), "peak_memory": priced.peak,
        "layers": [[model.layers[i].name for i in stage] for stage in priced.layers],
    }  # fmt: skip


def annotations_at(report: Report, path: str, lines: Sequence[int]) -> str:
    """Return the commands of GitHub for a report on the schedule file ``path``.

    One ``::error`` for each violation that is told, and for each property whose others are counted; one ``::warning``
    for each property that keeps the whole from holding without.

    Parameters
    ----------
    lines
        By rank the line in which its order stands, from 1; a rank without one has its violations at no line.
    """
    text = ""
    for result in report.properties:
        told = [(_line_of(violation.rank, lines), violation.message) for violation in result.violations]
        told += [("", result.rest)] if result.more else []
        for line, message in told:
            text += f"::error file={_escaped_property(path)}{line},title={result.code}::{_escaped(message)}\n"
    for line in report.unsettled:
        text += f"::warning file={_escaped_property(path)},title=schedverify::{_escaped(line)}\n"
    return text


def error_annotations(error: SchedverifyError, path: str) -> str:
    """Return the commands of GitHub for an error of the file ``path``: one for each fault, at the line of its key."""
    faults = error.faults if isinstance(error, InputError) else (Fault("", str(error)),)
    where, text = (error.source if isinstance(error, InputError) else "") or path, ""
    for fault in faults:
        line = f",line={match[1]}" if (match := _LINE.match(fault.key)) else ""
        text += f"::error file={_escaped_property(where)}{line},title=schedverify::{_escaped(str(fault))}\n"
    return text


def _line_of(rank: int | None, lines: Sequence[int]) -> str:
    return f",line={lines[rank]}" if rank is not None and rank < len(lines) else ""


def _escaped(text: str) -> str:
    return printable(text).replace("%", "%25")


def _escaped_property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
