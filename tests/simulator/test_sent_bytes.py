"""What a rank holds of what it sends, where it waits for its sends: by hand, from the semantics (SV402)."""

from __future__ import annotations

import pytest

from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.simulator.engine import simulate

MEMORY = {"bytes": 4, "activation": 10}
LAST = "1RECV_F0 1F0 1B0 1SEND_B0 {} 1RECV_F1 1F1 1B1 1SEND_B1 {}"
FIRST = "0F0 0SEND_F0 {} 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1 {}"


def peaks(first: str, last: str, **keys: object) -> tuple[int, ...]:
    """Return the peaks of two ranks and two micro-batches; an activation takes 10 bytes, a message 4."""
    problem = Problem.chain(ranks=2, microbatches=2, **(MEMORY | keys))  # type: ignore[arg-type]
    return simulate(Schedule.parse(f"{first}\n{last}"), problem).peak_memory


@pytest.mark.parametrize(
    ("waits", "peak"),
    [
        (("", ""), 10 + 4),  # without any wait nothing of what is sent counts: an F beside what it received
        (("1WAIT_SEND_B0", "1WAIT_SEND_B1"), 10 + 4),  # a gradient counts beside its B, and is gone before the next F
        (("", "1WAIT_SEND_B0 1WAIT_SEND_B1"), 10 + 4 + 4),  # the first gradient is there still
        (("1WAIT_SEND_B0", ""), 10 + 4),  # the second is never waited for: it counts to the end
    ],
)
def test_a_gradient_counts_from_the_step_that_makes_it_to_its_wait(waits: tuple[str, str], peak: int) -> None:
    assert peaks(FIRST.format("", ""), LAST.format(*waits)) == (10 + 4, peak)


@pytest.mark.parametrize(
    ("waits", "peak"),
    [
        (("0WAIT_SEND_F0", "0WAIT_SEND_F1"), 10 + 4),  # gone before its B ends: the activation itself holds it
        (("", "0WAIT_SEND_F0 0WAIT_SEND_F1"), 10 + 4 + 4),  # from the end of 0B0 on it counts by itself
        (("", "0WAIT_SEND_F1"), 10 + 4 + 4),  # never waited for: to the end
    ],
)
def test_an_activation_counts_from_the_end_of_its_backward_to_its_wait(waits: tuple[str, str], peak: int) -> None:
    assert peaks(FIRST.format(*waits), LAST.format("", "")) == (peak, 10 + 4)


def test_in_inference_it_counts_from_the_end_of_its_forward() -> None:
    last = "1RECV_F0 1F0 1RECV_F1 1F1"
    at_once, late = "0F0 0SEND_F0 0WAIT_SEND_F0 0F1 0SEND_F1", "0F0 0SEND_F0 0F1 0SEND_F1 0WAIT_SEND_F0 0WAIT_SEND_F1"
    assert [peaks(first, last, form="inference")[0] for first in (at_once, late)] == [10, 14]
