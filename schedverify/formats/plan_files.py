"""Plan files: canonical JSON with a digest. The same plan gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError, ScheduleError
from schedverify.core.problem.numbers import whole
from schedverify.core.result import Lowered, Plan, SecondaryObjective, Status
from schedverify.core.timeline import Measures
from schedverify.formats.json_toml import unfit

VERSION: Final = 2
"""Of the form that is written: since the span is the rate at which batches can follow one another."""
OLDEST: Final = 1
"""The oldest form that is read; what it claims of the span is judged by what the word means now."""
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
"""What a digest looks like."""
RATIOS: Final = ("bubble_fraction", "bubble_overhead", "span_bubble")
TICKS: Final = ("makespan", "span")
BY_RANK: Final = ("work", "peak_in_flight", "peak_memory")


def to_json(plan: Plan) -> str:
    """Return the text of a plan file: one line of canonical JSON.

    Raises
    ------
    ScheduleError
        If the plan has no schedule, and is not that there is none: there is nothing to run, and nothing to check.
    InputError
        If it lacks what follows from its schedule, or its certificate holds something else than texts, whole numbers up
        to 2^62, lists and tables of them.
    """
    data = plan_data(plan)
    lacking = [name for name in ("timeline", "measures", "value") if plan.schedule is not None and data[name] is None]
    lacking += ["then.value"] if plan.then is not None and plan.then.value is None else []
    faults = [Fault(name, "a plan in a file has it", "sv.plan_of makes whole plans") for name in lacking]
    if faults := faults + unfit(data, floats=False):
        raise InputError(faults)
    return canonical(data | {"digest": digest(data)}) + "\n"


def plan_digest(plan: Plan) -> str:
    """Return the digest that a plan's file holds: of two plans the same only where they are.

    Raises
    ------
    ScheduleError
        As :func:`to_json`.
    """
    check_types("plan_digest", plan=(plan, Plan))
    return digest(plan_data(plan))


def plan_data(plan: Plan) -> dict[str, Any]:
    """Return what a plan file holds, without the digest; see :func:`to_json`."""
    if plan.schedule is None and plan.status is not Status.INFEASIBLE:
        raise ScheduleError(f"a plan without a schedule cannot be saved; this one is {plan.status.value}")
    return {
        "version": VERSION, "problem": plan.problem.to_dict(),
        "schedule": None if plan.schedule is None else plan.schedule.strings(),
        "lowered": None if plan.lowered is None else lowered_data(plan.lowered),
        "timeline": [list(row) for row in plan.starts] or None,
        "measures": None if plan.measures is None else measures_data(plan.measures, str),
        "verdicts": {code: verdict.value for code, verdict in plan.verdicts.items()},
        "status": plan.status.value, "objective": plan.objective, "value": plan.value, "bound": plan.bound,
        "certificate": _plain("certificate", plan.certificate), "seed": plan.seed,
        "partition": None if plan.partition is None else [list(layers) for layers in plan.partition],
        "then": None if plan.then is None else second_data(plan.then),
    }  # fmt: skip


def lowered_data(lowered: Lowered) -> dict[str, Any]:
    """Return what stands under ``lowered``: the order with communication, and its measures under a discipline."""
    return {
        "discipline": lowered.discipline.value,
        "eager_bytes": lowered.eager_bytes,
        "rows": lowered.schedule.strings(),
        "measures": measures_data(lowered.measures, str),
    }


def second_data(second: SecondaryObjective) -> dict[str, Any]:
    """Return what stands under ``then``: the second objective of a plan."""
    certificate = _plain("then.certificate", second.certificate)
    return {"objective": second.objective, "value": second.value, "bound": second.bound, "certificate": certificate}


def measures_data(measures: Measures, written: Callable[[Fraction], str | float]) -> dict[str, Any]:
    """Return measures by name; ``written`` says how ratios stand: text such as ``15/4`` in plan files."""
    ratios = {name: getattr(measures, name) for name in RATIOS}
    return (
        {name: getattr(measures, name) for name in TICKS}
        | {name: None if ratio is None else written(ratio) for name, ratio in ratios.items()}
        | {name: list(getattr(measures, name)) for name in BY_RANK}
    )


def canonical(data: Any) -> str:
    """Return the canonical form of data: sorted keys, no blanks, text as it is (the file is UTF-8)."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(data: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical form of a plan's data without its own digest, in hexadecimal."""
    rest = {name: value for name, value in data.items() if name != "digest"}
    return hashlib.sha256(canonical(rest).encode("utf-8", "surrogatepass")).hexdigest()


def _plain(place: str, value: Any) -> Any:
    """Return evidence as JSON can hold it exactly: tuples become lists, ratios text such as ``15/4``."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(f"{place}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{place}[{i}]", item) for i, item in enumerate(value)]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Fraction) and value.denominator > 1:
        return str(value)
    number = None if isinstance(value, float) else whole(value)
    if number is None:
        kind = "text, whole numbers up to 2^62, lists and tables of them"
        raise InputError(Fault(place, f"a plan holds {kind}, not {type(value).__name__}", "no floats"))
    return number
