"""What a file holds, by its keys, where a reader of something else is given it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from schedverify.core.errors import Fault, InputError


class FileKind(NamedTuple):
    """A kind of file: its keys that no other kind has together, and the command that takes it."""

    name: str
    marks: frozenset[str]
    takes: str


PLAN: Final = FileKind("a plan", frozenset({"digest"}), "schedverify verify takes it")
DUMP: Final = FileKind("the dump of a job", frozenset({"dump", "ranks"}), PLAN.takes)
PROBLEM: Final = FileKind("a problem", frozenset({"microbatches", "costs"}), "schedverify optimize takes it")
MODEL: Final = FileKind("a model", frozenset({"layer"}), "schedverify partition takes it")
DECODER: Final = FileKind("a model by its shape", frozenset({"decoder"}), MODEL.takes)
CLUSTER: Final = FileKind("a cluster", frozenset({"nodes"}), "schedverify partition --cluster takes it")
RUN: Final = FileKind("a trace", frozenset({"traceEvents"}), "schedverify trace and conform take that of a run")
RECORDER: Final = FileKind(
    "a dump of the flight recorder", frozenset({"pg_config", "pg_status"}), "schedverify conform PLAN DUMP ... takes it"
)
CASE: Final = FileKind("a schedule with its problem", frozenset({"schedule", "problem"}), "schedverify lint takes it")
REPORT: Final = FileKind("a report", frozenset({"verdict", "properties"}), "it is printed, and read by nothing")
ANSWER: Final = FileKind("the answer of a search", frozenset({"status", "gap"}), "its option -o writes the plan")
_KINDS: Final = (PLAN, DUMP, PROBLEM, MODEL, DECODER, CLUSTER, RUN, RECORDER, REPORT, ANSWER, CASE)


def check_kind(data: Any, expected: str, *wanted: FileKind) -> None:
    """Raise an InputError where the data of a file is clearly of another kind than the wanted ones.

    Parameters
    ----------
    expected
        What is expected, as messages say it: ``a problem``.
    """
    found = data.keys() if isinstance(data, Mapping) else set()
    if any(kind.marks <= found for kind in wanted):
        return
    for kind in _KINDS:
        if kind.marks <= found:
            raise InputError(Fault("", f"{kind.name}, where {expected} is expected", kind.takes))
