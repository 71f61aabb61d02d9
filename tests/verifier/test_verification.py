"""The verifier's sentences, its selection, its claims, its scopes: what a reader of a report relies on."""

from __future__ import annotations

import dataclasses
import pickle
from fractions import Fraction
from typing import Any

import pytest

from schedverify.core.errors import InputError, ScheduleError, UnknownNameError
from schedverify.core.problem import Problem
from schedverify.core.result import LARGEST_KEPT_TIMELINE, Plan, Report, Scope, Status, Verdict
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Timeline
from schedverify.generators import generate
from schedverify.lowering import add_communication
from schedverify.planner.plans import optimize
from schedverify.simulator.engine import simulate
from schedverify.verifier.claims import claims_of
from schedverify.verifier.rule_pages import property_page
from schedverify.verifier.rules import HEADINGS, REGISTRY, Case, base
from schedverify.verifier.verification import verify, verify_case
from support.call_counts import count_calls

PAIR = Problem.chain(ranks=2, microbatches=2)
RIGHT = "0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1"


def judged(text: str, problem: Problem | None = PAIR, **keys: Any) -> Report:
    return verify(Schedule.parse(text), problem, **keys)


def test_a_right_schedule_holds_and_says_for_what() -> None:
    report = judged(RIGHT)
    assert report.ok
    assert report.verdict is Verdict.HOLDS
    assert report["SV201"].scope is Scope.EVERY_DURATION
    assert report["SV402"].verdict is Verdict.NOT_APPLICABLE
    assert report["SV402"].reason == "the problem limits no memory"
    assert report.measures is not None
    assert report.measures.makespan == 9
    report.raise_for_violations()


def test_the_story_of_a_deadlock_is_the_law_s() -> None:
    report = judged("0F0 0B0 0F1 0B1\n1F0 1F1 1B0 1B1")
    assert report["SV201"].violations[0].message == (
        "rank 0 waits at position 1 (0B0) for 1B0; rank 1 waits at position 1 (1F1) for 0F1"
    )
    assert report.measures is None
    with pytest.raises(ScheduleError, match="rank 0 waits at position 1"):
        report.raise_for_violations()


def test_the_shortest_cycle_is_told_and_who_is_stuck_behind_it() -> None:
    problem = Problem.chain(ranks=3, microbatches=2)
    report = judged("0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1\n2F1 2F0 2B0 2B1", problem)
    (violation,) = report["SV201"].violations
    assert violation.message == (
        "rank 1 waits at position 1 (1B0) for 2B0; rank 2 waits at position 0 (2F1) for 1F1; rank 0 cannot end either"
    )
    assert (violation.rank, violation.position, violation.operations) == (1, 1, ("1B0", "2F1"))


def test_independent_deadlocks_are_all_told() -> None:
    problem = Problem.chain(ranks=4, microbatches=1, replicas=2, placement=[[0, 1], [2, 3]], replica_of=[0])
    two = Problem.chain(ranks=4, microbatches=2, replicas=2, placement=[[0, 1], [2, 3]])
    assert problem.replica_of == (0,)
    report = judged("0B0 0F0\n1F0 1B0\n2B1 2F1\n3F1 3B1", two)
    assert [violation.rank for violation in report["SV201"].violations] == [0, 2]


def test_a_rank_can_wait_for_itself() -> None:
    report = judged("0F0 0F1 0B0 0B1\n1B0 1F0 1F1 1B1")
    assert "rank 1 waits at position 0 (1B0) for 1F0, which stands behind it at position 1" in str(report.violations[0])
    pair = judged("(0F0;0B0)OVERLAP_F_B", Problem.chain(ranks=1, microbatches=1))
    assert "for 0F0, a part of the same step" in str(pair.violations[0])


def test_every_property_is_checked_to_the_end() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, in_flight=1, capacity=1)
    report = judged("0F0 0B0 0F1 0F1\n1F0 1B0 1F1 1B1 1F7 0F0", problem)
    assert {violation.code for violation in report.violations} == {"SV101", "SV102", "SV103", "SV104"}
    over = judged("0F0 0F1 0B0 0B1\n1F0 1F1 1B0 1B1", problem)
    assert [(v.code, v.rank, v.position) for v in over.violations] == [
        ("SV401", 0, 1), ("SV401", 1, 1), ("SV402", 0, 1), ("SV402", 1, 1),
    ]  # fmt: skip


def test_select_and_ignore_take_beginnings_of_codes() -> None:
    codes = [result.code for result in judged(RIGHT, select=["SV1", "SV401"], ignore=["SV103"]).properties]
    assert codes == ["SV101", "SV102", "SV104", "SV401"]
    with pytest.raises(UnknownNameError, match="SV9"):
        judged(RIGHT, select=["SV9"])
    with pytest.raises(UnknownNameError):
        judged(RIGHT, ignore=[""])


def test_without_a_problem_it_is_read_off_the_schedule() -> None:
    report = judged(RIGHT, None)
    assert report.ok
    assert {result.scope for result in report.properties} == {Scope.AS_READ}
    assert "unit costs" in report.remarks[0]
    assert judged("0F0 2F0 2B0 0B0\n1F0 3F0 3B0 1B0", None).ok
    assert judged("0F0 0I0 0W0", None).measures.makespan == 3  # type: ignore[union-attr]
    assert judged("0F0\n1F0", None).ok
    stray = judged("0F0 0F1 1F1 0B0 0B1\n1F0 1B0 1B1", None)
    assert [violation.code for violation in stray.violations] == ["SV102"]
    both = judged("0F0 0B0\n0F0 1F0 1B0 0B0", None)
    assert both.ok


def test_a_split_backward_with_an_in_flight_limit_is_remarked() -> None:
    problem = Problem.chain(ranks=1, microbatches=1, form="split", in_flight=1)
    assert any("does not bound memory while W waits" in remark for remark in judged("0F0 0I0 0W0", problem).remarks)


def test_an_excerpt_may_lack_operations() -> None:
    assert not judged("0B1\n1B0 1B1").ok
    assert judged("0B1\n1B0 1B1", excerpt=True).ok


def test_another_number_of_rows_is_an_error() -> None:
    with pytest.raises(InputError, match="1 rows, the problem 2 ranks"):
        judged("0F0 0F1 0B0 0B1")


RIGHT_CLAIMS = {
    "timeline": [[0, 1, 4, 7], [1, 2, 4, 5]], "makespan": 9, "span": 9, "bubble_fraction": Fraction(1, 3),
    "peak_in_flight": [2, 1], "objective": "makespan", "value": 9, "bound": 9,
    "certificate": {"rule": "load", "rank": 1, "bound": 9},
}  # fmt: skip


def test_claims_that_follow_hold() -> None:
    report = judged(RIGHT, claims=RIGHT_CLAIMS)
    assert {code: report[code].verdict for code in ("SV202", "SV501", "SV502")} == dict.fromkeys(
        ("SV202", "SV501", "SV502"), Verdict.HOLDS
    )


@pytest.mark.parametrize(
    ("claim", "value", "code", "sentence"),
    [
        ("timeline", [[0, 1, 4, 7], [0, 2, 4, 5]], "SV202", "1F0) starts at 0 ticks, before 0F0 is there at 1 tick"),
        (
            "timeline",
            [[0, 0, 4, 7], [1, 2, 4, 5]],
            "SV202",
            "0F1) starts at 0 ticks, before the rank is free at 1 tick",
        ),
        ("timeline", [[0, 1, 4, 7], [1, 2, 4]], "SV202", "the timeline has [4, 3] starts by rank"),
        ("timeline", [[-1, 1, 4, 7], [1, 2, 4, 5]], "SV202", "before the rank is free at 0"),
        ("makespan", 8, "SV501", "makespan is claimed to be 8 ticks; what follows is 9 ticks"),
        ("bubble_fraction", Fraction(1, 4), "SV501", "bubble_fraction is claimed to be 1/4; what follows is 1/3"),
        ("peak_in_flight", [1, 1], "SV501", "peak_in_flight is claimed"),
        ("value", 8, "SV501", "makespan (value) is claimed to be 8"),
        ("bound", 10, "SV502", "claimed to be 10 ticks, but this schedule has 9 ticks"),
        ("certificate", {"rule": "load", "rank": 0, "bound": 10}, "SV502", "states a bound of 10"),
        ("certificate", {"rule": "load", "rank": 2, "bound": 9}, "SV502", "it names no rank of this problem"),
        ("certificate", {"rule": "luck", "bound": 9}, "SV502", "unknown rule"),
        ("certificate", {"rule": "load", "rank": 1, "bound": 9, "objective": "span"}, "SV502", "it is for the span"),
    ],
)
def test_claims_that_do_not_follow_are_violated(claim: str, value: Any, code: str, sentence: str) -> None:
    report = judged(RIGHT, claims=RIGHT_CLAIMS | {claim: value})
    assert [violation.code for violation in report.violations] == [code]
    assert sentence in report.violations[0].message


def test_a_later_timeline_is_possible_all_the_same() -> None:
    assert judged(RIGHT, claims={"timeline": [[0, 2, 9, 12], [5, 6, 8, 9]]})["SV202"].verdict is Verdict.HOLDS


@pytest.mark.parametrize("certificate", [None, {"rule": "pair", "stages": [0, 0], "bound": 6}])
def test_a_bound_beyond_its_evidence_is_undecided(certificate: dict[str, Any] | None) -> None:
    report = judged(RIGHT, claims={"objective": "makespan", "bound": 9, "certificate": certificate})
    assert report["SV502"].verdict is Verdict.UNDECIDED
    assert "the solver's word" in report["SV502"].reason
    assert report.verdict is Verdict.UNDECIDED


PEAK_CLAIMS: dict[str, Any] = {
    "objective": "peak-memory", "value": 2, "bound": 1, "certificate": {"rule": "sequence", "rank": 1, "bound": 1},
    "then": {"objective": "makespan", "value": 9, "bound": 9, "certificate": {"rule": "load", "rank": 1, "bound": 9}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "code", "sentence"),
    [
        ({"value": 1}, "SV501", "peak-memory (value) is claimed to be 1; what follows is 2"),
        ({"bound": 3}, "SV502", "the bound on the peak-memory is claimed to be 3 units, but this schedule has 2 units"),
        ({"certificate": {"rule": "sequence", "rank": 0, "bound": 2}}, "SV502", "states a bound of 2"),
        ({"certificate": {"rule": "sequence", "rank": 2, "bound": 1}}, "SV502", "it names no rank of this problem"),
        ({"certificate": {"rule": "memory", "stage": 0, "bound": 2}}, "SV502", "what follows from it is 1"),
        ({"certificate": {"rule": "load", "rank": 0, "bound": 1}}, "SV502", "unknown rule 'load'; known: sequence"),
        ({"then": PEAK_CLAIMS["then"] | {"value": 8}}, "SV501", "makespan (value) is claimed to be 8"),
        ({"then": PEAK_CLAIMS["then"] | {"bound": 10}}, "SV502", "the bound on the makespan is claimed to be 10"),
    ],
)
def test_claims_of_peak_memory_and_of_a_second_objective(claim: dict[str, Any], code: str, sentence: str) -> None:
    assert judged(RIGHT, claims=PEAK_CLAIMS)["SV501"].verdict is Verdict.HOLDS
    assert judged(RIGHT, claims=PEAK_CLAIMS)["SV502"].verdict is Verdict.HOLDS
    report = judged(RIGHT, claims=PEAK_CLAIMS | claim)
    assert [violation.code for violation in report.violations] == [code]
    assert sentence in report.violations[0].message


def test_evidence_for_a_second_objective_is_under_the_ceiling_of_the_first() -> None:
    split = Problem.chain(ranks=2, microbatches=2, backward_input=1, backward_weight=1)
    order = "0F0 0F1 0I0 0W0 0I1 0W1\n1F0 1I0 1F1 1I1 1W0 1W1"
    evidence = {"rule": "memory", "stage": 0}

    def verdict(first: dict[str, Any], second: dict[str, Any], bound: int) -> Verdict:
        rule = evidence if second is peak else {"rule": "idle", "rank": 0}
        claims = first | {"then": second | {"bound": bound, "certificate": rule | {"bound": bound}}}
        return judged(order, split, claims=claims)["SV502"].verdict

    ends, peak = {"objective": "makespan", "value": 7}, {"objective": "peak-memory", "value": 2}
    assert verdict(ends, peak, 2) is Verdict.HOLDS
    assert verdict(ends | {"value": 8}, peak, 2) is Verdict.VIOLATED
    assert verdict(ends | {"objective": "span"}, peak, 2) is Verdict.HOLDS
    assert verdict(peak | {"value": 1}, ends, 8) is Verdict.VIOLATED  # eight ticks follow, but this schedule has seven
    assert verdict(peak, ends, 7) is Verdict.HOLDS
    limited = dataclasses.replace(split, makespan_limit=7)
    claims = peak | {"bound": 2, "certificate": evidence | {"bound": 2}}
    assert judged(order, limited, claims=claims)["SV502"].verdict is Verdict.HOLDS
    assert judged(order, split, claims=claims)["SV502"].verdict is Verdict.VIOLATED


def test_a_plan_brings_its_problem_and_its_claims() -> None:
    problem = Problem.chain(ranks=4, microbatches=8)
    schedule = generate("1f1b", problem)
    measures = verify(schedule, problem).measures
    plan = Plan(problem, Status.FEASIBLE, "makespan", schedule, measures=measures, value=33)
    assert verify(plan).ok
    assert verify(plan, dataclasses.replace(problem, name="again")).ok
    assert claims_of(plan)["makespan"] == 33
    with pytest.raises(InputError, match="the plan is of another problem"):
        verify(plan, PAIR)
    with pytest.raises(InputError, match="no schedule"):
        verify(Plan(problem, Status.UNKNOWN, "makespan"))
    lying = dataclasses.replace(plan, value=32)
    assert [violation.code for violation in verify(lying).violations] == ["SV501"]


@pytest.mark.parametrize("code", sorted(REGISTRY))
def test_every_property_is_explained_in_the_fixed_form(code: str) -> None:
    page = property_page(code)
    assert page.startswith(f"## {code}: {REGISTRY[code].name}\n")
    for heading in HEADINGS:
        assert len(REGISTRY[code].section(heading)) > 40, heading
        assert f"### {heading}\n" in page
    with pytest.raises(UnknownNameError):
        property_page("SV999")


def test_a_copy_that_no_micro_batch_goes_through_sends_nothing() -> None:
    """The second copy has its stages on two ranks, and is not used: a plan without any message is right."""
    problem = Problem.chain(ranks=2, microbatches=2, placement=[[0, 0], [0, 1]], replicas=2, replica_of=[0, 0])
    plan = optimize(problem)
    assert plan.lowered is not None
    assert not plan.lowered.schedule.lowered
    assert not verify(plan).violations
    used = Problem.chain(ranks=2, microbatches=2, placement=[[0, 0], [0, 1]], replicas=2, replica_of=[0, 1])
    assert not verify(optimize(used)).violations


def test_a_report_carries_the_timeline_that_its_verdicts_rest_on() -> None:
    order = Schedule.parse(RIGHT)
    report = verify(order, PAIR)
    timeline = report.timeline
    assert timeline is not None
    assert timeline is report.timeline
    assert (timeline.measures, timeline) == (report.measures, simulate(order, PAIR))
    assert [row.tolist() for row in timeline.starts] == [[0, 1, 4, 7], [1, 2, 4, 5]]
    again = pickle.loads(pickle.dumps(report))
    assert (again, again.timeline) == (report, timeline)
    assert verify(Schedule.parse("0F0 0B0 0F1 0B1\n1F0 1F1 1B0 1B1"), PAIR).timeline is None


def test_a_report_on_communication_carries_the_timeline_under_its_discipline() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, latency=3, bytes=4, bandwidth=2)
    lowered = add_communication(generate("1f1b", problem), problem)
    timeline = verify(lowered, problem, discipline="block", eager_bytes=1).timeline
    assert timeline == simulate(lowered, problem, discipline="block", eager_bytes=1)
    plan = optimize(problem, workers=1)
    assert plan.schedule is not None
    assert verify(plan).timeline == simulate(plan.schedule, problem)


def test_the_timeline_of_a_long_schedule_is_not_kept_but_made_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LARGEST_KEPT_TIMELINE == 1_000_000
    order = Schedule.parse(RIGHT)
    monkeypatch.setattr(base, "LARGEST_KEPT_TIMELINE", len(order))
    assert count_calls(lambda: verify(order, PAIR).timeline, simulate) == {"simulate": 1}
    monkeypatch.setattr(base, "LARGEST_KEPT_TIMELINE", len(order) - 1)
    report = verify(order, PAIR, excerpt=True)
    assert not isinstance(report.timeline_source, Timeline)
    assert count_calls(lambda: (report.timeline, report.timeline), simulate) == {"simulate": 2}
    assert report.timeline == simulate(order, PAIR, excerpt=True)
    assert report.measures == simulate(order, PAIR, excerpt=True).measures
    assert pickle.loads(pickle.dumps(report)).timeline == report.timeline


def test_claims_are_held_against_the_timeline_of_the_case() -> None:
    """What is claimed may be read off the timeline that the verifier has made, which is not made again."""
    case = Case(Schedule.parse(RIGHT), PAIR)
    honest = case.claiming({"makespan": 9})
    assert count_calls(lambda: verify_case(honest), simulate) == {}
    assert verify_case(honest)["SV501"].verdict is Verdict.HOLDS
    assert [v.code for v in verify_case(case.claiming({"makespan": 8})).violations] == ["SV501"]
    assert case.claims == {}


def test_whatever_is_not_applicable_says_what_would_make_it_so() -> None:
    lowered = str(add_communication(Schedule.parse(RIGHT), PAIR))
    reports = [judged(RIGHT, select=["SV"]), judged(lowered, select=["SV"], discipline="tagged")]
    apart = [result for report in reports for result in report.properties if result.verdict == "not applicable"]
    assert {"SV202", "SV302", "SV306", "SV402", "SV403", "SV502"} <= {result.code for result in apart}
    assert [result.code for result in apart if not (result.reason and result.remedy)] == []


def test_nothing_of_a_plan_s_two_schedules_may_apply() -> None:
    plan = optimize(PAIR, workers=1)
    alone = dataclasses.replace(plan, lowered=None)
    assert verify(plan, select=["SV304", "SV402"]).verdict is Verdict.HOLDS  # its lowered schedule has messages
    assert verify(alone, select=["SV304", "SV402"]).verdict is Verdict.NOT_APPLICABLE
