"""Work that is ended from without: what it asks, and when."""

from __future__ import annotations

import pytest

from schedverify.core.ending import OverError, checked, go_on


def test_every_item_has_a_check_before_it() -> None:
    seen: list[str] = []
    assert [seen.append(f"item {n}") for n in checked(range(2), lambda: seen.append("check"))] == [None, None]
    assert seen == ["check", "item 0", "check", "item 1"]


def test_what_a_check_raises_ends_the_work() -> None:
    done: list[int] = []

    def check() -> None:
        if len(done) == 3:
            raise OverError

    with pytest.raises(OverError):
        done.extend(checked(range(10), check))
    assert done == [0, 1, 2]


def test_work_that_nobody_ends_goes_on() -> None:
    assert list(checked("abc", go_on)) == ["a", "b", "c"]
