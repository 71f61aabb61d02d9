"""Plans are claims, all of them: what is claimed too much is violated, undecided or refused, and never believed."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from schedverify.cli.app import main
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Report, Status, Verdict
from schedverify.core.schedule import Schedule
from schedverify.formats.plan_files import canonical, digest, plan_data, to_json
from schedverify.formats.plan_reader import plan_from
from schedverify.generators import generate
from schedverify.planner.plans import optimize, plan_of
from schedverify.verifier.claims import claims_of
from schedverify.verifier.verification import verify
from support import attacked_plans as attacks

SIX: dict[str, Any] = {"ranks": 2, "microbatches": 6, "costs": {"forward": 1, "backward": 2}}


def data_of(family: str, **more: Any) -> dict[str, Any]:
    """Return the data of the plan of a family's order, with keys of the problem beside :data:`SIX`."""
    problem = Problem.of(SIX | more)
    return json.loads(to_json(plan_of(generate(family, problem), problem)))


def forged(data: Mapping[str, Any], **changes: Any) -> Report:
    """Return the report on a plan with some keys changed and its digest made anew."""
    changed = {**data, **changes}
    return verify(plan_from(changed | {"digest": digest(changed)}))


def told(report: Report) -> str:
    return "\n".join([*map(str, report.violations), *(f"{each.code} {each.reason}" for each in report.properties)])


def test_bytes_are_not_read_as_ticks() -> None:
    data = data_of("gpipe", objective={"minimize": "peak-memory"})
    evidence = {"rule": "memory", "stage": 0, "objective": "peak-memory", "bound": 6}
    second = {"objective": "peak-memory", "value": 6, "bound": 6, "certificate": evidence}
    report = forged(data, then=second)
    assert report["SV501"].verdict is Verdict.VIOLATED
    assert report["SV502"].verdict is Verdict.VIOLATED
    assert "the second objective is claimed to be the peak-memory, which is the first" in told(report)
    assert "the evidence states a bound of 6; what follows from it is 1" in told(report)


@pytest.mark.parametrize("objective", ["makespan", "span", "peak-memory", "period"])
def test_the_second_objective_is_never_the_first(objective: str) -> None:
    data = data_of("gpipe", objective={"minimize": "makespan"})
    second = {"objective": objective, "value": 1, "bound": None, "certificate": None}
    report = forged(data, objective=objective, value=1, then=second)
    assert "which is the first" in told(report)
    assert report["SV501"].verdict is Verdict.VIOLATED


LOAD = {"rule": "load", "rank": 1, "objective": "makespan", "bound": 21}


@pytest.mark.parametrize(
    ("changes", "verdict", "text"),
    [
        ({"bound": None}, Verdict.UNDECIDED, "optimal is claimed, and no bound of the makespan is known"),
        (
            {"bound": 21, "certificate": LOAD},
            Verdict.VIOLATED,
            "optimal is claimed of makespan 36 ticks, and its bound is 21 ticks",
        ),
        ({"bound": 36}, Verdict.UNDECIDED, "no evidence is given for the bound 36"),
        ({"bound": 36, "certificate": LOAD}, Verdict.UNDECIDED, "the evidence proves 21; the rest of the bound 36"),
        ({"bound": 36, "certificate": LOAD | {"bound": 36}}, Verdict.VIOLATED, "what follows from it is 21"),
        (
            {"bound": 37},
            Verdict.VIOLATED,
            "the bound on the makespan is claimed to be 37 ticks, but this schedule has 36 ticks",
        ),
    ],
)
def test_optimal_is_a_claim(changes: dict[str, Any], verdict: Verdict, text: str) -> None:
    report = forged(data_of("naive"), status="optimal", **changes)
    assert report["SV502"].verdict is verdict
    assert text in told(report)
    assert report.verdict is Verdict.VIOLATED, "SV502 was not applicable when the plan was made, which it still says"


def test_optimal_is_claimed_of_both_objectives() -> None:
    data = json.loads(attacks.plan_text("second objective"))
    assert forged(data).ok
    report = forged(data, then=data["then"] | {"bound": data["then"]["bound"] - 1})
    assert "optimal is claimed of peak-memory 2 units, and its bound is 1 unit" in told(report)
    report = forged(data, then=data["then"] | {"bound": None, "certificate": None})
    assert "no bound of the peak-memory is known" in told(report)


def test_what_is_violated_is_told_though_something_else_is_undecided() -> None:
    data = json.loads(attacks.plan_text("second objective"))
    report = forged(data, bound=data["bound"] + 1, then=data["then"] | {"certificate": None})
    assert report["SV502"].verdict is Verdict.VIOLATED


class TestNoScheduleAtAll:
    @pytest.mark.parametrize(
        ("limits", "certificate", "verdict"),
        [
            ({"limits": {"makespan": 20}}, LOAD, Verdict.HOLDS),
            ({"limits": {"makespan": 21}}, LOAD, Verdict.UNDECIDED),
            ({"limits": {"makespan": 20}}, LOAD | {"bound": 20}, Verdict.UNDECIDED),
            ({}, LOAD, Verdict.UNDECIDED),
            ({"limits": {"makespan": 20}}, None, Verdict.UNDECIDED),
            ({"limits": {"makespan": 20}}, LOAD | {"bound": 22}, Verdict.VIOLATED),
            ({"limits": {"makespan": 20}}, LOAD | {"rule": "luck"}, Verdict.VIOLATED),
        ],
    )
    def test_its_evidence_decides(
        self, limits: dict[str, Any], certificate: dict[str, Any] | None, verdict: Verdict
    ) -> None:
        plan = Plan(Problem.of(SIX | limits), Status.INFEASIBLE, "makespan", certificate=certificate)
        report = verify(plan_from(json.loads(to_json(plan))))
        assert report.verdict is verdict
        assert report["SV502"].verdict is verdict
        rest = [each for each in report.properties if each.code != "SV502"]
        assert {each.verdict for each in rest} == {Verdict.NOT_APPLICABLE}
        assert report["SV103"].reason == "the plan is that there is no schedule"

    def test_bytes_that_no_rank_has(self) -> None:
        """Within 7 ticks rank 0 must have begun both micro-batches before the first comes back."""
        problem = Problem.of(attacks.EVEN | {"memory": {"capacity": 1}, "limits": {"makespan": 7}})
        evidence = {"rule": "memory", "stage": 0, "objective": "peak-memory", "bound": 2}
        plan = Plan(problem, Status.INFEASIBLE, "peak-memory", certificate=evidence)
        assert verify(plan)["SV502"].verdict is Verdict.HOLDS
        assert optimize(problem, time_limit=20, workers=1).status is Status.INFEASIBLE
        roomy = dataclasses.replace(problem, capacity=(2, 1))
        assert verify(dataclasses.replace(plan, problem=roomy))["SV502"].verdict is Verdict.UNDECIDED

    @pytest.mark.parametrize(
        ("in_flight", "certificate", "verdict"),
        [
            (1, {}, Verdict.HOLDS),
            (2, {}, Verdict.UNDECIDED),
            (None, {}, Verdict.UNDECIDED),
            ([1, 2], {"rank": 1}, Verdict.UNDECIDED),
            ([1, 2], {}, Verdict.HOLDS),
            (1, {"bound": 3}, Verdict.VIOLATED),
            (1, {"bound": 1}, Verdict.UNDECIDED),
            (1, {"objective": "makespan"}, Verdict.VIOLATED),
            (1, {"objective": "luck"}, Verdict.VIOLATED),
            (1, {"objective": None}, Verdict.VIOLATED),
            (1, {"rank": 2}, Verdict.VIOLATED),
        ],
    )
    def test_its_evidence_may_speak_of_another_limit_than_what_was_minimized(
        self, in_flight: Any, certificate: dict[str, Any], verdict: Verdict
    ) -> None:
        problem = Problem.chain(ranks=2, microbatches=2, virtual=2, in_flight=in_flight)
        evidence = {"rule": "in_flight", "rank": 0, "objective": "in-flight", "bound": 2} | certificate
        for objective in ("makespan", "peak-memory"):
            plan = Plan(problem, Status.INFEASIBLE, objective, certificate=evidence)
            assert verify(plan)["SV502"].verdict is verdict
            bounded = verify(dataclasses.replace(plan, bound=2))["SV502"]
            assert bounded.verdict is not Verdict.HOLDS, "nothing shows that bound"

    def test_where_one_is_given(self) -> None:
        problem = Problem.of(SIX)
        plan = dataclasses.replace(plan_of(generate("1f1b", problem), problem), status=Status.INFEASIBLE)
        assert "infeasible is claimed, and there is a schedule" in told(verify(plan))
        with pytest.raises(InputError, match="schedule: expected null: the plan is that there is no schedule"):
            plan_from(json.loads(to_json(plan)))

    def test_another_status_without_one_is_no_plan(self) -> None:
        with pytest.raises(InputError, match="the plan has no schedule"):
            verify(Plan(Problem.of(SIX), Status.UNKNOWN, "makespan"))


@pytest.mark.parametrize(
    "partition", [[["a"], ["a"]], [[], []], [["a"], []], [["a"]], [["a"], ["b"], ["c"]], [["a"], [7]]]
)
def test_a_partition_of_another_shape_is_refused(partition: list[list[Any]]) -> None:
    with pytest.raises(InputError, match="partition"):
        forged(data_of("1f1b"), partition=partition)
    problem = Problem.of(SIX)
    plan = dataclasses.replace(plan_of(generate("1f1b", problem), problem), partition=tuple(map(tuple, partition)))
    if partition != [["a"], [7]]:
        assert verify(plan)["SV501"].verdict is Verdict.VIOLATED
    assert verify(dataclasses.replace(plan, partition=(("a",), ("b",)))).ok


def test_a_partition_is_that_of_the_problem() -> None:
    data = data_of("1f1b", partition=[["a"], ["b"]])
    for other in (None, [["b"], ["a"]], [["a", "b"], []]):
        with pytest.raises(InputError, match="partition: the problem has other layers"):
            forged(data, partition=other)
    plan = dataclasses.replace(plan_from(data), partition=(("b",), ("a",)))
    assert "the partition has other layers in its stages than the problem" in told(verify(plan))


SLOW = {"bytes": 3, "bandwidth": 1}
"""Links on which messages wait for one another, with three ranks."""


class TestMakespanLimit:
    def test_of_a_compute_order(self) -> None:
        problem = Problem.of(SIX | {"limits": {"makespan": 20}})
        report = verify(generate("1f1b", problem), problem)
        assert "SV503 the makespan of the compute order is 21 ticks, limits.makespan is 20 ticks" in told(report)
        assert verify(generate("1f1b", problem), dataclasses.replace(problem, makespan_limit=21)).ok

    def test_of_a_plan_whose_problem_was_given_a_limit(self) -> None:
        """The two orders of a plan are judged apart, and the violation says which."""
        data = data_of("gpipe", ranks=3, links=SLOW)
        ends = data["measures"]["makespan"], data["lowered"]["measures"]["makespan"]
        assert ends[0] < ends[1]
        for limit, orders in (
            (ends[1], []),
            (ends[0], ["lowered"]),
            (ends[0] - 1, ["of the compute order", "lowered"]),
        ):
            limited = data["problem"] | {"limits": {"makespan": limit}}
            report = forged(data, problem=limited, verdicts={})
            assert len(report["SV503"].violations) == len(orders)
            for violation, order in zip(report["SV503"].violations, orders, strict=True):
                assert order in violation.message

    def test_a_plan_of_a_schedule_that_passes_it_is_not_made(self) -> None:
        problem = Problem.of(SIX | {"limits": {"makespan": 20}})
        with pytest.raises(Exception, match="SV503 the makespan of the compute order is 21") as caught:
            plan_of(generate("1f1b", problem), problem)
        assert type(caught.value).__name__ == "ScheduleError"

    def test_a_lowering_that_passes_it_is_left_out(self) -> None:
        problem = Problem.of(SIX | {"ranks": 3, "links": SLOW})
        free = plan_of(generate("gpipe", problem), problem)
        assert free.measures is not None
        tight = dataclasses.replace(problem, makespan_limit=free.measures.makespan)
        with pytest.raises(Exception, match="no known lowering of it keeps the limits: the makespan with its comm"):
            plan_of(generate("gpipe", tight), tight)


class TestVerdicts:
    def test_each_is_what_follows(self) -> None:
        data = data_of("1f1b", links={"bytes": 1, "buffer": 6}, limits={"in_flight": 6, "makespan": 99})
        assert data["verdicts"]["SV403"] == data["verdicts"]["SV503"] == "holds"
        for code, verdict in data["verdicts"].items():
            for other in Verdict:
                report = forged(data, verdicts={code: other.value})
                if code != "SV501" and other != verdict:
                    assert f"{code} is claimed to be {other.value!r}; what follows is {verdict!r}" in told(report)
                assert report["SV501"].verdict is (
                    Verdict.HOLDS if code == "SV501" or other == verdict else Verdict.VIOLATED
                )

    def test_a_code_that_is_none(self) -> None:
        data = data_of("1f1b")
        report = forged(data, verdicts=data["verdicts"] | {"SV999": "holds"})
        assert "a verdict on 'SV999' is claimed, and there is no such property" in told(report)
        assert report.verdict is Verdict.VIOLATED

    def test_one_that_is_not_listed_is_not_claimed(self) -> None:
        assert forged(data_of("1f1b"), verdicts={}).ok
        assert forged(data_of("1f1b"), verdicts={"SV701": "holds"}).ok

    def test_they_are_judged_whatever_is_asked_for(self) -> None:
        data = data_of("1f1b")
        changed = data | {"verdicts": {"SV201": "violated"}}
        plan = plan_from(changed | {"digest": digest(changed)})
        for options in ({"select": ["SV501"]}, {"discipline": "rank"}, {"excerpt": True}, {"claims": {"makespan": 21}}):
            assert [each.code for each in verify(plan, **options).violations] == ["SV501"]
        assert verify(plan, select=["SV1"]).ok
        assert verify(plan_from(data), excerpt=True, discipline="block", eager_bytes=9).ok


def test_a_period_is_not_derived_and_so_not_believed() -> None:
    report = forged(data_of("1f1b"), objective="period", value=1)
    assert report["SV501"].verdict is Verdict.UNDECIDED
    assert report.verdict is Verdict.UNDECIDED


class TestTimeline:
    def test_it_is_the_earliest_one(self) -> None:
        data = data_of("1f1b")
        later = [[start + 1 for start in row] for row in data["timeline"]]
        report = forged(data, timeline=later)
        assert report["SV202"].verdict is Verdict.HOLDS
        assert (
            "rank 0, position 0 (0F0) is claimed to start at 1 tick; in the earliest timeline it starts at 0 ticks"
            in told(report)
        )
        assert verify(plan_from(data).schedule, plan_from(data).problem, claims={"timeline": later}).ok

    @pytest.mark.parametrize("rows", [lambda rows: [*rows, []], lambda rows: rows[:1], lambda rows: [*rows, rows[0]]])
    def test_another_number_of_rows_is_refused(self, rows: Any) -> None:
        data = data_of("1f1b")
        with pytest.raises(InputError, match=r"timeline: [0-9] rows, where the problem has 2 ranks"):
            forged(data, timeline=rows(data["timeline"]))
        plan = dataclasses.replace(plan_from(data), starts=tuple(map(tuple, rows(data["timeline"]))))
        assert verify(plan)["SV202"].verdict is Verdict.VIOLATED


def test_the_lowered_order_is_that_of_the_schedule() -> None:
    problem = Problem.of(SIX)
    plan, other = (plan_of(generate(family, problem), problem) for family in ("1f1b", "gpipe"))
    found = dataclasses.replace(plan, lowered=other.lowered)
    assert "lowered: the rows are not the plan's schedule with communication in it" in told(verify(found))


def test_a_lowered_order_in_which_parameters_alone_are_gathered_lacks_its_messages() -> None:
    data = data_of("1f1b")
    rows = [[f"{rank}UNSHARD", *row, f"{rank}RESHARD"] for rank, row in enumerate(data["schedule"])]
    report = forged(data, lowered=data["lowered"] | {"rows": rows}, verdicts={})
    assert "SV301 lowered: no send and no receive stands in it" in told(report)


def test_an_overhead_of_none_is_a_claim() -> None:
    """Where a rank works there is one; where none does there is none."""
    data = data_of("1f1b")
    report = forged(data, measures=data["measures"] | {"bubble_overhead": None})
    assert "bubble_overhead is claimed to be None; what follows is" in told(report)
    idle = Problem.of({"ranks": 1, "microbatches": 1, "costs": {"forward": 0, "backward": 0}})
    assert verify(plan_of(Schedule.parse("0F0 0B0"), idle)).ok


def test_evidence_proves_no_more_than_it_says() -> None:
    data = json.loads(attacks.plan_text("optimal"))
    report = forged(data, certificate=data["certificate"] | {"bound": data["bound"] - 1})
    assert report["SV502"].verdict is Verdict.UNDECIDED
    report = forged(data, certificate=data["certificate"] | {"speed": 1})
    assert "the rule load has no 'speed'" in told(report)


def test_evidence_without_a_bound_is_judged_by_what_it_states() -> None:
    data = data_of("naive")
    assert forged(data, certificate=LOAD, verdicts={}).ok
    for wrong in (LOAD | {"bound": 22}, LOAD | {"bound": None}, LOAD | {"bound": True}, LOAD | {"bound": 40}):
        assert forged(data, certificate=wrong)["SV502"].verdict is Verdict.VIOLATED


class TestClaims:
    @pytest.mark.parametrize(
        ("claims", "text"),
        [
            ({"bound": "3"}, "claims.bound: expected a whole number, found '3'"),
            ({"bound": True}, "claims.bound: expected a whole number, found true"),
            ({"makespan": 21.0}, "claims.makespan: expected a whole number, found 21.0"),
            ({"bubble_fraction": 0.5}, "claims.bubble_fraction: expected an exact ratio"),
            ({"work": 3}, "claims.work: expected a whole number for each rank, found 3"),
            ({"peak_memory": ["6", 1]}, "claims.peak_memory: expected a whole number for each rank"),
            ({"timeline": [[0.5]]}, "claims.timeline: expected a list of starts for each rank"),
            ({"timeline": 7}, "claims.timeline: expected a list of starts for each rank, found 7"),
            ({"makspan": 21}, "claims.makspan: unknown key .did you mean 'makespan'"),
            ({"objective": "speed"}, "claims.objective: expected one of makespan"),
            ({"objective": ["span"]}, "claims.objective: expected one of makespan"),
            ({"status": "best"}, "claims.status: expected one of optimal"),
            ({"certificate": [1]}, "claims.certificate: expected a mapping"),
            ({"then": "span"}, "claims.then: expected a mapping"),
            ({"then": {"value": 3}}, "claims.then.objective: missing"),
            ({"then": {"objective": "span", "bound": "3"}}, "claims.then.bound: expected a whole number"),
            ({"then": {"objective": "span", "extra": 3}}, "claims.then.extra: unknown key"),
            ({"\x1b[31m": 3}, r"claims.\\x1b\[31m: unknown key"),
        ],
    )
    def test_those_of_another_type_are_told(self, claims: dict[str, Any], text: str) -> None:
        problem = Problem.of(SIX)
        with pytest.raises(InputError, match=text):
            verify(generate("1f1b", problem), problem, claims=claims)

    def test_what_is_no_mapping(self) -> None:
        problem = Problem.of(SIX)
        with pytest.raises(TypeError, match="verify needs a Mapping"):
            verify(generate("1f1b", problem), problem, claims=[("bound", 3)])  # type: ignore[arg-type]

    def test_those_of_a_plan_are_all_of_these(self) -> None:
        plan = attacks.plans()["second objective"]
        assert verify(plan.schedule, plan.problem, claims=claims_of(plan)).ok


class TestChangedProblem:
    """A plan is a claim about its own problem, and is refused or violated where the claim no longer follows."""

    @pytest.mark.parametrize(
        "change",
        [
            {"costs": {"forward": 2, "backward": 2}},
            {"costs": {"forward": 1, "backward": 3}},
            {"links": {"latency": 1}},
            {"memory": {"activation": 2}},
            {"memory": {"static": 1}},
            {"memory": {"capacity": 60}},
            {"limits": {"in_flight": 1}},
            {"limits": {"in_flight": 6}},
            {"limits": {"makespan": 9}},
            {"microbatches": 5},
            {"placement": [1, 0]},
            {"form": "inference"},
            {"ranks": 3},
        ],
        ids=str,
    )
    def test_where_a_claim_no_longer_follows(self, change: dict[str, Any]) -> None:
        data = data_of("1f1b")
        other = Problem.of(SIX | change)
        try:
            report = forged(data, problem=other.to_dict())
        except InputError:
            report = None
        assert report is None or report.verdict is Verdict.VIOLATED
        with pytest.raises(InputError, match="the plan is of another problem"):
            verify(plan_from(data), other)

    def test_also_where_every_claim_follows(self) -> None:
        """More room than is needed, of what no plan states: beside the problem that it is for it is refused."""
        problem = Problem.of(SIX | {"memory": {"capacity": 60}})
        plan = plan_of(generate("1f1b", problem), problem)
        roomier = dataclasses.replace(problem, capacity=(61, 60))
        assert verify(dataclasses.replace(plan, problem=roomier)).ok
        with pytest.raises(InputError, match="the plan is of another problem"):
            verify(dataclasses.replace(plan, problem=roomier), problem)


STEERING = "x\n\x1b[31mplan.json: holds\x07\u202e\u2028y"
"""What would print a line of its own, in red and from right to left."""


@pytest.mark.parametrize(
    "change",
    [
        {"certificate": LOAD | {"objective": STEERING}, "bound": 21},
        {"certificate": LOAD | {"bound": STEERING}, "bound": 21},
        {"certificate": LOAD | {"rule": STEERING}, "bound": 21},
        {"certificate": LOAD | {"rank": STEERING}, "bound": 21},
        {"certificate": LOAD | {STEERING: 1}, "bound": 21},
        {"certificate": LOAD | {"rule": "counts", "rows": [{"row": STEERING}]}, "bound": 21},
        {"partition": [[STEERING], ["b"]]},
        {"partition": [["b"], ["b", STEERING]]},
        {"verdicts": {STEERING: "holds"}},
        {"verdicts": {"SV101": STEERING}},
        {"status": STEERING},
        {"objective": STEERING},
        {"then": {STEERING: 1}},
        {"then": {"objective": STEERING, "value": 1, "bound": 1, "certificate": None}},
        {"schedule": [[STEERING], []]},
        {"digest": STEERING},
        {STEERING: 1},
    ],
    ids=lambda change: ".".join(map(ascii, change)),
)
@pytest.mark.parametrize("output", ["text", "json", "github"])
def test_no_text_of_a_file_steers_a_terminal(
    change: dict[str, Any], output: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changed = data_of("naive") | change
    path = tmp_path / "plan.json"
    path.write_text(canonical({"digest": digest(changed)} | changed if "digest" in change else
                              changed | {"digest": digest(changed)}), encoding="utf-8")  # fmt: skip
    assert main(["verify", str(path), "--format", output]) in (1, 2, 3)
    printed = capfd.readouterr()
    for line in (printed.out + printed.err).split("\n"):
        assert line.isprintable()
        assert not line.startswith(("plan.json", "\x1b"))


@pytest.mark.parametrize("name", ["partition", "limits", "optimal", "span", "second objective", "bytes first", "none"])
def test_every_changed_key_is_noticed(name: str) -> None:
    """Whatever key is changed, taken away or added, the plan is refused, violated or undecided, or it is still true."""
    data = json.loads(attacks.plan_text(name))
    report = attacks.report_on(data)
    assert report is not None
    assert report.ok
    noticed, tops = 0, set()
    for change in attacks.changes(random.Random(name), data):
        found = attacks.report_on(change.data)
        if found is not None and found.ok:
            assert attacks.why_believed(data, change), change.told
        else:
            noticed += 1
            tops.add(change.path[0])
    assert noticed > 150
    assert tops == set(data) - {"problem", "digest", "seed"} | {"extra"}


def test_what_only_notes_may_be_changed() -> None:
    data = data_of("1f1b")
    assert forged(data, seed=7).ok
    assert forged(data, problem=data["problem"] | {"name": "another"}).ok
    assert plan_data(plan_from(data | {"digest": digest(data)})) == {key: data[key] for key in data if key != "digest"}
