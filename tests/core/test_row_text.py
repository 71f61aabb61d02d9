"""Long rows as text: the same as step by step, in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schedverify import Op, Schedule
from schedverify.core import row_text
from schedverify.core.op import Kind

KINDS = st.sampled_from([Kind.F, Kind.B, Kind.I, Kind.W])
OPS = st.tuples(KINDS, st.integers(0, 65534), st.integers(0, 2**24 - 1)).map(lambda fields: Op(*fields))


@given(st.lists(OPS, max_size=20), st.integers(1, 7))
def test_parts_give_the_text_of_the_steps(ops: list[Op], part: int) -> None:
    (row,) = Schedule.of([ops]).rows
    whole = row_text._PART
    try:
        row_text._PART = part  # type: ignore[misc]
        assert row_text.computes_alone(row)
        assert row_text.row_text(row) == " ".join(map(str, ops))
    finally:
        row_text._PART = whole  # type: ignore[misc]


def test_what_communicates_or_is_joined_goes_step_by_step() -> None:
    for text in ("0F0 0SEND_F0", "(0F1;0B0)OVERLAP_F_B", "0UNSHARD 0F0", "[0SEND_F0;0RECV_B0]", "0F0 0SEND_F0>1"):
        schedule = Schedule.parse(text)
        assert not row_text.computes_alone(schedule.rows[0])
        assert str(schedule) == text


def test_a_long_row_takes_little_more_than_its_text() -> None:
    row = np.arange(500_000)
    tracemalloc.start()
    try:
        text = str(Schedule([row]))
        assert tracemalloc.get_traced_memory()[1] < 8 * len(row) * 2 + 2 * len(text) + 20_000_000
    finally:
        tracemalloc.stop()
    assert text.endswith(" 0F499999")
