"""What each property tells, word for word: of every example of specs/broken, and of some orders with several faults.

``tests/verifier/told.json`` has it, and ``tests/verifier/told_cases.toml`` the orders;
``python tests/verifier/test_told.py`` writes it anew, to be read before it is committed.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from schedverify.core.problem import Problem
from schedverify.core.result import Report, Verdict
from schedverify.core.schedule import Schedule
from schedverify.verifier.rules import buffers
from schedverify.verifier.verification import verify
from verifier.test_broken import NAMES, example, report_of

FOLDER = Path(__file__).parent
FILE = FOLDER / "told.json"
PAIR: dict[str, Any] = {"ranks": 2, "microbatches": 2}
CASES: dict[str, dict[str, Any]] = tomllib.loads((FOLDER / "told_cases.toml").read_text(encoding="utf-8"))


def judged(name: str) -> Report:
    if name in NAMES:
        return report_of(example(name))
    case = CASES[name]
    problem = Problem.of(case["problem"]) if "costs" in case["problem"] else Problem.chain(**case["problem"])
    return verify(Schedule.parse(case["schedule"]), problem, **case.get("options", {}))


def told(report: Report) -> list[list[Any]]:
    """Return everything that is told of the violations, as JSON has it."""
    return [
        [v.code, v.rank, v.position, v.message, list(v.operations), list(v.counterexample)] for v in report.violations
    ]


@pytest.mark.parametrize("name", [*NAMES, *CASES])
def test_it_tells_what_is_written(name: str) -> None:
    assert told(judged(name)) == json.loads(FILE.read_text(encoding="utf-8"))[name]


def test_every_code_is_told() -> None:
    everything = json.loads(FILE.read_text(encoding="utf-8"))
    assert list(everything) == [*NAMES, *CASES]
    assert all(everything.values())


ORDER = "0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1"
NO_MESSAGES = "no send and no receive stands in the schedule"
SILENT = {
    "SV202": "no timeline is handed in",
    "SV301": NO_MESSAGES, "SV302": NO_MESSAGES, "SV303": NO_MESSAGES, "SV304": NO_MESSAGES,
    "SV404": "the problem limits no outstanding sends (limits.outstanding_sends)",
    "SV405": "the problem limits no unsharded stages (limits.unsharded)",
    "SV305": "no UNSHARD, RESHARD or REDUCE_GRAD stands in the schedule", "SV306": NO_MESSAGES,
    "SV401": "the problem limits no micro-batches in flight", "SV402": "the problem limits no memory",
    "SV403": NO_MESSAGES,
    "SV501": "no measure is claimed", "SV502": "no lower bound is claimed",
    "SV703": "no communication stands in the schedule; PyTorch adds REDUCE_GRAD when it is loaded",
    "SV705": "no communication stands in the schedule; PyTorch adds it when it is loaded",
}  # fmt: skip


def reasons(report: Report, verdict: Verdict) -> dict[str, str]:
    assert all(
        (result.verdict in (Verdict.HOLDS, Verdict.VIOLATED)) != bool(result.reason) for result in report.properties
    )
    return {result.code: result.reason for result in report.properties if result.verdict is verdict}


def test_it_says_why_there_is_nothing_to_judge() -> None:
    report = verify(Schedule.parse(ORDER), Problem.chain(**PAIR), profile="torch")
    assert reasons(report, Verdict.NOT_APPLICABLE) == SILENT
    alone = Problem.chain(ranks=2, microbatches=1, form="inference")
    sent = verify(Schedule.parse("0F0 0SEND_F0\n1RECV_F0 1F0"), alone, select=["SV3", "SV403"])
    assert sent.ok
    assert reasons(sent, Verdict.NOT_APPLICABLE) == {
        "SV305": SILENT["SV305"],
        "SV306": "the problem declares no boundary",
        "SV403": "the problem limits no channel (links.buffer)",
    }


def test_it_says_why_it_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = {
        "makespan": 9,
        "bound": 9,
        "then": {"objective": "span", "bound": 8, "certificate": {"rule": "load", "rank": 1, "bound": 5}},
    }
    stuck = verify(Schedule.parse("0B0 0F0 0F1 0B1\n1F0 1B0 1F1 1B1"), Problem.chain(**PAIR), claims=claims)
    assert reasons(stuck, Verdict.UNDECIDED) == {
        "SV501": "the schedule cannot run to its end as a whole, so no measure follows",
        "SV502": "no evidence is given for the bound 9: it is the solver's word; "
        "the evidence proves 6; the rest of the bound 8 is the solver's word",
    }
    monkeypatch.setattr(buffers, "MOST_VISITS", 1)
    buffered = Problem.chain(**PAIR, form="inference", buffer=1)
    crowded = Schedule.parse("0F0 0SEND_F0 0F1 0SEND_F1\n1RECV_F0 1F0 1RECV_F1 1F1")
    report = verify(crowded, buffered, discipline="buffered", select=["SV403"])
    assert reasons(report, Verdict.UNDECIDED) == {"SV403": "1 channels of this schedule are more than can be followed"}


if __name__ == "__main__":
    written = {name: ",\n  ".join(map(json.dumps, told(judged(name)))) for name in [*NAMES, *CASES]}
    lines = [f" {json.dumps(name)}: [{text}]" for name, text in written.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
