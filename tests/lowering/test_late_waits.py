"""Waits for sends, as late as limits allow: found where there are any, safe, and none could stand later by itself."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedverify.core.discipline import Discipline
from schedverify.core.errors import InputError, ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.result import Verdict
from schedverify.core.schedule import Schedule
from schedverify.generators import generate
from schedverify.lowering import add_communication, add_late_waits
from schedverify.simulator.joint_steps import NEVER_ENDS
from schedverify.verifier.verification import verify

PROBLEM = Problem.chain(ranks=2, microbatches=2)
LOWERED = add_communication(generate("1f1b", PROBLEM), PROBLEM)
Rows = list[list[str]]
JUDGED = ("SV303", "SV304", "SV402", "SV404")


def broken(rows: Rows, problem: Problem, discipline: str) -> set[str]:
    report = verify(Schedule.of(rows), problem, select=JUDGED, discipline=discipline)
    return {result.code for result in report.properties if result.verdict is Verdict.VIOLATED}


def sends(row: list[str]) -> list[tuple[int, str]]:
    """Return the places of the sends of a row, with what waits for each."""
    found = [(at, part) for at, cell in enumerate(row) for part in cell.strip("[]").split(";")]
    return [(at, part.replace("SEND", "WAIT_SEND")) for at, part in found if re.match(r"[0-9]+SEND", part)]


def placements(row: list[str]) -> Iterator[list[str]]:
    """Yield a row with its waits at all the places that differ: before a step behind the send, or at the end."""
    waits = sends(row)
    for places in product(*(range(at + 1, len(row) + 1) for at, _ in waits)):
        yield [
            cell
            for at, step in enumerate([*row, ""])
            for cell in [*(wait for place, (_, wait) in zip(places, waits, strict=True) if place == at), step]
            if cell
        ]


def any_waits(rows: Rows, problem: Problem, discipline: str) -> bool:
    """Whether some waits keep the limits, which are a matter of each rank alone, and hang nowhere: all are tried."""
    kept = []
    for rank, row in enumerate(rows):
        others = [[cell for cell in own if "SEND" not in cell] if r != rank else [] for r, own in enumerate(rows)]
        alone = [
            placed
            for placed in placements(row)
            if not broken([*others[:rank], placed, *others[rank + 1 :]], problem, discipline) & {"SV402", "SV404"}
        ]
        kept.append(alone)
    return any(not broken(list(chosen), problem, discipline) for chosen in product(*kept))


def moved_later(row: list[str]) -> Iterator[list[str]]:
    """Yield a row with one of its waits one place later, behind the next step that is no wait."""
    for at, cell in enumerate(row):
        behind = next((i for i in range(at + 1, len(row)) if "WAIT" not in row[i]), None)
        if "WAIT" in cell and behind is not None:
            yield [*row[:at], *row[at + 1 : behind + 1], cell, *row[behind + 1 :]]


def test_without_limits_all_waits_stand_at_the_end() -> None:
    waiting = add_late_waits(LOWERED, PROBLEM)
    assert str(waiting).splitlines() == [
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 0WAIT_SEND_F0 0WAIT_SEND_F1",
        "1RECV_F0 1F0 1RECV_F1 1B0 1SEND_B0 1F1 1B1 1SEND_B1 1WAIT_SEND_B0 1WAIT_SEND_B1",
    ]


def test_of_sends_that_are_limited_the_first_complete_is_waited_for_before_one_too_many() -> None:
    problem = Problem.chain(ranks=2, microbatches=3, outstanding_sends=[2, 1])
    waiting = add_late_waits(add_communication(generate("gpipe", problem), problem), problem)
    assert str(waiting).splitlines() == [
        "0F0 0SEND_F0 0F1 0SEND_F1 0F2 0WAIT_SEND_F0 0SEND_F2 0RECV_B0 0B0 0RECV_B1 0B1 0RECV_B2 0B2 "
        "0WAIT_SEND_F1 0WAIT_SEND_F2",
        "1RECV_F0 1F0 1RECV_F1 1F1 1RECV_F2 1F2 1B0 1SEND_B0 1B1 1WAIT_SEND_B0 1SEND_B1 1B2 1WAIT_SEND_B1 1SEND_B2 "
        "1WAIT_SEND_B2",
    ]


def test_the_oldest_send_may_be_the_wrong_one_to_wait_for() -> None:
    """Rank 1 posts its receive of 0SEND_F0 behind 3F1, which comes of rank 0's third send."""
    problem = Problem.chain(ranks=3, microbatches=2, stages=4, placement=[0, 1, 2, 1], edges=[[0, 1], [0, 2], [2, 3]],
                            forward=1, form="inference", outstanding_sends=2)  # fmt: skip
    rows = [
        ["0F0", "0SEND_F0>1", "0SEND_F0>2", "0F1", "0SEND_F1>2", "0SEND_F1>1"],
        ["3RECV_F0", "3F0", "3RECV_F1", "3F1", "1RECV_F0", "1F0", "1RECV_F1", "1F1"],
        ["2RECV_F0", "2F0", "2SEND_F0", "2RECV_F1", "2F1", "2SEND_F1"],
    ]
    waiting = add_late_waits(Schedule.of(rows), problem, "edge").strings()
    assert waiting[0] == [
        "0F0", "0SEND_F0>1", "0SEND_F0>2", "0F1", "0WAIT_SEND_F0>2", "0SEND_F1>2", "0WAIT_SEND_F1>2", "0SEND_F1>1",
        "0WAIT_SEND_F0>1", "0WAIT_SEND_F1>1",
    ]  # fmt: skip
    assert not broken(waiting, problem, "edge")
    oldest = [*rows[0][:4], "0WAIT_SEND_F0>1", *rows[0][4:]]
    assert broken([oldest, *rows[1:]], problem, "edge") == {"SV304", "SV404"}


def test_where_no_waits_keep_a_limit_the_place_is_told() -> None:
    problem = Problem.chain(ranks=3, microbatches=1, stages=4, placement=[0, 1, 2, 1], edges=[[0, 1], [0, 2], [2, 3]],
                            forward=1, form="inference", outstanding_sends=1)  # fmt: skip
    rows = [
        ["0F0", "0SEND_F0>1", "0SEND_F0>2"],
        ["3RECV_F0", "3F0", "1RECV_F0", "1F0"],
        ["2RECV_F0", "2F0", "2SEND_F0"],
    ]
    told = r"rank 0, position 2 \(0SEND_F0>2\): under edge the sends before it that the limits of sends or bytes would"
    with pytest.raises(ScheduleError, match=told):
        add_late_waits(Schedule.of(rows), problem, "edge")
    assert not any_waits(rows, problem, "edge")
    assert not broken(add_late_waits(Schedule.of(rows), problem, "buffered").strings(), problem, "buffered")
    hanging = [
        ["0F0", "0SEND_F0>1", "0SEND_F0>2"],
        ["1RECV_F0", "1F0", "3RECV_F0", "3F0"],
        ["2F0", "2RECV_F0", "2SEND_F0"],
    ]
    with pytest.raises(ScheduleError, match=f"{NEVER_ENDS} under edge"):
        add_late_waits(Schedule.of(hanging), problem, "edge")


def test_waits_that_stand_already_are_refused() -> None:
    with pytest.raises(InputError, match="rank 0, position 1: a WAIT_SEND stands there already"):
        add_late_waits(Schedule.of([["0F0", "0WAIT_SEND_F0"], []]), PROBLEM)


# Brute force


@st.composite
def tiny(draw: st.DrawFn) -> tuple[Rows, Problem, Discipline]:
    """Draw a lowered order whose receives stand anywhere before their readers, and whose sends anywhere behind.

    With a limit and a discipline.
    """
    form, family = draw(st.sampled_from([("fused", "gpipe"), ("fused", "1f1b"), ("inference", "gpipe")]))
    shapes = {"fused": [(2, 2), (3, 1), (2, 1)], "inference": [(2, 3), (3, 2), (4, 2)]}
    ranks, microbatches = draw(st.sampled_from(shapes[form]))
    size, held = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    keys = {"forward": draw(st.integers(1, 3)), "form": form, "bytes": size, "latency": draw(st.integers(0, 2))}
    problem = Problem.chain(ranks=ranks, microbatches=microbatches, activation=held, **keys)
    rows = add_communication(generate(family, problem), problem).strings()
    for row in rows:
        for receive in [cell for cell in row if "RECV" in cell]:
            at = row.index(receive)
            reader = row.index(receive.replace("RECV_", ""))
            row.insert(draw(st.integers(0, reader - 1)), row.pop(at))
        for send in [cell for cell in row if "SEND" in cell and draw(st.booleans())]:
            at = row.index(send)
            row.insert(draw(st.integers(at, len(row) - 1)), row.pop(at))
    most = draw(st.sampled_from([1, 2]) if not size else st.none() | st.just(1))
    limits = {"outstanding_sends": None if most is None else (most,) * ranks}
    if most is None:
        limits["capacity"] = tuple(draw(st.integers(3, 16)) for _ in range(ranks))
    return rows, dataclasses.replace(problem, **limits), draw(st.sampled_from(list(Discipline)))


@given(tiny())
@settings(deadline=None, max_examples=60)
def test_waits_are_found_where_there_are_any_and_none_could_stand_later(case: tuple[Rows, Problem, Discipline]) -> None:
    rows, problem, discipline = case
    if broken(rows, dataclasses.replace(problem, capacity=None, outstanding_sends=None), discipline):
        return
    try:
        waiting = add_late_waits(Schedule.of(rows), problem, discipline).strings()
    except ScheduleError:
        assert not any_waits(rows, problem, discipline)
        return
    found = broken(waiting, problem, discipline)
    if found:
        assert found == {"SV402"}
        assert not any_waits(rows, problem, discipline)
        return
    assert [cell for row in waiting for cell in row if "WAIT" not in cell] == [cell for row in rows for cell in row]
    for rank, row in enumerate(waiting):
        assert sorted(wait for _, wait in sends(row)) == sorted(cell for cell in row if "WAIT" in cell)
        for later in moved_later(row):
            assert broken([*waiting[:rank], later, *waiting[rank + 1 :]], problem, discipline) & {"SV402", "SV404"}


@pytest.mark.parametrize(
    ("discipline", "microbatches"), [*((d, 1) for d in Discipline), pytest.param("edge", 2, marks=pytest.mark.slow)]
)
def test_where_it_matters_which_send_is_waited_for_waits_are_found_or_there_are_none(
    discipline: str, microbatches: int
) -> None:
    """Rank 0 sends to ranks 1 and 2, and rank 2 to rank 1; all orders of its sends and of rank 1's receives."""
    problem = Problem.chain(ranks=3, microbatches=microbatches, stages=4, placement=[0, 2, 1, 1],
                            edges=[[0, 1], [1, 2], [0, 3]], forward=1, form="inference",
                            outstanding_sends=microbatches)  # fmt: skip
    tried = found = 0
    for sending in permutations([f"0SEND_F{m}>{to}" for m in range(microbatches) for to in (1, 3)]):
        for rank_1 in product(range(2 * microbatches + 1), repeat=microbatches):
            row = [f"2{kind}F{m}" for m in range(microbatches) for kind in ("RECV_", "")]
            for m, place in enumerate(rank_1):
                row.insert(place + m, f"3RECV_F{m}")
            row += [f"3F{m}" for m in range(microbatches)]
            rows = [[f"0F{m}" for m in range(microbatches)] + list(sending), row,
                    [f"1{kind}F{m}" for m in range(microbatches) for kind in ("RECV_", "", "SEND_")]]  # fmt: skip
            if broken(rows, dataclasses.replace(problem, outstanding_sends=None), discipline):
                continue
            tried += 1
            try:
                waiting = add_late_waits(Schedule.of(rows), problem, discipline).strings()
            except ScheduleError:
                assert not any_waits(rows, problem, discipline)
            else:
                found += 1
                assert not broken(waiting, problem, discipline)
    assert tried > found > 0 or (discipline in ("tagged", "buffered", "rank", "block") and tried == found)
