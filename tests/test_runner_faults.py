"""What goes wrong in a run is told with its place, on every rank that is left, and in time: killed, asleep, failing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from gloo_pool import GlooPool

torch = pytest.importorskip("torch", reason="torch is not installed")

import runner_jobs as jobs  # noqa: E402 - it needs torch

import schedverify as sv  # noqa: E402
from schedverify.planner import plan_of  # noqa: E402
from schedverify.result import Plan  # noqa: E402
from schedverify.runner import RunError, Runner  # noqa: E402

TIMEOUT = 3
LATE = 5
"""Seconds beyond the timeout that a report may take."""
POSITIONS = 8
"""Steps of a rank in the plan."""


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(2) as pool:
        yield pool


def the_plan() -> Plan:
    problem = sv.Problem.chain(ranks=2, microbatches=2)
    plan = plan_of(sv.generate("1f1b", problem), problem)
    assert plan.lowered is not None
    assert {len(row) for row in plan.lowered.schedule.strings()} == {POSITIONS}
    return plan


def faulty(rank: int, plan: Plan, who: int, position: int, how: str) -> tuple[str, float]:
    """Run a step in which one rank does something at a position; return the error here, and the seconds it took."""
    problem = plan.problem
    modules = jobs.modules_of(problem, {})
    batch, target = jobs.data_of(problem, 4, {})
    runner = Runner(plan, {s: modules[s] for s in problem.stages_of[rank]}, jobs.mean_square, timeout=TIMEOUT)
    execution: Any = runner._execution
    act = execution._act

    def acts(action: Any) -> None:
        if rank == who and action.position == position:
            if how == "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "sleeps":
                time.sleep(TIMEOUT + 2)
            if how == "fails":
                raise RunError(f"rank {rank}, position {position}: on purpose")
            if how == "withholds" and action.ops[0].kind.is_send:
                return
        act(action)

    execution._act = acts
    began = time.monotonic()
    try:
        runner.step(batch, target)
    except RunError as error:
        return str(error), time.monotonic() - began
    return "", time.monotonic() - began


def told(pool: GlooPool, who: int, position: int, how: str) -> list[Any]:
    """Return by rank what was told; pools of processes that were hit are ended, and all their processes are gone."""
    outcomes = pool.run(faulty, the_plan(), who, position, how, timeout=TIMEOUT + LATE + 20)
    processes = list(pool._processes)
    pool.end()
    assert not any(process.is_alive() for process in processes)
    return [outcome.error if outcome.value is None else outcome.value for outcome in outcomes]


def check(pool: GlooPool, who: int, position: int, how: str) -> None:
    found = told(pool, who, position, how)
    other = 1 - who
    if how == "is killed":
        assert found[who] == "the process died"
    message, seconds = found[other]
    assert seconds < TIMEOUT + LATE
    if message:
        assert message.startswith(f"rank {other}, position ")
        assert f"peer rank {who}" in message
    else:  # the last steps of a rank may be of no more use to the other
        assert position >= POSITIONS - 2


@pytest.mark.parametrize(("who", "position", "how"), [(0, 1, "is killed"), (1, 0, "sleeps"), (1, 2, "fails")])
def test_the_other_rank_ends_in_time_and_names_who_it_waited_for(
    pool: GlooPool, who: int, position: int, how: str
) -> None:
    check(pool, who, position, how)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["is killed", "sleeps", "fails"])
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("position", range(POSITIONS))
def test_at_every_position(pool: GlooPool, who: int, position: int, how: str) -> None:
    check(pool, who, position, how)


@pytest.mark.parametrize("who", [0, 1])
def test_a_message_that_is_withheld_is_named_by_who_waits_for_it(pool: GlooPool, who: int) -> None:
    plan = the_plan()
    assert plan.lowered is not None
    row = plan.lowered.schedule.strings()[who]
    position = next(i for i, step in enumerate(row) if "SEND" in step)
    found = told(pool, who, position, "withholds")
    message, seconds = found[1 - who]
    assert seconds < TIMEOUT + LATE
    assert row[position].replace("SEND", "RECV")[1:] in message
    assert f"peer rank {who}" in message
