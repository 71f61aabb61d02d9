"""Plans that version 1 of their form wrote are read; what they claim of the span is judged by what it means now.

``tests/support/plans_of_version_1`` has what schedverify wrote before the span had its present meaning: orders of
families and of searches, every objective, one and two of them, with communication and one without, limits, copies,
slices, a graph, names of layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schedverify.core.errors import InputError
from schedverify.core.result import Plan, Verdict
from schedverify.formats import load, save
from schedverify.formats.plan_files import canonical, digest
from schedverify.formats.plan_reader import plan_from
from schedverify.verifier.verification import verify

FOLDER = Path(__file__).parents[1] / "support" / "plans_of_version_1"
OLD = sorted(FOLDER.glob("*.json"))
LONGER = ("longer-window", "optimal-span", "counts")
"""Plans whose span was the window of the earliest timeline, or whose span bubble that of another rank."""


def data_of(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def read(data: dict[str, Any]) -> Plan:
    return plan_from(data | {"digest": digest(data)})


def test_there_are_plans_of_every_kind() -> None:
    data = [data_of(path.stem) for path in OLD]
    assert len(data) >= 20
    assert {each["version"] for each in data} == {1}
    assert {each["status"] for each in data} == {"optimal", "feasible"}
    assert {each["objective"] for each in data} == {"makespan", "span", "peak-memory"}
    assert {each["then"]["objective"] for each in data if "then" in each} == {"span", "peak-memory"}
    assert {each["certificate"]["rule"] for each in data if each["certificate"]} >= {
        "load",
        "idle",
        "counts",
        "sequence",
    }


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_it_is_read_and_what_it_claims_still_follows(path: Path) -> None:
    plan = load(str(path))
    assert isinstance(plan, Plan)
    report = verify(plan)
    wrong = [str(violation).removeprefix("SV501 ").removeprefix("lowered: ") for violation in report.violations]
    assert all(text.startswith(("span is", "span_bubble is", "span (value) is")) for text in wrong), wrong
    assert bool(wrong) == (path.stem in LONGER)
    undecided = [each.code for each in report.properties if each.verdict is Verdict.UNDECIDED]
    assert undecided == (["SV502"] if path.stem in ("optimal-peak", "then-peak") else [])


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_it_is_written_as_version_2(path: Path, tmp_path: Path) -> None:
    plan, new = load(str(path)), tmp_path / "plan.json"
    save(plan, str(new))
    assert json.loads(new.read_text(encoding="utf-8"))["version"] == 2
    assert load(str(new)) == plan


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_every_old_claim_is_judged(path: Path) -> None:
    data = data_of(path.stem)
    for change in (
        {"value": data["value"] + 1},
        {"measures": data["measures"] | {"makespan": data["measures"]["makespan"] + 1}},
        {"timeline": [[start + 1 for start in row] for row in data["timeline"]]},
        {"verdicts": data["verdicts"] | {"SV101": "violated"}},
        {"status": "optimal", "bound": None, "certificate": None},
    ):
        assert verify(read(data | change)).verdict in (Verdict.VIOLATED, Verdict.UNDECIDED)


def test_a_longer_window_is_no_span() -> None:
    """Figures of span.toml: a cycle over two ranks binds, with 27 ticks, where the earliest timeline takes 28."""
    told = [violation.message for violation in verify(read(data_of("longer-window"))).violations]
    assert "span (value) is claimed to be 28 ticks; what follows is 27 ticks" in told


def test_a_plan_of_version_1_is_whole_but_for_its_second_objective() -> None:
    data = data_of("1f1b")
    assert "then" not in data
    assert read(data | {"then": None}) == read(data)
    with pytest.raises(InputError, match="then: missing"):
        read(data | {"version": 2})
    assert read(data | {"measures": None}).measures is None
    assert canonical(data) + "\n" == (FOLDER / "1f1b.json").read_text(encoding="utf-8")


def test_what_version_1_said_of_buffers_was_of_the_order_without_messages() -> None:
    data = data_of("buffer")
    assert data["verdicts"]["SV403"] == "not applicable"
    assert "SV403" not in read(data).verdicts
    assert verify(read(data))["SV403"].verdict is Verdict.HOLDS
    assert not verify(read(data | {"version": 2, "then": None})).ok
    assert not verify(read(data | {"verdicts": {"SV403": "violated"}})).ok
