"""What the commands print as JSON: reports, timelines, results of a search. Ratios are numbers here."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict
from typing import Any

from schedverify.core.explanation import Explanation
from schedverify.core.result import Plan, PropertyResult, Report
from schedverify.core.timeline import Timeline
from schedverify.formats.plan_files import measures_data, second_data


def dumps(data: Any) -> str:
    """Return data as one line of JSON; no NaN, no escapes that a reader must undo twice."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False)


def report_data(report: Report) -> dict[str, Any]:
    """Return what ``verify --format json`` prints."""
    return {
        "verdict": report.verdict.value,
        "ok": report.ok,
        "properties": [_property(result) for result in report.properties],
        "measures": None if report.measures is None else measures_data(report.measures, float),
        "communication": None if report.communication is None else dataclasses.asdict(report.communication),
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
    return {
        "status": plan.status.value,
        "objective": plan.objective,
        "value": plan.value,
        "bound": plan.bound,
        "gap": None if plan.gap is None else float(plan.gap),
        "seconds": round(plan.seconds, 3),
        "seed": plan.seed,
        "schedule": None if plan.schedule is None else plan.schedule.strings(),
        "measures": None if plan.measures is None else measures_data(plan.measures, float),
        "certificate": None if plan.certificate is None else dict(plan.certificate),
        "then": None if plan.then is None else second_data(plan.then),
        "reason": plan.reason,
        "parts": [
            part._asdict() | {"began": round(part.began, 3), "seconds": round(part.seconds, 3)} for part in plan.parts
        ],
        "explanation": None if explanation is None else _explanation(explanation),
    }


def _explanation(explanation: Explanation) -> dict[str, Any]:
    return {
        "text": str(explanation),
        "clash": list(explanation.clash),
        "minimal": explanation.minimal,
        "reliefs": [asdict(relief) for relief in explanation.reliefs],
        "bound": explanation.bound,
        "critical_path": [link._asdict() for link in explanation.critical_path],
        "binding": list(explanation.binding),
        "gains": [asdict(gain) for gain in explanation.gains],
        "remarks": list(explanation.remarks),
    }


def _property(result: PropertyResult) -> dict[str, Any]:
    return {
        "code": result.code,
        "name": result.name,
        "verdict": result.verdict.value,
        "scope": result.scope.value,
        "reason": result.reason,
        "violations": [
            {
                "code": violation.code,
                "message": violation.message,
                "rank": violation.rank,
                "position": violation.position,
                "operations": list(violation.operations),
                "counterexample": list(violation.counterexample),
            }
            for violation in result.violations
        ],
    }
