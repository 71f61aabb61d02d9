"""What cures a violation: communication that does not match, swaps or hangs is made anew around the same computing."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Final

from schedverify.core.result import PropertyResult, Report, Verdict
from schedverify.core.schedule import waits_for_sends
from schedverify.verifier.rules import REGISTRY, Case

CURED_BY_LOWERING: Final = ("SV301", "SV302", "SV303", "SV304")
_WAITS: Final = "--waits"
_COMPUTING: Final = ("SV101", "SV102", "SV103", "SV104", "SV201")


def lowering_command(
    schedule: str, problem: str | None = None, made_by: Sequence[str] = (), *, waits: bool = False
) -> str:
    """Return the command that gives a schedule communication that is proved, and what it keeps.

    Parameters
    ----------
    schedule, problem
        The files.
    made_by
        The words of the command that prints the schedule, where it stands in no file.
    waits
        Whether sends are to be waited for.
    """
    first = f"{shlex.join(made_by)} | " if made_by else ""
    words = ["schedverify", "lower", "-" if made_by else schedule, *(["--problem", problem] if problem else [])]
    words += ["--again", *([_WAITS] if waits else [])]
    return f"{first}{shlex.join(words)} keeps the computing and adds communication that is proved"


def with_cures(results: list[PropertyResult], case: Case) -> list[PropertyResult]:
    """Return the results with the remedy of those that a new lowering cures.

    Where the computing by itself is violated as well, or only an excerpt of it is known, no lowering can be made, and
    none is named.
    """
    curable = [_violated_by_communication(result) for result in results]
    if not any(curable) or case.excerpt or not _computing_holds(case):
        return results
    remedy = lowering_command("SCHEDULE", waits=waits_for_sends(case.schedule))
    pairs = zip(results, curable, strict=True)
    return [dataclasses.replace(result, remedy=remedy) if cure else result for result, cure in pairs]


def cured_in(report: Report, schedule: str, problem: str | None, made_by: Sequence[str] = ()) -> Report:
    """Return a report whose remedies name the files that it is about; see :func:`lowering_command`."""

    def named(result: PropertyResult) -> PropertyResult:
        if not (result.remedy and _violated_by_communication(result)):
            return result
        remedy = lowering_command(schedule, problem, made_by, waits=_WAITS in result.remedy)
        return dataclasses.replace(result, remedy=remedy)

    return dataclasses.replace(report, properties=tuple(map(named, report.properties)))


def _violated_by_communication(result: PropertyResult) -> bool:
    return result.code in CURED_BY_LOWERING and result.verdict is Verdict.VIOLATED


def _computing_holds(case: Case) -> bool:
    """Whether the order of the compute steps has every operation once, where it belongs, and can run."""
    computing = Case(case.schedule.compute_only(), case.problem)
    return not any(True for code in _COMPUTING for _ in REGISTRY[code].check(computing))
