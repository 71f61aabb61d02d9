"""The oracle against cases worked out by hand from the law, and against threads that really run the rows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from oracle.compute_orders import CODES, judge, peaks, places
from oracle.law import Case, Law, read_step
from oracle.memory import bytes_by_step
from schedverify.core.problem import Problem
from support import mutants, random_schedules
from support.threaded_rows import Threads

TWO = {"ranks": 2, "microbatches": 2}
SPLIT = {"ranks": 2, "microbatches": 1, "form": "split"}
ONE = {"ranks": 1, "microbatches": 2}
BOTH = {"stages": 1, "placement": [[0, 1]]}


def rows_of(text: str) -> list[list[str]]:
    return [line.split() if line.strip() != "-" else [] for line in text.split("/")]


# What is wrong; the problem's keys; the rows, parted by "/"; the codes that are violated.
CASES = [
    ("1F1B of two ranks", TWO, "0F0 0F1 0B0 0B1 / 1F0 1B0 1F1 1B1", ""),
    ("I and W in place of B", SPLIT, "0F0 0I0 0W0 / 1F0 1I0 1W0", ""),
    ("B in a split problem", SPLIT, "0F0 0B0 / 1F0 1I0 1W0", ""),
    ("inference", TWO | {"form": "inference"}, "0F0 0F1 / 1F1 1F0", ""),
    ("overlapped pair", ONE, "0F0 (0F1;0B0)OVERLAP_F_B 0B1", ""),
    ("overlapped pair, backward first", ONE, "0F0 (0B0;0F1)OVERLAP_F_B 0B1", ""),
    ("stage on two ranks", TWO | {"placement": [0, [0, 1]]}, "0F0 0F1 1F0 1B0 1F1 1B1 0B0 0B1 / 1F0 1B0 1F1 1B1", ""),
    # SV101
    ("brackets around computing", ONE, "0F0 [0F1;0B0] 0B1", "SV101"),
    ("two forwards overlapped", ONE, "(0F0;0F1)OVERLAP_F_B 0B0 0B1", "SV101"),
    ("three members", ONE | {"microbatches": 3}, "0F0 0F1 (0F2;0B0;0B1)OVERLAP_F_B 0B2", "SV101"),
    ("F and I overlapped", ONE | {"form": "split"}, "0F0 (0F1;0I0)OVERLAP_F_B 0W0 0B1", "SV101"),
    ("W in a fused problem", ONE, "0F0 0B0 0W0 0F1 0B1", "SV101"),
    ("B in inference", ONE | {"form": "inference"}, "0F0 0F1 0B0", "SV101"),
    ("a stage too many", ONE, "0F0 0B0 0F1 0B1 1F0", "SV101"),
    ("a micro-batch too many", ONE, "0F0 0B0 0F1 0B1 0F2", "SV101"),
    ("out of range, and so one is missing", ONE, "0F0 0B0 0F1 0B2", "SV101 SV103"),
    ("the wrong copy", TWO | {"stages": 1, "replicas": 2, "placement": [[0], [1]]}, "0F0 0B0 0F1 / 1F1 1B1", "SV101"),
    # SV102
    ("on a foreign rank alone", TWO, "0F0 0F1 0B0 1B1 0B1 / 1F0 1B0 1F1", "SV102"),
    ("on its own and a foreign rank", TWO, "0F0 0F1 1F0 0B0 0B1 / 1F0 1B0 1F1 1B1", "SV102"),
    ("on one of two ranks", TWO | {"placement": [0, [0, 1]]}, "0F0 0F1 1F0 1B0 1F1 0B0 0B1 / 1F0 1B0 1F1 1B1", "SV102"),
    # SV103
    ("no F", TWO, "0F0 0F1 0B0 0B1 / 1F0 1B0 1B1", "SV103"),
    ("no backward at all", SPLIT, "0F0 0B0 / 1F0", "SV103"),
    ("no W", SPLIT, "0F0 0I0 0W0 / 1F0 1I0", "SV103"),
    ("no I", SPLIT, "0F0 0I0 0W0 / 1F0 1W0", "SV103"),
    ("an empty rank", TWO, "0F0 0F1 0B0 0B1 / -", "SV103"),
    ("no forward, fused", ONE, "0B0 0B1", "SV103"),
    # SV104
    ("twice", ONE, "0F0 0F0 0B0 0F1 0B1", "SV104"),
    ("twice in one step", ONE, "(0F0;0F0)OVERLAP_F_B 0B0 0F1 0B1", "SV101 SV104"),
    ("B beside W", SPLIT, "0F0 0B0 0W0 / 1F0 1B0", "SV104"),
    ("B beside I on a rank that is none of its own", SPLIT, "0F0 0I0 0W0 / 1F0 1B0 0B0", "SV102"),
    ("B beside I on another one of its ranks", SPLIT | BOTH, "0F0 0I0 0W0 / 0F0 0B0", "SV102 SV104"),
    ("parts beside B on another one of its ranks", SPLIT | BOTH, "0F0 0B0 / 0F0 0I0 0W0", "SV102 SV104"),
    ("W beside B on all of its ranks", SPLIT | BOTH, "0F0 0B0 0W0 / 0F0 0B0 0W0", "SV104"),
    ("a stray is no second one", TWO, "0F0 0F1 0B0 0B1 1B1 / 1F0 1B0 1F1 1B1", "SV102"),
    # SV201
    ("B before F", ONE, "0B0 0F0 0F1 0B1", "SV201"),
    ("two ranks wait for each other", TWO, "0F0 0B0 0F1 0B1 / 1F1 1F0 1B0 1B1", "SV201"),
    ("a pair of which one part waits", ONE, "(0F0;0B0)OVERLAP_F_B 0F1 0B1", "SV201"),
    ("a pair beside its parts on another rank", TWO | BOTH, "0F0 0F1 0B0 0B1 / 0F0 (0F1;0B0)OVERLAP_F_B 0B1", "SV201"),
    ("a pair on one rank, part of it on another", TWO | {"placement": [[0, 1], 1]}, "0F0 0F1 0B0 0B1 / "
     "0F0 1F0 (0F1;1B0)OVERLAP_F_B 1F1 1B1 0B0 0B1", ""),
    ("a pair that waits through another rank", TWO, "0F0 (0F1;0B0)OVERLAP_F_B 0B1 / 1F0 1F1 1B0 1B1", "SV201"),
    ("W before I", SPLIT, "0F0 0I0 0W0 / 1F0 1W0 1I0", "SV201"),
    ("ranks of one stage disagree", TWO | {"placement": [[0, 1], 0], "form": "inference"},
     "0F0 0F1 1F0 1F1 / 0F1 0F0", "SV201"),
    ("a second occurrence waits too", TWO, "0F0 0F1 0B0 0B1 / 1F0 1F1 1B0 1F0 1B1", "SV104"),
    ("a stray waits, so its rank stops", TWO, "1F0 0F0 0F1 0B0 0B1 / 1F0 1B0 1F1 1B1", "SV102 SV201"),
    ("nobody waits for a stray", TWO, "0F0 0F1 0B0 0B1 1F0 / 1F0 1B0 1F1 1B1", "SV102"),
    ("an absent input counts as done", TWO, "0B0 0F1 0B1 / 1F0 1B0 1F1 1B1", "SV103"),
    # slices, graphs
    ("slices in causal order", ONE | {"slices": 2}, "0F0 0F1 0B1 0B0", ""),
    ("forward of the later part first", ONE | {"slices": 2}, "0F1 0F0 0B1 0B0", "SV201"),
    ("backward of the earlier part first", ONE | {"slices": 2}, "0F0 0F1 0B0 0B1", "SV201"),
    ("two sequences in any order", ONE | {"slices": 1}, "0F1 0F0 0B0 0B1", ""),
    ("no edge, no wait", TWO | {"edges": [], "microbatches": 1}, "0F0 0B0 / 1F0 1B0", ""),
    ("edges against the numbers", TWO | {"edges": [[1, 0]], "microbatches": 1}, "0F0 0B0 / 1F0 1B0", ""),
    ("a fork waits for both", {"ranks": 3, "microbatches": 1, "edges": [[0, 2], [1, 2]]},
     "2F0 2B0 0F0 0B0 / 1F0 1B0 / -", "SV102 SV201"),
    # memory
    ("two in flight, limit one", ONE | {"in_flight": 1}, "0F0 0F1 0B0 0B1", "SV401"),
    ("one at a time", ONE | {"in_flight": 1}, "0F0 0B0 0F1 0B1", ""),
    ("an overlapped pair holds both", ONE | {"in_flight": 1}, "0F0 (0F1;0B0)OVERLAP_F_B 0B1", "SV401"),
    ("the stage's limit", {"ranks": 1, "virtual": 2, "microbatches": 1, "in_flight_stage": 1}, "0F0 1F0 1B0 0B0", ""),
    ("the rank's limit", {"ranks": 1, "virtual": 2, "microbatches": 1, "in_flight": 1}, "0F0 1F0 1B0 0B0", "SV401"),
    ("a stray counts where it stands", TWO | {"in_flight": [2, 1]},
     "0F0 0F1 1F0 0B0 0B1 / 1F0 1B0 1F1 1B1", "SV102 SV401"),
    ("the static part counts", ONE | {"static": 1, "capacity": 2}, "0F0 0F1 0B0 0B1", "SV402"),
    ("W frees what waits", ONE | {"form": "split", "activation": 2, "weight_stash": 1, "capacity": 2},
     "0F0 0I0 0W0 0F1 0I1 0W1", ""),
    ("W waits too long", ONE | {"form": "split", "activation": 2, "weight_stash": 1, "capacity": 2},
     "0F0 0I0 0F1 0W0 0I1 0W1", "SV402"),
    ("inference holds nothing", ONE | {"form": "inference", "in_flight": 1, "capacity": 1}, "0F0 0F1", ""),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "text", "codes"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_hand_cases(keys, text, codes):
    problem = Problem.chain(**keys).to_dict()
    verdicts = judge(rows_of(text), problem)
    violated = {code for code, found in verdicts.items() if found}
    assert set(verdicts) == set(CODES)
    assert violated == set(codes.split())


FOREIGN_INPUT_PARTS = TWO | {
    "stages": 1,
    "placement": [0],
    "form": "split",
    "activation": 2,
    "weight_stash": 2,
    "capacity": [2, 4],
}

# What an excerpt lacks counts as done: nothing is missing, and what its rest ends was held before.
EXCERPTS = [
    ("the end of a schedule", TWO | {"in_flight": 1}, "0B1 / 1B1", ""),
    ("two held from the beginning", ONE | {"in_flight": 1}, "0B0 0B1", "SV401"),
    ("a backward of another rank's pair is not held here", TWO | {"in_flight": 1}, "0B0 / 1B1 1F0 1B0", ""),
    ("weights alone are not in flight", ONE | {"form": "split", "in_flight": 1}, "0W0 0W1 0F0", ""),
    ("weights alone are held", ONE | {"form": "split", "activation": 2, "weight_stash": 2, "capacity": 3},
     "0W0 0W1", "SV402"),
    ("and freed", ONE | {"form": "split", "activation": 2, "weight_stash": 2, "capacity": 2}, "0W1", ""),
    ("order still counts", ONE, "0B0 0F0", "SV201"),
    ("weights whose I stands on another rank are not held", FOREIGN_INPUT_PARTS, "0W0 0W1 / 0I0 0I1", "SV102"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "text", "codes"), [case[1:] for case in EXCERPTS], ids=[case[0] for case in EXCERPTS])
def test_excerpts(keys, text, codes):
    verdicts = judge(rows_of(text), Problem.chain(**keys).to_dict(), excerpt=True)
    assert {code for code, found in verdicts.items() if found} == set(codes.split())


def profile(keys: dict, text: str, excerpt: bool = False) -> list[int]:
    problem = Problem.chain(**keys).to_dict()
    rows = [[read_step(step) for step in row] for row in rows_of(text)]
    return list(bytes_by_step(Case(Law(problem), rows, excerpt), 0))


BYTES = {"ranks": 1, "microbatches": 2, "form": "split", "activation": 5, "weight_stash": 2}
RECOMPUTING = BYTES | {"recompute": True, "boundary": 1}


@pytest.mark.parametrize(
    ("keys", "text", "expected"),
    [
        (BYTES, "0F0 0I0 0W0 0F1 0B1", [5, 5, 2, 5, 5]),
        (BYTES, "0F0 0F1 0I0 0I1 0W1 0W0", [5, 10, 10, 7, 4, 2]),
        (BYTES, "0F0 0W0 0I0 0F1", [5, 5, 5, 7]),
        (BYTES, "0B0 0F0 0F0", [0, 5, 5]),
        (BYTES, "0F0 0I0 0F0 0W0", [5, 5, 5, 5]),
        (BYTES, "0F0 0B0 0W0 0F1", [5, 5, 0, 5]),
        (BYTES, "0F0 (0F1;0B0)OVERLAP_F_B 0B1", [5, 10, 5]),
        (RECOMPUTING, "0F0 0F1 0I0 0W0 0B1", [1, 2, 6, 3, 5]),
        (RECOMPUTING, "0F0 0I0 0I0 0W0", [1, 5, 2, 2]),
        (RECOMPUTING, "0F0 (0F1;0B0)OVERLAP_F_B 0B1", [1, 6, 5]),
        (RECOMPUTING | {"form": "inference"}, "0F0 0F1", [1, 1]),
    ],
)
def test_bytes_step_by_step(keys, text, expected):
    assert profile(keys, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0B0 0W1", [5 + 2, 2]), ("0W0 0I0", [1, 5]), ("0F0 0W0", [1, 1]), ("0I1 0W1 0W0", [5 + 2, 2 + 2, 2])],
)
def test_bytes_of_an_excerpt(text, expected):
    assert profile(RECOMPUTING, text, excerpt=True) == expected


def test_places_are_ranks_and_positions():
    problem = Problem.chain(ranks=2, microbatches=2, in_flight=[1, 2]).to_dict()
    found = places(rows_of("0F0 0F1 0F0 [0B0;0B1] / 1F0 0B0 1B0 1F1 1B1"), problem)
    assert found["SV101"] == {(0, 3)}
    assert found["SV102"] == {(1, 1)}
    assert found["SV104"] == {(0, 2)}
    assert found["SV401"] == {(0, 1)}


def test_peaks_of_1f1b():
    problem = Problem.chain(ranks=2, microbatches=2, activation=3, static=10).to_dict()
    found = peaks(rows_of("0F0 0F1 0B0 0B1 / 1F0 1B0 1F1 1B1"), problem)
    assert found == {"in_flight": [2, 1], "in_flight_stage": [2, 1], "capacity": [16, 13]}


def test_texts_that_are_no_computing_are_refused():
    for text in ("0SEND_F1", "0F", "F0", "0F1junk", "0UNSHARD", "(0F0;)OVERLAP_F_B", "[]"):
        with pytest.raises(ValueError, match="oracle knows no"):
            read_step(text)


def test_the_oracle_stands_alone():
    imported = set()
    for name in ("compute_orders.py", "law.py", "memory.py", "times.py"):
        tree = ast.parse((Path(__file__).parent / name).read_text(encoding="utf-8"))
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    own = {"oracle.compute_orders", "oracle.law", "oracle.memory"}
    standard = {"__future__", "re", "collections.abc", "dataclasses", "fractions", "functools", "typing"}
    assert imported - own == standard


def test_threads_that_run_the_rows_stop_where_the_oracle_says():
    outcomes = {True: 0, False: 0}
    for seed in range(0, 20_000, 37):
        problem, rows, name = mutants.mutant(seed)
        data = problem.to_dict()
        case = Case(Law(data), [[read_step(text) for text in row] for row in rows], False)
        runs = Threads(case).run()
        outcomes[runs] += 1
        assert runs != judge(rows, data)["SV201"], (seed, name, data, rows)
    assert min(outcomes.values()) > 100


def test_bases_are_valid_and_mutants_repeat():
    for number in range(0, 1250, 9):
        found = random_schedules.base(number)
        violated = {code for code, is_violated in judge(found.rows, found.data).items() if is_violated}
        assert (violated == set()) == found.fits
        assert violated <= {"SV401", "SV402"}
    first = [mutants.mutant(seed) for seed in range(40)]
    random_schedules.base.cache_clear()
    assert first == [mutants.mutant(seed) for seed in range(40)]


def test_every_fault_and_every_code_occurs():
    names, codes, alone = set(), dict.fromkeys(CODES, 0), set()
    for seed in range(4000):
        problem, rows, name = mutants.mutant(seed)
        verdicts = judge(rows, problem.to_dict())
        violated = [code for code, found in verdicts.items() if found]
        names |= set(name.split(" + "))
        for code in violated:
            codes[code] += 1
        if len(violated) == 1:
            alone.add(violated[0])
    assert names == set(mutants.FAULTS)
    assert min(codes.values()) > 100, codes
    assert alone == set(CODES)
