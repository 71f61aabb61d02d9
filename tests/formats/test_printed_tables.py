"""The table that PyTorch prints of an order: read in full, wherever it was copied from; what is wrong has its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from schedverify.cli import main
from schedverify.core.errors import InputError
from schedverify.core.schedule import Schedule
from schedverify.formats import load, load_with_layout
from schedverify.formats.printed_tables import parse_printed_table

TABLE = """\
         Rank 0  Rank 1
Step 00: 0F0            <-- ERROR HERE
Step 01: 0F1     1F0
Step 02: None    1B0
Step 03: 0B0     1F1
Step 04:         1B1
Step 05: 0B1
Step 06: 0RECV_B1 1UNSHARD
Step 07:         1UNSHARD
Step 08: (0F5;2B1)OVERLAP_F_B
Step 09:         1F7
Step 10: 2I0     1F8
"""
ORDERS = Schedule.parse("0F0 0F1 0B0 0B1 0RECV_B1 (0F5;2B1)OVERLAP_F_B 2I0\n1F0 1B0 1F1 1B1 1UNSHARD 1UNSHARD 1F7 1F8")
SMALL = """\
        Rank 0 Rank 1
Step 0: 0F0   .
Step 1:        1F0
Step 2:        1B0
Step 3: 0B0   .
""".replace(".", "       ")


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8", newline="")
    return name


def test_marks_idle_cells_and_every_kind_of_action() -> None:
    read = parse_printed_table(TABLE)
    assert read.schedule == ORDERS
    assert read.layout.idle == ((2, 4, 7, 9), (0, 5, 8))


@pytest.mark.parametrize("name", ["table.txt", "job.log", "table"])
@pytest.mark.parametrize(
    "before",
    ["", "    ", "I1201 10:00:00.000000 7 torch/distributed/pipelining/schedules.py:9] [rank0]: ", "[default0]:"],
)
def test_wherever_it_was_copied_from(name: str, before: str) -> None:
    wanted = Schedule.parse("0F0 0B0\n1F0 1B0")
    table = "".join(f"{before}{line}\n" for line in SMALL.splitlines())
    for end in ("\n", "\r\n"):
        for text in (table, "\n".join(line.rstrip() for line in table.splitlines()) + "\n"):
            assert load(write(name, text.replace("\n", end))) == wanted
    around = (
        f"AssertionError: Rank 1, step 1: Running\n\nFull pipeline schedule:\n{table}\nstep 3 loss 0.5\nStep 9: 1\n"
    )
    assert load(write(name, around)) == wanted
    assert load(write(name, around + around)) == wanted


def test_blanks_that_were_lost_do_no_harm_where_no_rank_idles() -> None:
    assert load(write("t", "Rank 0 Rank 1\nStep 0: 0F0 1F0\nStep 1: 0B0\t1B0\n")) == Schedule.parse("0F0 0B0\n1F0 1B0")


def test_idle_cells_go_into_a_csv() -> None:
    schedule, layout = load_with_layout(write("t.txt", SMALL))
    assert schedule == Schedule.parse("0F0 0B0\n1F0 1B0")
    assert layout.idle == ((1, 2), (0,))
    assert main(["convert", "t.txt", "t.csv", "--to", "torch-csv"]) == 0
    assert Path("t.csv").read_text(encoding="utf-8") == "0F0,,,0B0\n,1F0,1B0\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("1F0", "1F0x", "row 3 (Step 1), column 2 (Rank 1): '1F0x' is no operation"),
        ("Step 2:        1B0", "Step 2:      1B0", "row 4 (Step 2): '1B0' stands below no rank (keep the blanks"),
        ("Step 1:        1F0\n", "", "row 3: Step 2, where Step 1 is expected (paste the whole table"),
        ("Step 2:", "Step 1:", "row 4: Step 1, where Step 2 is expected"),
        ("Step 2", "\nStep 2", "row 5 (Step 2): this row is parted from the one before by another line"),
        ("Rank 1", "Rank 2", "row 1: the ranks do not count from 0"),
        (SMALL, f"{SMALL}{SMALL.replace('0B0', '0B1')}", "row 6: another table begins here, which is not the same"),
        (SMALL, SMALL.splitlines()[0] + "\n", "row 1: no row stands below the names of the ranks"),
        (SMALL, SMALL.replace("Step ", "Step 0"), "row 5: the table ends with Step 03, and its labels are those of a"),
        ("Step 0: 0F0 ", "Step 0: 0F0 0F1 0F2", "row 2 (Step 0): '0F1' stands below no rank"),
    ],
)
def test_what_is_wrong_has_its_place(old: str, new: str, said: str) -> None:
    assert SMALL.count(old) == 1
    with pytest.raises(InputError) as refused:
        load(write("t.txt", SMALL.replace(old, new)))
    assert said in str(refused.value)
    assert str(refused.value).startswith("t.txt: row ")


def test_every_fault_is_told() -> None:
    with pytest.raises(InputError) as refused:
        parse_printed_table(SMALL.replace("1F0", "1X0").replace("0B0", "0Y0"))
    assert [fault.key for fault in refused.value.faults] == [
        "row 3 (Step 1), column 2 (Rank 1)",
        "row 5 (Step 3), column 1 (Rank 0)",
    ]


def test_a_remark_about_ranks_is_no_table() -> None:
    assert load(write("t.txt", "# Step 0 of Rank 0 Rank 1\n0F0 0B0 # Rank 0\n1F0 1B0\n")) == Schedule.parse(
        "0F0 0B0\n1F0 1B0"
    )


def test_one_command_judges_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", write("t.txt", SMALL)]) == 0
    assert main(["verify", write("t.txt", SMALL.replace("1F0", "1F1"))]) == 1
    assert "SV103 1F0 stands nowhere" in capsys.readouterr().out
