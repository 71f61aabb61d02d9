"""The kit's planted faults: each trips the property that it names; each property that an order can violate has one."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import schedverify as sv
from oracle.communication import Judge
from oracle.lowered import shared_verdicts
from schedverify.core.discipline import Discipline
from schedverify.lowering import add_reduction, add_sharding
from schedverify.testing import Mutation, lowerings, mutations, problems, schedules
from schedverify.testing.faults import FAULTS, faults_at, places
from schedverify.verifier.rules import REGISTRY
from support.random_lowered import lowered_base
from support.random_schedules import base
from support.thinned import thinned

UNPLANTED = {
    "SV202", "SV501", "SV502", "SV503",  # of times and claims, which stand beside a schedule
    "SV403",  # judged only where sends do not wait
    "SV701", "SV702", "SV703", "SV704", "SV705", "SV711", "SV712",  # judged only for a profile
    "SV721", "SV722", "SV723",
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
    return add_sharding(add_reduction(sv.lower(schedule, problem), problem), problem), problem


def parsed(text: str, **keys: object) -> tuple[sv.Schedule, sv.Problem]:
    return sv.Schedule.parse(text), sv.Problem.chain(**keys)


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
    "lowered, of tied stages": with_communication(*family("1f1b", ranks=2, microbatches=2, tied=[[0, 1]])),
    "lowered, in groups": parsed(
        "0F0 0SEND_F0 0F1 [0SEND_F1;0RECV_B0] 0B0 0F2 [0SEND_F2;0RECV_B1] 0B1 0RECV_B2 0B2\n"
        "1RECV_F0 1F0 1B0 [1SEND_B0;1RECV_F1] 1F1 1B1 [1SEND_B1;1RECV_F2] 1F2 1B2 1SEND_B2",
        ranks=2, microbatches=3,
    ),
    "lowered, in a group of one direction": parsed("0F0 0F1 [0SEND_F0;0SEND_F1]\n1RECV_F0 1F0 1RECV_F1 1F1",
                                                   ranks=2, microbatches=2, form="inference"),
    "lowered, on several ranks": parsed(
        "0F0 0SEND_F0 0RECV_B0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0\n1F0 1B0",
        ranks=3, microbatches=1, placement=[0, [1, 2]],
    ),
    "lowered, with waits": parsed(
        "0F0 0SEND_F0 0WAIT_SEND_F0 0F1 0SEND_F1 0WAIT_SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 0REDUCE_GRAD "
        "0WAIT_REDUCE_GRAD\n1RECV_F0 1F0 1RECV_F1 1F1 1B0 1SEND_B0 1WAIT_SEND_B0 1B1 1REDUCE_GRAD 1SEND_B1 "
        "1WAIT_SEND_B1 1WAIT_REDUCE_GRAD",
        ranks=2, microbatches=2, outstanding_sends=1,
    ),
    "gathered one at a time": parsed(
        "0UNSHARD 0F0 0RESHARD 1UNSHARD 1F0 1B0 1RESHARD 0UNSHARD 0B0 0RESHARD",
        ranks=1, virtual=2, microbatches=1, unsharded=1,
    ),
    "on several ranks": parsed("0F0 1F0 0F1 1F1 1B0 0B0 1B1 0B1\n1F0 1F1 1B0 1B1", ranks=2, microbatches=2,
                               placement=[0, [0, 1]]),
    "in slices": parsed("0F0 0F1 0B1 0B0\n1F0 1F1 1B1 1B0", ranks=2, microbatches=2, slices=2),
    "overlapped": parsed("0F0 0F1 (0F2;0B0)OVERLAP_F_B 0B1 0B2", ranks=1, microbatches=3),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_fault_at_every_place_trips_its_property(name: str) -> None:
    schedule, problem = CASES[name]
    assert sv.verify(schedule, problem).ok
    for fault in every_fault(schedule, problem):
        assert fault.code in codes(fault.schedule, problem), f"{fault.fault}\n{fault.schedule}"


def oracle_verdicts(rows: list[list[str]], data: dict) -> dict[str, bool]:
    judge = Judge(rows, data)
    return judge.verdicts(Discipline.PAIR) | shared_verdicts(judge.program)


@pytest.mark.parametrize("name", CASES)
def test_the_oracle_finds_every_fault_too(name: str) -> None:
    schedule, problem = CASES[name]
    data = problem.to_dict()
    for fault in every_fault(schedule, problem):
        assert oracle_verdicts(fault.schedule.strings(), data)[fault.code], f"{fault.fault}\n{fault.schedule}"


def test_faults_trip_their_properties_in_problems_of_any_shape() -> None:
    # The tests' own draw, which owes nothing to the kit's.
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


def test_every_fault_has_a_name_that_is_drawn() -> None:
    named = {fault.fault for case in CASES.values() for fault in every_fault(*case)}
    assert sorted(named) == sorted(FAULTS)


def test_the_docs_list_the_faults() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tutorial" / "test-a-scheduler.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (SV\d+) \| (.*) \|$", page, re.MULTILINE)
    listed = {(code, fault) for code, faults in rows for fault in faults.split("; ")}
    assert listed == {fault[:2][::-1] for case in CASES.values() for fault in every_fault(*case)}


def test_an_order_without_a_single_operation_is_refused() -> None:
    with pytest.raises(sv.InputError, match="no step is a single operation or a group"):
        mutations(sv.Schedule.parse("(0F1;0B0)OVERLAP_F_B"))


SPLIT, PAIRED = {"split": True}, {"overlapped": True}
SHARED, TIED, RECOMPUTED = {"several_ranks": True}, {"tied": True}, {"recompute": True}
PLANTED: dict[str, tuple[str, dict, dict, dict | None]] = {
    # By fault: its property, and the keywords of problems(), schedules() and lowerings() that bring its feature.
    "on some of its ranks only": ("SV102", SHARED, {}, None),
    "two ranks at odds": ("SV201", SHARED, {}, None),
    "on a rank that neither sends nor receives": ("SV102", SHARED, {}, {}),
    "before the part that it reads": ("SV201", {"slices": 2}, {}, None),
    "forwards ahead of the capacity for what is recomputed": ("SV402", RECOMPUTED, {}, None),
    "overlapped with its own backward": ("SV201", {}, PAIRED, None),
    "full backward beside its parts": ("SV104", SPLIT, {"mixed": True}, None),
    "tied stages reduced as one": ("SV305", TIED, {}, {"unshard": True}),
    "gathered twice": ("SV305", {}, {}, {"unshard": True}),
    "freed too early": ("SV305", {}, {}, {"unshard": True}),
    "reduced too early": ("SV305", {}, {}, {"unshard": True}),
    "gathered ahead of the limit": ("SV405", {"unshard": True, "virtual": 3}, {}, {"unshard": True}),
    "never waited for": ("SV404", {"waits": True}, {}, {}),
    "waited for before it is sent": ("SV303", {}, {}, {"waits": True}),
    "reduction awaited before it begins": ("SV305", {}, {}, {"waits": True, "unshard": True}),
    "member dropped": ("SV301", {}, {}, {"groups": True}),
    "members crossed": ("SV302", {}, {}, {"groups": True}),
    "computed within a group": ("SV101", {}, {}, {"groups": True}),
    "group before what it sends is made": ("SV303", {}, {}, {"groups": True}),
    "opposite members one after another": ("SV304", {}, {}, {"groups": True}),
}


@pytest.mark.parametrize("fault", thinned(list(PLANTED), every=7))
def test_the_fault_of_a_feature_is_found_within_200_examples_and_told_small(fault: str) -> None:
    code, of_problem, of_order, of_lowering = PLANTED[fault]
    found: list[sv.Problem] = []

    @settings(max_examples=200, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test_a_judge_that_is_blind_to_it(data: st.DataObject) -> None:
        problem = data.draw(problems(**of_problem))
        drawn = schedules(problem, **of_order)
        schedule = data.draw(drawn if of_lowering is None else lowerings(problem, drawn, **of_lowering))
        planted = data.draw(mutations(schedule, problem))
        if planted.fault == fault and code in codes(planted.schedule, problem):
            found.append(problem)
            raise AssertionError

    with pytest.raises(AssertionError):
        test_a_judge_that_is_blind_to_it()
    assert found[-1].ranks <= 3
    assert found[-1].microbatches <= 4


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_drawn_fault_of_a_limited_problem_trips_its_property(data: st.DataObject) -> None:
    problem = data.draw(LIMITS)
    fault = data.draw(mutations(data.draw(schedules(problem)), problem))
    assert fault.code in codes(fault.schedule, problem), fault.fault
