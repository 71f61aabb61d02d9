"""The test kit: ten schedulers with a fault each are caught and told small, every family of ours passes."""

from __future__ import annotations

import doctest
import importlib
import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, assume, find, given, settings
from hypothesis import strategies as st

import schedverify as sv
from schedverify.testing import Mutation, SchedulerFault, check_scheduler, mutations, problems, schedules

Scheduler = Callable[[sv.Problem], sv.Schedule]
PLAIN = problems()
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""No test is decided by how long an example takes."""
SHAPES = {"max_ranks": 3, "max_microbatches": 3, "virtual": 2, "placements": ("loop", "v", "any"), "latency": 2}
FEATURES = {"uneven": True, "replicas": 2, "slices": 2, "several_ranks": True, "graph": True, "tied": True}
EVERYTHING = (
    problems(memory=True, limits=True, overlapped=True, **SHAPES, **FEATURES)
    | problems(recompute=True, split=True, **SHAPES, **FEATURES)
    | problems(recompute=True, inference=True, **SHAPES, **FEATURES)
)


def one_f_one_b(problem: sv.Problem, warm_up: Callable[[int], int], last: int | None = None) -> sv.Schedule:
    """Return 1F1B with so many forwards in front on each rank, and so many micro-batches."""
    count = problem.microbatches if last is None else last
    rows = []
    for s in range(problem.ranks):
        ahead = warm_up(s)
        row = [f"{s}F{m}" for m in range(ahead)]
        for m in range(count):
            row += [f"{s}B{m}"] + ([f"{s}F{m + ahead}"] if m + ahead < count else [])
        rows.append(row)
    return sv.Schedule.of(rows)


def right(problem: sv.Problem) -> sv.Schedule:
    return one_f_one_b(problem, lambda s: min(problem.microbatches, problem.ranks - s))


def warms_up_one_too_few(problem: sv.Problem) -> sv.Schedule:
    return one_f_one_b(problem, lambda s: min(problem.microbatches, problem.ranks - s - 1))


def loses_the_last_microbatch(problem: sv.Problem) -> sv.Schedule:
    count = problem.microbatches - 1
    return one_f_one_b(problem, lambda s: min(count, problem.ranks - s), count)


def crosses_microbatches_on_the_last_rank(problem: sv.Problem) -> sv.Schedule:
    rows, s = rows_of(right(problem)), problem.ranks - 1
    rows[s] = [text for m in reversed(range(problem.microbatches)) for text in (f"{s}F{m}", f"{s}B{m}")]
    return sv.Schedule.of(rows)


def takes_a_v_for_a_loop(problem: sv.Problem) -> sv.Schedule:
    virtual = problem.stages // problem.ranks
    looped = sv.Problem.chain(ranks=problem.ranks, microbatches=problem.microbatches, virtual=virtual)
    return sv.generate("looped-bfs", looped)


def puts_w_before_i(problem: sv.Problem) -> sv.Schedule:
    rows = rows_of(sv.generate("zb-h1", problem))
    row = rows[0]
    i, w = row.index("0I0"), row.index("0W0")
    row[i], row[w] = row[w], row[i]
    return sv.Schedule.of(rows)


def exceeds_the_limit_by_one(problem: sv.Problem) -> sv.Schedule:
    assert problem.in_flight is not None
    limit = problem.in_flight
    return one_f_one_b(problem, lambda s: min(problem.microbatches, problem.ranks - s, limit[s] + 1))


def forgets_that_m_can_be_below_p(problem: sv.Problem) -> sv.Schedule:
    return one_f_one_b(problem, lambda s: problem.ranks - s)


def is_wrong_for_odd_m(problem: sv.Problem) -> sv.Schedule:
    rows = rows_of(right(problem))
    if problem.microbatches % 2:
        rows[0].append("0B0")
    return sv.Schedule.of(rows)


def is_wrong_on_one_rank(problem: sv.Problem) -> sv.Schedule:
    return right(problem) if problem.ranks > 1 else sv.Schedule.of([list(reversed(rows_of(right(problem))[0]))])


def is_not_deterministic(problem: sv.Problem) -> sv.Schedule:
    order = list(range(problem.microbatches))
    random.shuffle(order)
    return sv.Schedule.of([f"{s}{k}{m}" for k in "FB" for m in order] for s in range(problem.ranks))


def takes_parts_for_sequences(problem: sv.Problem) -> sv.Schedule:
    return right(problem)


def forgets_the_other_ranks(problem: sv.Problem) -> sv.Schedule:
    rows: list[list[str]] = [[] for _ in range(problem.ranks)]
    for m in range(problem.microbatches):
        for kind, stages in (("F", range(problem.stages)), ("B", reversed(range(problem.stages)))):
            for s in stages:
                rows[problem.owner_rank[s]].append(f"{s}{kind}{m}")
    return sv.Schedule.of(rows)


def counts_only_what_is_kept(problem: sv.Problem) -> sv.Schedule:
    assert problem.capacity is not None
    room = problem.capacity[0] // problem.saved_activation_bytes[0]
    return one_f_one_b(problem, lambda s: min(room, problem.microbatches))


def rows_of(schedule: sv.Schedule) -> list[list[str]]:
    return [list(map(str, schedule.steps(rank))) for rank in range(schedule.ranks)]


FAULTY: dict[Scheduler, tuple[st.SearchStrategy[sv.Problem], str]] = {
    warms_up_one_too_few: (PLAIN, "SV201"),
    loses_the_last_microbatch: (PLAIN, "SV103"),
    crosses_microbatches_on_the_last_rank: (PLAIN, "SV201"),
    takes_a_v_for_a_loop: (problems(virtual=2, placements=("v",)), "SV102"),
    puts_w_before_i: (problems(split=True), "SV201"),
    exceeds_the_limit_by_one: (problems(limits=True), "SV401"),
    forgets_that_m_can_be_below_p: (PLAIN, "SV101"),
    is_wrong_for_odd_m: (PLAIN, "SV104"),
    is_wrong_on_one_rank: (PLAIN, "SV201"),
    is_not_deterministic: (PLAIN, "not deterministic"),
    takes_parts_for_sequences: (problems(slices=2), "SV201"),
    forgets_the_other_ranks: (problems(several_ranks=True), "SV102"),
    counts_only_what_is_kept: (problems(recompute=True, max_ranks=1), "SV402"),
}


def smallest_failure(scheduler: Scheduler, strategy: st.SearchStrategy[sv.Problem]) -> tuple[sv.Problem, str]:
    """Run a user's test to its failure; the last problem that hypothesis tries is the smallest."""
    tried: list[sv.Problem] = []

    @settings(UNTIMED, database=None)
    @given(strategy)
    def test(problem: sv.Problem) -> None:
        tried.append(problem)
        check_scheduler(scheduler, problem)

    with pytest.raises(SchedulerFault) as caught:
        test()
    return tried[-1], str(caught.value)


@pytest.mark.parametrize("scheduler", FAULTY, ids=lambda scheduler: scheduler.__name__)
def test_a_faulty_scheduler_is_caught_and_told_small(scheduler: Scheduler) -> None:
    strategy, told = FAULTY[scheduler]
    problem, message = smallest_failure(scheduler, strategy)
    assert problem.ranks <= 3
    assert problem.microbatches <= 3
    assert told in message
    assert f"ranks = {problem.ranks}" in message
    _, _, picture = message.partition("\n\nThe schedule:\n")
    assert "\nrank 0" in picture


@UNTIMED
@given(PLAIN)
def test_a_right_scheduler_passes(problem: sv.Problem) -> None:
    assert check_scheduler(right, problem, at_least_as_good_as="1f1b") == sv.generate("1f1b", problem)


@pytest.mark.parametrize("family", sv.families(), ids=lambda family: family.name)
def test_every_family_passes(family) -> None:
    # Limits are the problem's, and a family need not know them.
    fused, split = (
        problems(max_microbatches=4, virtual=2, placements=("loop", "v"), split=parts, latency=1, uneven=True)
        for parts in (False, True)
    )

    @settings(
        UNTIMED,
        max_examples=25,
        database=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )
    @given(fused | split)
    def test(problem: sv.Problem) -> None:
        assume(family.suits(problem))
        check_scheduler(family.generate, problem)

    test()


def test_an_exception_of_the_scheduler_is_told_with_the_problem() -> None:
    with pytest.raises(SchedulerFault, match=r"raised ZeroDivisionError(.|\n)*ranks = 2") as caught:
        check_scheduler(lambda problem: 1 // 0, sv.Problem.chain(ranks=2, microbatches=1))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_what_is_no_schedule_or_has_other_ranks_is_told() -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=1)
    with pytest.raises(SchedulerFault, match="returned str, not Schedule"):
        check_scheduler(lambda problem: "0F0", problem)
    with pytest.raises(SchedulerFault, match="1 rows for 2 ranks"):
        check_scheduler(lambda problem: sv.Schedule.parse("0F0"), problem)


def test_a_scheduler_worse_than_a_family_or_a_bound_is_told() -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=2)

    def naive(problem: sv.Problem) -> sv.Schedule:
        return sv.generate("naive", problem)

    with pytest.raises(SchedulerFault, match="its makespan is 12 ticks, that of 1f1b 9 ticks"):
        check_scheduler(naive, problem, at_least_as_good_as="1f1b")
    with pytest.raises(SchedulerFault, match="its makespan is 12 ticks, the proved bound 9 ticks"):
        check_scheduler(naive, problem, max_gap=0.2)
    check_scheduler(naive, problem, max_gap=0.34)


def test_a_problem_has_one_form() -> None:
    with pytest.raises(sv.InputError, match="one form"):
        given(problems(split=True, inference=True))(lambda problem: None)()


@settings(UNTIMED, max_examples=60)
@given(st.data())
def test_schedules_are_valid_or_not_as_asked(data: st.DataObject) -> None:
    problem = data.draw(EVERYTHING)
    kinds = {"mixed": data.draw(st.booleans()), "overlapped": data.draw(st.booleans())}
    assert sv.verify(data.draw(schedules(problem, **kinds)), problem).ok
    assert not sv.verify(data.draw(schedules(problem, valid=False, **kinds)), problem).ok


@pytest.mark.parametrize(
    ("keyword", "has"),
    [
        ({"slices": 2}, lambda problem: problem.slices == 2),
        ({"several_ranks": True}, lambda problem: all(len(ranks) > 1 for ranks in problem.placement)),
        ({"graph": True}, lambda problem: (0, 2) in problem.edges),
        ({"tied": True}, lambda problem: len(problem.tied[0]) > 2),
        ({"overlapped": True}, lambda problem: len(problem.overlapped) > 1),
        ({"recompute": True}, lambda problem: len(set(problem.recompute)) > 1 and problem.capacity is not None),
        ({"placements": ("any",)}, lambda problem: () in problem.stages_of),
        ({"replicas": 2, "slices": 2}, lambda problem: problem.replicas == problem.slices == 2),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_keyword_brings_its_feature(keyword: dict[str, object], has: Callable[[sv.Problem], bool]) -> None:
    assert find(problems(**keyword), has, settings=settings(UNTIMED, database=None)).ranks <= 3


@pytest.mark.parametrize(
    ("keywords", "problem", "text"),
    [
        ({"overlapped": True}, sv.Problem.chain(ranks=1, microbatches=2), "OVERLAP"),
        ({"mixed": True}, sv.Problem.chain(ranks=1, microbatches=2, form="split"), "0B0"),
        ({}, sv.Problem.chain(ranks=1, microbatches=2, form="split"), "0I0"),
    ],
    ids=str,
)
def test_orders_have_what_they_are_asked_for(keywords: dict[str, bool], problem: sv.Problem, text: str) -> None:
    assert text in str(find(schedules(problem, **keywords), lambda schedule: text in str(schedule)))


@settings(UNTIMED, max_examples=100)
@given(st.data())
def test_each_mutation_trips_the_property_that_it_names(data: st.DataObject) -> None:
    problem = data.draw(PLAIN | problems(split=True) | problems(virtual=2, placements=("v",)))
    mutation: Mutation = data.draw(mutations(data.draw(schedules(problem))))
    assert mutation.code in {violation.code for violation in sv.verify(mutation.schedule, problem).violations}


def test_every_order_of_a_small_problem_comes_out() -> None:
    problem = sv.Problem.chain(ranks=1, microbatches=2)
    seen: set[sv.Schedule] = set()

    @settings(UNTIMED, max_examples=200, database=None)
    @given(schedules(problem))
    def collect(schedule: sv.Schedule) -> None:
        seen.add(schedule)

    collect()
    assert len(seen) == 6  # the orders of F0, F1, B0, B1 with each F before its B


def test_what_is_drawn_shrinks_to_the_least() -> None:
    least = find(PLAIN, lambda problem: True)
    assert (least.ranks, least.microbatches) == (1, 1)
    problem = sv.Problem.chain(ranks=2, microbatches=2)
    assert find(schedules(problem), lambda schedule: True) == sv.generate("naive", problem)
    assert find(mutations(sv.generate("1f1b", problem)), lambda mutation: True).fault == "dropped"


@pytest.mark.parametrize("keys", [{"in_flight": [2, 1]}, {"capacity": [2, 1]}, {"in_flight_stage": [2, 1]}], ids=str)
def test_orders_that_keep_a_limit_are_many(keys: dict[str, list[int]]) -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=3, **keys)
    seen: set[sv.Schedule] = set()

    @settings(UNTIMED, max_examples=100, database=None)
    @given(schedules(problem))
    def collect(schedule: sv.Schedule) -> None:
        seen.add(schedule)

    collect()
    assert len(seen) > 20
    assert all(sv.verify(schedule, problem).ok for schedule in seen)


@UNTIMED
@given(st.from_type(sv.Problem), st.from_type(sv.Schedule))
def test_types_are_registered(problem: sv.Problem, schedule: sv.Schedule) -> None:
    assert isinstance(problem, sv.Problem)
    assert isinstance(schedule, sv.Schedule)


@pytest.mark.parametrize("name", ["certifying", "checking", "lowerings", "online"])
def test_what_a_docstring_shows_is_so(name: str) -> None:
    shown = doctest.testmod(importlib.import_module(f"schedverify.testing.{name}"), extraglobs={"sv": sv})
    assert shown.attempted
    assert not shown.failed


def test_properties_of_which_none_applies_are_a_fault() -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=2)
    with pytest.raises(SchedulerFault, match=r"SV402 not applicable: the problem limits no memory \(memory.capacity"):
        check_scheduler(right, problem, properties=["SV4"])
    with pytest.raises(SchedulerFault, match="no property was selected"):
        check_scheduler(right, problem, properties=[])
    check_scheduler(right, problem, properties=["SV1", "SV4"])
