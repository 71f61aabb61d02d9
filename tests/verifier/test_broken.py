"""Every example of specs/broken violates the codes that it names, no other, and the message says where."""

from __future__ import annotations

import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from oracle.communication import Judge
from oracle.compute_orders import judge, places
from oracle.lowered import shared_verdicts
from oracle.runtimes import profile_verdicts
from schedverify.core.problem import Problem
from schedverify.core.result import Report, Verdict
from schedverify.core.schedule import Schedule
from schedverify.verifier.verification import verify

FOLDER = Path(__file__).parents[2] / "specs" / "broken"
CODES = (
    "SV101", "SV102", "SV103", "SV104", "SV201", "SV202", "SV301", "SV302", "SV303", "SV304", "SV305", "SV306", "SV401",
    "SV402", "SV403", "SV404", "SV405", "SV501", "SV502", "SV503", "SV701", "SV702", "SV703", "SV704", "SV705", "SV711",
    "SV712", "SV721", "SV722", "SV723",
)  # fmt: skip
JUDGED = ("SV101", "SV102", "SV103", "SV104", "SV201", "SV401", "SV402")
PLACELESS = ("SV103", "SV501", "SV502", "SV503", "SV701", "SV705", "SV711")
"""What is missing, or claimed, stands nowhere."""
NOT_OF_THE_ORDER = ("sv306-fewer-bytes-than-declared", "sv503-its-messages-take-too-long")
"""What the problem says against itself, and what only times show, which this oracle does not ask."""
LACKING = ("sv102-missing-on-one-rank-of-the-stage",)
"""What lacks on one rank has no position there."""

OPTIONS = ("discipline", "eager_bytes", "profile")

NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))


@cache
def example(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def report_of(data: dict[str, Any]) -> Report:
    options = {key: data[key] for key in OPTIONS if key in data}
    return verify(Schedule.parse(data["schedule"]), Problem.of(data["problem"]), claims=data.get("claims"), **options)


def violated(report: Report) -> set[str]:
    return {result.code for result in report.properties if result.verdict is Verdict.VIOLATED}


@pytest.mark.parametrize("name", NAMES)
def test_exactly_the_named_codes_are_violated(name: str) -> None:
    data = example(name)
    report = report_of(data)
    assert violated(report) == set(data["codes"]), list(map(str, report.violations))
    undecided = [result for result in report.properties if result.verdict is Verdict.UNDECIDED]
    assert not undecided


@pytest.mark.parametrize("name", NAMES)
def test_the_message_names_rank_and_position(name: str) -> None:
    for violation in report_of(example(name)).violations:
        assert violation.message
        assert "\n" not in violation.message
        if violation.code not in PLACELESS:
            assert violation.rank is not None
            assert f"rank {violation.rank}" in violation.message
            assert violation.operations
        if violation.code not in PLACELESS and name not in LACKING:
            assert violation.position is not None
            assert f"position {violation.position}" in violation.message


LOWERED = [name for name in NAMES if Schedule.parse(example(name)["schedule"]).lowered]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LOWERED])
def test_the_oracle_sees_the_same(name: str) -> None:
    data = example(name)
    rows = Schedule.parse(data["schedule"]).strings()
    problem = Problem.of(data["problem"]).to_dict()
    report = report_of(data)
    found = {code for code, is_violated in judge(rows, problem).items() if is_violated}
    assert found == set(data["codes"]) & set(JUDGED)
    told = {(violation.rank, violation.position) for violation in report.violations}
    where = places(rows, problem)
    for code in set(where) & set(data["codes"]):
        assert where[code] <= told


@pytest.mark.parametrize("name", [name for name in LOWERED if name not in NOT_OF_THE_ORDER])
def test_the_oracle_of_communication_sees_the_same(name: str) -> None:
    data = example(name)
    oracle = Judge(Schedule.parse(data["schedule"]).strings(), Problem.of(data["problem"]).to_dict())
    verdicts = shared_verdicts(oracle.program)
    verdicts |= oracle.verdicts(data.get("discipline", "pair"), eager_bytes=data.get("eager_bytes", 0))
    if "profile" in data:
        verdicts |= asked(data)
    assert {code for code, is_violated in verdicts.items() if is_violated} == set(data["codes"])


def asked(data: dict[str, Any]) -> dict[str, bool]:
    """Return what the second judge says of the codes of the example's profile."""
    codes = {
        "torch": ("SV70",),
        "torch-2.15": ("SV701", "SV702", "SV703", "SV705", "SV72"),
        "torchtitan": ("SV70", "SV71"),
    }[data["profile"]]
    found = profile_verdicts(Schedule.parse(data["schedule"]).strings(), Problem.of(data["problem"]).to_dict())
    return {code: is_violated for code, is_violated in found.items() if code.startswith(codes)}


@pytest.mark.parametrize("name", [name for name in NAMES if "profile" in example(name)])
def test_the_second_judge_of_profiles_sees_the_same(name: str) -> None:
    data = example(name)
    found = asked(data)
    assert {code for code, is_violated in found.items() if is_violated} == {c for c in data["codes"] if c >= "SV7"}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_complete_and_bears_its_code(name: str) -> None:
    data = example(name)
    assert set(data) - {"claims", *OPTIONS} == {"about", "codes", "problem", "schedule"}
    assert data["about"].endswith(".")
    assert name.upper().startswith(tuple(data["codes"]))
    claimed = {"SV202", "SV501", "SV502"} & set(data["codes"])
    assert bool(claimed) == ("claims" in data)


def test_each_code_has_two_examples() -> None:
    count = Counter(code for name in NAMES for code in example(name)["codes"])
    assert set(count) == set(CODES)
    assert min(count.values()) >= 2


def test_what_is_claimed_rightly_holds() -> None:
    claims = {
        "timeline": [[0, 1, 4, 6, 7, 9, 10, 13], [1, 2, 4, 5, 7, 8, 10, 11]],
        "makespan": 15,
        "span": 15,
        "bubble_fraction": "1/5",
        "peak_in_flight": [2, 1],
        "peak_memory": [2, 1],
        "objective": "makespan",
        "bound": 15,
        "certificate": {"rule": "load", "rank": 1, "bound": 15},
    }
    report = report_of(example("sv501-makespan-one-too-low") | {"claims": claims})
    assert report.ok, list(map(str, report.violations))
    for code in ("SV202", "SV501", "SV502"):
        assert report[code].verdict is Verdict.HOLDS
