"""Operations, steps and schedules: texts parse back exactly, and nothing that does not fit gets in."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given

from schedverify.core.errors import InputError
from schedverify.core.op import Kind, Op, unpack
from schedverify.core.schedule import Schedule, positions
from support.strategies import schedules


@given(schedules())
def test_a_schedule_prints_and_parses_back(schedule: Schedule) -> None:
    again = Schedule.parse(str(schedule))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert Schedule.of(schedule.strings()) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@given(schedules())
def test_steps_are_what_was_put_in(schedule: Schedule) -> None:
    for rank, row in enumerate(schedule.rows):
        listed = list(schedule.steps(rank))
        assert [op for step in listed for op in step.ops] == [unpack(word & (1 << 61) - 1) for word in row.tolist()]
        assert positions(row).tolist() == [i for i, step in enumerate(listed) for _ in step.ops]


def test_the_text_form() -> None:
    text = "# made by hand\n0F0 (0F1;0B0)OVERLAP_F_B  # then\n\n-\n[1SEND_F0>2;1RECV_B0<2] 2UNSHARD\n"
    schedule = Schedule.parse(text)
    assert str(schedule) == "0F0 (0F1;0B0)OVERLAP_F_B\n-\n[1SEND_F0>2;1RECV_B0<2] 2UNSHARD"
    assert schedule.lowered
    assert not Schedule.parse("0F0").lowered
    assert repr(schedule) == "<Schedule of 3 ranks, 6 operations>"


def test_one_member_of_a_group_is_the_operation_alone() -> None:
    assert Schedule.parse("[0SEND_F0]") == Schedule.parse("0SEND_F0")


@pytest.mark.parametrize(
    "text",
    ["1F0junk", "F0", "0F", "0X1", "0F-1", "0 F1", "0UNSHARD3", "0SEND_F1<2", "0RECV_F1>2", "0F1>2", "٣F0",
     "0F16777216", "65535F0", "(0F0)OVERLAP_F_B", "(0F0;)OVERLAP_F_B", "[]", "[0SEND_F0;", "(0F0;0B0)",
     "1WAIT_REDUCE_GRAD0", "0WAIT_SEND_F", "0WAIT_SEND_F1<2", "1WAIT_RECV_F0", "1WAIT_UNSHARD", "0F" + "1" * 5000],
)  # fmt: skip
def test_what_is_no_step_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Schedule.parse(f"0F0\n0F0 {text}")
    assert "line 2, step 2" in str(caught.value)
    assert len(str(caught.value)) < 800


def test_every_fault_is_told_but_not_without_end() -> None:
    with pytest.raises(InputError) as caught:
        Schedule.parse("0F0 bad 0F1 worse\nbroken")
    assert [fault.key for fault in caught.value.faults] == ["line 1, step 2", "line 1, step 4", "line 2, step 1"]
    with pytest.raises(InputError) as caught:
        Schedule.parse("x " * 10_000)
    assert len(caught.value.faults) == 21
    assert caught.value.faults[-1].message == "reading stopped at the 20th fault"


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_a_text_without_ranks_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no rank in it"):
        Schedule.parse(text)


def test_rows_are_copied_and_cannot_be_changed() -> None:
    row = np.array([Op(Kind.F, 0, 0).pack()], dtype=np.int64)
    schedule = Schedule([row])
    row[0] = 0
    assert str(schedule) == "0F0"
    with pytest.raises(ValueError, match="read-only"):
        schedule.rows[0][0] = 1
    with pytest.raises(AttributeError):
        schedule.rows = ()  # type: ignore[misc]


@pytest.mark.parametrize("row", [[-1], [31 << 56], [1 << 61], [[0]]])
def test_words_that_are_no_operations_are_refused(row: list[int]) -> None:
    with pytest.raises(InputError):
        Schedule([row])


@given(schedules())
def test_a_step_is_the_one_at_its_position(schedule: Schedule) -> None:
    for rank in range(schedule.ranks):
        steps = list(schedule.steps(rank))
        assert [schedule.step(rank, position) for position in range(len(steps))] == steps


@given(schedules())
def test_the_texts_of_a_row_are_those_of_its_steps(schedule: Schedule) -> None:
    walked = [[str(step) for step in schedule.steps(rank)] for rank in range(schedule.ranks)]
    assert schedule.strings() == walked


def test_texts_of_every_kind_of_operation() -> None:
    rows = [["0F0", "0F12", "0SEND_F0", "0SEND_F12>3", "0SEND_F7>3", "0RECV_B0<1", "0UNSHARD", "0B12", "10I3", "10W3"]]
    assert Schedule.of(rows).strings() == rows
