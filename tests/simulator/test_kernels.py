"""The compiled loops and the reading of peaks off a timeline equal the plain ways, on orders right and wrong."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedverify.core.discipline import Discipline
from schedverify.core.errors import ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.generators import generate
from schedverify.lowering import add_communication
from schedverify.simulator import csr_graph, kernels
from schedverify.simulator.csr_graph import Precedence
from schedverify.simulator.engine import simulate
from schedverify.simulator.op_classes import class_table
from schedverify.verifier.rules import Case
from schedverify.verifier.verification import verify
from support.mutants import mutant
from support.mutants_communication import MUTANTS_OF_A_LOWERED_BASE, lowered_mutant
from support.random_lowered import lowered_base
from support.random_schedules import Rows, base

NEVER = 1 << 62


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count how often each compiled loop is called."""
    counts = dict.fromkeys(("sweep", "longest", "happening"), 0)

    def counted(name: str, loop: Any) -> Any:
        def call(*arguments: Any) -> Any:
            counts[name] += 1
            return loop(*arguments)

        return call

    for name in counts:
        monkeypatch.setattr(kernels, name, counted(name, getattr(kernels, name)))
    return counts


def timed(schedule: Schedule, problem: Problem, **keys: Any) -> Any:
    """Return starts, ends and measures, or the text of the error."""
    try:
        timeline = simulate(schedule, problem, **keys)
    except ScheduleError as error:
        return str(error)
    rows = (*timeline.starts, *timeline.ends)
    assert not any(row.flags.writeable for row in rows)
    return [row.tolist() for row in rows], timeline.measures


def both(monkeypatch: pytest.MonkeyPatch, judge: Any, *arguments: Any, **keys: Any) -> tuple[Any, Any]:
    """Return what comes out with the compiled loops and without."""
    monkeypatch.setattr(csr_graph, "LARGE", 0)
    compiled = judge(*arguments, **keys)
    monkeypatch.setattr(csr_graph, "LARGE", NEVER)
    return compiled, judge(*arguments, **keys)


def test_timelines_are_the_same(monkeypatch: pytest.MonkeyPatch, calls: dict[str, int]) -> None:
    for number in range(150):
        found = base(number)
        compiled, plain = both(monkeypatch, timed, Schedule.of(found.rows), found.problem)
        assert compiled == plain, f"base {number}"
        problem, rows, name = mutant(number)
        for excerpt in (False, True):
            compiled, plain = both(monkeypatch, timed, Schedule.of(rows), problem, excerpt=excerpt)
            assert compiled == plain, f"mutant {number}: {name}, excerpt={excerpt}"
    assert calls["sweep"] > 150


def test_what_cannot_run_is_told_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.chain(ranks=2, microbatches=2)
    compiled, plain = both(monkeypatch, timed, Schedule.parse("0F0 0F1 0B0 0B1\n1F1 1B0 1F0 1B1"), problem)
    assert compiled == plain
    assert "rank 0 waits at position 2 for ever" in compiled


def test_verdicts_are_the_same(monkeypatch: pytest.MonkeyPatch, calls: dict[str, int]) -> None:
    for number in range(300):
        problem, rows, name = mutant(number)
        compiled, plain = both(monkeypatch, verify, Schedule.of(rows), problem, excerpt=number % 3 == 0)
        assert compiled == plain, f"mutant {number}: {name}"
    assert calls["sweep"] > 30
    assert calls["happening"] > 30


def test_verdicts_of_lowered_schedules_are_the_same(monkeypatch: pytest.MonkeyPatch, calls: dict[str, int]) -> None:
    for number in range(100):
        discipline = list(Discipline)[number % len(Discipline)]
        found = lowered_base(number)
        compiled, plain = both(monkeypatch, verify, Schedule.of(found.rows), found.problem, discipline=discipline)
        assert compiled == plain, f"base {number}"
        problem, rows, name, *_ = lowered_mutant(number)
        compiled, plain = both(monkeypatch, verify, Schedule.of(rows), problem, discipline=discipline)
        assert compiled == plain, f"mutant {number}: {name}"
    assert calls["longest"] > 30
    assert calls["happening"] > 100


def test_what_has_run_is_judged_as_by_looking_at_each_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = 0
    for number in range(400):
        found = base(number)
        for problem, rows in ((found.problem, found.rows), mutant(number)[:2]):
            schedule = Schedule.of(rows)
            quick = verify(schedule, problem)
            sound += Case(schedule, problem).sound
            with monkeypatch.context() as patch:
                patch.setattr(Case, "sound", False)
                patch.setattr(Case, "ran", None)
                assert quick == verify(schedule, problem), f"number {number}"
    assert sound > 100


def test_peaks_of_what_has_run_with_communication_are_those_of_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = ["SV401", "SV402"]
    ran = 0
    for number in range(300):
        found = lowered_base(number)
        problem = near(found.rows, found.problem)
        for rows in (found.rows, lowered_mutant(number * MUTANTS_OF_A_LOWERED_BASE + number % 7).rows):
            schedule = Schedule.of(rows)
            quick = verify(schedule, problem, select=limits)
            ran += Case(schedule, problem).ran is not None
            with monkeypatch.context() as patch:
                patch.setattr(Case, "ran", None)
                assert quick == verify(schedule, problem, select=limits), f"number {number}"
    assert ran > 350


def near(rows: Rows, problem: Problem) -> Problem:
    """Return the problem with limits at the peaks of some rows, one less for some."""
    measures = simulate(Schedule.of(rows), problem).measures
    short = len(rows[0]) % 2
    flight = [max(1, peak - short) for peak in measures.peak_in_flight]
    data = problem.to_dict()
    data["limits"] = {"in_flight": flight}
    data["memory"] |= {"capacity": list(measures.peak_memory)}
    return Problem.of(data)


EDGES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 5)), max_size=25)


@given(EDGES, st.dictionaries(st.integers(0, 9), st.integers(0, 9), max_size=3))
@settings(deadline=None)
def test_graphs_with_and_without_cycles_are_walked_alike(
    edges: list[tuple[int, int, int]], release: dict[int, int]
) -> None:
    tail, head, lag = np.array(edges, dtype=np.int64).reshape(-1, 3).T.copy()
    results = []
    with pytest.MonkeyPatch.context() as patch:
        for large in (0, NEVER):
            patch.setattr(csr_graph, "LARGE", large)
            graph = Precedence(10, tail, head)
            paths = [part[~graph.blocked].tolist() for part in graph.longest_paths(lag, release)]
            results.append((graph.blocked.tolist(), graph.order.tolist(), paths))
    assert results[0] == results[1]


def test_lowering_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.chain(ranks=4, microbatches=8, virtual=2, latency=1)
    order = generate("interleaved-1f1b", problem)
    compiled, plain = both(monkeypatch, add_communication, order, problem)
    assert compiled == plain


def test_large_orders_are_for_the_compiled_loops(calls: dict[str, int]) -> None:
    problem = Problem.chain(ranks=8, microbatches=csr_graph.LARGE // 16, in_flight=8)
    order = generate("1f1b", problem)
    report = verify(order, problem)
    assert report.ok
    assert report.measures is not None
    assert report.measures.peak_in_flight == (8, 7, 6, 5, 4, 3, 2, 1)
    assert calls == {"sweep": 1, "longest": 0, "happening": 0}


def test_the_compiler_is_not_loaded_for_small_ones() -> None:
    code = """import sys, schedverify as sv
problem = sv.Problem.chain(ranks=2, microbatches=4)
assert sv.verify(sv.lower(sv.generate("1f1b", problem), problem), problem).ok
assert "numba" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_compiled_does_what_the_python_does() -> None:
    """In compiled code numbers have 64 bits and no index is checked; in Python an error would show."""
    problem = Problem.chain(ranks=2, microbatches=4, slices=2, forward=2, backward=3, latency=1)
    schedule = Schedule.parse("0F0 0F1 0F2 0F3 0B1 0B0 0B3 0B2\n1F0 1F1 1B1 1B0 1F2 1F3 1B3 1B2")
    hanging = Schedule.parse("0F0 0F1 0B1 0B0 0F2 0F3 0B3 0B2\n1F2 1F3 1B3 1B2 1F0 1F1 1B1 1B0")
    places = (2 * problem.total_stages + 1) * problem.microbatches
    sweeps = [(np.concatenate(order.rows), np.array([0, 8, 16]), class_table(problem), places, np.array([0, 5]))
              for order in (schedule, hanging)]  # fmt: skip
    edges = Precedence(5, np.array([0, 0, 1, 2, 4]), np.array([1, 2, 3, 3, 4]))
    waits = np.array([0, 1, 1, 2, 1])
    compiled = [[part.tolist() for part in kernels.sweep(*arguments)] for arguments in sweeps]
    left = waits.copy()
    order = kernels.happening(*edges.successors, left)
    lengths = [np.array([0, -1, 2, -1, 0]) for _ in range(2)]
    origins = [np.arange(5) for _ in range(2)]
    kernels.longest(*edges.successors, np.array([3, 1, 4, 1, 9]), order, lengths[0], origins[0])
    kernels.longest.py_func(*edges.successors, np.array([3, 1, 4, 1, 9]), order, lengths[1], origins[1])
    assert [[part.tolist() for part in kernels.sweep.py_func(*arguments)] for arguments in sweeps] == compiled
    assert compiled[0][2] == [8, 8]
    assert compiled[1][2] == [2, 0]
    assert compiled[0][3] == [1, 1]
    assert kernels.happening.py_func(*edges.successors, waits).tolist() == order.tolist() == [0, 1, 2, 3]
    assert waits.tolist() == left.tolist() == [0, 0, 0, 0, 1]
    assert lengths[0].tolist() == lengths[1].tolist() == [0, 3, 2, 7, 0]
    assert origins[0].tolist() == origins[1].tolist() == [0, 0, 2, 0, 4]
