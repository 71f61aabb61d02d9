"""The pool of real processes does what its tests rely on."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from support.gloo_pool import GlooPool, Outcome


def reduced(rank: int, first: int) -> int:
    import torch
    import torch.distributed as dist

    value = torch.tensor([first + rank])
    dist.all_reduce(value)
    return int(value)


def sleeps_on_one(rank: int) -> None:
    if rank == 1:
        time.sleep(60)


def fails_on_one(rank: int) -> str:
    if rank == 1:
        raise ValueError("on purpose")
    time.sleep(60)
    return "never"


@pytest.fixture(scope="module")
def pool() -> Any:
    with GlooPool(2) as pool:
        yield pool


def test_ranks_meet(pool: GlooPool) -> None:
    assert pool.run(reduced, 3) == [Outcome(7), Outcome(7)]


def test_a_hang_is_told_and_the_pool_lives_on(pool: GlooPool) -> None:
    assert pool.run(sleeps_on_one, timeout=5) == [Outcome(), Outcome(hung=True)]
    assert pool.run(reduced, 1) == [Outcome(3), Outcome(3)]


def test_an_error_ends_the_others(pool: GlooPool) -> None:
    waited, failed = pool.run(fails_on_one)
    assert waited == Outcome(hung=True)
    assert "on purpose" in (failed.error or "")


def test_no_process_is_left() -> None:
    with GlooPool(2) as pool:
        pool.run(reduced, 0)
        processes = pool.processes
    assert not any(process.is_alive() for process in processes)
