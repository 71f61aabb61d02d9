"""How the launcher of a run notices that a rank has ended."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from schedverify.runner.launch import processes


class Rank:
    """A process by its sentinel; ``codes`` are what it says of its end, one after another, the last for ever."""

    def __init__(self, sentinel: int, *codes: int | None) -> None:
        self.sentinel, self._codes = sentinel, list(codes)

    @property
    def exitcode(self) -> int | None:
        return self._codes.pop(0) if len(self._codes) > 1 else self._codes[0]


@pytest.mark.timeout(20)
def test_a_rank_that_is_seen_to_end_late_is_not_waited_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sentinel is ready, and its code is there only when the others alone are waited for."""
    monkeypatch.setattr(processes, "GRACE", 0.0)
    (ready, closed), (still, other) = os.pipe(), os.pipe()
    os.close(closed)
    try:
        processes._watch([Rank(ready, None, None, 1), Rank(still, None)])
    finally:
        for end in (ready, still, other):
            os.close(end)
