"""The test kit, step by step and with communication: what is right passes, what is wrong is caught and told small."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

import schedverify as sv
from oracle.communication import Judge
from oracle.lowered import shared_verdicts
from schedverify.core.op import Op
from schedverify.lowering import add_communication, add_reduction, add_sharding
from schedverify.testing import (
    Mutation,
    SchedulerFault,
    check_lowering,
    lowerings,
    mutations,
    problems,
    scheduler_machine,
    schedules,
)  # fmt: skip

VARIED = problems(max_ranks=3, max_microbatches=4, virtual=2, placements=("loop", "v"), latency=1) | problems(
    max_ranks=3, max_microbatches=3, split=True
)


class Greedy:
    """Runs any backward that can run, or else the first forward that the limit has room for."""

    def __init__(self, problem: sv.Problem) -> None:
        self.problem = problem
        self.given: list[set[str]] = [set() for _ in range(problem.ranks)]

    def next(self, rank: int, done: frozenset[str]) -> str | None:
        given, last = self.given[rank], self.problem.total_stages - 1
        for m in range(self.problem.microbatches):
            for s in self.problem.stages_of[rank]:
                if f"{s}F{m}" in done and (s == last or f"{s + 1}B{m}" in done) and f"{s}B{m}" not in given:
                    given.add(f"{s}B{m}")
                    return f"{s}B{m}"
        for s in filter(lambda stage: self.has_room(rank, stage), self.problem.stages_of[rank]):
            for m in range(self.problem.microbatches):
                if (s == 0 or f"{s - 1}F{m}" in done) and f"{s}F{m}" not in given:
                    given.add(f"{s}F{m}")
                    return f"{s}F{m}"
        return None

    def has_room(self, rank: int, stage: int) -> bool:
        held = sum(1 if "F" in text else -1 for text in self.given[rank])
        return self.problem.in_flight is None or held < self.problem.in_flight[rank]


class Saving(Greedy):
    """Runs forwards as long as there are bytes for them."""

    def has_room(self, rank: int, stage: int) -> bool:
        sizes, signs = self.problem.activation, {"F": 1, "B": -1}
        held = sum(signs[text.strip("0123456789")] * sizes[Op.parse(text).stage] for text in self.given[rank])
        return self.problem.capacity is None or held + sizes[stage] <= self.problem.capacity[rank]


class Forgetful(Greedy):
    """Counts its limit one too high."""

    def __init__(self, problem: sv.Problem) -> None:
        super().__init__(problem)
        self.problem = sv.Problem.chain(
            ranks=problem.ranks, microbatches=problem.microbatches, in_flight=[n + 1 for n in problem.in_flight or ()]
        )


class Hasty(Greedy):
    """Does not wait for the stage before."""

    def next(self, rank: int, done: frozenset[str]) -> str | None:
        return super().next(rank, done | {f"{s}F{m}" for s in range(4) for m in range(6)})


class Broken(Greedy):
    def next(self, rank: int, done: frozenset[str]) -> str | None:
        raise ZeroDivisionError


class Says(Greedy):
    """Says one thing to everybody."""

    text: str | None = ""

    def next(self, rank: int, done: frozenset[str]) -> str | None:
        return self.text


class Misplaced(Greedy):
    """Gives the step of rank 0 to rank 1, and rank 0 none."""

    def next(self, rank: int, done: frozenset[str]) -> str | None:
        return "0F0" if rank else None


def failure_of(scheduler: type[Greedy], among: st.SearchStrategy[sv.Problem]) -> str:
    case = scheduler_machine(scheduler, among).TestCase
    phases = (Phase.generate, Phase.shrink)
    case.settings = settings(case.settings, database=None, phases=phases, report_multiple_bugs=False)
    with pytest.raises(SchedulerFault) as caught:
        case().runTest()
    return str(caught.value)


class Lazy(Greedy):
    """Never runs the last backward of rank 0."""

    def next(self, rank: int, done: frozenset[str]) -> str | None:
        step = super().next(rank, done)
        return None if step == f"0B{self.problem.microbatches - 1}" else step


def test_a_long_history_is_led_to_its_end() -> None:
    among = st.just(sv.Problem.chain(ranks=2, microbatches=60))
    case = scheduler_machine(Lazy, among).TestCase
    case.settings = settings(case.settings, database=None, max_examples=5, phases=[Phase.generate])
    with pytest.raises(SchedulerFault, match="while 1 operations are left: 0B59"):
        case().runTest()


def test_a_machine_has_the_settings_of_hypothesis_for_such() -> None:
    assert scheduler_machine(Greedy).TestCase.settings.deadline is None


@pytest.mark.parametrize(
    ("scheduler", "among"),
    [(Greedy, None), (Greedy, problems(limits=True)), (Saving, problems(memory=True))],
    ids=["plain", "limits", "memory"],
)
def test_a_greedy_scheduler_passes(scheduler: type[Greedy], among: st.SearchStrategy[sv.Problem] | None) -> None:
    case = scheduler_machine(scheduler, among).TestCase
    case.settings = settings(case.settings, database=None, max_examples=20, deadline=None)
    case().runTest()


@pytest.mark.parametrize(("scheduler", "limit"), [(Greedy, "limits"), (Saving, "memory")])
def test_one_that_paints_itself_into_a_corner_is_caught_with_the_shortest_history(
    scheduler: type[Greedy], limit: str
) -> None:
    message = failure_of(scheduler, problems(max_microbatches=4, virtual=2, **{limit: True}))
    assert message.startswith("every rank waits and nothing runs, while 6 operations are left: ")
    told = message.split("What happened:\n")[1].split("\n\n")[0].splitlines()
    assert told == ["rank 0 starts 0F0", "rank 0 ends 0F0", "rank 0 starts 0F1", "rank 0 ends 0F1", "rank 0 waits"]
    assert "ranks = 1\nmicrobatches = 2" in message


def test_a_limit_that_is_exceeded_is_told() -> None:
    message = failure_of(Forgetful, problems(limits=True))
    assert message.startswith("SV401 rank 0 has 2 micro-batches in flight")
    assert "rank 0 starts 0F0\nrank 0 ends 0F0\nrank 0 starts 0F1\n" in message


def test_a_step_whose_input_is_missing_is_told() -> None:
    assert "cannot start" in failure_of(Hasty, problems())


def test_an_exception_and_an_endless_wait_are_told() -> None:
    assert "raised ZeroDivisionError for rank 0" in failure_of(Broken, problems())
    assert "every rank waits and nothing runs, while 2 operations" in failure_of(
        type("Idle", (Says,), {"text": None}), problems()
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0X0", "is no step"), ("0F0 0F1", "is no step"), ("0F9", "has no operation 0F9"), ("0F0", "was given before"),
        ("0SEND_F0", "has no operation"),
    ],
)  # fmt: skip
def test_what_cannot_be_given_is_told(text: str, told: str) -> None:
    assert told in failure_of(type("Other", (Says,), {"text": text}), problems(max_ranks=1))


def test_a_step_of_another_rank_is_told() -> None:
    among = st.just(sv.Problem.chain(ranks=2, microbatches=1))
    assert "0F0 is not on rank 1" in failure_of(Misplaced, among)


def test_a_full_backward_does_for_both_parts() -> None:
    case = scheduler_machine(Greedy, problems(split=True, max_microbatches=3)).TestCase
    case.settings = settings(case.settings, database=None, max_examples=20, deadline=None)
    case().runTest()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_lowered_schedules_are_valid(data: st.DataObject) -> None:
    problem = data.draw(VARIED)
    schedule = data.draw(lowerings(problem))
    assert sv.verify(schedule, problem).ok
    crosses = any(a != b for a, b in zip(problem.owner_rank, problem.owner_rank[1:], strict=False))
    assert crosses == any("SEND" in text for row in schedule.strings() for text in row)


FEATURES = {"max_ranks": 3, "max_microbatches": 3, "virtual": 2, "placements": ("loop", "any"), "graph": True,
            "slices": 2, "several_ranks": True, "tied": True, "replicas": 2}  # fmt: skip
FEATURED = problems(waits=True, **FEATURES) | problems(split=True, **FEATURES) | problems(inference=True, **FEATURES)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_lowered_schedules_with_every_feature_are_valid_and_the_oracle_says_so(data: st.DataObject) -> None:
    problem = data.draw(FEATURED)
    drawn = schedules(problem, mixed=data.draw(st.booleans()), overlapped=data.draw(st.booleans()))
    keywords = {name: data.draw(st.booleans()) for name in ("groups", "unshard", "waits")}
    schedule = data.draw(lowerings(problem, drawn, **keywords))
    assert sv.verify(schedule, problem).ok or not schedule.lowered
    judge = Judge(schedule.strings(), problem.to_dict())
    assert not any((judge.verdicts("pair") | shared_verdicts(judge.program)).values())
    wrong = data.draw(lowerings(problem, drawn, valid=False, **keywords))
    assert not sv.verify(wrong, problem).ok


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"groups": True}, "[0SEND_F0;0RECV_B"),
        ({"unshard": True}, "0RESHARD 2UNSHARD"),
        ({"waits": True}, "0WAIT_SEND_F0"),
        ({"waits": True, "unshard": True}, "0WAIT_REDUCE_GRAD"),
        ({}, "0RECV_B0 0B0"),
    ],
    ids=str,
)
def test_lowered_schedules_have_what_they_are_asked_for(keywords: dict[str, bool], text: str) -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=2, virtual=2)
    found = find(lowerings(problem, **keywords), lambda schedule: text in str(schedule),
                 settings=settings(database=None, deadline=None, max_examples=3000), random=Random(2))  # fmt: skip
    assert sv.verify(found, problem).ok


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_our_lowering_passes(data: st.DataObject) -> None:
    problem = data.draw(VARIED)
    order = data.draw(schedules(problem))
    assert check_lowering(sv.lower, order, problem, discipline="block") == sv.lower(order, problem)


Lowering = Callable[[sv.Schedule, sv.Problem], sv.Schedule]


def late(word: str) -> Lowering:
    """Return a lowering that puts every such transfer of a rank at its end."""

    def lowering(schedule: sv.Schedule, problem: sv.Problem) -> sv.Schedule:
        rows = sv.lower(schedule, problem).strings()
        return sv.Schedule.of(sorted(row, key=lambda text: word in text) for row in rows)

    return lowering


def reduces_tied_stages_as_one(schedule: sv.Schedule, problem: sv.Problem) -> sv.Schedule:
    reduced = add_reduction(sv.lower(schedule, problem), problem)
    needless = {f"{s}REDUCE_GRAD" for group in problem.tied for s in group[1:]}
    return sv.Schedule.of([text for text in row if text not in needless] for row in reduced.strings())


def groups_from_the_back(schedule: sv.Schedule, problem: sv.Problem) -> sv.Schedule:
    """Launch transfers that stand one after the other as a group, the last of them first."""
    rows = []
    for row in sv.lower(schedule, problem).strings():
        runs = [(talks, list(texts)) for talks, texts in groupby(row, lambda text: "SEND" in text or "RECV" in text)]
        rows.append([t for talks, run in runs for t in ([f"[{';'.join(run[::-1])}]"] if talks and run[1:] else run)])
    return sv.Schedule.of(rows)


def frees_at_the_first_use(schedule: sv.Schedule, problem: sv.Problem) -> sv.Schedule:
    rows = add_sharding(sv.lower(schedule, problem), problem).strings()
    for s, rank in enumerate(problem.owner_rank):
        rows[rank].remove(f"{s}RESHARD")
        rows[rank].insert(rows[rank].index(f"{s}F0") + 1, f"{s}RESHARD")
    return sv.Schedule.of(rows)


@pytest.mark.parametrize(
    ("lowering", "keywords", "told"),
    [
        (reduces_tied_stages_as_one, {"tied": True}, "SV305"),
        pytest.param(frees_at_the_first_use, {}, "SV305", marks=pytest.mark.slow),
        (groups_from_the_back, {}, "SV302"),
    ],
)
def test_a_lowering_that_is_wrong_of_a_feature_is_caught_and_told_small(
    lowering: Lowering, keywords: dict[str, object], told: str
) -> None:
    tried: list[sv.Problem] = []

    @settings(database=None, deadline=None, max_examples=200, derandomize=True)
    @given(st.data())
    def test(data: st.DataObject) -> None:
        problem = data.draw(problems(**keywords))
        order = data.draw(schedules(problem))
        tried.append(problem)
        check_lowering(lowering, order, problem)

    with pytest.raises(SchedulerFault, match=told):
        test()
    assert tried[-1].ranks <= 3
    assert tried[-1].microbatches <= 4


def without(word: str) -> Lowering:
    """Return a lowering without such steps."""

    def lowering(schedule: sv.Schedule, problem: sv.Problem) -> sv.Schedule:
        return sv.Schedule.of([t for t in row if word not in t] for row in sv.lower(schedule, problem).strings())

    return lowering


@pytest.mark.parametrize(
    ("lowering", "told"),
    [
        (without("SEND_B"), "SV301"), (late("RECV_F"), "SV303"), (without("1F0"), "rank 1 computes"),
        (late("SEND_F"), "SV304"), (lambda schedule, problem: 1 // 0, "raised ZeroDivisionError"),
        (lambda schedule, problem: str(schedule), "returned str, not Schedule"),
        (lambda schedule, problem: sv.Schedule.parse("0F0"), "1 rows for 2 ranks"),
    ],
)  # fmt: skip
def test_a_faulty_lowering_is_caught(lowering: Lowering, told: str) -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=1)
    order = sv.Schedule.parse("0F0 0B0\n1F0 1B0")
    with pytest.raises(SchedulerFault, match=told) as caught:
        check_lowering(lowering, order, problem)
    assert f"The order that was lowered:\n{order}" in str(caught.value)
    assert "ranks = 2" in str(caught.value)


def gathers_at_the_start(schedule: sv.Schedule, problem: sv.Problem) -> sv.Schedule:
    """Gather every stage of a rank at its start, and free none before its end."""
    own, rows = problem.stages_of, sv.lower(schedule, problem).strings()
    return sv.Schedule.of(
        [f"{s}UNSHARD" for s in own[rank]] + row + [f"{s}RESHARD" for s in own[rank]] for rank, row in enumerate(rows)
    )


CHAIN = {"ranks": 2, "microbatches": 2, "forward": 1, "backward": 2}
LIMITS = {
    "SV402": (add_communication, {"bytes": 6, "capacity": 3}),
    "SV403": (add_communication, {"buffer": 1}),
    "SV404": (add_communication, {"outstanding_sends": 1}),
    "SV405": (gathers_at_the_start, {"virtual": 2, "unsharded": 1}),
    "SV503": (add_communication, {"makespan": 21, "bytes": 6, "bandwidth": 1}),
}


@pytest.mark.parametrize("code", LIMITS)
def test_a_lowering_that_keeps_no_limit_is_caught_unless_only_other_properties_are_asked_for(code: str) -> None:
    lowering, limits = LIMITS[code]
    problem = sv.Problem.chain(**CHAIN | limits)
    order = sv.generate("gpipe", problem)
    assert sv.verify(order, problem).ok
    for properties in (None, [code]):
        with pytest.raises(SchedulerFault, match=f"^{code} "):
            check_lowering(lowering, order, problem, properties=properties, discipline="buffered")
    check_lowering(lowering, order, problem, properties=("SV1", "SV2", "SV3"), discipline="buffered")


@pytest.mark.parametrize(
    ("lowering", "keywords", "told"),
    [(add_communication, {"waits": True}, "SV404"), (gathers_at_the_start, {"virtual": 2, "unshard": True}, "SV405")],
)
def test_a_lowering_that_forgets_a_limit_is_told_small(lowering: Lowering, keywords: dict[str, Any], told: str) -> None:
    tried: list[sv.Problem] = []

    @settings(database=None, deadline=None, max_examples=200, derandomize=True)
    @given(st.data())
    def test(data: st.DataObject) -> None:
        tried.append(data.draw(problems(**keywords)))
        check_lowering(lowering, data.draw(schedules(tried[-1])), tried[-1])

    with pytest.raises(SchedulerFault, match=told):
        test()
    assert tried[-1].ranks <= 3
    assert tried[-1].microbatches <= 4


def test_a_lowering_that_changes_its_mind_is_caught() -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=1)
    again = iter(["block", None])

    def fickle(schedule: sv.Schedule, problem: sv.Problem) -> sv.Schedule:
        lowered = sv.lower(schedule, problem)
        return lowered if next(again) else sv.Schedule.of([*row, "0UNSHARD", "0RESHARD"] for row in lowered.strings())

    with pytest.raises(SchedulerFault, match="not deterministic"):
        check_lowering(fickle, sv.Schedule.parse("0F0 0B0\n1F0 1B0"), problem)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_each_mutation_of_communication_trips_the_property_that_it_names(data: st.DataObject) -> None:
    problem = data.draw(VARIED)
    mutation: Mutation = data.draw(mutations(data.draw(lowerings(problem, groups=True))))
    codes = {violation.code for violation in sv.verify(mutation.schedule, problem).violations}
    assert mutation.code in codes, mutation.fault


def test_every_fault_of_communication_comes_out() -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=2)
    seen: set[str] = set()

    @settings(max_examples=300, database=None, deadline=None)
    @given(mutations(sv.lower(sv.generate("1f1b", problem), problem)))
    def collect(mutation: Mutation) -> None:
        seen.add(mutation.code)

    collect()
    assert {"SV301", "SV302", "SV303", "SV304"} <= seen
