"""What the commands print as JSON: reports, timelines, results of a search. Ratios are numbers here."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

from schedverify.result import Measures, Plan, PropertyResult, Report, Timeline


def dumps(data: Any) -> str:
    """Return data as one line of JSON; no NaN, no escapes that a reader must undo twice."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False)


def report_data(report: Report) -> dict[str, Any]:
    """Return what ``verify --format json`` prints."""
    return {
        "verdict": report.verdict.value,
        "ok": report.ok,
        "properties": [_property(result) for result in report.properties],
        "measures": None if report.measures is None else measures_data(report.measures),
        "remarks": list(report.remarks),
    }


def timeline_data(timeline: Timeline) -> dict[str, Any]:
    """Return what ``simulate --format json`` prints."""
    rows = []
    for rank, (starts, ends) in enumerate(zip(timeline.starts, timeline.ends, strict=True)):
        times = zip(timeline.schedule.steps(rank), starts.tolist(), ends.tolist(), strict=True)
        rows.append([{"op": str(step), "start": start, "end": end} for step, start, end in times])
    return {"measures": measures_data(timeline.measures), "timeline": rows}


def search_data(plan: Plan) -> dict[str, Any]:
    """Return what ``optimize --format json`` prints."""
    return {
        "status": plan.status.value,
        "objective": plan.objective,
        "value": plan.value,
        "bound": plan.bound,
        "gap": _number(plan.gap),
        "seconds": round(plan.seconds, 3),
        "seed": plan.seed,
        "schedule": None if plan.schedule is None else plan.schedule.strings(),
        "measures": None if plan.measures is None else measures_data(plan.measures),
        "certificate": None if plan.certificate is None else dict(plan.certificate),
        "reason": plan.reason,
    }


def measures_data(measures: Measures) -> dict[str, Any]:
    """Return the measures by name."""
    return {
        "makespan": measures.makespan,
        "span": measures.span,
        "bubble_fraction": _number(measures.bubble_fraction),
        "bubble_overhead": _number(measures.bubble_overhead),
        "span_bubble": _number(measures.span_bubble),
        "work": list(measures.work),
        "peak_in_flight": list(measures.peak_in_flight),
        "peak_memory": list(measures.peak_memory),
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


def _number(ratio: Fraction | None) -> float | None:
    return None if ratio is None else float(ratio)
