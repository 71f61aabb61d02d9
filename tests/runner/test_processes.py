"""How the launcher of a run notices that a rank has ended, and hears what its processes send and return."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from schedverify.runner.failures import RunError
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
        processes._watch([Rank(ready, None, None, 1), Rank(still, None)], processes.Inbox([], print))
    finally:
        for end in (ready, still, other):
            os.close(end)


def test_more_than_a_pipe_holds_is_heard_and_returned() -> None:
    heard: list[int] = []
    returned = processes.launch(send_and_return, 2, heard.append)
    assert sorted(heard) == sorted([*range(3000), *range(3000)])
    assert [len(value) for value in returned] == [1 << 20, 1 << 20]


def send_and_return(send: Callable[[int], None]) -> bytes:
    for number in range(3000):
        send(number)
    return bytes(1 << 20)


def test_what_was_sent_before_a_failure_is_heard() -> None:
    heard: list[int] = []
    with pytest.raises(RunError, match="rank 0: ValueError: no"):
        processes.launch(send_and_fail, 1, heard.append)
    assert heard == [7]


def send_and_fail(send: Callable[[int], None]) -> None:
    send(7)
    raise ValueError("no")


def test_a_listener_that_fails_ends_all() -> None:
    def listen(_: int) -> None:
        raise KeyError("listener")

    with pytest.raises(KeyError, match="listener"):
        processes.launch(send_and_return, 2, listen)
