"""What SV7 forbids is what PyTorch's runtime does wrong: each rule broken in real processes, and what it admits run."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

import schedverify as sv
from oracle.messages import Wires
from schedverify.planner.export import for_torch
from support.gloo_pool import GlooPool
from support.random_schedules import random_rows
from support.torch_runs import error_of, in_one_process, of_a_csv

pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.slow

CLOSE = 1e-9
WRONG, FAILS = "wrong gradients, no error", "an error"
RIGHT = [
    "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD",
    "1RECV_F0,1F0,1RECV_F1,1F1,1B0,1SEND_B0,1B1,1SEND_B1,1REDUCE_GRAD",
]
BROKEN = {
    "losses out of order, whole backwards": ("SV702", ["0F1,0F0,0B0,0B1", "1F1,1F0,1B0,1B1"], WRONG),
    "losses out of order, a backward at once": ("SV702", ["0F1,0F0,0B1,0B0", "1F1,1B1,1F0,1B0"], FAILS),
    "losses out of order, in two parts": ("SV702", ["0F1,0F0,0I0,0W0,0I1,0W1", "1F1,1F0,1I0,1W0,1I1,1W1"], WRONG),
    "never reduced": ("SV703", [RIGHT[0].removesuffix(",0REDUCE_GRAD"), RIGHT[1]], WRONG),
    "reduced twice": ("SV703", [f"{RIGHT[0]},0REDUCE_GRAD", RIGHT[1]], WRONG),
    "reduced early": ("SV703", [RIGHT[0].replace("0B0,", "0B0,0REDUCE_GRAD,").removesuffix(",0REDUCE_GRAD"), RIGHT[1]],
                      WRONG),
    "no communication": ("SV705", ["0F0,0B0,0F1,0B1,0REDUCE_GRAD", "1F0,1B0,1F1,1B1,1REDUCE_GRAD"], FAILS),
    "no backward": ("SV701", ["0F0,0F1", "1F0,1F1"], FAILS),
}  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(2) as pool:
        yield pool


def shown(pool: GlooPool, rows: list[str], placement: tuple[int, ...], microbatches: int) -> str | float:
    """Run rows in PyTorch's runtime and return the error of the gradients, or that it failed."""
    text = "".join(f"{row}\n" for row in rows)
    form = "compute_comms" if any(word in text for word in ("SEND", "REDUCE")) else "compute_only"
    outcomes = pool.run(of_a_csv, text, placement, microbatches, form, timeout=30)
    if any(outcome.error for outcome in outcomes):
        return FAILS
    return error_of([outcome.value for outcome in outcomes], in_one_process(len(placement), microbatches))


@pytest.mark.parametrize("name", BROKEN)
def test_a_rule_that_is_broken_is_a_run_that_goes_wrong(name: str, pool: GlooPool) -> None:
    code, rows, what = BROKEN[name]
    schedule = sv.Schedule.of([row.split(",") for row in rows])
    form = "inference" if code == "SV701" else "split" if "W" in rows[0] else "fused"
    problem = sv.Problem.chain(ranks=2, microbatches=2, form=form)
    report = sv.verify(schedule, problem, select=["SV70"])
    assert {violation.code for violation in report.violations} == {code}
    assert shown(pool, RIGHT, (0, 1), 2) < CLOSE
    found = shown(pool, rows, (0, 1), 2)
    assert found == FAILS if what == FAILS else found == FAILS or found > 0.01


def test_what_is_admitted_trains_rightly(pool: GlooPool) -> None:
    """Random orders on any placement that the profile takes, with our communication and with PyTorch's."""
    rng, count = random.Random(11), 0
    while count < 60:
        stages = rng.randint(2, 5)
        placement = [rng.randrange(2) for _ in range(stages)]
        keys = {"backward_input": 1, "backward_weight": 1} if rng.random() < 0.6 else {"backward": 2}
        problem = sv.Problem.chain(ranks=2, microbatches=rng.randint(1, 4), stages=stages, placement=placement, **keys)
        order = sv.Schedule.of(random_rows(rng, Wires(problem.to_dict())))
        comms = rng.random() < 0.5
        if sv.verify(order, problem, select=["SV70"]).violations:
            continue
        leaving = for_torch(sv.lower(order, problem) if comms else order, problem)
        rows = [",".join(row) for row in leaving.strings()]
        if not any("OVERLAP" in row for row in rows) or comms:
            assert shown(pool, rows, problem.owner_rank, problem.microbatches) < CLOSE, leaving
            count += 1
