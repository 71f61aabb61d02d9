"""A plan that is not proved, or not the same everywhere, runs on no rank; every rank says why."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from schedverify import Problem, Schedule, generate, lower, save, simulate
from schedverify.core.discipline import Discipline
from schedverify.core.result import Plan
from schedverify.formats.plan_files import canonical, digest
from schedverify.planner.plans import plan_of
from schedverify.runner.agreement import unproved
from schedverify.runner.backends import GLOO, NCCL
from schedverify.verifier.verification import verify
from support import runner_jobs as jobs
from support.call_counts import count_calls
from support.gloo_pool import GlooPool

pytestmark = pytest.mark.xdist_group("runner")
PROBLEM = Problem.chain(ranks=2, microbatches=3)
PLAN = plan_of(generate("1f1b", PROBLEM), PROBLEM)
OTHER = plan_of(generate("gpipe", PROBLEM), PROBLEM)


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(2) as pool:
        yield pool


def answers(pool: GlooPool, plans: list[Any], **options: Any) -> tuple[list[str], list[list[str]]]:
    outcomes = pool.run(jobs.admit, plans, *options.values())
    assert all(outcome.value for outcome in outcomes), outcomes
    refusals, logged = zip(*(outcome.value for outcome in outcomes), strict=True)
    return list(refusals), list(logged)


def refused(pool: GlooPool, plans: list[Any], *words: str) -> None:
    """Check that every rank refuses, with the same words, and that the processes go on."""
    refusals, _ = answers(pool, plans)
    assert len(set(refusals)) == 1
    assert refusals[0].startswith("RefusedError: the plan is not run:")
    for word in words:
        assert word in refusals[0]


def broken(plan: Plan, swap: tuple[str, str]) -> Plan:
    """Swap two steps in the order of rank 1, with communication in it or not."""
    assert plan.lowered is not None
    rows = plan.lowered.schedule.strings()
    i, j = map(rows[1].index, swap)
    rows[1][i], rows[1][j] = rows[1][j], rows[1][i]
    order = Schedule.of(rows)
    lowered = dataclasses.replace(plan.lowered, schedule=order)
    return dataclasses.replace(plan, schedule=order.compute_only(), lowered=lowered)


def test_a_proved_plan_is_admitted(pool: GlooPool, tmp_path: Path) -> None:
    path = str(tmp_path / "plan.json")
    save(PLAN, path)
    assert answers(pool, [PLAN, PLAN]) == (["", ""], [[], []])
    assert answers(pool, [path, path]) == (["", ""], [[], []])


def test_a_changed_byte_is_refused(pool: GlooPool, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    save(PLAN, good)
    bad.write_text(good.read_text().replace("1F1", "1F2", 1))
    refused(pool, [str(good), str(bad)], "rank 1: ", "digest", "the file was changed after it was written")


def test_a_changed_plan_with_a_new_digest_is_refused(pool: GlooPool, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    save(broken(PLAN, ("1F1", "1B0")), path)
    data = json.loads(path.read_text())
    assert data["digest"] == digest(data)
    assert path.read_text() == canonical(data) + "\n"
    save(broken(PLAN, ("1F0", "1B0")), path)
    refused(pool, [str(path)] * 2, "ranks 0, 1: SV201")


def test_another_plan_on_one_rank_is_refused(pool: GlooPool) -> None:
    refused(pool, [PLAN, OTHER], "rank 1: it has another plan (digest ", ") than rank 0 (digest ")


def test_a_plan_for_other_ranks_is_refused(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=3, microbatches=3)
    plan = plan_of(generate("1f1b", problem), problem)
    refused(pool, [plan, plan], "ranks 0, 1: the plan is for 3 ranks, the process group has 2")


def test_a_plan_without_communication_is_refused(pool: GlooPool) -> None:
    plan = dataclasses.replace(PLAN, lowered=None)
    refused(pool, [plan, plan], "holds no schedule with communication")


@pytest.mark.parametrize(
    ("keys", "word"), [({"placement": [0, [0, 1]]}, "several ranks"), ({"slices": 3}, "sliced")], ids=str
)
def test_what_the_runner_does_not_do_is_refused(pool: GlooPool, keys: dict[str, Any], word: str) -> None:
    problem = Problem.chain(ranks=2, microbatches=3, **keys)
    plan = plan_of(generate("naive", problem), problem)
    refused(pool, [plan, plan], word)


def test_a_rank_that_never_comes_is_named(pool: GlooPool) -> None:
    refusals, _ = answers(pool, [PLAN, PLAN], unverified=False, late=1)
    assert refusals[0] == "TimedOutError: rank 0, admission: no word from rank 1 within 2 s"
    pool.end()


def test_unverified_runs_what_is_not_proved_and_says_so(pool: GlooPool) -> None:
    plan = broken(PLAN, ("1F0", "1B0"))
    refusals, logged = answers(pool, [plan, plan], unverified=True)
    assert refusals == ["", ""]
    assert ["rank 0: runs a plan that was NOT verified" in logged[0][0], "rank 1" in logged[1][0]] == [True, True]


def test_unverified_still_wants_one_plan_on_all_ranks(pool: GlooPool) -> None:
    refusals, _ = answers(pool, [PLAN, OTHER], unverified=True)
    assert all("another plan" in refusal for refusal in refusals)


@pytest.mark.parametrize("discipline", list(Discipline))
def test_a_plan_for_a_milder_discipline_is_refused(discipline: Discipline) -> None:
    assert PLAN.lowered is not None
    timeline = simulate(lower(generate("1f1b", PROBLEM), PROBLEM), PROBLEM, discipline=discipline)
    lowered = dataclasses.replace(
        PLAN.lowered, schedule=timeline.schedule, discipline=discipline, measures=timeline.measures
    )
    plan = dataclasses.replace(PLAN, lowered=lowered, verdicts={})
    milder = list(Discipline).index(discipline) < list(Discipline).index(Discipline.PAIR)
    assert unproved(plan, GLOO) == ""
    text = (
        f"the plan is proved for the discipline {discipline}, nccl demands pair; lower it again with --discipline pair"
    )
    assert unproved(plan, NCCL) == (text if milder else "")
    eager = dataclasses.replace(plan, lowered=dataclasses.replace(lowered, eager_bytes=8))
    assert unproved(eager, GLOO) == ""
    assert bool(unproved(eager, NCCL))


def test_gloo_wants_a_plan_that_waits_for_its_sends_proved_under_edge() -> None:
    """Over gloo a send is complete only when it is received, however small it is."""
    rows = ["0F0 0SEND_F0 0WAIT_SEND_F0 0RECV_B0 0B0", "1RECV_F0 1F0 1B0 1SEND_B0"]
    problem = Problem.chain(ranks=2, microbatches=1)
    plan = plan_of(Schedule.parse("\n".join(rows)), problem)
    assert plan.lowered is not None
    proved = {name: dataclasses.replace(plan.lowered, discipline=name) for name in Discipline}
    for name in (Discipline.TAGGED, Discipline.BUFFERED):
        text = f"the plan is proved for the discipline {name}, gloo demands edge; lower it again with --discipline edge"
        assert unproved(dataclasses.replace(plan, lowered=proved[name]), GLOO) == text
    assert unproved(dataclasses.replace(plan, lowered=proved[Discipline.EDGE]), GLOO) == ""
    without = [rows[0].replace("0WAIT_SEND_F0 ", ""), rows[1]]
    assert GLOO.demands(Schedule.parse("\n".join(without))) is Discipline.TAGGED


def test_a_rank_judges_a_plan_once_where_its_discipline_is_the_one_demanded() -> None:
    """That is twice in all, without and with communication; under another discipline a third time."""
    assert PLAN.lowered is not None
    assert PLAN.lowered.discipline is Discipline.PAIR
    for backend, verifications in ((NCCL, 2), (GLOO, 3)):
        counts = count_calls(lambda backend=backend: unproved(PLAN, backend), verify)
        assert counts["verify"] == verifications, backend.name
    early = broken(PLAN, ("1RECV_F0", "1F0"))
    assert early.schedule == PLAN.schedule
    assert unproved(early, NCCL).startswith("SV30")


def test_stages_that_one_rank_cannot_make_are_told_on_all(pool: GlooPool) -> None:
    own, others = (outcome.value for outcome in pool.run(makes_nothing, PLAN))
    assert own == "InputError: stages: rank 0 holds the stages [0], found 0 modules"
    assert others.startswith("RefusedError: the plan is not run:\nrank 0: InputError: stages: rank 0 holds the stages")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ([None], "InputError: stages[0]: expected a torch.nn.Module, found NoneType"),
        (None, "InputError: stages: expected the modules of this rank, found NoneType (by stage, or a list in the "),
    ],
)
def test_what_is_no_module_is_told_on_all_ranks(pool: GlooPool, wrong: Any, reason: str) -> None:
    own, others = (outcome.value for outcome in pool.run(makes_nothing, PLAN, wrong))
    assert own.startswith(reason)
    assert others.startswith(f"RefusedError: the plan is not run:\nrank 0: {reason}")


def test_weights_that_are_not_the_same_are_told_on_all_ranks(pool: GlooPool) -> None:
    problem = Problem.chain(ranks=2, microbatches=3, tied=[[0, 1]])
    plan = plan_of(generate("1f1b", problem), problem)
    text = (
        "stages 0 and 1 are tied, and their weights differ in name or shape: stage 0 alone has none; stage 1 alone has "
    )
    for outcome in pool.run(makes_nothing, plan, [jobs.Still()]):
        assert outcome.value.startswith(f"RefusedError: the plan is not run:\n{text}down.bias (float32 6), ")


def test_what_is_no_plan_on_one_rank_is_refused_on_all(pool: GlooPool) -> None:
    refused(pool, [PLAN, 3], "rank 1: TypeError: ")


def makes_nothing(rank: int, plan: Plan, given: Any = ()) -> str:
    from schedverify import ScheduleError
    from schedverify.core.errors import InputError
    from schedverify.runner import Runner

    try:
        Runner(plan, [jobs.Block(1)] if rank else given, jobs.mean_square, timeout=30)
    except (InputError, ScheduleError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
