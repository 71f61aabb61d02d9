"""What is more than the work can do is refused by name, with the number and the limit, before it is begun."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from schedverify import InputError, Problem, Schedule, generate, simulate, verify
from schedverify.cli.app import main
from schedverify.core.problem.shape import MAX_OPERATIONS
from schedverify.formats.models.model_files import load_model
from schedverify.generators import families
from schedverify.partitioner.stage_problem import cut

MODEL = """
[[layer]]
name = "a"
forward = 1
backward = 2
repeat = {repeat}
"""


@pytest.mark.parametrize(
    ("keys", "operations"),
    [
        ({"ranks": 16, "microbatches": 1 << 23}, 1 << 28),
        ({"ranks": 1, "microbatches": 1 << 24, "virtual": 16, "form": "inference"}, 1 << 28),
        ({"ranks": 8, "microbatches": 11_184_810, "form": "split"}, 268_435_440),
        ({"ranks": 2048, "microbatches": 1 << 16, "replicas": 16}, 1 << 28),
    ],
)
def test_a_problem_has_at_most_so_many_operations(keys: dict[str, int], operations: int) -> None:
    assert Problem.chain(**keys).most_operations == operations <= MAX_OPERATIONS
    more = keys | {"ranks": keys["ranks"] + 1}
    with pytest.raises(InputError, match=r"microbatches: .* operations \(.*at most 268435456"):
        Problem.chain(**more)


def test_copies_by_default_are_those_of_the_formula() -> None:
    for microbatches, copies, slices in ((7, 3, 1), (8, 3, 2), (12, 5, 3), (5, 7, 1), (6, 6, 6), (16, 2, 4), (1, 4, 1)):
        expected = tuple(m // slices * slices * copies // microbatches for m in range(microbatches))
        if slices == 1 or all(len(set(expected[q : q + slices])) == 1 for q in range(0, microbatches, slices)):
            problem = Problem.chain(ranks=2, microbatches=microbatches, replicas=copies, slices=slices)
            assert problem.replica_of == expected


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_families_refuse_what_is_too_long_for_them(family) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=r"wants a schedule of at most .*nearest: microbatches = ") as refused:
        family.problem(8, 1 << 21)
    nearest = int(str(refused.value).rpartition(" = ")[2].rstrip(")"))
    fitting = family.problem(8, nearest)
    assert family.suits(fitting)
    longer = Problem.of(fitting.to_dict() | {"microbatches": nearest + 1})
    assert not family.suits(longer)
    with pytest.raises(InputError, match="wants a schedule of at most"):
        generate(family.name, longer)


def test_what_generate_writes_is_bounded(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    for name, microbatches in (("a.txt", (1 << 22) + 1), ("a.csv", (1 << 19) + 1)):
        options = ["--ranks", "1", "--microbatches", str(microbatches), "-o", str(tmp_path / name)]
        assert main(["generate", "1f1b", *options]) == 2
        assert f"microbatches: {microbatches} micro-batches through 1 stages" in capsys.readouterr().err
        assert not (tmp_path / name).exists()


def test_a_plan_of_very_many_ranks_is_refused_before_it_is_made(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    order = tmp_path / "order.txt"
    order.write_text("\n".join(f"{rank}F0" for rank in range(2049)))
    assert main(["convert", str(order), str(tmp_path / "plan.json")]) == 2
    assert "ranks: a plan holds a latency for each pair of 2049 ranks" in capsys.readouterr().err


def test_models_are_cut_up_to_a_bound(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "model.toml"
    path.write_text(MODEL.format(repeat=100_000))
    assert main(["partition", str(path), "--ranks", "21"]) == 2
    assert "layer: 100000 layers for 21 stages are 2100000 places for a cut, at most 2097152" in capsys.readouterr().err
    path.write_text(MODEL.format(repeat=8))
    assert main(["partition", str(path), "--ranks", "2", "--microbatches", "600000"]) == 2
    message = "microbatches: 600000 micro-batches through 2 stages make 2400000 operations, at most 2097152"
    assert message in capsys.readouterr().err
    with pytest.raises(InputError, match="at most 2097152"):
        cut(load_model(path), ranks=2, microbatches=600_000)


def test_excerpts_and_faults_of_large_problems_take_what_stands() -> None:
    problem = Problem.chain(ranks=2, microbatches=1 << 22, virtual=16)
    schedule = Schedule.parse("0F5 0F7 2F5 0B5\n1F5 1B5")
    assert problem.copy_by_microbatch[-1] == 0
    tracemalloc.start()
    try:
        report = verify(schedule, problem, excerpt=True)
        with pytest.raises(Exception, match="stage 0 lacks operations of micro-batch 0 on rank 0"):
            simulate(schedule, problem)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    small = Problem.chain(ranks=2, microbatches=8, virtual=16)
    assert report.measures == verify(schedule, small, excerpt=True).measures
