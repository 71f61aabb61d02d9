"""The verifier and the oracle agree on every code: no false accept, no false reject, and the same places."""

from __future__ import annotations

import random

import pytest

from oracle.compute_orders import CODES, examine
from oracle.law import Law
from oracle.test_compute_orders import CASES, EXCERPTS, rows_of
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.core.result import Report, Verdict
from schedverify.core.schedule import Schedule
from schedverify.generators import families, generate
from schedverify.verifier.verification import verify
from support.mutants import MUTANTS_OF_A_BASE, faulty, mutant
from support.random_schedules import Base, base, with_limits
from support.thinned import thinned

MUTANTS = 20_000
BASES = MUTANTS // MUTANTS_OF_A_BASE
CHUNKS = 10
LIMITED = {"SV401": ("in_flight", "in_flight_stage"), "SV402": ("capacity",)}


def is_excerpt(seed: int) -> bool:
    """Whether the mutant of a seed is judged as an excerpt: a third of them."""
    return seed % 3 == 0


def verdicts_of(report: Report, problem: Problem) -> dict[str, bool]:
    """Return which codes a report calls violated; nothing may stay undecided, or be left out without reason."""
    for code in CODES:
        limits = LIMITED.get(code, ("ranks",))
        applies = any(getattr(problem, name) is not None for name in limits)
        expected = {Verdict.VIOLATED, Verdict.HOLDS} if applies else {Verdict.NOT_APPLICABLE}
        assert report[code].verdict in expected, f"{code}: {report[code].verdict}, {report[code].reason}"
        assert (report[code].verdict is Verdict.VIOLATED) == bool(report[code].violations)
    return {code: report[code].verdict is Verdict.VIOLATED for code in CODES}


def places_of(report: Report, code: str) -> set[tuple[int | None, int | None]]:
    return {(violation.rank, violation.position) for violation in report[code].violations}


def compare(problem: Problem, rows: list[list[str]], excerpt: bool, story: str) -> dict[str, bool]:
    """Judge by both, and show the whole case where they differ; return the oracle's verdicts."""
    data = problem.to_dict()
    report = verify(Schedule.of(rows), problem, excerpt=excerpt)
    ours = verdicts_of(report, problem)
    theirs, where = examine(rows, data, excerpt)
    told = {code: places_of(report, code) for code in where}
    story = f"{story}, excerpt={excerpt}\nproblem: {data}\nrows: {rows}"
    assert ours == theirs, f"{story}\nverifier: {ours}\noracle:   {theirs}\ntold: {report.violations}"
    for code in ("SV101", "SV401", "SV402"):
        same = told[code] <= where[code] if report[code].more else told[code] == where[code]
        assert same, f"{code} of {story}\nverifier: {told}\noracle:   {where}"
    for code in ("SV102", "SV104"):
        known = bool(report[code].more) or where[code] <= told[code]
        assert known, f"{code} of {story}\nverifier: {told}\noracle:   {where}"
    return theirs


@pytest.mark.parametrize("chunk", thinned(range(CHUNKS)))
def test_valid_schedules_hold_and_the_judges_agree_on_their_mutants(chunk: int) -> None:
    violated = dict.fromkeys(CODES, 0)
    fitting = valid = 0
    for number in range(chunk * BASES // CHUNKS, (chunk + 1) * BASES // CHUNKS):
        found = base(number)
        assert any(compare(found.problem, found.rows, False, f"base {number}").values()) != found.fits
        fitting += found.fits
        for seed in range(number * MUTANTS_OF_A_BASE, (number + 1) * MUTANTS_OF_A_BASE):
            problem, rows, name = mutant(seed)
            verdicts = compare(problem, rows, is_excerpt(seed), f"mutant {seed}: {name}")
            valid += not any(verdicts.values())
            for code, is_violated in verdicts.items():
                violated[code] += is_violated
    assert min(violated.values()) > 40, violated
    assert valid > 200
    assert fitting > 100


SHAPES = ((1, 1), (1, 3), (2, 1), (2, 3), (2, 4), (3, 2), (3, 6), (4, 4))


def family_base(name: str, ranks: int, microbatches: int, form: str) -> Base | None:
    """Return a family's schedule of a problem that it takes, with limits near its peaks; None where it takes none."""
    rng = random.Random(f"{name} {ranks} {microbatches} {form}")
    data = {
        "ranks": ranks,
        "microbatches": microbatches,
        "form": form,
        "costs": {"forward": 2, "backward_input": 2, "backward_weight": 1, "backward": 3},
        "memory": {"activation": 3, "weight_stash": 1},
    }
    for virtual in (1, 2):
        data["placement"] = "v" if name == "zb-v" else "loop"
        try:
            schedule = generate(name, Problem.of(data | {"virtual": virtual}))
        except InputError:
            continue
        rows = schedule.strings()
        data, fits = with_limits(rng, data | {"virtual": virtual}, rows)
        problem = Problem.of(data)
        return Base(problem, problem.to_dict(), rows, fits)
    return None


@pytest.mark.parametrize("name", [family.name for family in families()])
def test_families_hold_and_their_mutants_agree(name: str) -> None:
    met = 0
    for ranks, microbatches in SHAPES:
        for form in ("fused", "split"):
            found = family_base(name, ranks, microbatches, form)
            if found is None:
                continue
            met += 1
            story = f"{name} of {ranks} ranks, {microbatches} micro-batches, {form}"
            assert any(compare(found.problem, found.rows, False, story).values()) != found.fits, story
            rng = random.Random(story)
            for seed in range(30):
                rows, faults = faulty(rng, found.rows, Law(found.data))
                compare(found.problem, rows, is_excerpt(seed), f"{story}, mutant {seed}: {faults}")
    assert met >= len(SHAPES) // 2


@pytest.mark.parametrize("excerpt", [False, True])
@pytest.mark.parametrize("case", [*CASES, *EXCERPTS], ids=lambda case: case[0])
def test_the_judges_agree_on_the_hand_cases(case: tuple[str, dict, str, str], excerpt: bool) -> None:
    name, keys, text, _ = case
    compare(Problem.chain(**keys), rows_of(text), excerpt, name)
