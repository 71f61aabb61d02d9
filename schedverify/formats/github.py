"""A report as GitHub's workflow commands: each violation at the line of its rank."""

from collections.abc import Sequence
from pathlib import Path

from schedverify.core.result import Report


def annotations(report: Report, path: str) -> str:
    """Return one ``::error`` command for each violation of a report on the schedule file ``path``."""
    return annotations_at(report, path, lines_of(path))


def annotations_at(report: Report, path: str, lines: Sequence[int]) -> str:
    """Return the same where it is known in which line of the file the order of each rank stands."""
    text = ""
    for violation in report.violations:
        line = f",line={lines[violation.rank]}" if violation.rank is not None and violation.rank < len(lines) else ""
        text += f"::error file={_property(path)}{line},title={violation.code}::{_message(violation.message)}\n"
    return text


def lines_of(path: str) -> list[int]:
    """Return for each rank the line where its order stands; nothing for plans and standard input."""
    if path == "-" or path.endswith(".json"):
        return []
    rows = Path(path).read_text(encoding="utf-8").splitlines()
    if path.endswith(".csv"):
        return list(range(1, len(rows) + 1))
    return [number for number, row in enumerate(rows, 1) if row.partition("#")[0].strip()]


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
