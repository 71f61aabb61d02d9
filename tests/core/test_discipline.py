"""The disciplines by name, and sizes of eager messages."""

from __future__ import annotations

from typing import Any

import pytest

from schedverify.core.discipline import DEFAULT_DISCIPLINE, Discipline, check_eager_bytes
from schedverify.core.errors import InputError, UnknownNameError


def test_the_disciplines_stand_in_rising_strictness() -> None:
    assert list(Discipline) == ["tagged", "buffered", "edge", "pair", "rank", "block"]
    assert DEFAULT_DISCIPLINE is Discipline.of("pair") is Discipline.PAIR


def test_an_unknown_discipline_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown discipline 'pairs'.*did you mean 'pair'"):
        Discipline.of("pairs")


@pytest.mark.parametrize("size", [-1, True, 1.5, "8"])
def test_a_wrong_eager_size_is_refused(size: Any) -> None:
    with pytest.raises(InputError, match="eager_bytes: expected a whole number of bytes"):
        check_eager_bytes(size)
