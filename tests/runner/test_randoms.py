"""What a block draws depends on seed, step, micro-batch and block alone."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from schedverify import Problem, generate  # noqa: E402
from schedverify.core.result import Plan  # noqa: E402
from schedverify.planner.plans import plan_of  # noqa: E402
from schedverify.runner.compute.randoms import SEEDS, Randoms, seed_of  # noqa: E402
from support import random_jobs as jobs  # noqa: E402
from support.gloo_pool import GlooPool  # noqa: E402

pytestmark = pytest.mark.xdist_group("runner")
NUMBERS = st.integers(0, 3)


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(4) as pool:
        yield pool


def plan(family: str = "gpipe", microbatches: int = 2, **keys: Any) -> Plan:
    problem = Problem.chain(**{"ranks": 4, "microbatches": microbatches, "form": "split"} | keys)
    return plan_of(generate(family, problem), problem)


def drawn(pool: GlooPool, given: Plan, **options: Any) -> jobs.Drawn:
    """Return what the ranks drew, once each has the random state it had, and drew the same where it drew again."""
    outcomes = pool.run(run_drawn, given, options)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    found: jobs.Drawn = {}
    for masks, untouched in (outcome.value for outcome in outcomes):
        assert untouched
        for place, drawn_here in masks.items():
            assert place not in found
            assert all(mask == drawn_here[0] for mask in drawn_here), place
            found[place] = drawn_here[:1]
    return found


def run_drawn(rank: int, given: Plan, options: dict[str, Any]) -> Any:
    return jobs.drawn(rank, given, **options)


def distinct(found: jobs.Drawn) -> bool:
    masks = [str(mask) for mask in found.values()]
    return len(set(masks)) == len(masks)


def test_four_blocks_and_two_micro_batches_draw_eight_masks(pool: GlooPool) -> None:
    found = drawn(pool, plan(form="fused"), blocks=4)
    assert set(found) == {(block, 0, m) for block in (0, 1, 2, 3, "loss") for m in range(2)}
    assert distinct(found)


VEE = {"virtual": 2, "placement": "v"}
CUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "one rank": ("gpipe", {"placement": [0]}),
    "two ranks": ("1f1b", {"placement": [0, 1]}),
    "three stages": ("1f1b", {"placement": [0, 1, 2]}),
    "four ranks": ("1f1b", {}),
    "interleaved": ("interleaved-1f1b", {"virtual": 2}),
    "split": ("zb-h1", {}),
    "a v": ("zb-v", VEE),
    "recomputed": ("1f1b", {"recompute": True}),
    "split, recomputed": ("zb-v", VEE | {"recompute": [True, False] * 4}),
    "two copies": ("gpipe", {"replicas": 2, "placement": [[0, 1, 2], [2, 1, 0]]}),
}


@pytest.fixture(scope="module")
def expected(pool: GlooPool) -> jobs.Drawn:
    """What four ranks draw with a stage for each block and eight micro-batches, in two steps."""
    found = drawn(pool, plan(microbatches=8, virtual=2), steps=2)
    assert len(found) == 2 * 8 * (jobs.BLOCKS + 1)
    assert distinct(found)
    return found


@pytest.mark.parametrize("name", CUTS)
def test_the_masks_depend_on_neither_cut_nor_order_nor_replay(pool: GlooPool, expected: jobs.Drawn, name: str) -> None:
    family, keys = CUTS[name]
    found = drawn(pool, plan(family, microbatches=8, **keys), steps=2)
    assert distinct(found)
    assert found == expected


def test_stages_without_run_draw_by_their_numbers(pool: GlooPool, expected: jobs.Drawn) -> None:
    for family, keys in (("interleaved-1f1b", {"virtual": 2}), ("zb-v", VEE)):
        found = drawn(pool, plan(family, microbatches=8, **keys), steps=2, by_stage=True)
        assert found == expected


def test_a_step_that_is_told_its_number_draws_what_it_would_have_drawn(pool: GlooPool, expected: jobs.Drawn) -> None:
    second = {place: mask for place, mask in expected.items() if place[1] == 1}
    assert drawn(pool, plan(microbatches=8, virtual=2), first=1) == second


def test_another_seed_draws_other_masks(pool: GlooPool, expected: jobs.Drawn) -> None:
    found = drawn(pool, plan(microbatches=8, virtual=2), steps=2, seed=1)
    assert found.keys() == expected.keys()
    assert not any(found[place] == expected[place] for place in found)


def test_replicas_draw_as_one_pipeline_with_all_their_micro_batches(pool: GlooPool, expected: jobs.Drawn) -> None:
    problem = Problem.chain(ranks=2, microbatches=4, virtual=4, form="split")
    found = drawn(pool, plan_of(generate("interleaved-1f1b", problem), problem), steps=2, side=2)
    assert found == expected


def test_the_number_of_a_replica_is_that_in_its_group(pool: GlooPool) -> None:
    outcomes = pool.run(jobs.replica_numbers)
    numbers = [outcome.value or outcome.error for outcome in outcomes]
    assert [each[:3] + each[4:] for each in numbers] == [(r, r, r, 0) for r in (0, 0, 1, 1)]
    assert sorted(each[3] for each in numbers) == [0, 1, 2, 3]


def test_the_loss_of_a_run_depends_on_neither_ranks_nor_plan(pool: GlooPool) -> None:
    """The blocks have dropout and an LSTM, the loss has dropout; batches are drawn of the process's random state."""
    plans = [plan(placement=[0]), plan("1f1b", placement=[0, 1]), plan("zb-h1"), plan("1f1b", recompute=True)]
    found = [outcome.value for given in plans for outcome in pool.run(jobs.losses, given)]
    assert all(each == pytest.approx(found[0], rel=1e-12) for each in found)
    assert found[0][0] != found[0][1] != found[0][2]
    assert pool.run(jobs.losses, plans[0], 1)[0].value[0] != found[0][0]


def test_the_seeds_of_all_small_numbers_differ() -> None:
    """Also in the 32 bits that the host's generator takes."""
    seeds = [seed_of(*numbers) for numbers in itertools.product(range(9), range(9), range(9), range(-3, 9))]
    assert len({seed % 2**32 for seed in seeds}) > 0.999 * len(seeds)
    assert len(set(seeds)) == len(seeds) == 9**3 * 12


@given(st.integers(0, SEEDS - 1), NUMBERS, NUMBERS, st.integers(-2, 3))
def test_a_seed_is_the_hash_of_its_numbers(seed: int, step: int, microbatch: int, block: int) -> None:
    text = b"".join(number.to_bytes(8, "little") for number in (seed, step, microbatch, block % 2**64))
    made = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    assert seed_of(seed, step, microbatch, block) == made


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=4), st.integers(-3, 3))
def test_a_step_leaves_the_generators_as_they_were(begun: list[tuple[int, int]], seed: int) -> None:
    randoms, plain = Randoms(seed), torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    torch.randn(3, generator=plain)  # leaves a fourth normal number for the next call
    torch.randn(3)
    with contextlib.suppress(ZeroDivisionError), randoms.within_step():
        for numbers in begun:
            randoms.begin(*numbers)
            torch.randn(5)
        raise ZeroDivisionError
    assert torch.equal(torch.randn(5), torch.randn(5, generator=plain))
    assert torch.initial_seed() == 3


def test_nothing_is_seeded_outside_of_a_step() -> None:
    torch.manual_seed(3)
    Randoms().begin(0, 0)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(3)))


def test_the_numbers_of_a_block_do_not_depend_on_what_was_drawn_before() -> None:
    randoms = Randoms(1)
    with randoms.within_step():
        randoms.begin(2, 3)
        first = torch.rand(4)
        randoms.begin(2, 2)
        torch.rand(7)
        randoms.enter(3)
        assert torch.equal(torch.rand(4), first)
