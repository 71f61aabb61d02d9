"""Clocks of several ranks as one: the offset is within the error, by arithmetic and between real processes."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from schedverify.core.trace import StepSpan
from schedverify.runner.control.clock_sync import (
    REFERENCE_CLOCK,
    Clock,
    ClockAnswer,
    Reading,
    aligned,
    best_reading,
    read_clock,
)
from support.gloo_pool import GlooPool

WAYS = st.lists(st.tuples(*[st.integers(0, 10**6)] * 2), min_size=1)


class TestClocks:
    @given(
        st.integers(-(10**12), 10**12), st.integers(-200, 200), WAYS, WAYS, st.integers(10**6, 10**11), st.data(),
    )  # fmt: skip
    @settings(deadline=None)
    def test_the_true_time_is_within_the_error(self, offset, drift, first, last, length, data) -> None:
        """``drift`` is in parts per million; ways take up to a millisecond, there and back not alike."""

        def own(true: int) -> int:
            return true + offset + true * drift // 10**6

        def answers(begin: int, ways: list[tuple[int, int]]) -> list[ClockAnswer]:
            told = []
            for there, back in ways:
                told.append(ClockAnswer(own(begin), begin + there, own(begin + there + back)))
                begin += there + back
            return told

        clock = Clock(best_reading(answers(0, first)), best_reading(answers(length + sum(map(sum, first)), last)))
        asked = sum(map(sum, first))
        moment = data.draw(st.integers(asked, max(length, asked)))
        slack = 4 + length * 2 * abs(drift) // 10**12 + 2 * abs(drift)
        assert abs(clock.reference(own(moment)) - moment) <= clock.error + slack

    def test_the_soonest_answer_counts(self) -> None:
        assert best_reading(
            [ClockAnswer(0, 500, 1000), ClockAnswer(2000, 2010, 2030), ClockAnswer(3000, 3500, 4000)]
        ) == Reading(2015, 2010, 15)

    def test_the_clock_of_rank_0_is_its_own(self) -> None:
        ran = (StepSpan(0, 0, "0F0", 5, 9),)
        assert aligned(ran, REFERENCE_CLOCK) == ran


def read(rank: int) -> Reading | None:
    return read_clock(dist.group.WORLD, 30)


def test_processes_of_one_machine_read_the_same_clock() -> None:
    with GlooPool(3) as pool:
        first, *others = (outcome.value for outcome in pool.run(read))
    assert first is None
    for reading in others:
        assert abs(reading.reference - reading.own) <= reading.error
