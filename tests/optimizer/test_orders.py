"""Orders as rows: from starts to orders and back, what they come to, and whether they keep limits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from schedverify.core.errors import ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.optimizer.orders import (
    Footprint,
    Ledger,
    Rows,
    complete,
    earliest,
    footprint,
    hint_of,
    measure,
    peaks_within_limits,
    relabelled,
    rows_of,
    schedule_of,
    tightest,
)
from schedverify.optimizer.tasks import OpKey, Tasks, node_of

PAIR = Problem.chain(ranks=2, microbatches=2, forward=1, backward=2, latency=1)
STARTS = {
    ("F", 0, 0): 0, ("F", 0, 1): 1, ("F", 1, 0): 2, ("B", 1, 0): 3, ("F", 1, 1): 5, ("B", 1, 1): 6,
    ("B", 0, 0): 6, ("B", 0, 1): 9,
}  # fmt: skip
ORDER: Rows = [
    [("F", 0, 0), ("F", 0, 1), ("B", 0, 0), ("B", 0, 1)],
    [("F", 1, 0), ("B", 1, 0), ("F", 1, 1), ("B", 1, 1)],
]


def test_starts_and_orders_are_two_forms_of_one_schedule() -> None:
    tasks = Tasks(PAIR)
    assert rows_of(PAIR, STARTS) == ORDER
    assert earliest(tasks, ORDER) == STARTS
    schedule = Schedule.parse("0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1")
    assert schedule_of(ORDER) == schedule
    assert hint_of(schedule, [[0, 1, 6, 9], [2, 3, 5, 6]]) == STARTS
    assert (measure(tasks, ORDER), measure(Tasks(PAIR, "span"), ORDER)) == (11, 11)


def test_the_span_begins_with_the_first_step_of_a_rank() -> None:
    late = Problem.chain(ranks=2, microbatches=1, form="inference", forward=[2, 3])
    rows: Rows = [[("F", 0, 0)], [("F", 1, 0)]]
    assert (measure(Tasks(late), rows), measure(Tasks(late, "span"), rows)) == (5, 3)


@pytest.mark.parametrize(
    ("keys", "text", "span", "windows"),
    [
        # A mean of 103 / 2: rank 1 waits until the ways there and back fit into 52.
        (
            {"forward": [8, 3], "backward_input": [2, 2], "backward_weight": [6, 11], "latency": 6, "form": "split"},
            "0F0 0F1 0F2 0I0 0W0 0I1 0W1 0I2 0W2\n1F0 1I0 1F1 1I1 1F2 1I2 1W0 1W1 1W2", 52, [49, 54],
        ),
        (
            {"placement": [0, 1, 1, 2, 2], "edges": [[0, 2], [1, 4]], "forward": 1, "latency": 4, "form": "inference"},
            "0F0\n1F0 2F0\n3F0 4F0", 2, [1, 6, 6],
        ),
    ],
)  # fmt: skip
def test_the_tightest_starts_have_the_span(keys: dict[str, Any], text: str, span: int, windows: list[int]) -> None:
    schedule = Schedule.parse(text)
    microbatches = text.splitlines()[0].count("F")
    problem = Problem.chain(ranks=schedule.ranks, microbatches=microbatches, **keys)
    tasks = Tasks(problem, "span")
    rows: Rows = [
        [(op.kind.name, op.stage, op.microbatch or 0) for step in schedule.steps(rank) for op in step.ops]
        for rank in range(schedule.ranks)
    ]

    def windows_of(starts: dict[OpKey, int]) -> list[int]:
        return [starts[row[-1]] + tasks.duration[row[-1][:2]] - starts[row[0]] for row in rows]

    found, starts = tightest(tasks, rows)
    assert (found, measure(tasks, rows)) == (span, span)
    assert max(windows_of(starts)) <= span
    assert windows_of(earliest(tasks, rows)) == windows
    for row in rows:
        for before, op in pairwise(row):
            assert starts[op] >= starts[before] + tasks.duration[before[:2]]
        for kind, stage, m in row:
            for node, lag in tasks.inputs(node_of((kind, stage, m))):
                source = next(op for op in starts if node_of(op) == node)
                assert starts[kind, stage, m] >= starts[source] + tasks.duration[source[:2]] + lag


def test_a_stage_on_two_ranks_starts_when_both_are_free() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, placement=[0, [0, 1]], form="inference", forward=[2, 3])
    rows = rows_of(problem, {("F", 0, 0): 0, ("F", 1, 0): 2, ("F", 0, 1): 5, ("F", 1, 1): 7})
    assert [len(row) for row in rows] == [4, 2]
    assert earliest(Tasks(problem), rows)["F", 1, 1] == 7


def test_orders_that_wait_in_a_circle_do_not_run() -> None:
    with pytest.raises(ScheduleError, match="cannot run"):
        earliest(Tasks(PAIR), [ORDER[0][::-1], ORDER[1]])


def test_a_hint_is_complete_with_each_step_once() -> None:
    tasks = Tasks(PAIR)
    assert complete(tasks, STARTS)
    assert not complete(tasks, {op: start for op, start in STARTS.items() if op != ("B", 0, 1)})
    assert not complete(tasks, STARTS | {("W", 0, 1): 12})
    split = Tasks(Problem.chain(ranks=1, microbatches=1, form="split"))
    assert complete(split, {("F", 0, 0): 0, ("I", 0, 0): 1, ("W", 0, 0): 2})
    assert complete(split, {("F", 0, 0): 0, ("B", 0, 0): 1})
    assert not complete(split, {("F", 0, 0): 0, ("I", 0, 0): 1})
    assert not complete(split, {("F", 0, 0): 0, ("I", 0, 0): 1, ("B", 0, 0): 3, ("W", 0, 0): 2})


def test_relabelling_puts_micro_batches_in_the_order_of_their_starts() -> None:
    tasks = Tasks(Problem.chain(ranks=1, microbatches=3, form="split", backward=1))
    starts = {
        ("F", 0, 2): 0, ("F", 0, 0): 1, ("F", 0, 1): 2, ("I", 0, 0): 3, ("B", 0, 2): 4, ("I", 0, 1): 5,
        ("W", 0, 1): 6, ("W", 0, 0): 7,
    }  # fmt: skip
    assert relabelled(tasks, starts) == {
        ("F", 0, 0): 0, ("F", 0, 1): 1, ("F", 0, 2): 2, ("I", 0, 0): 3, ("B", 0, 1): 4, ("I", 0, 2): 5,
        ("W", 0, 0): 6, ("W", 0, 2): 7,
    }  # fmt: skip


SIZES: dict[str, Any] = {"ranks": 1, "microbatches": 3, "activation": 5, "weight_stash": 2}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"form": "split"}, {"F": (5, 5, 1, 1), "B": (0, -5, 0, -1), "I": (0, -3, 0, -1), "W": (0, -2, 0, 0)}),
        (
            {"form": "split", "recompute": True, "boundary": 1},
            {"F": (1, 1, 1, 1), "B": (4, -1, 0, -1), "I": (4, 1, 0, -1), "W": (0, -2, 0, 0)},
        ),
        ({"form": "inference"}, {"F": (5, 0, 1, 0)}),
    ],
)
def test_what_an_operation_does_to_its_rank(keys: dict[str, Any], expected: dict[str, tuple[int, ...]]) -> None:
    problem = Problem.chain(**SIZES, **keys)
    assert {kind: footprint(problem, kind, 0) for kind in expected} == {
        kind: Footprint(*values) for kind, values in expected.items()
    }


def test_a_ledger_counts_bytes_and_micro_batches() -> None:
    ledger = Ledger(Problem.chain(**SIZES, form="split", static=1, capacity=12), 0)
    for op in [("F", 0, 0), ("F", 0, 1)]:
        assert ledger.fits(op)
        ledger.run(op)
    assert (ledger.bytes, ledger.in_flight, ledger.by_stage, ledger.fits(("F", 0, 2))) == (10, 2, {0: 2}, False)
    ledger.run(("I", 0, 0))
    assert (ledger.bytes, ledger.in_flight, ledger.fits(("F", 0, 2))) == (7, 1, False)
    ledger.run(("W", 0, 0))
    assert (ledger.bytes, ledger.fits(("F", 0, 2))) == (5, True)


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        ({"in_flight": [2, 1]}, True), ({"in_flight": [1, 1]}, False), ({"in_flight_stage": [2, 1]}, True),
        ({"in_flight_stage": [1, 1]}, False), ({"capacity": [2, 1]}, True), ({"capacity": [1, 1]}, False),
        ({"makespan": 11}, True), ({"makespan": 10}, False),
    ],
)  # fmt: skip
def test_each_limit_is_kept_or_not(limit: dict[str, Any], kept: bool) -> None:
    problem = Problem.chain(ranks=2, microbatches=2, forward=1, backward=2, latency=1, activation=1, **limit)
    assert peaks_within_limits(Tasks(problem), ORDER) == ((2, 1) if kept else None)
