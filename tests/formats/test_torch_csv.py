"""PyTorch's CSV: what is read comes back as the same text, and the grammar that it had until 2.5 is refused.

What torch itself writes and reads is tried in ``tests/torch_bridge/test_round_trips.py``.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedverify.cli import main
from schedverify.core.errors import InputError, UnknownNameError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.formats import Layout, load, load_with_layout, save
from schedverify.formats.torch_csv import layout_of, modernized, parse_csv, to_csv
from schedverify.verifier.verification import verify

PROBLEM = Problem.chain(ranks=2, microbatches=2)
HINT = "schedverify convert --from torch-2.5-csv OLD.csv NEW.csv"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def again(text: str) -> str:
    """Read a CSV and write it again, with its layout."""
    schedule = parse_csv(text)
    return to_csv(schedule, comms=schedule.lowered, layout=layout_of(text))


class TestRoundTrip:
    @given(
        st.lists(st.lists(st.sampled_from([None, "0F0", "1B2", "0SEND_F1", "(0F1;0B0)OVERLAP_F_B"])), min_size=1),
        st.sampled_from(["\n", "\r\n", "\r"]),
    )
    def test_whatever_the_csv_module_writes_comes_back(self, rows: list[list[str | None]], end: str) -> None:
        class Text(list[str]):
            write = list.append

        text = Text()
        csv.writer(text, lineterminator=end).writerows(rows)
        assert again("".join(text)) == "".join(text)
        assert parse_csv("".join(text)).strings() == [[cell for cell in row if cell] for row in rows]

    def test_the_layout_is_where_no_step_stands(self) -> None:
        layout = layout_of('0F0,,0F1,\r\n\r\n""\r\n,1F0\r\n')
        assert layout == Layout("\r\n", ((1, 3), (), (0,), (0,)))
        assert layout_of("0F0") == Layout("\n", ((),))

    def test_a_schedule_of_another_length_still_keeps_all_its_steps(self) -> None:
        layout = layout_of("0F0,,,0F1,,0B0\n")
        for steps in (["0F0"], ["0F0", "0F1", "0B0", "0B1"], []):
            schedule = Schedule.of([steps, ["1F0"]])
            assert parse_csv(to_csv(schedule, comms=True, layout=layout)) == schedule

    def test_without_a_layout_rows_end_in_a_line_feed(self, desk: Path) -> None:
        (desk / "in.csv").write_bytes(b"0F0,,0F1\r\n")
        save(load("in.csv"), "out.csv")
        assert (desk / "out.csv").read_bytes() == b"0F0,0F1\n"

    def test_text_has_no_layout(self, desk: Path) -> None:
        save(Schedule.parse("0F0 0F1"), "in.txt")
        assert load_with_layout("in.txt") == (Schedule.parse("0F0 0F1"), Layout())


OLD = {
    "the whole backward as BW": ("0F0,0F1,0BW0,0BW1\n1F0,1BW0,1F1,1BW1\n", "row 1, column 3: '0BW0' stands in it"),
    "B beside W": ("0F0,,0B0,0W0\r\n\r\n1F0,1B0,1W0\r\n", "row 1, column 3: '0B0' stands beside the W of its stage"),
    "both": ("0F0,0BW0,0F1,0B1\n1F0,1B0,1W0\n", "row 1, column 2: '0BW0' stands in it"),
    "apart, in a later row": ("0F0,0B0\n1F1,,1B1,1F0,1W1\n", "row 2, column 3: '1B1' stands beside the W"),
    "quoted": ('"0F0","10B12","10W12"', "row 1, column 2: '10B12' stands beside the W"),
    "with an empty first rank": ("\r1F0,1BW0\r", "row 2, column 2: '1BW0' stands in it"),
}


class TestOldGrammar:
    @pytest.mark.parametrize("name", OLD)
    def test_it_is_refused_with_place_and_the_way_to_convert(self, name: str, desk: Path) -> None:
        text, place = OLD[name]
        (desk / "old.csv").write_bytes(text.encode())
        for read in (load, load_with_layout):
            with pytest.raises(InputError) as caught:
                read("old.csv")
            assert len(caught.value.faults) == 1
            assert str(caught.value).startswith(f"old.csv: {place}")
            assert HINT in str(caught.value)

    @pytest.mark.parametrize("name", OLD)
    def test_the_way_that_the_hint_names_works(self, name: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (desk / "OLD.csv").write_bytes(OLD[name][0].encode())
        assert main(["verify", "OLD.csv"]) == 2
        assert HINT in capsys.readouterr().err
        assert main(HINT.split()[1:]) == 0
        load("NEW.csv")

    def test_nothing_but_the_letters_changes(self, desk: Path) -> None:
        old = "0F0,,0BW0,0SEND_B1,0B1,,0W1\r\n1F0,10RECV_B10,10B10,10W10,1UNSHARD,1REDUCE_GRAD\r\n\r\n"
        new = "0F0,,0B0,0SEND_B1,0I1,,0W1\r\n1F0,10RECV_B10,10I10,10W10,1UNSHARD,1REDUCE_GRAD\r\n\r\n"
        (desk / "old.csv").write_bytes(old.encode())
        assert main(["convert", "--from", "torch-2.5-csv", "old.csv", "new.csv"]) == 0
        assert (desk / "new.csv").read_bytes() == new.encode()
        assert modernized(old) == new

    def test_what_is_the_same_in_both_stays(self) -> None:
        fused = "0F0,0B0,0SEND_B0\n"
        assert modernized(fused) == fused
        assert parse_csv(fused) == Schedule.of([["0F0", "0B0", "0SEND_B0"]])

    def test_a_converted_zero_bubble_order_is_right(self) -> None:
        old = "0F0,0F1,0B0,0W0,0B1,0W1\n1F0,1B0,1F1,1B1,1W0,1W1\n"
        split = Problem.chain(ranks=2, microbatches=2, backward_input=1, backward_weight=1)
        assert verify(parse_csv(modernized(old)), split).ok

    def test_a_missing_weight_part_is_not_made_up(self) -> None:
        old = "0F0,0F1,0B0,0W0,0B1\n1F0,1B0,1F1,1B1,1W0,1W1\n"
        split = Problem.chain(ranks=2, microbatches=2, backward_input=1, backward_weight=1)
        report = verify(parse_csv(modernized(old)), split)
        assert [violation.operations for violation in report.violations] == [("0W1",)]

    def test_today_s_grammar_is_not_the_old_one(self, desk: Path) -> None:
        text = "0F0,0I0,0W0\n1F0,,1B0,1W0\n"
        assert parse_csv(text).strings()[1] == ["1F0", "1B0", "1W0"]
        with pytest.raises(InputError, match=r"row 1, column 2: I is not in the grammar of torch-2\.5-csv"):
            modernized(text)

    def test_a_backward_too_many_is_a_verdict_where_the_grammar_is_clear(self) -> None:
        split = Problem.chain(ranks=1, microbatches=1, backward_input=1, backward_weight=1)
        for schedule in (parse_csv("0F0,0I0,0B0,0W0\n"), Schedule.parse("0F0 0B0 0W0")):
            assert "SV104" in {violation.code for violation in verify(schedule, split).violations}

    def test_other_grammars_and_other_forms_are_refused(self, desk: Path) -> None:
        (desk / "old.csv").write_text("0F0,0BW0\n")
        (desk / "old.txt").write_text("0F0 0BW0\n")
        with pytest.raises(UnknownNameError, match="unknown grammar 'torch-2'"):
            load_with_layout("old.csv", grammar="torch-2")
        with pytest.raises(InputError, match=r"old\.txt: no CSV, where torch-2\.5-csv is expected"):
            load_with_layout("old.txt", grammar="torch-2.5-csv")
        assert main(["convert", "old.csv", "new.csv", "--from", "torch-2"]) == 2


class TestOtherNumbersOfRanks:
    @pytest.mark.parametrize(("rows", "first"), [(1, 2), (3, 3), (5, 3)])
    def test_every_command_refuses_it_with_file_and_place(
        self, rows: int, first: int, desk: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save(PROBLEM, "problem.toml")
        (desk / "other.csv").write_text("".join(f"{rank}F0,{rank}B0\r\n" for rank in range(rows)))
        told = f"other.csv: row {first}: the schedule has {rows} rows, the problem 2 ranks (one row for each rank"
        for command in (["verify"], ["lower"], ["simulate"], ["draw"], ["convert", "out.csv"]):
            assert main([command[0], "other.csv", *command[1:], "--problem", "problem.toml"]) == 2
            captured = capsys.readouterr()
            assert captured.err.startswith(f"schedverify: {told}")
            assert captured.out == ""
        assert not (desk / "out.csv").exists()
