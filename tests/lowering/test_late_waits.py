"""Waits for sends, as late as limits allow: what is safe stays so, and none could stand later."""

from __future__ import annotations

import pytest

from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.generators import generate
from schedverify.lowering import add_communication, add_late_waits

PROBLEM = Problem.chain(ranks=2, microbatches=2)
LOWERED = add_communication(generate("1f1b", PROBLEM), PROBLEM)


def test_without_limits_all_waits_stand_at_the_end() -> None:
    waiting = add_late_waits(LOWERED, PROBLEM)
    assert str(waiting).splitlines() == [
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 0WAIT_SEND_F0 0WAIT_SEND_F1",
        "1RECV_F0 1F0 1RECV_F1 1B0 1SEND_B0 1F1 1B1 1SEND_B1 1WAIT_SEND_B0 1WAIT_SEND_B1",
    ]


def test_waits_that_stand_already_are_refused() -> None:
    with pytest.raises(InputError, match="rank 0, position 1: a WAIT_SEND stands there already"):
        add_late_waits(Schedule.of([["0F0", "0WAIT_SEND_F0"], []]), PROBLEM)
