"""A problem in scaled ticks: what is scaled, who waits for whom, and the longest paths."""

from __future__ import annotations

from typing import Any

import pytest

from schedverify.core.problem import Problem
from schedverify.optimizer.tasks import Tasks, ancestors, begins, heads, longest_paths, node_of


def test_ticks_are_divided_by_their_unit_and_steps_of_no_duration_take_one() -> None:
    """4, 0 and 6 ticks in units of 2, two scaled ticks each, since one operation takes no time."""
    tasks = Tasks(Problem.chain(ranks=1, microbatches=1, forward=4, backward_input=0, backward_weight=6))
    assert (tasks.unit, tasks.subticks) == (2, 2)
    assert {key: tasks.duration[key] for key in (("F", 0), ("I", 0), ("W", 0))} == {
        ("F", 0): 4, ("I", 0): 1, ("W", 0): 6,
    }  # fmt: skip
    assert [tasks.scaled(ticks) for ticks in (0, 4, 10)] == [0, 4, 10]
    assert [tasks.ticks(scaled) for scaled in (0, 4, 5, 11)] == [0, 4, 4, 10]


def test_the_span_is_scaled_so_that_a_mean_over_ranks_is_exact() -> None:
    """No tick is lost to a common divisor, and on each of 3 ranks the 6 I of no duration add less than one tick."""
    tasks = Tasks(Problem.chain(ranks=3, microbatches=2, forward=4, backward_input=0, backward_weight=6), "span")
    assert (tasks.unit, tasks.instant, tasks.subticks) == (1, 6, 19)
    assert [tasks.scaled(1), tasks.ticks(19 + 6), tasks.duration["I", 1]] == [19, 1, 1]


def test_the_unit_divides_lags_too() -> None:
    tasks = Tasks(Problem.chain(ranks=2, microbatches=3, forward=4, backward=6, latency=3))
    assert (tasks.unit, tasks.subticks, tasks.forward_lag(0, 1), tasks.backward_lag(1, 0)) == (1, 1, 3, 3)


@pytest.mark.parametrize(
    ("form", "letters", "usual"),
    [
        ("fused", ("F", "GRAD"), ["F", "B", "W"]), ("split", ("F", "GRAD", "W"), ["F", "I", "W"]),
        ("inference", ("F",), ["F", "B", "W"]),
    ],
)  # fmt: skip
def test_nodes_of_each_form(form: str, letters: tuple[str, ...], usual: list[str]) -> None:
    tasks = Tasks(Problem.chain(ranks=1, microbatches=1, form=form))
    assert tasks.letters == letters
    assert [tasks.usual_kind(letter) for letter in ("F", "GRAD", "W")] == usual


def test_b_and_i_are_the_same_node() -> None:
    assert [node_of((kind, 3, 5)) for kind in "FBIW"] == [("F", 3, 5), ("GRAD", 3, 5), ("GRAD", 3, 5), ("W", 3, 5)]


def test_what_each_step_waits_for() -> None:
    tasks = Tasks(Problem.chain(ranks=2, microbatches=2, slices=2, form="split", latency=[[0, 3], [5, 0]]))
    inputs = {node: list(tasks.inputs(node)) for node in [("F", 1, 1), ("GRAD", 0, 0), ("W", 0, 0), ("F", 0, 0)]}
    assert inputs == {
        ("F", 1, 1): [(("F", 0, 1), 3), (("F", 1, 0), 0)],
        ("GRAD", 0, 0): [(("F", 0, 0), 0), (("GRAD", 1, 0), 5), (("GRAD", 0, 1), 0)],
        ("W", 0, 0): [(("GRAD", 0, 0), 0)],
        ("F", 0, 0): [],
    }


def test_lines_part_copies_and_slices() -> None:
    tasks = Tasks(Problem.chain(ranks=2, microbatches=8, replicas=2, slices=2))
    found = {stage: tasks.fifo_lines[stage] for stage in (0, 2)}
    assert [sorted(m for line in found[stage] for m in line) for stage in found] == [
        list(tasks.microbatches_of[stage]) for stage in found
    ]
    assert [len(lines) for lines in found.values()] == [2, 2]
    assert all((m - line[0]) % 2 == 0 for lines in found.values() for line in lines for m in line)
    assert not set(tasks.microbatches_of[0]) & set(tasks.microbatches_of[2])


def test_a_stage_is_mixed_where_a_whole_backward_is_cheaper() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, form="split", backward=[3, 4], backward_input=2, backward_weight=2)
    assert Tasks(problem).mixed == {0}


def test_the_horizon_is_the_work_and_the_lags_of_one_path_through_all() -> None:
    """Two stages of 3 micro-batches, F 1 and B 2, latency 5 there and back: 2 * 3 * 3 + 3 * 10."""
    assert Tasks(Problem.chain(ranks=2, microbatches=3, forward=1, backward=2, latency=5)).horizon == 18 + 30


GRAPH: dict[str, Any] = {"ranks": 4, "microbatches": 2, "edges": [[0, 2], [1, 2], [2, 3]], "forward": [5, 2, 1, 4]}


def test_heads_are_the_longest_ways_of_forwards() -> None:
    problem = Problem.chain(**GRAPH, latency=10)
    assert heads(Tasks(problem)) == [0, 0, 15, 26]
    assert ancestors(problem) == [set(), set(), {0, 1}, {0, 1, 2}]


def test_longest_paths_of_a_diamond() -> None:
    hops = {(0, 1): 2, (0, 2): 5, (1, 3): 4, (2, 3): 2}
    assert longest_paths([0, 2, 1, 3], [[], [0], [0], [1, 2]], lambda a, b: hops[a, b]) == [0, 2, 5, 7]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"ranks": 2}, (0, True)),
        ({"ranks": 3, "edges": [[0, 2], [1, 2]]}, (0, False)),
        ({"ranks": 3, "placement": [2, 1, [0, 1]]}, (2, True)),
        ({"ranks": 3, "placement": [0, 2, [2, 1], 1], "edges": [[0, 3], [1, 3], [2, 3]]}, (2, False)),
        ({"ranks": 3, "placement": [2, [1, 2], 0], "edges": [[0, 2], [1, 2]]}, (2, True)),
        ({"ranks": 2, "replicas": 2, "microbatches": 2}, (0, False)),
    ],
)
def test_where_most_of_the_first_stages_stand(keys: dict[str, Any], expected: tuple[int, bool]) -> None:
    assert begins(Problem.chain(**({"microbatches": 1} | keys))) == expected
