"""Our families in PyTorch's runtime since 2.15: trained with the gradients of one process, within budgets of sends."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest

from support.gloo_pool import GlooPool
from support.torch_runs import error_of, in_one_process, of_a_class, of_a_csv

schedules = pytest.importorskip("torch.distributed.pipelining.schedules", reason="torch is not installed")
if not hasattr(schedules, "_add_wait_send_budget"):
    pytest.skip("torch waits for sends where the order says so from 2.15 on", allow_module_level=True)

import schedverify as sv  # noqa: E402 - after torch is known to be there
from schedverify.formats.torch_csv import to_csv  # noqa: E402
from schedverify.generators import families  # noqa: E402
from schedverify.planner.export import for_torch  # noqa: E402
from schedverify.planner.proved_lowering import lower  # noqa: E402
from schedverify.torch_bridge import torch_problem, torch_schedule  # noqa: E402

CLOSE = 1e-9
BUDGETS = (None, 1, 2, 4)


class Case(NamedTuple):
    """A family's order of a problem."""

    name: str
    problem: sv.Problem
    order: sv.Schedule

    @property
    def shape(self) -> tuple[tuple[int, ...], int]:
        """Where the stages stand, and the micro-batches."""
        return self.problem.owner_rank, self.problem.microbatches


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, GlooPool]]:
    with GlooPool(2) as two, GlooPool(3) as three, GlooPool(4) as four:
        yield {2: two, 3: three, 4: four}


def grid(ranks: Sequence[int], microbatches: Sequence[int]) -> Iterator[Case]:
    """Yield every family's order of every problem that it takes, fused and split, in a loop and in a v."""
    for p, v, m in itertools.product(ranks, (1, 2, 3), microbatches):
        for form, placement in itertools.product(("fused", "split"), ("loop", "v")):
            if placement == "v" and v != 2:
                continue
            problem = sv.Problem.chain(ranks=p, microbatches=m, virtual=v, form=form, placement=placement)
            for family in families():
                if family.suits(problem):
                    yield Case(family.name, problem, family.generate(problem))


def within(problem: sv.Problem, budget: int | None) -> sv.Problem:
    limits = None if budget is None else (budget,) * problem.ranks
    return dataclasses.replace(problem, outstanding_sends=limits)


def files(case: Case, budget: int | None) -> Iterator[tuple[str, str]]:
    """Yield both forms of PyTorch's CSV, with their names: without communication, and with ours."""
    computing = for_torch(case.order, case.problem, profile="torch-2.15", comms=False)
    yield "compute_only", to_csv(computing, comms=False)
    limited = within(case.problem, budget)
    ours = for_torch(lower(case.order, case.problem), limited, profile="torch-2.15")
    assert sv.verify(ours, limited, profile="torch-2.15").ok
    yield "compute_comms", to_csv(ours, comms=True)


def trained(pool: GlooPool, case: Case, budget: int | None) -> float:
    """Train both files and return the largest error of their gradients."""
    placement, microbatches = case.shape
    errors = [0.0]
    for form, text in files(case, budget):
        outcomes = pool.run(of_a_csv, text, placement, microbatches, form, budget, timeout=60)
        assert [outcome.error for outcome in outcomes] == [None] * pool.ranks, (case.name, case.problem, form, budget)
        assert not any(outcome.hung for outcome in outcomes), (case.name, case.problem, form, budget)
        true = in_one_process(len(placement), microbatches)
        errors.append(error_of([outcome.value for outcome in outcomes], true))
    return max(errors)


def distinct(cases: Iterator[Case]) -> list[Case]:
    """Leave out a family's order that another has for the same stages."""
    return list({(str(case.order), case.shape): case for case in cases}.values())


def test_every_family_trains_within_every_budget(pools: dict[int, GlooPool]) -> None:
    """One shape of each; the rest is long."""
    cases: dict[tuple[str, str, int], Case] = {}
    for case in grid([2], [3, 4]):
        cases.setdefault((case.name, case.problem.form, case.problem.stages), case)
    assert {case.name for case in cases.values()} == {family.name for family in families()}
    for case, budget in itertools.product(cases.values(), BUDGETS):
        assert trained(pools[2], case, budget) < CLOSE


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_family_trains_on_every_shape(pools: dict[int, GlooPool]) -> None:
    cases = distinct(grid([2, 3, 4], [1, 2, 3, 4, 6, 8]))
    assert len(cases) > 250
    for case, budget in itertools.product(cases, BUDGETS):
        assert trained(pools[case.problem.ranks], case, budget) < CLOSE


@pytest.mark.parametrize("name", [family.name for family in families()])
def test_no_send_is_admitted_by_a_budget_of_none(name: str) -> None:
    """SV404 here; there an error when it is loaded."""
    case = next(case for case in grid([2], [4]) if case.name == name)
    none = within(case.problem, 0)
    with pytest.raises(sv.ScheduleError):
        for_torch(lower(case.order, case.problem), none, profile="torch-2.15")
    ours = for_torch(lower(case.order, case.problem), case.problem, profile="torch-2.15")
    assert {violation.code for violation in sv.verify(ours, none).violations} == {"SV404"}
    placement = case.problem.owner_rank
    for form, text in files(case, None):
        actions = {rank: [schedules._Action.from_str(cell) for cell in row.split(",")]
                   for rank, row in enumerate(text.splitlines())}  # fmt: skip
        live = loadable(len(placement), case.problem.microbatches, case.problem.ranks)
        with pytest.raises(ValueError, match="Cannot satisfy max_outstanding_sends=0"):
            live._prepare_schedule_with_comms(actions, format=form)


def loadable(stages: int, microbatches: int, ranks: int) -> object:
    """Return PyTorch's runtime with a budget of no sends, on a stage of which nothing but its numbers is there."""
    from schedverify.torch_bridge.stand_ins import StandInStage

    return schedules._PipelineScheduleRuntime([StandInStage(0, stages, ranks)], microbatches, max_outstanding_sends=0)


DEFERRED = [("ZBVZeroBubble", 3), ("ZBVZeroBubble", 12), ("InterleavedZeroBubble", 3), ("InterleavedZeroBubble", 6)]


@pytest.mark.parametrize(("name", "microbatches"), DEFERRED)
def test_pytorch_s_deferred_receives_train_on_swapped_tensors_and_ours_do_not(
    name: str, microbatches: int, pools: dict[int, GlooPool]
) -> None:
    shape = {"ranks": 2, "virtual": 2, "microbatches": microbatches}
    problem, order = torch_problem(name, **shape), torch_schedule(name, **shape)
    theirs = torch_schedule(name, **shape, lowered=True, defer_receives=True)
    swapped = sv.verify(theirs, problem, select=["SV1", "SV2", "SV3"], discipline="edge")
    assert {violation.code for violation in swapped.violations} == {"SV302"}
    true = in_one_process(problem.stages, microbatches)
    outcomes = pools[2].run(of_a_class, name, problem.owner_rank, microbatches, True, timeout=60)
    assert error_of([outcome.value for outcome in outcomes], true) > 0.01
    assert trained(pools[2], Case(name, problem, order), None) < CLOSE


@pytest.mark.parametrize(
    ("name", "shapes", "swapped"),
    [("ZBVZeroBubble", 18, 12), ("DualPipeV", 9, 5), ("InterleavedZeroBubble", 18, 5), ("Interleaved1F1B", 18, 0),
     ("LoopedBFS", 18, 0)],
)  # fmt: skip
def test_on_how_many_shapes_deferred_receives_go_wrong(name: str, shapes: int, swapped: int) -> None:
    """Counted before by a check of its own, of P from 2 to 4 and M of 2, 3, 4, 6, 8 and 12; only LoopedBFS ever holds.

    The last is under ``pair``, which the runtime was with NCCL until 2.14. The default and our lowering always hold.
    """
    found: dict[str, list[set[str]]] = {"edge": [], "pair": []}
    for ranks, microbatches in itertools.product((2, 3, 4), (2, 3, 4, 6, 8, 12)):
        shape = {"ranks": ranks, "virtual": 2, "microbatches": microbatches}
        try:
            problem, order = torch_problem(name, **shape), torch_schedule(name, **shape)
        except sv.InputError:
            continue
        for right in (torch_schedule(name, **shape, lowered=True), lower(order, problem)):
            assert sv.verify(right, problem, select=["SV1", "SV2", "SV3"], discipline="block").ok
        theirs = torch_schedule(name, **shape, lowered=True, defer_receives=True)
        for discipline, codes in found.items():
            report = sv.verify(theirs, problem, select=["SV1", "SV2", "SV3"], discipline=discipline)
            codes.append({violation.code for violation in report.violations})
    assert len(found["edge"]) == shapes
    assert sum(codes == {"SV302"} for codes in found["edge"]) == swapped == shapes - found["edge"].count(set())
    assert sum("SV304" in codes for codes in found["pair"]) == (6 if name == "LoopedBFS" else shapes)
