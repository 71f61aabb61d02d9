"""Files: problems, schedules and plans come back as they went, and the schemas say what the readers take."""

from __future__ import annotations

import dataclasses
import json
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError

import schedverify.testing  # noqa: F401 - makes from_type know problems and schedules
from schedverify.core.errors import InputError, ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Status
from schedverify.core.schedule import Schedule
from schedverify.formats import load, load_schedule, save
from schedverify.formats.schema import FOLDER, schemas
from schedverify.generators import generate
from schedverify.planner.plans import plan_of
from schedverify.verifier.verification import verify

ROOT = Path(__file__).parents[2]
PROBLEMS = sorted((ROOT / "specs" / "problems").glob("*.toml"))


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((ROOT / FOLDER / name).read_text(encoding="utf-8")))


def test_the_schemas_are_current() -> None:
    for name, text in schemas().items():
        assert (ROOT / FOLDER / name).read_text(encoding="utf-8") == text, "run python -m schedverify.formats.schema"


@pytest.mark.parametrize("path", PROBLEMS, ids=lambda path: path.stem)
def test_every_problem_of_ours_loads_and_fits_the_schema(path: Path, tmp_path: Path) -> None:
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    validator("problem.json").validate(data)
    assert data["source"]
    assert data["expected"]
    problem = load(str(path))
    for suffix in (".toml", ".json"):
        save(problem, str(tmp_path / f"again{suffix}"))
        assert load(str(tmp_path / f"again{suffix}")) == problem


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    right = {"ranks": 2, "microbatches": 2, "costs": {"forward": 1, "backward": 2}}
    validator("problem.json").validate(right)
    for wrong in ({"rank": 2}, {"ranks": 0}, {"form": "half"}, {"costs": {"forward": -1}}, {"placement": "zigzag"}):
        with pytest.raises(ValidationError):
            validator("problem.json").validate(right | wrong)
        with pytest.raises(InputError):
            Problem.of(right | wrong)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=st.from_type(Problem), schedule=st.from_type(Schedule))
def test_what_the_test_kit_draws_comes_back_from_every_form(
    tmp_path: Path, problem: Problem, schedule: Schedule
) -> None:
    for value, suffixes in ((problem, (".toml", ".json")), (schedule, (".txt", ".csv"))):
        for suffix in suffixes:
            save(value, str(tmp_path / f"drawn{suffix}"))
            assert load(str(tmp_path / f"drawn{suffix}")) == value


def test_csv_is_pytorch_s(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("0F0,,0SEND_F0,(0F1;0B0)OVERLAP_F_B,0UNSHARD\n\n2F0\n", encoding="utf-8")
    schedule = load(str(path))
    assert str(schedule) == "0F0 0SEND_F0 (0F1;0B0)OVERLAP_F_B 0UNSHARD\n-\n2F0"
    path.write_text("0F0,0F1\n1F0,1F0junk\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"row 2, column 2.*1F0junk"):
        load(str(path))


def plan() -> Plan:
    problem = Problem.chain(ranks=2, microbatches=2, name="two")
    return plan_of(generate("1f1b", problem), problem)


def test_a_plan_comes_back_and_is_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    save(plan(), str(first))
    again = load(str(first))
    assert dataclasses.replace(again, seconds=0) == plan()
    save(again, str(second))
    assert first.read_bytes() == second.read_bytes()
    validator("plan.json").validate(json.loads(first.read_text(encoding="utf-8")))
    assert verify(again).ok
    assert load_schedule(str(first)) == plan().schedule


def rewritten(path: Path, change: dict[str, Any]) -> None:
    data = json.loads(path.read_text(encoding="utf-8")) | change
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 8}, "digest"),
        ({"version": 3}, "version"),
        ({"extra": 1}, "extra"),
        ({"schedule": [["0F0"]]}, "schedule"),
        ({"timeline": [[0]]}, "timeline"),
        ({"status": "best"}, "status"),
    ],
)
def test_a_changed_plan_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "plan.json"
    save(plan(), str(path))
    rewritten(path, change)
    with pytest.raises(InputError, match=message):
        load(str(path))


def test_a_plan_without_a_schedule_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ScheduleError):
        save(Plan(Problem.chain(ranks=1, microbatches=1), Status.UNKNOWN, "makespan"), str(tmp_path / "p.json"))
    assert not list(tmp_path.iterdir())


def test_every_byte_of_a_plan_counts(tmp_path: Path) -> None:
    """Whatever single digit is changed, the reader or the verifier objects."""
    path = tmp_path / "plan.json"
    save(plan(), str(path))
    text = path.read_text(encoding="utf-8")
    places = [i for i, letter in enumerate(text) if letter.isdigit()]
    for place in random.Random(0).sample(places, 40):
        path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :], encoding="utf-8")
        with pytest.raises(InputError):
            load(str(path))
