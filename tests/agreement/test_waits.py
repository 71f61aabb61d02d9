"""Lowered schedules with waits at random places: verifier, simulator and oracles agree in every verdict and every tick.

Limits stand at, above and below what the rows need. A tenth of the waits are wrong: before their send, or doubled.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from agreement.test_lowered_orders import SETTINGS, compare
from oracle.lowered import total_by_step
from oracle.messages import Program, Wires
from schedverify.core.discipline import Discipline
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from simulator.test_p2p_engine import is_stuck_as_in_the_oracle
from support.random_lowered import lowered, random_wires, with_marks
from support.random_lowerings import lowered_rows, shuffled
from support.random_schedules import Rows, base, random_data, random_rows
from support.random_waits import with_reduction_waits, with_waits

CASES = 1200
TIMED = 240


def drawn(seed: int) -> tuple[Problem, Rows]:
    """Return rows with waits of a seed, and a problem that limits what is begun, unsharded or held."""
    rng = random.Random(f"waits {seed}")
    data = random_wires(rng, random_data(rng))
    law = Wires(Problem.of(data).to_dict())
    rows = shuffled(rng, lowered(rng, random_rows(rng, law), law))
    rows = with_marks(rng, rows, law) if rng.random() < 0.6 else rows
    rows = with_reduction_waits(rng, with_waits(rng, rows))
    limits = {name: rng.randint(1, 3) for name in ("outstanding_sends", "unsharded") if rng.random() < 0.8}
    limited = Problem.of(data | {"limits": limits})
    program = Program(rows, limited.to_dict())
    most = [max([1, *total_by_step(program, rank)]) for rank in range(len(rows))]
    capacity = [max(count + rng.choice([-2, -1, 0, 0]), 1) for count in most]
    try:
        return Problem.of(data | {"limits": limits, "memory": data["memory"] | {"capacity": capacity}}), rows
    except InputError:  # what one micro-batch needs is reckoned from the problem alone, and can be more
        return limited, rows


@pytest.mark.parametrize("chunk", range(4))
def test_the_judges_agree_on_waits(chunk: int) -> None:
    found = judged(range(chunk * CASES // 4, (chunk + 1) * CASES // 4))
    assert all(found[code] > 3 for code in ("SV303", "SV304", "SV305", "SV402", "SV404", "SV405", "valid")), found


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(8))
def test_the_judges_agree_on_more_waits(chunk: int) -> None:
    judged(range(CASES * (chunk + 1), CASES * (chunk + 2)))


def judged(seeds: range) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in seeds:
        problem, rows = drawn(seed)
        found += compare(problem, rows, seed % 5 == 0, [SETTINGS[seed % len(SETTINGS)]], f"waits {seed}")
    return found


@pytest.mark.parametrize("discipline", Discipline)
def test_the_times_of_waits_are_those_of_the_oracle(discipline: Discipline) -> None:
    stuck = 0
    for number in range(TIMED, 2 * TIMED):
        found, rng = base(number), random.Random(f"waits {number} {discipline}")
        rows = with_waits(rng, shuffled(rng, lowered_rows(found)))
        eager = rng.choice([0, 0, 2, 9])
        stuck += is_stuck_as_in_the_oracle(found, rows, discipline, eager, f"base {number}")
    assert 0 < stuck < TIMED // 2 or discipline in ("tagged", "buffered")
