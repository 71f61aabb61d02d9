"""Waits have a timeout and a name; sends are waited for at the end of a step, or by a thread."""

from __future__ import annotations

import threading
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from schedverify.runner import TimedOutError
from schedverify.runner.p2p.waiting import MOST_DEFERRED_BYTES, Sends, Waiting, begin, wait


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            "[enforce fail at tcp/pair.cc:1] Connection closed by peer [::1]:1",
            "the peer is gone (it closed the connection)",
        ),
        ("Read error: Connection reset by peer", "the peer is gone (the connection was reset)"),
        ("Application timeout caused pair closure", "the connection was closed after an earlier timeout"),
        ("Socket is on fire\nat line 3", "the peer is late or gone (Socket is on fire)"),
    ],
)
def test_an_error_of_torch_is_told_with_who_waited_for_whom(error: str, reason: str) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError(error)

    class Failing:
        wait = fails

    waiting = Waiting(0, 1, "position 5 (0SEND_F1)")
    for act in (lambda: begin(fails, waiting), lambda: wait(Failing(), waiting, 3)):
        with pytest.raises(TimedOutError) as caught:
            act()
        assert str(caught.value) == f"rank 0, position 5 (0SEND_F1), peer rank 1: {reason}"


def test_a_late_send_is_told_where_it_closed_the_connection_of_another_wait() -> None:
    class Late:
        def wait(self, _: Any) -> None:
            raise RuntimeError("Timed out waiting 3000ms for send operation to complete")

    sends = Sends(3)
    sends.add([Late()], Waiting(2, 3, "position 5 (2SEND_F1)"), MOST_DEFERRED_BYTES + 1, lambda _: None)
    sends.abandon()
    place = "rank 2, position 7 (2RECV_B0), peer rank 3"
    closed = TimedOutError(f"{place}: the connection was closed after an earlier timeout")
    assert str(sends.cause(closed)) == "rank 2, position 5 (2SEND_F1), peer rank 3: no end within 3 s"
    gone = TimedOutError(f"{place}: the peer is gone (it closed the connection)")
    assert sends.cause(gone) is gone
    assert Sends(3).cause(closed) is closed


class Handle:
    """A send's handle, that notes which thread waited for it."""

    def __init__(self, *, late: bool = False) -> None:
        self.late = late
        self.waited: list[bool] = []

    def wait(self, _: Any) -> None:
        self.waited.append(threading.current_thread() is threading.main_thread())
        if self.late:
            raise RuntimeError("Timed out waiting 3000ms for send operation to complete")


def test_few_sends_are_waited_for_at_the_end_by_the_rank_itself() -> None:
    sends, ended = Sends(3), []
    handles = [Handle() for _ in range(4)]
    for handle in handles:
        sends.add([handle], Waiting(0, 1, "a send"), MOST_DEFERRED_BYTES // 4, ended.append)
    assert len(ended) == 4
    assert not any(handle.waited for handle in handles)
    sends.finish()
    assert [handle.waited for handle in handles] == [[True]] * 4
    late = Sends(3)
    late.add([Handle(late=True)], Waiting(0, 1, "position 5 (0SEND_F1)"), 8, ended.append)
    with pytest.raises(TimedOutError, match=r"^rank 0, position 5 \(0SEND_F1\), peer rank 1: no end within 3 s$"):
        late.finish()


def test_once_sends_amount_to_much_a_thread_waits_for_them_all_and_frees_their_buffers() -> None:
    sends, ended, all_left = Sends(3), list[int](), threading.Event()

    def note(time: int) -> None:
        ended.append(time)
        if len(ended) == 3:
            all_left.set()

    handles = [Handle() for _ in range(3)]
    buffers = [[handle] for handle in handles]
    for works, size in zip(buffers, (8, MOST_DEFERRED_BYTES, 8), strict=True):
        sends.add(works, Waiting(0, 1, "a send"), size, note)
    assert all_left.wait(60)  # the thread needs no end of the step for it
    assert buffers == [[], [], []]
    sends.finish()
    assert [handle.waited for handle in handles] == [[False]] * 3
    assert len(ended) == 3
