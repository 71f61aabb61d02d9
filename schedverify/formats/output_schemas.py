"""JSON Schemas of plans, of what commands print as JSON, with ratios as numbers, and of what ``run`` writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from schedverify.core.discipline import Discipline
from schedverify.core.problem.keys import OBJECTIVES
from schedverify.core.problem.numbers import LARGEST
from schedverify.core.result import MOST_TOLD, Scope, Status, Verdict
from schedverify.costmodel.decoder import RECOMPUTE
from schedverify.costmodel.parallelism.setups import INNER
from schedverify.formats import trace_files
from schedverify.formats.plan_files import BY_RANK, DIGEST, RATIOS, TICKS, VERSION

Schema = dict[str, Any]
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
TEXT: Final[Schema] = {"type": "string"}
RATIO_TEXT: Final[Schema] = {"type": "string", "pattern": "^[0-9]+(/[1-9][0-9]*)?$"}
DIGEST_TEXT: Final[Schema] = {"type": "string", "pattern": f"^{DIGEST.pattern}$"}
CODE: Final = "^SV[0-9]+$"
_EVIDENCE: Final[Schema] = {"type": "object", "required": ["rule", "objective", "bound"]}


def whole(least: int = 0) -> Schema:
    """Return the schema of a whole number from ``least`` to 2^62."""
    return {"type": "integer", "minimum": least, "maximum": LARGEST}


def listed(items: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def one_of(values: Iterable[str]) -> Schema:
    """Return the schema of a text that is one of the given values."""
    return {"enum": [str(value) for value in values]}


def or_null(schema: Schema) -> Schema:
    """Return the schema of what another schema describes, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def closed(properties: Schema) -> Schema:
    """Return the schema of an object with exactly these keys."""
    return {"type": "object", "properties": properties, "required": sorted(properties), "additionalProperties": False}


def titled(title: str, schema: Schema) -> Schema:
    """Return a schema with the keys that it needs in a file of its own: the draft and the title."""
    return {"$schema": DRAFT, "title": title, **schema}


def plan_schema(problem: Schema) -> Schema:
    """Return the schema of a plan file; ``problem`` is the schema of a problem file."""
    verdicts = {"type": "object", "propertyNames": {"pattern": CODE}, "additionalProperties": one_of(Verdict)}
    measures, rows = _measures(RATIO_TEXT), listed(listed(TEXT)) | {"minItems": 1}
    lowered = closed({"discipline": one_of(Discipline), "eager_bytes": whole(), "rows": rows, "measures": measures})
    return closed({
        "version": {"const": VERSION}, "problem": problem, "schedule": or_null(rows), "lowered": or_null(lowered),
        "timeline": or_null(listed(listed(whole())) | {"minItems": 1}), "measures": or_null(measures),
        "verdicts": verdicts, "status": one_of((Status.OPTIMAL, Status.FEASIBLE, Status.INFEASIBLE)),
        "objective": one_of(OBJECTIVES),
        "value": or_null(whole()), "bound": or_null(whole()), "certificate": or_null(_EVIDENCE),
        "seed": whole(), "partition": or_null(rows),
        "then": or_null(second_schema()), "digest": DIGEST_TEXT,
    })  # fmt: skip


def report_schema() -> Schema:
    """Return the schema of ``verify --format json``."""
    code = TEXT | {"pattern": CODE}
    violation = closed({
        "code": code, "message": TEXT, "rank": or_null(whole()), "position": or_null(whole()),
        "operations": listed(TEXT), "counterexample": listed(TEXT),
    })  # fmt: skip
    violation["properties"] |= {"count": whole(1)}
    result = closed({
        "code": code, "name": TEXT, "verdict": one_of(Verdict), "scope": one_of(Scope), "reason": TEXT,
        "remedy": TEXT, "more": whole(), "violations": listed(violation) | {"maxItems": MOST_TOLD},
    })  # fmt: skip
    report = {"verdict": one_of(Verdict), "ok": {"type": "boolean"}, "properties": listed(result)}
    communication = closed({
        "discipline": one_of(Discipline), "eager_bytes": whole(), "strictest": or_null(one_of(Discipline)),
    })  # fmt: skip
    report |= {"measures": or_null(_measures()), "communication": or_null(communication), "remarks": listed(TEXT)}
    return titled("schedverify verify", closed(report))


def conformance_schema() -> Schema:
    """Return the schema of ``conform --format json``; times are nanoseconds."""
    departure = closed({
        "what": one_of(("order", "hand-over", "in flight")), "step": whole(), "rank": whole(),
        "position": or_null(whole()), "message": TEXT,
    })  # fmt: skip
    return titled("schedverify conform", closed({
        "ok": {"type": "boolean"}, "departures": listed(departure), "makespans": listed(whole()), "measured": whole(),
        "predicted": whole(), "planned": or_null(whole()), "bubble": _ratio(), "planned_bubble": _ratio(),
        "peaks": listed(whole()), "allowed": listed(whole()), "costs": listed(_cost(planned=whole())),
        "latency": whole(), "errors": listed(whole()), "spent": _spent(), "ranks": listed(_rank_times()),
    }))  # fmt: skip


def observed_schema() -> Schema:
    """Return the schema of ``trace --format json``; times are nanoseconds, those of ``best`` microseconds."""
    best = {key: value for key, value in search_schema().items() if key not in ("$schema", "title")}
    return titled("schedverify trace", closed({
        "family": or_null(TEXT), "order": listed(listed(TEXT)), "placement": listed(whole()),
        "microbatches": whole(1), "makespans": listed(whole()), "measured": whole(), "predicted": whole(),
        "bubble": _ratio(), "predicted_bubble": _ratio(), "ranks": listed(_rank_times()), "costs": listed(_cost()),
        "latency": whole(), "errors": listed(whole()), "spent": _spent(), "best": or_null(best),
        "remarks": listed(TEXT),
    }))  # fmt: skip


def _cost(**more: Schema) -> Schema:
    return closed({
        "kind": one_of("FBIW"), "stage": whole(), "runs": whole(1), "median": whole(), "least": whole(),
        "most": whole(), **more,
    })  # fmt: skip


def _rank_times() -> Schema:
    return closed(dict.fromkeys(("rank", "computes", "peer", "send", "own"), whole()))


def _spent() -> Schema:
    total = closed({"took": {"type": "integer"}, "predicted": whole()})
    totals = dict.fromkeys(("compute", "message", "gap"), total)
    stretch = closed({
        "what": one_of(tuple(totals)), "rank": whole(), "position": whole(), "step": TEXT,
        "took": {"type": "integer"}, "predicted": whole(), "source": TEXT, "unsent": whole(),
    })  # fmt: skip
    return closed({"step": whole(), **totals, "stretches": listed(stretch)})


def run_schema() -> Schema:
    """Return the schema of what ``run --trace`` writes; the reader checks how the keys depend on each other."""
    rank = whole() | {"maximum": trace_files.MAX_RANKS - 1}
    naming = closed({
        "name": {"const": trace_files.RANK_NAME}, "ph": {"const": "M"}, "pid": rank, "tid": {"const": 0},
        "args": closed({"name": TEXT | {"pattern": f"^{trace_files.rank_name('[0-9]+')}$"}}),
    })  # fmt: skip
    step = whole() | {"maximum": trace_files.MAX_STEPS - 1}
    args = {"step": step, "position": whole(), "start": whole(), "end": whole()}
    running = closed({
        "name": TEXT, "ph": {"const": "X"}, "pid": rank, "tid": {"enum": [0, 1, 2]}, "ts": _ratio(), "dur": _ratio(),
        "args": closed(args),
    })  # fmt: skip
    about = closed({
        "format": {"const": trace_files.RUN_FORMAT}, "version": {"const": trace_files.RUN_VERSION}, "plan": DIGEST_TEXT,
        "ranks": whole(1) | {"maximum": trace_files.MAX_RANKS}, "steps": whole() | {"maximum": trace_files.MAX_STEPS},
        "errors": listed(whole()) | {"minItems": 1},
    })  # fmt: skip
    return titled("schedverify run --trace", closed({
        "displayTimeUnit": {"const": trace_files.UNIT}, "otherData": about,
        "traceEvents": listed({"oneOf": [naming, running]}),
    }))  # fmt: skip


def boundaries_schema() -> Schema:
    """Return the schema of what ``run --boundaries`` writes."""
    tensor = closed({"dtype": TEXT, "shape": listed(whole(0))})
    crossed = closed({
        "source": whole(0), "target": whole(0), "microbatch": whole(0), "backward": {"type": "boolean"},
        "local": {"type": "boolean"}, "tensors": listed(tensor), "bytes": whole(0), "checksums": listed(whole(0)),
    })  # fmt: skip
    return titled("schedverify boundary log", closed({
        "format": {"const": trace_files.BOUNDARIES_FORMAT}, "version": {"const": trace_files.BOUNDARIES_VERSION},
        "plan": TEXT, "ranks": whole(1), "steps": listed(listed(crossed)),
    }))  # fmt: skip


def search_schema() -> Schema:
    """Return the schema of ``optimize --format json``."""
    return titled("schedverify optimize", closed({
        "status": one_of(Status), "objective": one_of(OBJECTIVES), "value": or_null(whole()),
        "bound": or_null(whole()), "gap": or_null(_ratio()), "seconds": _ratio(), "seed": whole(),
        "schedule": or_null(listed(listed(TEXT))), "measures": or_null(_measures()),
        "certificate": or_null({"type": "object"}), "then": or_null(second_schema()), "reason": TEXT,
        "parts": listed(closed({
            "name": TEXT, "began": _ratio(), "seconds": _ratio(), "value": or_null(whole()), "bound": or_null(whole()),
        })),
        "explanation": or_null(_explanation()),
    }))  # fmt: skip


def _explanation() -> Schema:
    relief = closed({"limit": TEXT, "least": or_null(whole()), "bound": or_null(whole())})
    gain = closed({"change": TEXT, "least": whole(), "most": or_null(whole()), "of": TEXT})
    path = listed(closed({"step": TEXT, "why": TEXT}))
    way = closed({"rank": whole(), "to": whole(), "ticks": whole(), "path": path})
    return closed({
        "text": TEXT, "clash": listed(TEXT), "minimal": {"type": "boolean"}, "reliefs": listed(relief), "bound": TEXT,
        "critical_path": path, "critical_cycle": listed(way), "binding": listed(TEXT), "gains": listed(gain),
        "remarks": listed(TEXT),
    })  # fmt: skip


def second_schema() -> Schema:
    """Return the schema of a plan's second objective."""
    return closed({
        "objective": one_of(OBJECTIVES), "value": or_null(whole()), "bound": or_null(whole()),
        "certificate": or_null(_EVIDENCE),
    })  # fmt: skip


def timeline_schema() -> Schema:
    """Return the schema of ``simulate --format json``."""
    step = closed({"op": TEXT, "start": whole(), "end": whole()})
    return titled("schedverify simulate", closed({"measures": _measures(), "timeline": listed(listed(step))}))


def partition_schema() -> Schema:
    """Return the schema of ``partition --format json``; durations are ticks, memory is bytes.

    ``--joint`` prints that of ``optimize`` with keys of its own, ``--cluster`` an advice.
    """
    schema = closed({
        "layers": listed(listed(TEXT)), "placement": listed(whole()), "tick": TEXT, "bottleneck": whole(),
        "bytes": whole(), "proved": {"type": "boolean"}, "linearized": {"type": "boolean"}, "family": TEXT,
        "makespan": whole(), "peak_memory": listed(whole()),
    })  # fmt: skip
    schema["properties"] |= {
        "megatron-layout": TEXT, "megatron-flags": TEXT, "torch": listed(TEXT), "torchtitan": listed(listed(TEXT)),
        "deepspeed": listed(whole()),
    }  # fmt: skip
    return titled("schedverify partition", schema)


def advice_schema() -> Schema:
    """Return the schema of ``partition --cluster FILE --format json``; times are microseconds, memory is bytes."""
    degrees = dict.fromkeys(("tensor_parallel", "pipeline_parallel", "data_parallel", "virtual", "microbatch_size",
                             "microbatches"), whole(1))  # fmt: skip
    setup = closed(degrees | {"recompute": one_of(RECOMPUTE), "inner": one_of(INNER)})
    ranked = closed({
        "setup": setup, "step": whole(), "reducing": whole(), "bubble_fraction": _ratio(), "tensor_share": _ratio(),
        "utilization": _ratio(), "peak_memory": whole(), "layers": listed(listed(TEXT)),
    })  # fmt: skip
    part = {key: value for key, value in setup.items() if key != "required"}
    return titled("schedverify partition --cluster", closed({
        "ranked": listed(ranked),
        "rejected": listed(closed({"setup": part, "reason": TEXT, "missing": whole()})),
        "slower": listed(closed({"setup": setup, "least": whole()})),
    }))  # fmt: skip


def _measures(ratio: Schema | None = None) -> Schema:
    ratio = ratio or _ratio()
    ratios = dict.fromkeys(RATIOS, ratio) | {"bubble_overhead": or_null(ratio)}
    return closed(dict.fromkeys(TICKS, whole()) | ratios | dict.fromkeys(BY_RANK, listed(whole())))


def _ratio() -> Schema:
    return {"type": "number", "minimum": 0}
