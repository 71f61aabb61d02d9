"""A wrong type is told in one sentence what is needed, what was found, and what makes the one of the other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import schedverify as sv
from schedverify.core.argument_types import check_types

PROBLEM = sv.Problem.chain(ranks=2, microbatches=1)
SCHEDULE = sv.Schedule.parse("0F0 0B0\n1F0 1B0")
TIMELINE = sv.simulate(SCHEDULE, PROBLEM)
PLAN = sv.plan_of(SCHEDULE, PROBLEM)
FULL = sv.lower(SCHEDULE, PROBLEM)

TO_PARSE = "Schedule.parse(text) makes one of text"
TO_LOAD = "sv.load(path) reads it"
TO_MAKE = "Problem.chain(ranks=..., microbatches=...) makes one"
SWAPPED = "the arguments are swapped, it is"
TO_CUT = "sv.models.load_model(path) reads it"
WRONG: list[tuple[Any, str]] = [
    (lambda: sv.verify("0F0 0B0", PROBLEM), f"verify needs a Schedule, found a str: {TO_PARSE}"),
    (lambda: sv.verify("plans/best.json"), f"verify needs a Schedule, found a str: {TO_LOAD}"),
    (lambda: sv.verify(Path("plan.json")), f"verify needs a Schedule, found a {type(Path()).__name__}: {TO_LOAD}"),
    (lambda: sv.verify([["0F0"]]),
     "verify needs a Schedule, found a list: Schedule.of(rows) makes one of rows of steps"),
    (lambda: sv.verify(None), "verify needs a Schedule, found None: sv.generate(family, problem) makes one"),
    (lambda: sv.verify(TIMELINE), "verify needs a Schedule, found a Timeline: timeline.schedule is its order"),
    (lambda: sv.verify(PROBLEM, SCHEDULE),
     "verify needs a Schedule, found a Problem: the arguments are swapped, it is verify(schedule, problem)"),
    (lambda: sv.verify(SCHEDULE, "p.toml"), f"verify needs a Problem, found a str: {TO_LOAD}"),
    (lambda: sv.simulate("0F0", PROBLEM), f"simulate needs a Schedule, found a str: {TO_PARSE}"),
    (lambda: sv.simulate(PLAN, PROBLEM), "simulate needs a Schedule, found a Plan: plan.schedule is its order"),
    (lambda: sv.simulate(SCHEDULE, Path("p.toml")),
     f"simulate needs a Problem, found a {type(Path()).__name__}: {TO_LOAD}"),
    (lambda: sv.simulate(SCHEDULE, {"ranks": 2}),
     "simulate needs a Problem, found a dict: Problem.of(data) makes one of a mapping"),
    (lambda: sv.lower("0F0", PROBLEM), f"lower needs a Schedule, found a str: {TO_PARSE}"),
    (lambda: sv.lower(SCHEDULE, SCHEDULE), f"lower needs a Problem, found a Schedule: {TO_MAKE}"),
    (lambda: sv.optimize("p.toml"), f"optimize needs a Problem, found a str: {TO_LOAD}"),
    (lambda: sv.optimize(PLAN), "optimize needs a Problem, found a Plan: plan.problem is its own"),
    (lambda: sv.optimize(PROBLEM, hint="0F0 0B0"), f"optimize needs a Schedule, found a str: {TO_PARSE}"),
    (lambda: sv.draw("0F0"), f"draw needs a Schedule, found a str: {TO_PARSE}"),
    (lambda: sv.draw(SCHEDULE, 3), f"draw needs a Problem, found an int: {TO_MAKE}"),
    (lambda: sv.beside(SCHEDULE), "beside needs a Drawing, found a Schedule: sv.draw(schedule, problem) makes one"),
    (lambda: sv.save("x.txt", SCHEDULE),
     "save needs a Schedule, found a str: the arguments are swapped, it is save(value, path)"),
    (lambda: sv.save(SCHEDULE, 1), "save needs a path, found an int"),
    (lambda: sv.load(SCHEDULE), "load needs a path, found a Schedule"),
    (lambda: sv.load_with_layout(SCHEDULE), "load_with_layout needs a path, found a Schedule"),
    (lambda: sv.generate(PROBLEM, "1f1b"),
     "generate needs text, found a Problem: the arguments are swapped, it is generate(family, problem)"),
    (lambda: sv.run(SCHEDULE, "m:f"), "run needs a Plan, found a Schedule: sv.plan_of(schedule, problem) makes one"),
    (lambda: sv.run(PLAN, None), "run needs text, found None"),
    (lambda: sv.profile(4), "profile needs text, found an int"),
    (lambda: sv.Op("F", 2, 0), "Op needs a Kind, found a str: Kind.F is a kind, and Op('2F0') reads an operation"),
    (lambda: sv.Op(0, 2, 0), "Op needs a Kind, found an int"),
    (lambda: sv.generate("1f1b", 4), f"generate needs a Problem, found an int: {TO_MAKE}"),
    (lambda: sv.dependency_graph(SCHEDULE), f"dependency_graph needs a Problem, found a Schedule: {TO_MAKE}"),
    (lambda: sv.dependency_graph(SCHEDULE, PROBLEM), "dependency_graph needs a Problem, found a Schedule: "
     "the arguments are swapped, it is dependency_graph(problem, schedule)"),
    (lambda: sv.critical_path(SCHEDULE),
     "critical_path needs a DiGraph, found a Schedule: sv.dependency_graph(problem, schedule) makes one"),
    (lambda: sv.delays(SCHEDULE).__next__(),
     "delays needs a Timeline, found a Schedule: sv.simulate(schedule, problem) makes one"),
    (lambda: sv.explain(SCHEDULE), "explain needs a Plan, found a Schedule: sv.plan_of(schedule, problem) makes one"),
    (lambda: sv.plan_of(PROBLEM, SCHEDULE),
     "plan_of needs a Schedule, found a Problem: the arguments are swapped, it is plan_of(schedule, problem)"),
    (lambda: sv.plan_digest(SCHEDULE),
     "plan_digest needs a Plan, found a Schedule: sv.plan_of(schedule, problem) makes one"),
    (lambda: sv.for_torch("0F0", PROBLEM), f"for_torch needs a Schedule, found a str: {TO_PARSE}"),
    (lambda: sv.conform(PROBLEM, "t.json"), "conform needs a Plan, found a Problem: sv.optimize(problem) finds one"),
    (lambda: sv.conform(PLAN, "t.json"),
     "conform needs a RunTrace, found a str: sv.conformance.load_run(path) reads it"),
    (lambda: sv.conformance.measured_problem(PLAN, None),
     "measured_problem needs a Problem, found a Plan: plan.problem is its own"),
    (lambda: sv.conformance.timeline_of_run(PLAN, PLAN), "timeline_of_run needs a RunTrace, found a Plan"),
    (lambda: sv.convert(5, "x.csv"), "convert needs a Schedule, found an int"),
    (lambda: sv.convert(SCHEDULE, SCHEDULE), "convert needs a path, found a Schedule"),
    (lambda: sv.lint("x.csv"), "lint needs files, found a str: put it into a list"),
    (lambda: sv.trace("t.json"), "trace needs files, found a str: put it into a list"),
    (lambda: sv.partition(PROBLEM, ranks=2), "partition needs a Model, found a Problem"),
    (lambda: sv.partition_jointly("m.toml", ranks=2, microbatches=2),
     f"partition_jointly needs a Model, found a str: {TO_CUT}"),
    (lambda: sv.models.cut("m.toml", ranks=2, microbatches=2), f"cut needs a Model, found a str: {TO_CUT}"),
    (lambda: sv.sweep([1], len), "sweep needs a function, found a list: it is sweep(task, configurations)"),
    (lambda: sv.lowering.add_communication("0F0", PROBLEM),
     f"add_communication needs a Schedule, found a str: {TO_PARSE}"),
    (lambda: sv.lowering.defer_receives(PLAN, PROBLEM),
     "defer_receives needs a Schedule, found a Plan: plan.schedule is its order"),
    (lambda: sv.lowering.group_opposite(FULL, FULL), f"group_opposite needs a Problem, found a Schedule: {TO_MAKE}"),
    (lambda: sv.lowering.add_sharding(PROBLEM, FULL),
     f"add_sharding needs a Schedule, found a Problem: {SWAPPED} add_sharding(schedule, problem)"),
    (lambda: sv.lowering.add_reduction(FULL, SCHEDULE), f"add_reduction needs a Problem, found a Schedule: {TO_MAKE}"),
    (lambda: sv.Schedule.parse([["0F0"]]),
     "Schedule.parse needs text, found a list: Schedule.of(rows) makes a schedule of rows of steps"),
    (lambda: sv.Op.parse(3), "Op.parse needs text, found an int"),
    (lambda: sv.Op(3), "Op.parse needs text, found an int"),
]  # fmt: skip
UNCHECKED = {"families", "new"}
"""Functions that take nothing of which the type could be wrong."""


@pytest.mark.parametrize(("call", "sentence"), WRONG, ids=[sentence[:60] for _, sentence in WRONG])
def test_a_wrong_type_is_one_sentence_with_the_cure(call: Any, sentence: str) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == sentence


def test_every_public_function_is_among_them() -> None:
    told = {sentence.partition(" needs ")[0] for _, sentence in WRONG}
    functions = {name for name in sv.__all__ if callable(getattr(sv, name)) and name[0].islower()}
    assert functions - UNCHECKED <= told


def test_right_types_pass_and_the_first_wrong_one_is_told() -> None:
    check_types("f", first=(1, int), second=(None, str, type(None)), third=(Path(), os.PathLike, str))
    with pytest.raises(TypeError, match="f needs an int, found a float"):
        check_types("f", first=(1.5, int), second=(1.5, str))
