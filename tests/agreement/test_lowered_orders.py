"""The verifier and the oracle agree on lowered schedules: every code, under every discipline, and where.

The disciplines, with and without eager messages, take turns. The strictest one under which a schedule is free of
deadlock, which every report names, is compared each time: it says of all the stricter ones that they hang.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from oracle.communication import Judge
from oracle.lowered import foreign, full_with_messages, ill_formed_steps, shared_verdicts
from oracle.machine import DISCIPLINES, Run
from oracle.messages import Wires
from oracle.test_communication import EXCERPTS, HAND, broken_inclusions, rows_of
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.core.result import Report, Verdict
from schedverify.core.schedule import Schedule
from schedverify.generators import families, generate
from schedverify.verifier.verification import verify
from support.mutants_communication import MUTANTS_OF_A_LOWERED_BASE, faulty_lowered, lowered_mutant
from support.random_lowered import lowered, lowered_base
from support.random_traffic import traffic
from support.thinned import thinned

Place = tuple[int | None, int | None]
MUTANTS = 20_000
CHUNKS = 20
MORE = [
    pytest.param(chunk, marks=pytest.mark.long if chunk % 4 else pytest.mark.slow)
    for chunk in range(CHUNKS, 3 * CHUNKS)
]
EAGER_BYTES = 2
ALWAYS = ("SV301", "SV303", "SV304")

Rows = list[list[str]]
Setting = tuple[str, int]
"""A discipline, and the size up to which messages are eager."""
SETTINGS: tuple[Setting, ...] = tuple((name, eager_bytes) for eager_bytes in (0, EAGER_BYTES) for name in DISCIPLINES)


def turn(number: int) -> list[Setting]:
    """Return the setting whose turn it is."""
    return [SETTINGS[number % len(SETTINGS)]]


def verdicts_of(report: Report) -> dict[str, bool]:
    """Return which codes a report calls violated; nothing may stay undecided."""
    assert all(result.verdict is not Verdict.UNDECIDED for result in report.properties), report.properties
    return {result.code: result.verdict is Verdict.VIOLATED for result in report.properties}


def not_applicable(report: Report) -> set[str]:
    return {result.code for result in report.properties if result.verdict is Verdict.NOT_APPLICABLE}


def places_of(report: Report, code: str) -> set[Place]:
    return {(violation.rank, violation.position) for violation in report[code].violations}


def are_told(report: Report, code: str, places: set[Place]) -> bool:
    """Whether the violations of a code stand at these places; where there are more than are told, at some of them."""
    told = places_of(report, code)
    return told <= places if report[code].more else told == places


def at_least(report: Report, code: str, places: set[Place]) -> bool:
    """Whether a violation of a code is told at each of these places, if all are told."""
    return bool(report[code].more) or places <= places_of(report, code)


def strictest(runs: dict[str, Run]) -> str | None:
    return next((name for name in reversed(DISCIPLINES) if not runs[name].is_stuck), None)


def check_places(report: Report, judge: Judge) -> None:
    """Compare where SV1, SV3 and SV4 are told to be violated."""
    assert are_told(report, "SV101", ill_formed_steps(judge.program))
    assert at_least(report, "SV102", foreign(judge.program))
    assert at_least(report, "SV301", judge.mismatches())
    if not judge.absent_messages():
        assert are_told(report, "SV301", judge.mismatches())
    assert are_told(report, "SV303", judge.out_of_order())
    assert are_told(report, "SV402", full_with_messages(judge.program))
    if report["SV302"].verdict is not Verdict.NOT_APPLICABLE:
        assert are_told(report, "SV302", {receive.place for _, receive in judge.crossed()})


def check_story(report: Report, run: Run) -> None:
    """See that every step that a story of SV304 says to wait is one that the machine is stuck in."""
    for violation in report["SV304"].violations:
        assert violation.counterexample
        for sentence in violation.counterexample:
            match = re.match(r"rank ([0-9]+) waits at position ([0-9]+) \((.+?)\) for ", sentence)
            assert match, sentence
            rank, position = int(match[1]), int(match[2])
            left = set(run.program.items[rank][position]) - run.complete
            assert position >= run.reached[rank] or left, sentence


def compare(problem: Problem, rows: Rows, excerpt: bool, settings: Iterable[Setting], story: str) -> Counter[str]:
    """Judge by both, and show the whole case where they differ; return how often each code is violated."""
    data = problem.to_dict()
    judge, schedule = Judge(rows, data, excerpt), Schedule.of(rows)
    story = f"{story}, excerpt={excerpt}\nproblem: {data}\nrows: {rows}"
    found: Counter[str] = Counter()
    for discipline, eager_bytes in settings:
        runs = {name: judge.run(name, eager_bytes) for name in DISCIPLINES}
        theirs = judge.verdicts(discipline, runs[discipline]) | shared_verdicts(judge.program)
        report = verify(schedule, problem, discipline=discipline, eager_bytes=eager_bytes, excerpt=excerpt)
        ours = verdicts_of(report)
        told = f"{story}\nunder {discipline}, eager {eager_bytes}\ntold: {[v.message for v in report.violations]}"
        assert {code: ours[code] for code in theirs} == theirs, told
        if judge.program.is_lowered():
            assert report.communication is not None
            assert report.communication.strictest == strictest(runs), told
            assert not not_applicable(report) & set(ALWAYS)
            check_story(report, runs[discipline])
            # The timeline has a machine of its own.
            assert report.measures is None or not runs[discipline].is_stuck, told
        else:
            assert set(ALWAYS) <= not_applicable(report)
            assert report.communication is None
        check_places(report, judge)
        found.update(code for code, violated in theirs.items() if violated)
        found[f"strictest {strictest(runs)}"] += 1
        if not any(theirs.values()):
            found["valid"] += 1
            assert excerpt or not judge.program.is_lowered() or report.measures is not None, told
    return found


@pytest.mark.parametrize("chunk", thinned(range(CHUNKS), every=7))
def test_the_judges_agree_on_mutants(chunk: int) -> None:
    count = MUTANTS // CHUNKS
    found = judged_mutants(range(chunk * count, (chunk + 1) * count))
    assert all(found[code] > 10 for code in ("SV101", "SV102", "SV301", "SV302", "SV303", "SV304", "SV305")), found
    assert all(found[f"strictest {name}"] > 1 for name in ("tagged", "edge", "pair", "block", None)), found
    assert found["valid"] > 100


@pytest.mark.parametrize("chunk", MORE)
def test_the_judges_agree_on_more_mutants(chunk: int) -> None:
    count = MUTANTS // CHUNKS
    judged_mutants(range(chunk * count, (chunk + 1) * count), SETTINGS[chunk % 12 :: 5])


@pytest.mark.parametrize("chunk", range(2))
def test_the_judges_agree_under_every_discipline_one_by_one(chunk: int) -> None:
    judged_mutants(range(chunk, MUTANTS, 203), SETTINGS)


def judged_mutants(seeds: range, settings: Sequence[Setting] = ()) -> Counter[str]:
    """Compare the judges on the mutants of some seeds, a fifth of them as excerpts, and on what they are mutants of."""
    found: Counter[str] = Counter()
    for seed in seeds:
        if seed % MUTANTS_OF_A_LOWERED_BASE == 0:
            base = lowered_base(seed // MUTANTS_OF_A_LOWERED_BASE)
            compare(base.problem, base.rows, False, turn(seed), f"lowered base of {seed}")
        problem, rows, name = lowered_mutant(seed)
        found += compare(problem, rows, seed % 5 == 0, settings or turn(seed), f"lowered mutant {seed}: {name}")
    return found


@pytest.mark.parametrize("chunk", range(4))
def test_the_judges_agree_on_traffic(chunk: int) -> None:
    found: Counter[str] = Counter()
    for seed in range(chunk * 500, (chunk + 1) * 500):
        problem, _, rows = traffic(seed)
        found += compare(problem, rows, True, turn(seed), f"traffic {seed}")
    assert all(found[f"strictest {name}"] > 1 for name in ("edge", "pair", "block", None)), found


# The inclusions of section 4


@pytest.mark.parametrize("eager_bytes", [0, EAGER_BYTES])
def test_inclusions_of_the_disciplines(eager_bytes: int) -> None:
    accepted: Counter[str] = Counter()
    for seed in range(0, MUTANTS, 67):
        if seed % 2:
            (problem, rows, _), excerpt = lowered_mutant(seed), False
        else:
            (problem, _, rows), excerpt = traffic(seed), True
        free, order, made = {}, True, True
        for name in DISCIPLINES:
            report = verify(
                Schedule.of(rows), problem, select=["SV302", "SV303", "SV304"], discipline=name,
                eager_bytes=eager_bytes, excerpt=excerpt,
            )  # fmt: skip
            verdicts = verdicts_of(report)
            free[name] = not verdicts["SV304"]
            order, made = order and not verdicts["SV302"], made and not verdicts["SV303"]
        shared = any(len(ranks) > 1 for ranks in problem.placement)
        broken = broken_inclusions(free, ordered=order, alike=made and not shared)
        assert not broken, f"{broken} of {problem.to_dict()}\n{rows}"
        accepted.update(name for name in DISCIPLINES if free[name])
    assert accepted["edge"] > accepted["pair"] > accepted["rank"] > accepted["block"] > 50


@pytest.mark.parametrize("case", HAND, ids=[case[0] for case in HAND])
def test_the_judges_agree_on_the_hand_cases(case: tuple[str, dict[str, Any], str, str, str]) -> None:
    name, keys, text, _, _ = case
    compare(Problem.chain(**keys), rows_of(text), name in EXCERPTS, SETTINGS, name)


@pytest.mark.parametrize("name", [family.name for family in families()])
def test_the_judges_agree_on_mutants_of_families(name: str) -> None:
    met = 0
    for ranks, microbatches in ((2, 2), (2, 4), (3, 3), (4, 4)):
        problem = family_problem(name, ranks, microbatches)
        if problem is None:
            continue
        met += 1
        rng = random.Random(f"{name} {ranks} {microbatches}")
        law = Wires(problem.to_dict())
        rows = lowered(rng, generate(name, problem).strings(), law)
        story = f"{name} of {ranks} ranks, {microbatches} micro-batches"
        assert compare(problem, rows, False, SETTINGS, story)["valid"] == len(SETTINGS)
        for number in range(40):
            mutated, faults = faulty_lowered(rng, rows, law)
            compare(problem, mutated, number % 5 == 0, turn(number), f"{story}, mutant {number}: {faults}")
    assert met >= 2


def family_problem(name: str, ranks: int, microbatches: int) -> Problem | None:
    """Return a small problem that a family takes, or None where it takes none of this shape."""
    for virtual, placement in ((1, "loop"), (2, "loop"), (2, "v")):
        for form in ("fused", "split"):
            keys = {"ranks": ranks, "microbatches": microbatches, "form": form, "bytes": 2}
            problem = Problem.chain(**keys, virtual=virtual, placement=placement)
            try:
                generate(name, problem)
            except InputError:
                continue
            return problem
    return None


def test_the_judges_agree_on_the_bytes_of_boundaries() -> None:
    seen = Counter[bool]()
    for number in range(300):
        found, rng = lowered_base(number), random.Random(f"bytes {number}")
        data, sizes = found.problem.to_dict(), found.problem.boundary_bytes
        rows = []
        for source, target in data["edges"]:
            copy = rng.randrange(data["replicas"])
            size = sizes[source + copy * data["stages"]] + rng.choice([0, 0, 0, 1])
            split = rng.choice([None, 0, size // 2])
            parts = [size] if split is None else [split, size - split]
            rows += [{"from": source, "to": target, "bytes": part} for part in parts if part]
        data["boundary"] = rows
        judge = Judge(found.rows, data)
        report = verify(Schedule.of(found.rows), Problem.of(data), select=["SV306"])
        wrong = judge.verdicts("pair")["SV306"]
        assert (report.verdict is Verdict.VIOLATED) == wrong, f"number {number}: {rows} of {sizes}"
        assert len(report.violations) == len(judge.missized())
        seen[wrong] += 1
    assert min(seen[True], seen[False]) > 50
