"""A timeline prints its measures, finds its steps by their text, and gives all of them as rows."""

from __future__ import annotations

import pytest

import schedverify as sv
from schedverify.cli import main
from schedverify.core.timeline import by_rank, measures_table, sizes_by_rank
from schedverify.core.units import Units

PROBLEM = sv.Problem.chain(ranks=2, microbatches=2, forward=1, backward=2)
TIMELINE = sv.simulate(sv.generate("1f1b", PROBLEM), PROBLEM)


def test_it_prints_as_the_command_does(tmp_path, capsys) -> None:
    sv.save(TIMELINE.schedule, tmp_path / "s.txt")
    sv.save(PROBLEM, tmp_path / "p.toml")
    main(["simulate", str(tmp_path / "s.txt"), "-p", str(tmp_path / "p.toml")])
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert printed.endswith(f"\n{TIMELINE}")
    assert str(TIMELINE).startswith(
        "  makespan         9 ticks\n  span             9 ticks\n  bubble fraction  0.3333\n"
    )


WAITS = sv.Problem.chain(
    ranks=2, microbatches=2, form="split", forward=[6, 1], backward_input=1, backward_weight=[5, 10], latency=3
)
WAITING = sv.Schedule.parse("0F0 0F1 0I0 0W0 0I1 0W1\n1F0 1I0 1F1 1I1 1W0 1W1")
NOTE = "  a rank is under way for 28 ticks here; where first steps wait, batches follow each other every 27 ticks"


def test_it_says_where_first_steps_that_wait_shorten_its_span() -> None:
    timeline = sv.simulate(WAITING, WAITS)
    assert (timeline.span, timeline.longest_window) == (27, 28)
    assert str(timeline).endswith(f"\n{NOTE}")
    assert str(sv.verify(WAITING, WAITS)).endswith(f"\n{NOTE}")
    assert "under way" not in str(TIMELINE)
    assert "under way" not in str(sv.verify(TIMELINE.schedule, PROBLEM))


def test_the_window_of_a_lowered_one_is_that_of_what_computes() -> None:
    timeline = sv.simulate(sv.lower(WAITING, WAITS), WAITS, discipline="buffered")
    assert (timeline.span, timeline.longest_window) == (27, 28)


def test_it_is_one_line_as_a_value() -> None:
    assert repr(TIMELINE) == "<Timeline: 2 ranks, 8 steps, makespan 9>"


def test_brackets_find_a_step() -> None:
    assert TIMELINE["1B0"] == sv.StepTime(rank=1, position=1, start=2, end=4)
    assert TIMELINE[sv.Op("1B0")] == TIMELINE[TIMELINE.schedule.step(1, 1)] == TIMELINE["1B0"]
    with pytest.raises(KeyError, match="no rank runs 2F0"):
        _ = TIMELINE["2F0"]
    with pytest.raises(sv.InputError, match="'zwei' is no operation"):
        _ = TIMELINE["zwei"]


def test_brackets_find_parts_of_steps_and_whole_ones() -> None:
    problem = sv.Problem.chain(ranks=1, microbatches=2, forward=2, backward=3)
    timeline = sv.simulate(sv.Schedule.parse("0F0 (0F1;0B0)OVERLAP_F_B 0B1"), problem)
    whole = sv.StepTime(0, 1, 2, 7)
    assert timeline["0F1"] == timeline["0B0"] == timeline["(0F1;0B0)OVERLAP_F_B"] == whole
    assert timeline["0B1"].position == 2
    with pytest.raises(KeyError, match="no rank runs"):
        _ = timeline["(0F1;0B1)OVERLAP_F_B"]


def test_brackets_find_sends_and_receives() -> None:
    lowered = sv.lower(TIMELINE.schedule, PROBLEM)
    timeline = sv.simulate(lowered, PROBLEM)
    assert timeline["0SEND_F0"] == sv.StepTime(0, 1, 1, 1)
    assert timeline["1RECV_F0"].rank == 1


def test_rows_hold_every_step() -> None:
    rows = TIMELINE.rows()
    assert rows[0] == {"rank": 0, "position": 0, "step": "0F0", "start": 0, "end": 1}
    assert [row["step"] for row in rows] == [step for row in TIMELINE.schedule.strings() for step in row]
    for row in rows:
        assert TIMELINE[row["step"]] == (row["rank"], row["position"], row["start"], row["end"])
        assert type(row["start"]) is int


def test_it_is_no_sequence() -> None:
    with pytest.raises(TypeError, match=r"a Timeline is not iterable: rows\(\) has its steps"):
        list(TIMELINE)


def test_what_stands_by_rank_is_a_tuple() -> None:
    assert TIMELINE.peak_in_flight == TIMELINE.peak_memory == (2, 1)


def test_figures_by_rank_stand_in_a_line() -> None:
    assert by_rank((3,)) == "3"
    assert by_rank((3, 3)) == "3 on every rank"
    assert by_rank((3, 4)) == "3 4"
    assert by_rank(tuple(range(33))) == " ".join(map(str, range(32))) + " ... (most: 32)"
    assert len(list(measures_table(TIMELINE.measures, Units()))) == 7


def test_sizes_by_rank_stand_in_a_line_with_their_unit() -> None:
    gib, units = 1 << 30, Units("us", "GiB")
    assert sizes_by_rank((3,), Units()) == "3 units"
    assert sizes_by_rank((3, 3), Units()) == "3 units on every rank"
    assert sizes_by_rank((16 * gib, 3 * gib // 2), units) == "16.0 1.5 GiB"
    assert sizes_by_rank((16 * gib, 16 * gib), units) == "16.0 GiB on every rank"
    assert sizes_by_rank((16 * gib, 16 * gib + 1), units) == f"{16 * gib:,} {16 * gib + 1:,} B"
    assert sizes_by_rank((16 * gib, 16 * gib), units, beside=[16 * gib + 1024]) == f"{16 << 20:,}.0 KiB on every rank"
    many = tuple(rank * gib for rank in range(33))
    assert sizes_by_rank(many, units).endswith(" 31.0 GiB ... (most: 32.0 GiB)")


def test_a_notebook_shows_its_picture() -> None:
    html = TIMELINE._repr_html_()
    assert html.startswith("<svg")
    assert html.endswith("  peak memory      2 1 units</pre>")
