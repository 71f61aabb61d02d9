"""The kit's planted faults: each trips the property that it names; each property that an order can violate has one."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schedverify as sv
from oracle.communication import Judge
from oracle.compute_orders import judge as judge_order
from oracle.lowered import shared_verdicts
from schedverify.core.discipline import Discipline
from schedverify.lowering import add_reduction, add_sharding
from schedverify.testing import Mutation, mutations, problems, schedules
from schedverify.testing.faults import faults_at, places
from schedverify.verifier.rules import REGISTRY
from support.random_lowered import lowered_base
from support.random_schedules import base

UNPLANTED = {
    "SV202", "SV501", "SV502",  # of times and claims, which stand beside a schedule
    "SV403",  # judged only where sends do not wait
    "SV404", "SV405",  # judged only where a problem limits them
    "SV701", "SV702", "SV703", "SV704", "SV705", "SV711", "SV712",  # judged only for a profile
}  # fmt: skip

SHAPED = [
    {"from": 0, "to": 1, "shape": [2, 4]},
    {"from": 1, "to": 2, "shape": [4, 4]},
    {"from": 2, "to": 3, "shape": [8]},
]
LIMITS = problems(limits=True, max_microbatches=5) | problems(memory=True, split=True, max_microbatches=5)


def every_fault(schedule: sv.Schedule, problem: sv.Problem) -> list[Mutation]:
    return [fault for place in places(schedule) for fault in faults_at(schedule, place, problem)]


def codes(schedule: sv.Schedule, problem: sv.Problem) -> set[str]:
    return {violation.code for violation in sv.verify(schedule, problem).violations}


def family(name: str, **keys: object) -> tuple[sv.Schedule, sv.Problem]:
    problem = sv.Problem.chain(**keys)
    return sv.generate(name, problem), problem


def with_communication(schedule: sv.Schedule, problem: sv.Problem) -> tuple[sv.Schedule, sv.Problem]:
    return add_sharding(add_reduction(sv.lower(schedule, problem)), problem), problem


CASES = {
    "fused": family("1f1b", ranks=2, microbatches=3),
    "split": family("zb-h1", ranks=3, microbatches=4, form="split"),
    "inference": family("gpipe", ranks=2, microbatches=2, form="inference"),
    "limited": family("1f1b", ranks=2, microbatches=4, in_flight=[2, 1]),
    "limited by stage": family("interleaved-1f1b", ranks=2, microbatches=4, virtual=2, in_flight_stage=[4, 3, 2, 2]),
    "capacity": family(
        "zb-h1", ranks=2, microbatches=5, form="split", activation=2, weight_stash=1, capacity=[5, 4], static=[0, 1]
    ),
    "recomputing": family("1f1b", ranks=2, microbatches=4, activation=3, recompute=True, boundary=1, capacity=[5, 4]),
    "lowered": with_communication(*family("1f1b", ranks=2, microbatches=3)),
    "lowered, of several shapes": with_communication(
        *family("interleaved-1f1b", ranks=2, microbatches=2, virtual=2, boundaries=SHAPED)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_fault_at_every_place_trips_its_property(name: str) -> None:
    schedule, problem = CASES[name]
    assert sv.verify(schedule, problem).ok
    for fault in every_fault(schedule, problem):
        assert fault.code in codes(fault.schedule, problem), f"{fault.fault}\n{fault.schedule}"


def oracle_verdicts(rows: list[list[str]], data: dict) -> dict[str, bool]:
    judge = Judge(rows, data)
    if not judge.program.is_lowered():
        return judge_order(rows, data)
    return judge.verdicts(Discipline.PAIR) | shared_verdicts(judge.program)


@pytest.mark.parametrize("name", CASES)
def test_the_oracle_finds_every_fault_too(name: str) -> None:
    schedule, problem = CASES[name]
    data = problem.to_dict()
    for fault in every_fault(schedule, problem):
        assert oracle_verdicts(fault.schedule.strings(), data)[fault.code], f"{fault.fault}\n{fault.schedule}"


def test_faults_trip_their_properties_in_problems_of_any_shape() -> None:
    # Slices, stage graphs, stages on several ranks, overlapped pairs: what the kit itself does not draw.
    orders, messages = ([bases(number) for number in range(30)] for bases in (base, lowered_base))
    for found in [*(found for found in orders if found.fits), *messages]:
        schedule = sv.Schedule.of(found.rows)
        for place in places(schedule)[::11]:
            for fault in faults_at(schedule, place, found.problem):
                assert fault.code in codes(fault.schedule, found.problem), f"{fault.fault} at {place}\n{schedule}"


def test_every_property_that_an_order_can_violate_has_a_fault() -> None:
    planted = {fault.code for case in CASES.values() for fault in every_fault(*case)}
    assert planted == set(REGISTRY) - UNPLANTED


def test_a_fault_has_one_name_and_a_name_one_property() -> None:
    named: dict[str, set[str]] = defaultdict(set)
    for case in CASES.values():
        for fault in every_fault(*case):
            named[fault.fault].add(fault.code)
    assert all(len(found) == 1 for found in named.values()), named


def test_the_docs_list_the_faults() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tutorial" / "test-a-scheduler.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (SV\d+) \| (.*) \|$", page, re.MULTILINE)
    listed = {(code, fault) for code, faults in rows for fault in faults.split("; ")}
    assert listed == {fault[:2][::-1] for case in CASES.values() for fault in every_fault(*case)}


def test_an_order_without_a_single_operation_is_refused() -> None:
    with pytest.raises(sv.InputError, match="no step is a single operation"):
        mutations(sv.Schedule.parse("(0F1;0B0)OVERLAP_F_B"))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_drawn_fault_of_a_limited_problem_trips_its_property(data: st.DataObject) -> None:
    problem = data.draw(LIMITS)
    fault = data.draw(mutations(data.draw(schedules(problem)), problem))
    assert fault.code in codes(fault.schedule, problem), fault.fault
