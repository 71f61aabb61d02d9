"""Schedule files: text and PyTorch's CSV come back as they went; what is none is told by row and column."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedverify.core.errors import InputError, ScheduleError
from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.formats import load, save, trace
from schedverify.formats.schedule_forms import looks_like_csv, parse_text
from schedverify.formats.torch_csv import parse_csv, to_csv
from schedverify.simulator.engine import simulate
from support.call_counts import calls_of
from support.strategies import read_or_refused, schedules

MILLION = 1_000_000


def refused(parse: Callable[[str], Schedule], text: str) -> None:
    with contextlib.suppress(InputError):
        parse(text)


def told(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_csv(text)
    return [str(fault) for fault in caught.value.faults]


def of_today(schedule: Schedule) -> bool:
    """Whether its CSV cannot be taken for the grammar until PyTorch 2.5: B beside W of one micro-batch, and no I."""
    found = {op for rank in range(schedule.ranks) for step in schedule.steps(rank) for op in step.ops}
    weights = {op._replace(kind=Kind.B) for op in found if op.kind is Kind.W}
    return any(op.kind is Kind.I for op in found) or not weights & found


@given(schedules(groups=False).filter(of_today), st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_schedule_comes_back_from_csv(schedule: Schedule, end: str) -> None:
    text = to_csv(schedule, comms=True)
    assert parse_csv(text) == schedule
    assert parse_csv(text.replace("\n", end)) == schedule
    assert list(csv.reader(io.StringIO(text))) == schedule.strings()


@given(schedules(), st.sampled_from(["\n", "\r\n", "\r", "\n\n", "  # idle, then\n"]))
def test_a_schedule_comes_back_from_text(schedule: Schedule, end: str) -> None:
    assert parse_text(str(schedule).replace("\n", end) + end) == schedule


@given(schedules().filter(of_today))
def test_csv_without_communication_holds_the_compute_steps(schedule: Schedule) -> None:
    again = parse_csv(to_csv(schedule, comms=False))
    assert again.ranks == schedule.ranks
    for rank in range(schedule.ranks):
        compute = [step for step in schedule.steps(rank) if step.ops[0].kind <= Kind.W]
        assert list(again.steps(rank)) == compute


def test_csv_as_pytorch_writes_it() -> None:
    text = '0F0,,"1F1", 0SEND_F0 ,(0F5;7B1)OVERLAP_F_B,2UNSHARD\r\n\r\n""\r\n,,\r\n2RESHARD,2REDUCE_GRAD\r\n'
    schedule = parse_csv(text)
    assert schedule.strings() == [
        ["0F0", "1F1", "0SEND_F0", "(0F5;7B1)OVERLAP_F_B", "2UNSHARD"], [], [], [], ["2RESHARD", "2REDUCE_GRAD"],
    ]  # fmt: skip
    assert parse_csv("0F0").ranks == parse_csv("0F0\n").ranks == 1
    assert parse_csv("0F0\n\n").ranks == parse_csv("\n\n").ranks == 2


def test_what_is_no_csv_is_told_with_row_and_column() -> None:
    found = told("0F0,,1F0junk\n\n1WAIT,0F0 0F1\n0F1;0B1,0BX0,F0\n")
    places = [line.partition(":")[0] for line in found]
    assert places == [f"row {row}, column {column}" for row, column in ((1, 3), (3, 1), (3, 2), (4, 1), (4, 2), (4, 3))]
    assert found[0] == "row 1, column 3: '1F0junk' is no operation (such as 2F0, 0I3, 0SEND_F1 or 2UNSHARD)"
    assert "no groups and names no peers" in told("[0SEND_F0;2RECV_F0]")[0]
    assert "no groups and names no peers" in told("0F0,0SEND_F0>2")[0]
    assert "out of range" in told("0F99999999")[0]
    assert "no rank in it" in told("")[0]


WAITS = ("0WAIT_SEND_F0", "1WAIT_SEND_B0", "1WAIT_REDUCE_GRAD")


def test_csv_refuses_to_be_written_with_what_it_cannot_hold() -> None:
    names, waits = "no groups and names no peers", "no waits before 2.15"
    refused = {"[0SEND_F0;2RECV_F0]": names, "0SEND_F0>2": names, **dict.fromkeys(WAITS, waits)}
    for step, reason in refused.items():
        schedule = Schedule.of([["0F0"], ["1F0", step]])
        with pytest.raises(ScheduleError, match=f"rank 1, position 1, .* {reason}"):
            to_csv(schedule, comms=True, waits=False)
        assert to_csv(schedule, comms=False, waits=False) == "0F0\n1F0\n"


def test_csv_of_pytorch_since_2_15_has_waits(tmp_path: Path) -> None:
    for wait in WAITS:
        text = f"0F0,{wait}\n"
        schedule = parse_csv(text)
        assert schedule.strings() == [["0F0", wait]]
        assert to_csv(schedule, comms=True) == text
        assert to_csv(schedule, comms=False) == "0F0\n"
        for form in ("csv", "torch-2.15-comms-csv"):
            save(schedule, tmp_path / "with.csv", form=form)
            assert load(tmp_path / "with.csv") == schedule
        with pytest.raises(ScheduleError, match=r"torch-2\.15-comms-csv has them"):
            save(schedule, tmp_path / "without.csv", form="torch-comms-csv")


def test_text_with_commas_says_how_csv_is_read() -> None:
    with pytest.raises(InputError, match=r"files that end in \.csv"):
        parse_text("0F0,0F1\n1F0,1F1\n")
    assert not looks_like_csv("# made by a, b\n0F0 0F1 # c, d\n")
    assert looks_like_csv("# one\n\n0F0,0F1\n")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("x " * MILLION, "line 1, step 1"),
        ("x\n" * MILLION, "line 1, step 1"),
        ("0F0 " * 1000 + "y " * MILLION, "line 1, step 1001"),
        ("\n" * MILLION + "z\n", f"line {MILLION + 1}, step 1"),
        ("#" * MILLION, ""),
        (" " * MILLION, ""),
        ("0F0\n" * 70_000, ""),
        ("[" + ";" * MILLION + "]", "line 1, step 1"),
        ("(" * MILLION, "line 1, step 1"),
    ],
)
def test_endless_text_ends_soon_with_few_faults(text: str, place: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_text(text)
    assert calls_of(lambda: refused(parse_text, text)) < 15_000 + 40 * min(text.count("\n"), 70_000)
    assert len(caught.value.faults) in (1, 21)
    assert caught.value.faults[0].key == place
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("x," * MILLION, "row 1, column 1"),
        ("x\n" * 60_000, "row 1, column 1"),
        ("," * MILLION + "q", f"row 1, column {MILLION + 1}"),
        ("\n" * MILLION, ""),
        ("\r\n" * 70_000, ""),
        ("1" * MILLION, "row 1, column 1"),
        ("0W" + "1" * MILLION, "row 1, column 1"),
        ('"' * MILLION, "row 1, column 1"),
    ],
)
def test_endless_csv_ends_soon_with_few_faults(text: str, place: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_csv(text)
    assert calls_of(lambda: refused(parse_csv, text)) < 1_000
    assert len(caught.value.faults) in (1, 21)
    assert caught.value.faults[0].key == place


def test_a_million_commas_are_an_idle_rank() -> None:
    assert parse_csv("," * MILLION) == Schedule.of([[]])


@given(st.text(max_size=40) | st.from_regex(re.compile(r"[0-9FBIWSENDRCV_();\[\],<> \n#-]{0,40}"), fullmatch=True))
def test_no_text_is_anything_but_a_schedule_or_an_input_error(text: str) -> None:
    for parse in (parse_text, parse_csv):
        assert read_or_refused(lambda parse=parse: parse(text), Schedule)


# The trace


def test_a_trace_has_a_process_a_rank_and_an_event_a_step(tmp_path: Path) -> None:
    problem = Problem.chain(ranks=2, microbatches=2, latency=1, name="two", tick="us")
    schedule = Schedule.parse("0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1")
    timeline = simulate(schedule, problem)
    data = json.loads(trace(timeline))
    assert data["otherData"] == {"problem": "two", "tick": "us"}
    names = [event["args"]["name"] for event in data["traceEvents"] if event["name"] == "process_name"]
    assert names == ["rank 0", "rank 1"]
    events = [event for event in data["traceEvents"] if event["ph"] == "X"]
    first = {"name": "0F0", "cat": "F", "ph": "X", "pid": 0, "tid": 0, "ts": 0, "dur": 1}
    assert events[0] == first | {"args": {"stage": 0, "microbatch": 0}}
    for rank in (0, 1):
        mine = [event for event in events if event["pid"] == rank]
        assert [event["name"] for event in mine] == schedule.strings()[rank]
        assert [event["ts"] for event in mine] == timeline.starts[rank].tolist()
        assert [event["ts"] + event["dur"] for event in mine] == timeline.ends[rank].tolist()
        assert [Op.parse(event["name"]).microbatch for event in mine] == [event["args"]["microbatch"] for event in mine]
    save(timeline, tmp_path / "t.json")
    assert (tmp_path / "t.json").read_text(encoding="utf-8") == trace(simulate(schedule, problem))


def test_an_overlapped_step_is_one_event_with_both_operations() -> None:
    problem = Problem.chain(ranks=1, microbatches=2)
    timeline = simulate(Schedule.parse("0F0 (0F1;0B0)OVERLAP_F_B 0B1"), problem)
    event = json.loads(trace(timeline))["traceEvents"][3]
    assert (event["name"], event["cat"], event["dur"]) == ("(0F1;0B0)OVERLAP_F_B", "F+B", 3)
    assert event["args"] == {"stage": [0, 0], "microbatch": [1, 0]}


def test_a_name_cannot_break_out_of_a_trace() -> None:
    problem = Problem.chain(ranks=1, microbatches=1, name='</script>"é')
    text = trace(simulate(Schedule.parse("0F0 0B0"), problem))
    assert json.loads(text)["otherData"]["problem"] == '</script>"é'
    assert text.isascii()


def test_load_and_save_by_suffix(tmp_path: Path) -> None:
    compute, lowered = Schedule.parse("0F0\n-"), Schedule.parse("0F0 0SEND_F0\n-")
    for schedule, suffix, text in (
        (compute, ".txt", "0F0\n-\n"), (compute, ".csv", "0F0\n\n"), (lowered, ".csv", "0F0,0SEND_F0\n\n"),
        (compute, ".schedule", "0F0\n-\n"), (compute, "", "0F0\n-\n"),
    ):  # fmt: skip
        save(schedule, tmp_path / f"s{suffix}")
        assert (tmp_path / f"s{suffix}").read_bytes() == text.encode()
        assert load(tmp_path / f"s{suffix}") == schedule
    save(lowered, tmp_path / "s", form="torch-csv")
    assert (tmp_path / "s").read_text(encoding="utf-8") == "0F0\n\n"
