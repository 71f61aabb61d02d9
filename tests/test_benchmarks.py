"""The benchmarks run, on a sample, and their page has a place for what they print."""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from schedverify.core.discipline import Discipline
from schedverify.core.problem import Problem
from schedverify.formats import load_problem
from schedverify.generators import generate
from schedverify.planner.proved_lowering import lower
from schedverify.verifier.certificates import Derivation
from support.fuzzing import Ending

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
PEERS = {"peer_pyjobshop": "pyjobshop", "peer_z3": "z3"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_page_tells_of_it_and_shows_what_it_printed(script: Path) -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    mark = script.stem.replace("_", "-")
    assert f"benchmarks/{script.name}" in page
    parts = re.findall(rf"<!-- ({mark}(?:-[0-9.]+)?) -->\n(.*?)<!-- /\1 -->", page, re.DOTALL)
    assert parts
    for _, shown in parts:
        assert "Python 3." in shown
        assert "seed" in shown
        assert "| --- |" in shown


def test_random_problems_are_solved_and_told() -> None:
    command = [
        sys.executable,
        str(BENCHMARKS / "random_uneven.py"),
        "--count",
        "2",
        "--seconds",
        "1",
        "--first-seed",
        "6",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "seeds 6 to 7" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith(("| 1 | 1 |", "| 2 | 1 |"))]
    assert len(lines) == 2


def test_attacks_are_made_and_counted() -> None:
    command = [sys.executable, str(BENCHMARKS / "attacks.py"), "--count", "8", "--family", "a plan, one key"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    for line, kind in zip(done.stdout.splitlines()[-2:], ("a plan, one key", "all"), strict=True):
        cells = [cell.strip() for cell in line.split("|")]
        assert cells[1:3] == [kind, "8"]
        assert sum(map(int, cells[3:-1])) == 8


@pytest.mark.slow
def test_what_is_believed_of_an_attack_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier that believes everything is found out by every family of attacks."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    attacks = importlib.import_module("attacks")
    data = attacks.drawn_plan(random.Random(0), 0)
    credulous = attacks.attacked_plans.report_on(data)
    monkeypatch.setattr(attacks.attacked_plans, "report_on", lambda _: credulous)
    monkeypatch.setattr(attacks.attacked_certificates, "answer", lambda *_: attacks.BELIEVED)
    for family, attack in attacks.FAMILIES.items():
        found = [attack(random.Random(f"{family} {number}"), 0) for number in range(20)]
        assert sum(each.verdict == attacks.BELIEVED for each in found) > 5, family


def test_inputs_that_nobody_meant_are_tried_and_counted() -> None:
    command = [sys.executable, str(BENCHMARKS / "fuzz.py"), "--count", "40", "--first", "200", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    last = next(line for line in done.stdout.splitlines() if line.startswith("| all | 40 |"))
    assert sum(int(count) for count in last.split("|")[3:7]) == 40


def test_an_input_that_ends_badly_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    fuzz = importlib.import_module("fuzz")
    monkeypatch.setattr(fuzz, "call", lambda _: fuzz_ending("KeyError: 'x'"))
    found = fuzz.tried(range(3))
    assert [one.wrong[0].rpartition(": ended with ")[2] for one in found] == ["KeyError: 'x'"] * 3
    assert [row[-3] for row in fuzz.rows(found)][-1] == 3


def fuzz_ending(code: object) -> Ending:
    return Ending(code, "", "", 0.0, 0)


@pytest.mark.slow
def test_signals_are_sent_and_what_they_end_in_is_told() -> None:
    command = [sys.executable, str(BENCHMARKS / "signals.py"), "--count", "2", "--only", "certify"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "| certify | 2 |" in done.stdout, done.stderr
    assert "Traceback" not in done.stdout


def test_a_seed_draws_within_its_ranges_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    draw = importlib.import_module("random_uneven").draw
    for seed in range(200):
        problem: Problem = draw(seed)
        assert problem == draw(seed)
        assert 3 <= problem.ranks <= 8
        assert problem.microbatches <= 3 * problem.ranks
        assert problem.total_stages == problem.ranks * (1 + seed % 2)
        rooms = {room / (2 * (1 + seed % 2) * problem.ranks) for room in problem.capacity or ()}
        assert all(0.5 <= room <= 2 for room in rooms)


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_solves_the_same_problem(peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(PEERS[peer], reason="the extra bench is not installed")
    monkeypatch.syspath_prepend(BENCHMARKS)
    solve = importlib.import_module(peer).solve
    flight = Problem.chain(ranks=2, microbatches=3, forward=1, backward=3, in_flight=1)
    answer = solve(flight, 30, *([1] if peer == "peer_pyjobshop" else []))
    assert (answer.value, answer.proved) == (24, True)


def test_pyjobshop_keeps_bytes_and_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyjobshop", reason="the extra bench is not installed")
    monkeypatch.syspath_prepend(BENCHMARKS)
    solve = importlib.import_module("peer_pyjobshop").solve
    problem = load_problem(str(ROOT / "specs" / "problems" / "uni-p4-m8-c1-cap8.toml"))
    assert solve(problem, 60, 2)[:2] == (39, True)


def test_pytorch_is_asked_the_like(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the extra torch is not installed")
    monkeypatch.syspath_prepend(BENCHMARKS)
    large = importlib.import_module("large_schedules")
    lines = large.beside_torch(4, 8, 2)
    assert [line[0] for line in lines] == ["lowering", "checking", "both"]
    problem = Problem.chain(ranks=4, microbatches=8, virtual=2)
    schedules = importlib.import_module("torch.distributed.pipelining.schedules")
    order = generate("interleaved-1f1b", problem)
    theirs = schedules._add_send_recv(large.as_actions(order), problem.owner_rank.__getitem__, 8)
    ours = lower(order, problem).strings()
    assert [sorted(map(str, row)) for row in theirs.values()] == [sorted(row) for row in ours]


UNDER_PROOF = {
    # by class: of 2 ranks and 1 to 6 micro-batches, with 2 stages a rank where it takes several, those that are proved,
    # hang and are swapped with deferred receives, under edge and under pair
    "Interleaved1F1B": ({"proved": 5}, {"proved": 1, "hangs": 4}),
    "InterleavedZeroBubble": ({"proved": 2, "swapped": 3}, {"proved": 1, "hangs": 4}),
    "LoopedBFS": ({"proved": 6}, {"proved": 1, "hangs": 5}),
    "ZBVZeroBubble": ({"proved": 2, "swapped": 4}, {"proved": 1, "hangs": 5}),
    "DualPipeV": ({"proved": 3}, {"hangs": 3}),
}


@pytest.fixture
def under_proof(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("torch_under_proof")


@pytest.mark.parametrize("name", UNDER_PROOF)
def test_what_is_proved_of_a_class_of_torch(name: str, under_proof: Any) -> None:
    shapes = [shape for shape in under_proof.grid(2, 2, 6) if shape.name == name]
    findings = [finding for shape in shapes for finding in under_proof.judge(shape)]
    counts = {
        (how, discipline): Counter(f.fares[discipline] for f in findings if f.how == how and f.budget is None)
        for how in under_proof.LOWERINGS
        for discipline in Discipline
    }
    for discipline in Discipline:
        for how in (under_proof.LOWERINGS[0], "ours"):
            assert counts[how, discipline] == {"proved": len(shapes)}
    deferred = under_proof.LOWERINGS[1]
    assert (counts[deferred, Discipline.EDGE], counts[deferred, Discipline.PAIR]) == UNDER_PROOF[name]


def test_the_published_order_of_1f1b_is_found_wrong_on_every_shape(under_proof: Any) -> None:
    shapes = [shape for shape in under_proof.grid(4, 1, 8) if shape.name == "1F1B"]
    findings = {(f.shape, f.how): f for shape in shapes for f in under_proof.judge(shape)}
    assert len(shapes) > 15
    for shape in shapes:
        wrong = findings[shape, "published order"]
        assert wrong.counterexample.startswith(f"SV101 rank {shape.ranks - 1},")
        assert set(findings[shape, "loop by hand"].fares.values()) == {"proved"}


@pytest.mark.slow
def test_our_lowering_of_every_order_of_torch_is_proved_on_a_thousand_shapes(under_proof: Any) -> None:
    shapes = list(under_proof.grid(6, 3, 24))
    assert len(shapes) > 1000
    with ProcessPoolExecutor(2) as pool:
        for findings in pool.map(under_proof.judge, shapes, chunksize=16):
            ours = next(finding for finding in findings if finding.how == "ours")
            assert set(ours.fares.values()) == {"proved"}, ours


def test_torch_s_schedules_are_run_and_told(under_proof: Any) -> None:
    command = [sys.executable, str(BENCHMARKS / "torch_under_proof.py"), "--most", "2", "2", "3", "--sample", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "| ZBVZeroBubble | PyTorch's, receives deferred | 3 | 3 proved | 2 proved, 1 swapped |" in done.stdout
    assert re.search(r"\| PyTorch's, receives deferred \| \w+ \| swapped \| error [0-9]e(\+00|-01) \|", done.stdout)
    assert re.search(r"\| PyTorch's \| \w+ \| proved \| error (0e\+00|[0-9]e-1[0-9]) \|", done.stdout)


@pytest.mark.slow
def test_steps_of_the_runner_are_timed_and_told() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    sizes = ["--ranks", "2", "--ms", "1", "--steps", "2", "--turns", "2", "--seconds", "1"]
    command = [sys.executable, str(BENCHMARKS / "runner_steps.py"), *sizes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    # 4 micro-batches: 3 ms each on the last rank, and before and behind them F, I and (but for a split backward) W
    for name, predicted in {"1f1b": 15, "zb-h1": 13, "optimized": 13}.items():
        assert re.search(rf"^\| {name} \| 2 \| {predicted} \| [0-9]+ \| [0-9.]+ \|$", done.stdout, re.MULTILINE)
    actions = {"1f1b | 1 | 1": 16, "zb-h1 | 1 | 1": 24, "split | 1 | 4": 96, "1f1b | 2 | 2": 32, "zb-h1 | 2 | 2": 40}
    lines = {f"{line} | linear 8": count for line, count in actions.items()}
    for kind in ("linear 64", "layer 64"):
        wider = {"1f1b | 2 | 2": 32, "zb-h1 | 2 | 2": 40, "interleaved-1f1b | 2 | 4": 80}
        lines |= {f"{line} | {kind}": count for line, count in wider.items()}
    for line, count in lines.items():
        row = rf"^\| {re.escape(line)} \| {count} \| [0-9]+ \| [0-9]+ \| [0-9.]+ \|$"
        assert re.search(row, done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_a_profiled_model_is_planned_and_run() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    sizes = ["--width", "16", "--depth", "3", "--microbatches", "4", "--rounds", "3", "--steps", "2", "--seconds", "1"]
    command = [sys.executable, str(BENCHMARKS / "profiled_gpt.py"), *sizes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    blocks = re.findall(r"^\| (\w+) [a-z ]*(?:\| [0-9.]+ \[[0-9., ]+\] ){4}\|$", done.stdout, re.MULTILINE)
    assert blocks == ["embedding", "one", "head"]
    rows = re.findall(r"^\| (.*) \| ([0-9]) \+ ([0-9]) \| [0-9]+ \| [0-9]+ \| [0-9.]+ \|$", done.stdout, re.MULTILINE)
    assert rows[0] == ("1F1B, as many layers on each rank", "3", "2")
    assert [name for name, *_ in rows[1:]] == [f"{each}, best partition" for each in ("1F1B", "ZB-H1", "optimized")]
    assert {int(first) + int(second) for _, first, second in rows} == {5}


@pytest.fixture
def false_accepts(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.syspath_prepend(ROOT / "tests")
    return importlib.import_module("false_accepts")


def test_no_balancer_does_better(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchgpipe", reason="the extra bench is not installed")
    pytest.importorskip("deepspeed", reason="the extra bench is not installed")
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("partition_peers")
    cases = [module.judged(seed) for seed in range(60)]
    assert {case.kind for case in cases} == set(module.KINDS)
    rows = {row[:2]: row[2:] for row in module.lines(cases)}
    assert all(counts[1] == 0 for counts in rows.values())
    assert all(rows[peer, "all"][2] > 0 for peer in module.PEERS)
    assert module.busiest([3, 1, 4], [0, 2, 3]) == 4
    assert module.torchgpipe([1, 2, 10, 1, 1, 1, 10, 1, 10, 10, 10, 2, 10, 2, 10], 14) is None


def test_the_page_tells_of_2000_partitions_and_none_that_is_worse() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- partition-peers -->")[2].partition("<!-- /partition-peers -->")[0]
    totals = re.findall(r"\| all \| ([0-9]+) \| ([0-9]+) \| ([0-9]+) \|", shown)
    assert len(totals) == 3
    for cases, worse, better in totals:
        assert (cases, worse) == ("2000", "0")
        assert int(better) > 100


def test_nobody_is_fooled_but_the_peers(false_accepts: Any) -> None:
    counts = false_accepts.judged(range(300))
    rows = {row[:2]: row[2:] for row in false_accepts.lines(counts)}
    for within in (false_accepts.ORDERS, false_accepts.LOWERED):
        wrong, accepts, _, right, rejects, _ = rows[within, "ours"]
        assert (wrong + right, accepts, rejects) == (60, 0, 0)
        assert min(wrong, right) > 5
        for peer in ("CSV", "CSV, then simulated"):
            assert 0 < rows[within, peer][1] < rows[within, peer][0] < wrong
    for within in (false_accepts.NAMED_ORDERS, false_accepts.NAMED_LOWERED):
        wrong, accepts, _, right, rejects, _ = rows[within, "ours"]
        assert (wrong + right, accepts, rejects) == (30, 0, 0)
        assert right < 5
        assert 0 < rows[within, "CSV"][1] < rows[within, "CSV"][0] <= wrong
    for within, drawn in ((false_accepts.DRAWN_ORDERS, 30), (false_accepts.DRAWN_LOWERED, 60)):
        wrong, accepts, _, right, rejects, _ = rows[within, "ours"]
        assert (wrong + right, accepts, rejects) == (drawn, 0, 0)
    assert rows[false_accepts.ORDERS, "_validate_schedule"][1] > 3
    assert rows[false_accepts.LOWERED, "CSV"][1] > 10


def test_a_judge_that_takes_or_refuses_everything_is_counted_so(
    false_accepts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer in (True, False):
        monkeypatch.setattr(false_accepts, "judges", lambda _, said=answer: [("ours", lambda _: said)])
        for row in false_accepts.lines(false_accepts.judged(range(40))):
            _, _, wrong, accepts, _, right, rejects, _ = row
            assert (accepts, rejects) == ((wrong, 0) if answer else (0, right))


def test_what_is_known_to_fool_pytorch(false_accepts: Any) -> None:
    base = false_accepts.base_of("1f1b", 2, 2)
    doubled = [["0F0", *base.rows[0]], base.rows[1]]
    circle = [["0F0", "0B0", "0F1", "0B1"], ["1F1", "1B1", "1F0", "1B0"]]
    for rows, takes in ((base.rows, True), (doubled, True), (circle, True), ([*base.rows[:1], []], False)):
        mutant = false_accepts.Mutant(base, false_accepts.ORDERS, "", rows)
        assert mutant.is_right == (rows == base.rows) == false_accepts.ours(mutant)
        assert false_accepts.validates(mutant) == takes
    assert not false_accepts.loads(mutant._replace(rows=circle))
    assert false_accepts.simulates(mutant._replace(rows=base.rows))


def test_the_page_tells_no_mistake_of_ours() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- false-accepts -->")[2].partition("<!-- /false-accepts -->")[0]
    assert "100000 mutants" in shown
    counts = re.findall(r"\| ours \| [0-9]+ \| ([0-9]+) \| [0-9.]*%? \| [0-9]+ \| ([0-9]+) \|", shown)
    assert len(counts) == 7
    assert set(counts) == {("0", "0")}


@pytest.mark.slow
def test_plans_of_large_decoders_come_to_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of several best partitions is found may differ; each figure follows from its layout."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    plans = importlib.import_module("decoder_plans")
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- decoder-plans -->")[2].partition("<!-- /decoder-plans -->")[0]
    for name, device, tensor_parallel, sequence in plans.SET_UPS:
        rows = [line.strip("| ").split(" | ") for line in shown.splitlines() if line.startswith(f"| {name}")]
        layouts = [line.rpartition(": ")[2] for line in shown.splitlines() if line.startswith(f"{name}, ")]
        model = plans.the_model(name, device, tensor_parallel, sequence)
        found, _ = plans.planned(model, seconds=60)  # a busy machine may not prove it, but finds it
        assert found.partition.bottleneck == int(rows[0][2])
        assert int(rows[3][3]) <= int(rows[0][3])
        for (_, called, bottleneck, makespan, peak), layout in zip(rows[:3], layouts[:3], strict=True):
            line = plans.timed(called, found, plans.layers_of(plans.read_layout(layout)))
            assert (line.bottleneck, line.makespan, line.layout) == (int(bottleneck), int(makespan), layout)
            assert f"{line.peak / 1e9:.1f}" == peak
        assert layouts[2] == plans.BY_HAND


def test_decorators_become_calls_so_that_mutants_reach_what_they_decorate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    score = importlib.import_module("mutation_score")
    source = (
        '@rule("SV9", "a name")\ndef check(case):\n    """Say it."""\n    yield case\n\n\n'
        "class Some:\n    @cached_property\n    def one(self):\n        return 1\n\n    @staticmethod\n    def two():\n"
        "        return 2\n"
    )
    assert score.undecorated(source) == (
        'def check(case):\n    """Say it."""\n    yield case\ncheck = rule("SV9", "a name")(check)\n\n\n'
        "class Some:\n    def one(self):\n        return 1\n    one = cached_property(one)\n\n    @staticmethod\n"
        "    def two():\n        return 2\n"
    )
    low, high = score.wilson(90, 100)
    assert (round(low, 3), round(high, 3)) == (0.826, 0.945)
    assert score.wilson(0, 0) == (0, 1)
    found = {
        "schedverify.verifier.rules.memory.x__mutmut_1": "survived",
        "schedverify.verifier.certificates.x__mutmut_2": "killed",
    }
    lines = {row[0]: row[1:6] for row in score.rows(found)}
    assert lines["evidence of bounds"] == [1, 1, 0, 0, "100.0%"]
    assert lines["other properties"] == [1, 0, 0, 1, "0.0%"]
    assert lines["count relaxation"] == [0, 0, 0, 0, ""]
    assert lines["all"] == [2, 1, 0, 1, "50.0%"]


BENT = ("--family", "a bent certificate", "--count", "400")


def test_bent_certificates_are_told_by_rule_and_none_is_believed() -> None:
    command = [sys.executable, str(BENCHMARKS / "attacks.py"), *BENT, "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "seed 3" in done.stdout
    assert re.search(r"^\| all \| 400 \|( [0-9]+ \|){3} 0 \|$", done.stdout, re.MULTILINE)
    for rule in ("load", "pair", "idle", "counts", "sequence", "memory"):
        assert f"| {rule}: " in done.stdout


def test_a_certificate_that_gets_by_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rule that proves a tick more than it should is found by bounds above the best schedule."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    attacks = importlib.import_module("attacks")
    load = Derivation.load
    monkeypatch.setattr(Derivation, "load", lambda known, certificate: load(known, certificate) + 1)
    monkeypatch.setattr(sys, "argv", ["attacks.py", *BENT])
    assert attacks.main() == 1
    assert "best known" in capsys.readouterr().out


def test_orders_for_nccl_are_drawn_and_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    reality = importlib.import_module("nccl_reality")
    reported = list(reality.reported())
    hang = [reality.prediction(case, "pair") == reality.HANGS for case in reported]
    assert hang == [True, True, False]
    changed = list(reality.changed(0))
    assert len(changed) == reality.CHANGED
    count = Counter(reality.prediction(case, "pair") for case in changed)
    assert count == {reality.ENDS: 3, reality.HANGS: 4, reality.SWAPS: 3}
    assert changed == list(reality.changed(0))


@pytest.mark.slow
def test_reality_agrees_over_gloo(tmp_path: Path) -> None:
    """Two reported orders, under both disciplines that gloo has: two of the four runs hang."""
    pytest.importorskip("torch", reason="torch is not installed")
    found = tmp_path / "outcomes.json"
    options = ["--backend", "gloo", "--bytes", "1024", "--only", "2", "--seconds", "8", "--json", str(found)]
    command = [sys.executable, str(BENCHMARKS / "nccl_reality.py"), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    outcomes = json.loads(found.read_text())["outcomes"]
    assert [(each["discipline"], each["seen"]) for each in outcomes] == [
        ("edge", "ends"), ("block", "hangs"), ("edge", "ends"), ("block", "hangs"),
    ]  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 runs did what was predicted." in done.stdout
