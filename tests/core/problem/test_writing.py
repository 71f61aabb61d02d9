"""What a failing example prints: the shortest data that make the problem again, and the schedule that can be pasted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis.vendor.pretty import pretty

import schedverify as sv
from schedverify.core.problem.writing import shortest
from schedverify.formats.json_toml import parse_toml
from schedverify.formats.problem_files import problem_from, to_toml
from support.strategies import problems


@given(problems())
def test_the_shortest_data_make_the_problem_again(problem: sv.Problem) -> None:
    assert sv.Problem.of(shortest(problem)) == problem
    assert problem_from(parse_toml(to_toml(problem, defaults=False))) == problem


@pytest.mark.parametrize(
    ("problem", "data"),
    [
        (sv.Problem.chain(ranks=2, microbatches=3, forward=1, backward=1),
         {"ranks": 2, "microbatches": 3, "costs": {"forward": 1, "backward": 1}}),
        (sv.Problem.chain(ranks=2, microbatches=1, virtual=2, placement="v", forward=1, backward=2, in_flight=2),
         {"ranks": 2, "microbatches": 1, "stages": 4, "placement": "v", "costs": {"forward": 1, "backward": 2},
          "limits": {"in_flight": 2}}),
        (sv.Problem.chain(ranks=1, microbatches=1, form="inference", virtual=2, edges=[], forward=1),
         {"ranks": 1, "microbatches": 1, "stages": 2, "form": "inference", "edges": [], "costs": {"forward": 1}}),
    ],
)  # fmt: skip
def test_nothing_is_said_that_goes_without_saying(problem: sv.Problem, data: dict) -> None:
    assert shortest(problem) == data
    assert pretty(problem) == f"Problem.of({data})"


def test_a_schedule_is_printed_as_what_makes_it() -> None:
    assert pretty(sv.Schedule.parse("0F0 0B0\n1F0 1B0")) == r"Schedule.parse('0F0 0B0\n1F0 1B0')"


def test_what_is_large_is_printed_short() -> None:
    problem = sv.Problem.chain(ranks=8, microbatches=64)
    assert pretty(problem) == repr(problem)
    assert pretty(sv.generate("1f1b", problem)) == "<Schedule of 8 ranks, 1024 operations>"
