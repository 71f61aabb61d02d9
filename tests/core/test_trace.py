"""What ran, as values: they compare, sort by rank and position, and come back from another process."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import pytest

from schedverify.core.trace import BoundaryLog, BoundaryTransfer, RunTrace, StepSpan

SPANS = (StepSpan(0, 0, "0F0", 5, 9), StepSpan(0, 1, "0B0", 20, 29), StepSpan(1, 0, "1F0", 10, 14))
TRANSFER = BoundaryTransfer(0, 1, 3, False, True, False, (("float32", (4, 8)),), 128)


def test_spans_sort_by_rank_and_position_whatever_their_times() -> None:
    assert sorted([SPANS[2], SPANS[0], SPANS[1]]) == list(SPANS)
    assert [span.end - span.start for span in SPANS] == [4, 9, 4]


def test_a_transfer_has_no_checksums_unless_they_were_computed() -> None:
    assert TRANSFER.checksums == ()
    assert TRANSFER._replace(checksums=(7,)) != TRANSFER


@pytest.mark.parametrize(
    "value", [RunTrace("digest", 2, (SPANS, SPANS), (0, 40)), BoundaryLog("digest", 2, ((TRANSFER,), ()))]
)
def test_a_run_comes_back_equal_and_cannot_be_changed(value: RunTrace | BoundaryLog) -> None:
    again = pickle.loads(pickle.dumps(value))
    assert again == value
    assert hash(again) == hash(value)
    with pytest.raises(FrozenInstanceError):
        value.plan = "other"  # type: ignore[misc]
