"""What cures a violation: communication that does not match, swaps or hangs is made anew around the same computing."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Final

from schedverify.core.result import PropertyResult, Report, Verdict
from schedverify.verifier.rules import REGISTRY, Case

CURED_BY_LOWERING: Final = ("SV301", "SV302", "SV303", "SV304")
_COMPUTING: Final = ("SV101", "SV102", "SV103", "SV104", "SV201")


def lowering_command(schedule: str, problem: str | None = None) -> str:
    """Return the command that gives a schedule in a file communication that is proved, and what it keeps."""
    words = ["schedverify", "lower", schedule, *(["--problem", problem] if problem else []), "--again"]
    return f"{shlex.join(words)} keeps the computing and adds communication that is proved"


def with_cures(results: list[PropertyResult], case: Case) -> list[PropertyResult]:
    """Return the results with the remedy of those that a new lowering cures.

    Where the computing by itself is violated as well, or only an excerpt of it is known, no lowering can be made, and
    none is named.
    """
    curable = [_violated_by_communication(result) for result in results]
    if not any(curable) or case.excerpt or not _computing_holds(case):
        return results
    remedy = lowering_command("SCHEDULE")
    pairs = zip(results, curable, strict=True)
    return [dataclasses.replace(result, remedy=remedy) if cure else result for result, cure in pairs]


def cured_in(report: Report, schedule: str, problem: str | None) -> Report:
    """Return a report whose remedies name the files that it is about."""
    remedy = lowering_command(schedule, problem)
    named = (
        dataclasses.replace(result, remedy=remedy) if result.remedy and _violated_by_communication(result) else result
        for result in report.properties
    )
    return dataclasses.replace(report, properties=tuple(named))


def _violated_by_communication(result: PropertyResult) -> bool:
    return result.code in CURED_BY_LOWERING and result.verdict is Verdict.VIOLATED


def _computing_holds(case: Case) -> bool:
    """Whether the order of the compute steps has every operation once, where it belongs, and can run."""
    computing = Case(case.schedule.compute_only(), case.problem)
    return not any(True for code in _COMPUTING for _ in REGISTRY[code].check(computing))
