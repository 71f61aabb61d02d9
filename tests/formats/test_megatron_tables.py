"""Megatron's schedule table and orders of chunks: what they stand for, in every form in which it prints them.

The small functions here make tables and orders as Megatron documents them, number by number.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from schedverify.cli import main
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.formats import load, load_schedule
from schedverify.formats.megatron_tables import parse_megatron_table
from schedverify.generators import generate
from schedverify.verifier.verification import verify

PRINTED = """\
virtual_microbatch_id | 0 1 2 3 4 5 6 7 8 9
microbatch_id         | 0 1 2 0 1 2 3 4 3 4
model_chunk_id        | 0 0 0 1 1 1 0 0 1 1
"""
"""The example of Megatron's documentation: two ranks, groups of three, five micro-batches, two chunks."""
ORDER = [1, 1, 1, 2, 2, 2, -2, 1, -2, 1, -2, 2, -1, 2, -1, -1, -2, -2, -1, -1]
"""What it gives for that with five forwards before the first backward, which is rank 0."""


def table_of(microbatches: int, chunks: int, group: int) -> list[tuple[int, int]]:
    """Groups of micro-batches, in each every chunk in turn."""
    starts = range(0, microbatches, group)
    return [(m, c) for start in starts for c in range(chunks) for m in range(start, min(start + group, microbatches))]


def order_of(table: list[tuple[int, int]], chunks: int, first: int) -> list[int]:
    forwards = [chunk + 1 for _, chunk in table]
    backwards = [chunk - chunks for _, chunk in table]
    first = min(first, len(table))
    steady = itertools.chain(*zip(forwards[first:], backwards, strict=False))
    return [*forwards[:first], *steady, *backwards[len(table) - first :]]


def orders_of(table: list[tuple[int, int]], chunks: int, group: int, ranks: int) -> list[list[int]]:
    firsts = [r if chunks == 1 else 2 * r + (chunks - 1) * group for r in reversed(range(ranks))]
    return [order_of(table, chunks, first) for first in firsts]


def write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class TestTable:
    def test_the_example_of_megatron(self) -> None:
        schedule = parse_megatron_table(PRINTED, 2)
        assert order_of(table_of(5, 2, 3), 2, 5) == ORDER
        assert schedule.ranks == 2
        letters = [f"{step}"[0] + f"{step}"[1] for step in schedule.steps(0)]
        assert letters == [f"{(abs(k) - 1) * 2}{'F' if k > 0 else 'B'}" for k in ORDER]
        assert verify(schedule, Problem.chain(ranks=2, microbatches=5, virtual=2)).ok

    @pytest.mark.parametrize("ranks", [2, 3, 4])
    @pytest.mark.parametrize("chunks", [1, 2, 3])
    def test_with_groups_of_a_micro_batch_a_rank_it_is_interleaved_1f1b(self, ranks: int, chunks: int) -> None:
        problem = Problem.chain(ranks=ranks, microbatches=2 * ranks, virtual=chunks)
        read = parse_megatron_table(str(table_of(2 * ranks, chunks, ranks)), ranks)
        assert read == generate("1f1b" if chunks == 1 else "interleaved-1f1b", problem)

    @pytest.mark.parametrize(("ranks", "chunks", "group", "microbatches"), [(2, 2, 3, 7), (2, 3, 4, 4), (3, 2, 3, 8)])
    def test_any_group_runs_to_its_end(self, ranks: int, chunks: int, group: int, microbatches: int) -> None:
        table = table_of(microbatches, chunks, group)
        read = parse_megatron_table(json.dumps(table), ranks)
        assert verify(read, Problem.chain(ranks=ranks, microbatches=microbatches, virtual=chunks)).ok
        assert read == parse_megatron_table(str(orders_of(table, chunks, group, ranks)))

    def test_every_form_reads_alike(self) -> None:
        table = table_of(5, 2, 3)
        rows = "\n".join(f"{name} | {' '.join(map(str, ids))}" for name, ids in
                         zip(("microbatch_id", "model_chunk_id"), zip(*table, strict=True), strict=True))  # fmt: skip
        texts = {
            "a.txt": PRINTED, "b.txt": rows, "c": str(table), "d.txt": f"schedule_table = {table}\n",
            "e.log": f"\n{table}",
            "f.json": json.dumps(table), "g.txt": "[\n" + "".join(f"  {pair},\n" for pair in table) + "]\n",
            "h": f"table = {table}",
        }  # fmt: skip
        size = "pipeline_model_parallel_size = 2\n"
        problem = Problem.chain(ranks=2, microbatches=5, virtual=2)
        wanted = parse_megatron_table(PRINTED, 2)
        for name, text in texts.items():
            assert load_schedule(write(name, text), problem) == wanted, name
            if name != "f.json":
                assert load(write(name, size + text)) == wanted, name
        assert load(write("i.txt", f"--pipeline-model-parallel-size 2\n{PRINTED}")) == wanted
        assert load(write("j.txt", f"ranks: 2\r\n{PRINTED}".replace("\n", "\r\n"))) == wanted

    def test_without_ranks_it_says_how_to_name_them(self) -> None:
        with pytest.raises(InputError, match=r"does not say how many there are \(--problem FILE says it, or a line"):
            load(write("t.txt", PRINTED))

    def test_a_wrong_table_is_a_verdict(self) -> None:
        table = table_of(4, 2, 2)
        table[3] = table[2]
        problem = Problem.chain(ranks=2, microbatches=4, virtual=2)
        codes = {each.code for each in verify(load_schedule(write("t.txt", str(table)), problem), problem).violations}
        assert {"SV103", "SV104"} <= codes


class TestOrders:
    def test_every_form_reads_alike(self) -> None:
        orders = orders_of(table_of(4, 2, 2), 2, 2, 2)
        plain = [" ".join(map(str, order)) for order in orders]
        wanted = generate("interleaved-1f1b", Problem.chain(ranks=2, microbatches=4, virtual=2))
        texts = {
            "a.txt": "\n".join(plain), "b": "\n".join(map(str, orders)),
            "c.txt": str(orders), "d.json": json.dumps(orders),
            "e.txt": "".join(f"rank {rank}: {order}\n" for rank, order in enumerate(orders)),
            "f.log": "".join(f"Rank {rank} | {order}\n" for rank, order in enumerate(plain)),
            "g.txt": str(dict(enumerate(orders))), "h.txt": str([tuple(order) for order in orders]),
            "i.txt": ",\n".join(", ".join(map(str, order)) for order in orders) + "\n",
        }  # fmt: skip
        for name, text in texts.items():
            assert load(write(name, text)) == wanted, name

    def test_a_rank_without_the_others_is_a_verdict(self) -> None:
        assert load(write("o.txt", "1 1 -1 -1")) == Schedule.parse("0F0 0F1 0B0 0B1")
        lone = load(write("o.txt", "[1, 2, -2]\n[1, 2, -2, -1]"))
        assert isinstance(lone, Schedule)
        assert not verify(lone).ok


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[(0, 0), (1, 0), (0, 1), (x, 1)]", "row 1, column 7: expected a whole number, found 'x'"),
        ("[(0, 0),\n (1, 0, 1)]", "row 2, column 1: expected a micro-batch and a chunk, found 3 numbers"),
        ("[(0, 0), (-1, 0)]", "row 1, column 3: expected 0 or more, found -1"),
        (
            "microbatch_id | 0 1 0 1\nmodel_chunk_id | 0 0 1\n",
            "row 2 (model_chunk_id): 3 numbers, where microbatch_id has 4",
        ),
        ("microbatch_id | 0 1.5\nmodel_chunk_id | 0 0\n", "row 1, column 2: expected a whole number, found '1.5'"),
        ("microbatch_id | 0 1\nmodel_chunk_id | 0 0\nforward | 1 1\n", "row 3: expected one of virtual_microbatch_id"),
        ("microbatch_id | 0\nmicrobatch_id | 0\nmodel_chunk_id | 0\n", "microbatch_id stands twice"),
        ("1 1 -1 -1\n1 -1 1 -1.5\n", "row 2, column 4: expected a whole number, found '-1.5'"),
        ("rank 0: [1, -1]\nrank 2: [1, -1]\n", "row 2: 'rank 2:', where rank 1 is expected"),
        ("[(16777216, 0)]", "micro-batches go up to 16777215, found 16777216"),
        ("1 -70000", "row 1, column 2: 70000 chunks on 1 ranks are more than 65535 stages"),
        ("ranks 99999\n[(0, 0)]", "99999 ranks, where a schedule has 1 to 65535"),
        ("ranks 0\n[(0, 0)]", "0 ranks, where a schedule has 1 to 65535"),
    ],
)
def test_wrong_text_is_told_by_row_and_column(text: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        load_schedule(write("t.txt", text), Problem.chain(ranks=2, microbatches=2))
    assert said in str(refused.value)
    assert str(refused.value).startswith("t.txt: ")


def test_numbers_that_are_no_orders_are_not_taken_for_them() -> None:
    for text in ("1 2 3\n", "12"):
        with pytest.raises(InputError, match="is no operation"):
            load(write("t.txt", text))
    for text in ("-\n-\n", "0F0 0B0\n-\n", "[0SEND_F0;0SEND_F1]\n-\n"):
        assert load(write("t.txt", text)) == Schedule.parse(text)
    found = load(write("p", "edges = [[0, 1]]\nranks = 2\nmicrobatches = 1\n[costs]\nforward = 1\nbackward = 1\n"))
    assert isinstance(found, Problem)


def test_one_command_judges_it(capsys: pytest.CaptureFixture[str]) -> None:
    write("orders.txt", "\n".join(map(str, orders_of(table_of(4, 2, 2), 2, 2, 2))))
    assert main(["verify", "orders.txt"]) == 0
    write("p.toml", "ranks = 2\nmicrobatches = 5\nvirtual = 2\n[costs]\nforward = 1\nbackward = 2\n")
    write("table.txt", PRINTED)
    assert main(["verify", "table.txt", "--problem", "p.toml"]) == 0
    assert main(["convert", "table.txt", "table.csv", "--problem", "p.toml"]) == 0
    assert main(["verify", "table.csv", "--problem", "p.toml"]) == 0
    assert capsys.readouterr().out.count(": holds\n") == 3
