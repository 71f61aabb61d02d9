"""Plan files: the same bytes for the same plan, back to an equal plan, and nothing in them is taken on trust."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schedverify.core.discipline import Discipline
from schedverify.core.errors import InputError, ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.problem.numbers import LARGEST
from schedverify.core.result import Lowered, Plan, SecondaryObjective, Status, Verdict
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Measures
from schedverify.formats.json_toml import parse_json
from schedverify.formats.output_schemas import plan_schema
from schedverify.formats.plan_files import canonical, digest, plan_data, to_json
from schedverify.formats.plan_reader import FIELDS, plan_from
from schedverify.formats.schema import problem_schema
from schedverify.generators import generate
from schedverify.planner.plans import plan_of
from schedverify.verifier.verification import verify
from support.strategies import problems, steps

SCHEMA = Draft202012Validator(plan_schema(problem_schema()))
PROBLEM = Problem.chain(ranks=2, microbatches=2, name="two")
PLAN = plan_of(generate("1f1b", PROBLEM), PROBLEM)
NUMBERS = st.integers(0, LARGEST)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | st.text('aé"\\\n\u2028', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=9,
)


def parse_plan(text: str) -> Plan:
    """Return the plan that a text holds, as the loader reads it."""
    return plan_from(parse_json(text))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw a plan of any schedule, with claims that need not be true."""
    problem = draw(problems())
    rows = draw(st.lists(st.lists(steps(), max_size=3), min_size=problem.ranks, max_size=problem.ranks))
    schedule = Schedule.of(rows).compute_only()
    starts = tuple(tuple(draw(NUMBERS) for _ in row) for row in schedule.strings())

    def by_rank() -> tuple[int, ...]:
        return tuple(draw(NUMBERS) for _ in rows)

    ratio = st.builds(Fraction, NUMBERS, st.integers(1, LARGEST))
    measures = Measures(draw(NUMBERS), draw(NUMBERS), draw(ratio), draw(st.none() | ratio), draw(ratio),
                        by_rank(), by_rank(), by_rank())  # fmt: skip
    objectives = st.sampled_from(["makespan", "span", "peak-memory"])
    named = st.fixed_dictionaries({"rule": st.text("abc", max_size=2), "objective": objectives, "bound": NUMBERS})
    places = st.dictionaries(st.text("abc", max_size=2), PLAIN, max_size=3)
    certificates = st.none() | st.builds(lambda place, rest: place | rest, places, named)
    codes = draw(st.lists(st.sampled_from(["SV101", "SV201", "SV501"]), unique=True).map(sorted))
    layers = st.just(tuple((f"layer {stage}", f"{stage}")[: 1 + stage % 2] for stage in range(problem.stages)))
    discipline, eager_bytes = draw(st.sampled_from(Discipline)), draw(NUMBERS)
    lowered = Lowered(Schedule.of(rows), discipline, eager_bytes, measures)
    return Plan(
        problem=problem,
        status=draw(st.sampled_from([Status.OPTIMAL, Status.FEASIBLE])),
        objective=draw(objectives),
        schedule=schedule,
        starts=starts,
        measures=measures,
        lowered=draw(st.sampled_from([None, lowered])),
        value=draw(NUMBERS),
        bound=draw(st.none() | NUMBERS),
        certificate=draw(certificates),
        then=draw(st.none() | st.builds(SecondaryObjective, objectives, NUMBERS, st.none() | NUMBERS, certificates)),
        verdicts=tuple((code, draw(st.sampled_from(list(Verdict)))) for code in codes),
        seed=draw(NUMBERS),
        partition=problem.partition or draw(st.none() | layers),
    )


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(plans())
def test_a_plan_comes_back_and_gives_the_same_bytes(plan: Plan) -> None:
    text = to_json(plan)
    again = parse_plan(text)
    assert again == plan
    assert to_json(again) == text
    SCHEMA.validate(json.loads(text))


def test_a_plan_file_is_canonical_and_carries_its_digest() -> None:
    text = to_json(PLAN)
    data = json.loads(text)
    assert text == json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    rest = {name: value for name, value in data.items() if name != "digest"}
    assert data["digest"] == hashlib.sha256(canonical(rest).encode()).hexdigest()
    assert set(data) == set(FIELDS)
    assert parse_plan(json.dumps(data, indent=4)) == PLAN
    assert json.loads(text, parse_float=pytest.fail) == data


def test_what_a_plan_file_holds() -> None:
    data = json.loads(to_json(PLAN))
    assert data["schedule"] == [["0F0", "0F1", "0B0", "0B1"], ["1F0", "1B0", "1F1", "1B1"]]
    assert data["timeline"] == [[0, 1, 4, 7], [1, 2, 4, 5]]
    assert data["measures"]["bubble_fraction"] == "1/3"
    assert data["measures"]["peak_in_flight"] == [2, 1]
    assert (data["version"], data["status"], data["objective"], data["value"]) == (2, "feasible", "makespan", 9)
    assert (data["partition"], data["bound"]) == (None, None)
    assert data["lowered"]["rows"][0] == ["0F0", "0SEND_F0", "0F1", "0SEND_F1", "0RECV_B0", "0B0", "0RECV_B1", "0B1"]
    assert (data["lowered"]["discipline"], data["lowered"]["eager_bytes"]) == ("pair", 0)
    assert data["lowered"]["measures"] == data["measures"]
    assert data["verdicts"]["SV201"] == "holds"
    assert data["problem"] == PROBLEM.to_dict()


def test_a_plan_repeats_the_partition_of_its_problem() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, partition=[["a", "b"], ["c"]])
    plan = plan_of(generate("1f1b", problem), problem)
    assert plan.partition == (("a", "b"), ("c",))
    data = json.loads(to_json(plan))
    assert data["partition"] == data["problem"]["partition"] == [["a", "b"], ["c"]]
    assert parse_plan(to_json(plan)) == plan
    unnamed = Problem.chain(ranks=2, microbatches=2)
    assert verify(plan, unnamed).violations == ()
    data["partition"] = [["a"], ["b", "c"]]
    data["digest"] = digest(data)
    with pytest.raises(InputError, match="partition: the problem has other layers in its stages"):
        parse_plan(json.dumps(data))


def test_seconds_and_reason_are_not_in_the_bytes() -> None:
    assert to_json(dataclasses.replace(PLAN, seconds=1.5, reason="stopped")) == to_json(PLAN)


def test_ratios_and_tuples_of_a_certificate_are_written_exactly() -> None:
    named = {"rule": "load", "objective": "makespan", "bound": 9}
    plan = dataclasses.replace(PLAN, certificate=named | {"a": (1, Fraction(15, 4), Fraction(4, 2)), "b": {"c": None}})
    assert parse_plan(to_json(plan)).certificate == named | {"a": [1, "15/4", 2], "b": {"c": None}}


@pytest.mark.parametrize("value", [1.5, 2.0, LARGEST + 1, {1: 2}, {2}, b"x", [[float("nan")]]])
def test_a_certificate_of_anything_else_is_not_written(value: Any) -> None:
    with pytest.raises(InputError, match=r"certificate\.x.*whole numbers up to 2\^62"):
        to_json(dataclasses.replace(PLAN, certificate={"x": value}))


def test_a_certificate_that_nests_without_end_is_not_written() -> None:
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    with pytest.raises(InputError, match="nested deeper than 32 levels"):
        to_json(dataclasses.replace(PLAN, certificate={"x": deep}))


@pytest.mark.parametrize("status", [Status.FEASIBLE, Status.UNKNOWN])
def test_a_plan_without_a_schedule_is_not_written(status: Status) -> None:
    with pytest.raises(ScheduleError, match=f"without a schedule.*{status.value}"):
        plan_data(Plan(PROBLEM, status, "makespan"))


def test_a_plan_that_there_is_none_comes_back() -> None:
    plan = Plan(PROBLEM, Status.INFEASIBLE, "makespan", bound=9)
    text = to_json(plan)
    assert parse_plan(text) == plan
    SCHEMA.validate(json.loads(text))


def test_a_plan_that_lacks_what_follows_from_its_schedule_is_not_written() -> None:
    with pytest.raises(InputError, match="measures: a plan in a file has it"):
        to_json(dataclasses.replace(PLAN, measures=None))


# What is no plan


def damaged(change: Callable[[dict[str, Any]], Any], *, sign: bool = True) -> dict[str, str]:
    """Return the faults, by key, of the plan after a change, with the digest of the changed content or the old one."""
    data = json.loads(to_json(PLAN))
    change(data)
    if sign and "digest" in data:
        data["digest"] = digest(data)
    with pytest.raises(InputError) as caught:
        parse_plan(json.dumps(data))
    return {fault.key: f"{fault.message} ({fault.hint})" for fault in caught.value.faults}


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (("extra",), 1, "extra"),
        (("version",), "1", "version"),
        (("version",), True, "version"),
        (("problem",), 3, "problem"),
        (("problem", "ranks"), 0, "problem.ranks"),
        (("problem", "costs", "forward", 1), -1, "problem.costs.forward[1]"),
        (("problem", "virtul"), 1, "problem.virtul"),
        (("problem", "ranks"), 3, "problem.memory.static"),
        (("schedule",), [], "schedule"),
        (("schedule",), {"0": []}, "schedule"),
        (("schedule",), "0F0", "schedule"),
        (("schedule",), [["0F0"]], "schedule"),
        (("schedule", 1), "1F0", "schedule"),
        (("schedule", 1, 2), "1F0junk", "schedule[1][2]"),
        (("schedule", 1, 2), 7, "schedule[1][2]"),
        (("schedule", 1, 2), "", "schedule[1][2]"),
        (("timeline",), [[0, 1, 4, 7]], "timeline"),
        (("timeline", 0), [0, 1, 4], "timeline[0]"),
        (("timeline", 0, 3), -1, "timeline[0][3]"),
        (("timeline", 0, 3), 1.5, "timeline[0][3]"),
        (("timeline", 0, 3), True, "timeline[0][3]"),
        (("timeline", 0, 3), LARGEST + 1, "timeline[0][3]"),
        (("measures",), [], "measures"),
        (("measures", "makespan"), "9", "measures.makespan"),
        (("measures", "bubble"), 1, "measures.bubble"),
        (("measures", "bubble_fraction"), None, "measures.bubble_fraction"),
        (("measures", "bubble_fraction"), "1/0", "measures.bubble_fraction"),
        (("measures", "bubble_fraction"), "0.3", "measures.bubble_fraction"),
        (("measures", "bubble_overhead"), 0, "measures.bubble_overhead"),
        (("measures", "work"), [1], "measures.work"),
        (("measures", "work", 1), None, "measures.work[1]"),
        (("verdicts",), [], "verdicts"),
        (("verdicts", "SV101"), "fine", "verdicts.SV101"),
        (("verdicts", "\x1b[31m"), "holds", "verdicts.\\x1b[31m"),
        (("status",), "unknown", "status"),
        (("status",), "infeasible", "schedule"),
        (("schedule",), None, "schedule"),
        (("schedule", 0, 1), "0SEND_F0", "schedule"),
        (("timeline",), None, "timeline"),
        (("timeline",), [[0, 1, 4, 7], [1, 2, 4, 5], []], "timeline"),
        (("measures",), None, "measures"),
        (("value",), None, "value"),
        (("status",), ["optimal"], "status"),
        (("objective",), "makspan", "objective"),
        (("value",), "9", "value"),
        (("bound",), -1, "bound"),
        (("bound",), 0.5, "bound"),
        (("certificate",), [1], "certificate"),
        (("certificate",), {"a": {"b": [1, 2**63]}}, "certificate.a.b[1]"),
        (("certificate",), {"rule": "load", "rank": 0, "bound": 9}, "certificate.objective"),
        (("certificate",), {"a": 0.5}, "certificate.a"),
        (("then",), [], "then"),
        (("then",), {"objective": "span", "value": 1, "bound": 1}, "then.certificate"),
        (("then",), {"objective": "spam", "value": 1, "bound": 1, "certificate": None}, "then.objective"),
        (("then",), {"objective": "span", "value": -1, "bound": 1, "certificate": None}, "then.value"),
        (("then",), {"objective": "span", "value": None, "bound": 1, "certificate": None}, "then.value"),
        (("then",), {"objective": "span", "value": 1, "bound": 1, "certificate": {"a": 2**63}}, "then.certificate.a"),
        (("seed",), None, "seed"),
        (("partition",), [["a"]], "partition"),
        (("partition",), [["a"], [1]], "partition[1][0]"),
        (("partition",), [["a"], ["a"]], "partition[1][0]"),
        (("partition",), [["a"], ["\x1b[31m"]], "partition[1][0]"),
        (("partition",), [["a"], []], "partition"),
        (("partition",), [[], []], "partition"),
        (("partition",), [], "partition"),
        (("partition",), "a", "partition"),
        (("digest",), "0" * 64, "digest"),
        (("digest",), None, "digest"),
    ],
)
def test_every_field_is_checked_with_its_place(path: tuple[str | int, ...], value: Any, key: str) -> None:
    found = damaged(put(*path, value=value), sign=path != ("digest",))
    assert key in found
    assert all(text.isprintable() for text in found.values())


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "version"])
def test_no_field_may_be_missing(field: str) -> None:
    assert damaged(lambda data: data.pop(field))[field].startswith("missing")


def test_a_missing_or_newer_version_is_told_alone() -> None:
    assert damaged(lambda data: data.pop("version")) == {
        "version": "expected 2, found null (schedverify optimize writes plans)"
    }
    found = damaged(lambda data: data.update(version=3, schedule=3))
    assert found == {"version": "expected 2, found 3 (a newer schedverify wrote it; update schedverify)"}


def test_a_changed_file_is_told_beside_its_other_faults() -> None:
    found = damaged(put("value", value="x"), sign=False)
    assert set(found) == {"digest", "value"}
    assert "the file was changed after it was written" in found["digest"]
    assert set(damaged(put("value", value=8), sign=False)) == {"digest"}
    assert "did you mean 'makespan'" in damaged(put("objective", value="makspan"))["objective"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [["0F0"], ["1F0"]]}, "lowered.rows: the rows are not the plan's schedule with communication in it"),
        ({"rows": [["0F0"]]}, "lowered.rows: 1 rows, where the problem has 2 ranks"),
        ({"rows": [["0F0 "], []]}, r"lowered.rows\[0\]\[0\]: '0F0 ' is no operation"),
        ({"discipline": "pairs"}, "lowered.discipline: expected one of .*did you mean 'pair'"),
        ({"eager_bytes": -1}, "lowered.eager_bytes: expected a whole number"),
        ({"measures": None}, "lowered.measures: expected an object, found null"),
        ({"speed": 1}, "lowered.speed: unknown key"),
    ],
)
def test_a_wrong_lowered_part_is_told_by_its_place(change: dict[str, Any], message: str) -> None:
    data = json.loads(to_json(PLAN))
    data["lowered"] |= change
    with pytest.raises(InputError, match=message):
        plan_from(data | {"digest": digest(data)})


def test_a_lowered_part_must_be_a_table() -> None:
    data = json.loads(to_json(PLAN)) | {"lowered": []}
    with pytest.raises(InputError, match="lowered: expected an object or null"):
        plan_from(data | {"digest": digest(data)})


@pytest.mark.parametrize(
    ("order", "measures", "codes"),
    [
        ("0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1", {}, ["SV301"]),
        (
            "0F0 0SEND_F1 0F1 0SEND_F0 0RECV_B0 0B0 0RECV_B1 0B1\n1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
            {},
            ["SV302", "SV303", "SV304"],
        ),
        (None, {"makespan": 8}, ["SV501"]),
    ],
)
def test_a_wrong_lowered_part_is_a_verdict(order: str | None, measures: dict[str, int], codes: list[str]) -> None:
    schedule = PLAN.lowered.schedule if order is None else Schedule.parse(order)
    found = dataclasses.replace(
        PLAN.lowered, schedule=schedule, measures=dataclasses.replace(PLAN.measures, **measures)
    )
    report = verify(dataclasses.replace(PLAN, lowered=found))
    told = [each for each in report.violations if " is claimed to be 'holds'" not in each.message]
    assert sorted({violation.code for violation in told}) == codes
    assert all(violation.message.startswith("lowered: ") for violation in told)
    assert verify(PLAN).ok
    assert verify(PLAN).communication.strictest is Discipline.BLOCK


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", "{}", '{"version": 1, "version": 1}', '{"version": 1, "value": NaN}']
)
def test_other_json_is_no_plan(text: str) -> None:
    with pytest.raises(InputError):
        parse_plan(text)


def test_claims_are_handed_over_and_not_believed() -> None:
    data = json.loads(to_json(PLAN))
    data["value"] = data["measures"]["makespan"] = 8
    data["digest"] = digest(data)
    plan = parse_plan(json.dumps(data))
    assert (plan.value, plan.measures.makespan if plan.measures else None) == (8, 8)
    assert {violation.code for violation in verify(plan).violations} == {"SV501"}


def test_a_flood_of_wrong_steps_is_cut_short() -> None:
    def flood(data: dict[str, Any]) -> None:
        data["schedule"] = [["x"] * 30_000] * 2

    assert len(damaged(flood)) == 51
