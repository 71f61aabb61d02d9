"""Sweeps: every outcome with its configuration, on any executor, as they come, and on from where they stopped."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

import schedverify as sv
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.sweeping import Outcome


def halved(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2


def makespan(problem: Problem) -> int:
    return sv.simulate(sv.generate("1f1b", problem), problem).makespan


def optimum(problem: Problem) -> int | None:
    return sv.optimize(problem, time_limit=60, workers=1).value


def sorted_outcomes(executor: Executor | None) -> list[tuple[int, int | None, str]]:
    found = [(o.configuration, o.value, str(o.error)) for o in sv.sweep(halved, range(6), executor=executor)]
    return sorted(found, key=lambda outcome: outcome[0])


EXPECTED = [(0, 0, "None"), (1, None, "1 is odd"), (2, 1, "None"), (3, None, "3 is odd"), (4, 2, "None"),
            (5, None, "5 is odd")]  # fmt: skip


def test_in_this_process_in_turn() -> None:
    assert [outcome.configuration for outcome in sv.sweep(halved, range(6))] == list(range(6))
    assert sorted_outcomes(None) == EXPECTED


def test_on_threads_and_processes() -> None:
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        assert sorted_outcomes(threads) == EXPECTED
        assert sorted_outcomes(processes) == EXPECTED
        problems = [Problem.chain(ranks=ranks, microbatches=4) for ranks in (1, 2, 3)]
        spans = {o.configuration.ranks: o.value for o in sv.sweep(makespan, problems, executor=processes)}
    assert spans == {1: 12, 2: 15, 3: 18}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_on_a_dask_cluster(processes: bool) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra test is not installed")
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": processes, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        assert sorted_outcomes(client.get_executor()) == EXPECTED
        problems = [Problem.chain(ranks=ranks, microbatches=4) for ranks in (2, 3)]
        outcomes = sv.sweep(optimum, problems, executor=client.get_executor())
        assert sorted((o.configuration.ranks, o.value) for o in outcomes) == [(2, 15), (3, 18)]


def test_they_come_as_they_are_done() -> None:
    """The first one waits for the second one to be seen, which it never would be if they came in turn."""
    seen = threading.Event()

    def task(number: int) -> int:
        if number == 0 and not seen.wait(60):
            raise TimeoutError
        return number

    order = []
    with ThreadPoolExecutor(2) as threads:
        for outcome in sv.sweep(task, [0, 1], executor=threads):
            order.append(outcome.value)
            seen.set()
    assert order == [1, 0]


def test_what_has_not_begun_is_called_off() -> None:
    ran: list[int] = []
    go = threading.Event()

    def task(number: int) -> None:
        ran.append(number)
        if number:
            go.wait(60)

    with ThreadPoolExecutor(1) as threads:
        outcomes = sv.sweep(task, range(5), executor=threads)
        assert next(iter(outcomes)).configuration == 0
        outcomes.close()  # type: ignore[attr-defined]
        go.set()
    assert ran in ([0], [0, 1])


class TestResuming:
    def test_what_stands_in_the_file_is_not_run_again(self, tmp_path: Path) -> None:
        path, ran = tmp_path / "found.jsonl", []

        def task(ranks: int) -> dict[str, float]:
            ran.append(ranks)
            if ranks == 2 and len(ran) < 3:
                raise RuntimeError("not now")
            return {"half": ranks / 2}

        first = list(sv.sweep(task, [1, 2], path=path))
        assert [outcome.value for outcome in first] == [{"half": 0.5}, None]
        again = list(sv.sweep(task, [1, 2, 3], path=path))
        assert ran == [1, 2, 2, 3]
        assert again == [Outcome(1, {"half": 0.5}), Outcome(2, {"half": 1.0}), Outcome(3, {"half": 1.5})]
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["configuration"] for line in lines] == [1, 2, 3]

    def test_problems_and_tables_are_known_again(self, tmp_path: Path) -> None:
        path = tmp_path / "found.jsonl"
        problems = [Problem.chain(ranks=2, microbatches=m, name="a") for m in (1, 2)]
        spans = [outcome.value for outcome in sv.sweep(makespan, problems, path=path)]
        assert [outcome.value for outcome in sv.sweep(pytest.fail, problems, path=path)] == spans
        tables = [{"a": 1, "b": [0.1, None]}, {"b": [True], "a": "\u2028"}]
        assert [o.value for o in sv.sweep(len, tables, path=path)] == [2, 2]
        assert [o.configuration for o in sv.sweep(pytest.fail, tables, path=path)] == tables

    def test_a_line_that_was_cut_off_is_run_again(self, tmp_path: Path) -> None:
        path = tmp_path / "found.jsonl"
        list(sv.sweep(halved, [2, 4], path=path))
        path.write_bytes(path.read_bytes()[:-3])
        assert [(o.configuration, o.value) for o in sv.sweep(halved, [2, 4], path=path)] == [(2, 1), (4, 2)]
        assert len(path.read_text().splitlines()) == 2

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("{", "line 2: no JSON"),
            ("[]", "line 2: no result"),
            ('{"configuration": 1}', "line 2: no result"),
            ('{"configuration": 1, "value": NaN}', "line 2: no result"),
            ('{"configuration": 1, "value": 1, "value": 2}', "line 2: no result"),
            ('{"configuration": 1, "value": %s}' % ("9" * 99), "line 2: a file cannot hold"),
        ],
    )  # fmt: skip
    def test_another_file_is_refused(self, line: str, told: str, tmp_path: Path) -> None:
        path = tmp_path / "other.jsonl"
        path.write_text('{"configuration": 0, "value": 0}\n' + line + "\n")
        with pytest.raises(InputError, match=f"other.jsonl: {told}"):
            sv.sweep(halved, [2], path=path)

    def test_what_json_cannot_hold_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "found.jsonl"
        with pytest.raises(InputError, match="a file cannot hold object"):
            sv.sweep(halved, [object()], path=path)  # type: ignore[list-item]
        with pytest.raises(InputError, match="a file cannot hold complex"):
            list(sv.sweep(complex, [1], path=path))
        with pytest.raises(InputError, match="a file cannot hold float"):
            list(sv.sweep(lambda _: float("nan"), [1], path=path))


def test_a_place_that_takes_no_results_is_told_before_the_first_task(tmp_path: Path) -> None:
    begun: list[int] = []
    for path in (tmp_path / "absent" / "r.jsonl", tmp_path):
        with pytest.raises(InputError, match=r"no folder|a folder"):
            next(sv.sweep(begun.append, [1], path=path))
    assert begun == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device")
def test_a_full_disk_loses_no_value() -> None:
    found = sv.sweep(abs, [-1, -2], path="/dev/full")
    assert next(found).value == 1
    with pytest.raises(InputError, match="/dev/full: cannot be written: No space left on device"):
        next(found)
