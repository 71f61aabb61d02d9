"""What goes wrong in a run is told with its place, on every rank that is left, and in time: killed, asleep, failing."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.gloo_pool import GlooPool

torch = pytest.importorskip("torch", reason="torch is not installed")


import schedverify as sv  # noqa: E402
from schedverify.core.result import Plan  # noqa: E402
from schedverify.lowering import add_reduction  # noqa: E402
from schedverify.planner.plans import plan_of  # noqa: E402
from schedverify.runner import RefusedError, RunError, Runner, StepResult  # noqa: E402
from schedverify.runner.program import Action  # noqa: E402
from support import runner_jobs as jobs  # noqa: E402 - it needs torch

TIMEOUT = 3
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


def faulty(rank: int, plan: Plan, who: int, position: int, how: str, timeout: float, ended: Path) -> str:
    """Run a step in which one rank does something at a position, and return the error here.

    A rank that is late goes on when all others have ended, which each of them notes by a file in ``ended``.
    """
    problem = plan.problem
    modules = jobs.modules_of(problem, {})
    batch, target = jobs.data_of(problem, 2 * problem.microbatches, {})
    warm = Runner(plan, {s: modules[s] for s in problem.stages_of[rank]}, jobs.mean_square)
    warm.step(batch, target)  # the first one loads much, which may take longer than a short timeout
    runner = Runner(plan, {s: modules[s] for s in problem.stages_of[rank]}, jobs.mean_square, timeout=timeout)

    def around(action: Action, perform: Callable[[Action], None]) -> None:
        if rank == who and action.position == position:
            if how == "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "sleeps":
                while len(list(ended.iterdir())) < problem.ranks - 1:
                    time.sleep(0.01)
            if how == "fails":
                raise RunError(f"rank {rank}, position {position}: on purpose")
            if how == "raises":
                raise ZeroDivisionError("on purpose")
            if how == "withholds" and action.ops[0].kind.is_send:
                return
        perform(action)

    runner.execution.intercept(around)
    try:
        runner.step(batch, target)
    except RunError as error:
        return str(error)
    finally:
        (ended / str(rank)).touch()
    return ""


def told(
    pool: GlooPool, who: int, position: int, how: str, plan: Plan | None = None, timeout: float = TIMEOUT
) -> list[Any]:
    """Return by rank what was told; pools of processes that were hit are ended, and all their processes are gone."""
    with tempfile.TemporaryDirectory() as ended:
        outcomes = pool.run(faulty, plan or the_plan(), who, position, how, timeout, Path(ended), timeout=120)
    assert not any(outcome.hung for rank, outcome in enumerate(outcomes) if rank != who)
    processes = pool.processes
    pool.end()
    assert not any(process.is_alive() for process in processes)
    return [outcome.error if outcome.value is None else outcome.value for outcome in outcomes]


def check(pool: GlooPool, who: int, position: int, how: str) -> None:
    found = told(pool, who, position, how)
    other = 1 - who
    if how == "is killed":
        assert found[who] == "the process died"
    message = found[other]
    if message:
        assert message.startswith((f"rank {other}, position ", f"rank {other}, the losses of the step"))
        assert f"peer rank {who}" in message or f"no word from rank {who} " in message
        ended = message.rpartition("\nended by ")[2]
        if how == "fails":
            assert ended == f"rank {who}, position {position}: on purpose"
        if how == "raises":
            assert ended.startswith(f"rank {who}, position {position} (")
            assert ended.endswith("): ZeroDivisionError: on purpose")
    else:  # the last steps of a rank may be of no more use to the other
        assert position >= POSITIONS - 2


@pytest.mark.parametrize(
    ("who", "position", "how"), [(0, 1, "is killed"), (1, 0, "sleeps"), (1, 2, "fails"), (0, 4, "raises")]
)
def test_the_other_rank_ends_in_time_and_names_who_it_waited_for(
    pool: GlooPool, who: int, position: int, how: str
) -> None:
    check(pool, who, position, how)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["is killed", "sleeps", "raises"])
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("position", range(POSITIONS))
def test_at_every_position(pool: GlooPool, who: int, position: int, how: str) -> None:
    check(pool, who, position, how)


SENDS = [
    (rank, position)
    for rank, row in enumerate(the_plan().lowered.schedule.strings())  # type: ignore[union-attr]
    for position, step in enumerate(row)
    if "SEND" in step
]


@pytest.mark.parametrize(
    ("who", "position"),
    [pytest.param(*each, marks=[pytest.mark.slow] if each not in (SENDS[0], SENDS[-1]) else []) for each in SENDS],
)
def test_a_message_that_is_withheld_is_named_by_who_waits_for_it(pool: GlooPool, who: int, position: int) -> None:
    plan = the_plan()
    assert plan.lowered is not None
    row = plan.lowered.schedule.strings()[who]
    found = told(pool, who, position, "withholds")
    message = found[1 - who]
    assert row[position].replace("SEND", "RECV")[1:] in message
    assert f"peer rank {who}" in message
    if position == len(row) - 1:  # who withheld it came to the end of the step
        assert found[who].endswith("did not cross")


@pytest.fixture(scope="module")
def four() -> Iterator[GlooPool]:
    with GlooPool(4) as pool:
        yield pool


@pytest.mark.parametrize("how", ["raises", "is killed"])
def test_four_ranks_end_and_know_who_ended_them(four: GlooPool, how: str) -> None:
    problem = sv.Problem.chain(ranks=4, microbatches=4)
    found = told(four, 2, 5, how, plan_of(sv.generate("1f1b", problem), problem), timeout=30)
    for rank in (0, 1, 3):
        message = found[rank]
        assert message.startswith(f"rank {rank}, position ")
        if how == "raises":
            assert "\nended by rank 2, position 5 (" in message
            assert message.endswith("): ZeroDivisionError: on purpose")
        else:
            assert "peer rank" in message


def test_a_rank_that_is_late_is_not_the_cause_of_more_than_its_lateness(four: GlooPool) -> None:
    """Rank 3 sleeps; who waits for it in vain tells the others, who wait for that rank."""
    problem = sv.Problem.chain(ranks=4, microbatches=4)
    found = told(four, 3, 1, "sleeps", plan_of(sv.generate("1f1b", problem), problem))
    assert "peer rank 3: no end within 3 s" in found[2]
    for rank in (0, 1):
        assert found[rank].startswith(f"rank {rank}, position ")
        signs = "no end within 3 s", "ended by rank 2", "after an earlier timeout", "ended by rank 1, position"
        assert any(sign in found[rank] for sign in signs)


# Beside the steps of a plan: each case has groups of its own, so that the processes go on


def attempts(*acts: Callable[[], Any]) -> list[str]:
    """Return what each act ends with."""
    told = []
    for act in acts:
        try:
            act()
        except (RunError, RefusedError) as error:
            told.append(f"{type(error).__name__}: {error}")
        else:
            told.append("")
    return told


def wrong(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("on purpose")


def after_the_steps(rank: int, plan: Plan) -> list[str]:
    """The optimizer's hook fails on one rank; the others come to an end of the step, and ask for the loss."""
    import torch.distributed as dist

    group, problem = dist.new_group([0, 1, 2, 3]), plan.problem
    own, (batch, target) = [jobs.modules_of(problem, {})[rank]], jobs.data_of(problem, 2 * problem.microbatches, {})
    options = {"optimizer": wrong} if rank == 1 else {}
    runner = Runner(plan, own, jobs.mean_square, group=group, timeout=60, **options)
    return attempts(
        lambda: runner.step(batch, target),
        lambda: runner.whole_loss(StepResult()),
        lambda: Runner(plan, own, jobs.mean_square, group=group, timeout=60),
    )


def test_a_failure_after_the_steps_is_told_to_who_asks_next(four: GlooPool) -> None:
    problem = sv.Problem.chain(ranks=4, microbatches=2)
    outcomes = four.run(after_the_steps, plan_of(sv.generate("1f1b", problem), problem))
    cause = "rank 1, the optimizer's hook: ZeroDivisionError: on purpose"
    for rank, outcome in enumerate(outcomes):
        step, loss, again = outcome.value
        if rank == 1:
            assert step == f"RunError: {cause}"
        else:
            assert loss.startswith(f"TimedOutError: rank {rank}, the loss of the step, peer rank ")
            assert f"\nended by {cause}" in loss
        assert again.startswith(f"TimedOutError: rank {rank}, admission, peer rank ")


def beside(rank: int, plan: Plan) -> list[str]:
    """Two pipelines side by side, one of which fails."""
    import torch.distributed as dist

    pipelines, replicas = ([dist.new_group(list(ranks)) for ranks in pairs] for pairs in (PIPELINES, REPLICAS))
    number, place = divmod(rank, 2)
    problem = plan.problem
    own, (batch, target) = [jobs.modules_of(problem, {})[place]], jobs.data_of(problem, 2 * problem.microbatches, {})
    if rank == 0:
        own[0].register_forward_hook(wrong)
    runner = Runner(plan, own, jobs.mean_square, group=pipelines[number], data_parallel=replicas[place], timeout=60)
    return attempts(lambda: runner.step(batch, target))


def replicas(rank: int, plan: Plan, make: Callable[[int], Any]) -> list[str]:
    """Two pipelines side by side, whose stages are not alike."""
    import torch.distributed as dist

    pipelines, beside = ([dist.new_group(list(ranks)) for ranks in pairs] for pairs in (PIPELINES, REPLICAS))
    number, place = divmod(rank, 2)
    options = {"group": pipelines[number], "data_parallel": beside[place], "timeout": 60}
    return attempts(lambda: Runner(plan, lambda _: [make(rank)], jobs.mean_square, **options))


def of_two_sizes(rank: int) -> Any:
    return torch.nn.Linear(jobs.WIDTH, jobs.WIDTH + (rank == 2))


def not_all_made(rank: int) -> Any:
    if rank == 2:
        raise RunError("its weights are not there")
    return of_two_sizes(0)


ALIKE = "stages 0 have the same weights, here they are"
UNLIKE = [
    (of_two_sizes, f"rank 0: {ALIKE} 42 float32\nrank 1: {ALIKE} 49 float32", ""),
    (not_all_made, "rank 1: RunError: its weights are not there", "RunError: its weights are not there"),
]


@pytest.mark.parametrize(("make", "reason", "own"), UNLIKE, ids=["of two sizes", "not all made"])
def test_replicas_that_are_not_alike_are_refused_at_once(four: GlooPool, make: Any, reason: str, own: str) -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=2)
    outcomes = four.run(replicas, plan_of(sv.generate("1f1b", problem), problem), make)
    told = [outcome.value[0] for outcome in outcomes]
    refused = f"RefusedError: the plan is not run, in the data-parallel group:\n{reason}"
    assert [told[0], told[2]] == [refused, own or refused]
    assert [told[1], told[3]] == [f"RefusedError: the plan is not run:\nrank 0: {each}" for each in (told[0], told[2])]


def alone(rank: int) -> list[str]:
    """One rank does not come to make the group."""
    import torch.distributed as dist

    from schedverify.runner.backends import gloo_beside

    return attempts(lambda: gloo_beside(dist.group.WORLD, TIMEOUT)) if rank else [""]


def test_a_rank_that_does_not_come_to_make_a_group_is_told(four: GlooPool) -> None:
    outcomes = four.run(alone)
    for rank, outcome in enumerate(outcomes[1:], 1):
        assert outcome.value[0].startswith(f"TimedOutError: rank {rank}, making a gloo group of 4 ranks: ")
    four.end()


PIPELINES = (0, 1), (2, 3)
REPLICAS = (0, 2), (1, 3)


@pytest.mark.parametrize("reduces", [False, True])
def test_a_pipeline_that_fails_ends_those_that_average_with_it(four: GlooPool, reduces: bool) -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=2)
    order = sv.lower(sv.generate("1f1b", problem), problem)
    outcomes = four.run(beside, plan_of(add_reduction(order, problem) if reduces else order, problem))
    told = [outcome.value[0] for outcome in outcomes]
    assert told[0] == "RunError: rank 0, position 0 (0F0): ZeroDivisionError: on purpose"
    assert told[1].endswith("\nended by rank 0, position 0 (0F0): ZeroDivisionError: on purpose")
    averages = "stage {0}, mean of gradients over the data-parallel group: the "
    assert any(averages.format(place) in told[2 + place] for place in (0, 1))
    assert all(each.startswith("TimedOutError: ") for each in told[2:])
