"""Numbers as people write them: exact, bounded, or refused."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schedverify.core.problem.numbers import LARGEST, decimal_places, exact, finer_tick, size, whole


def test_finer_ticks() -> None:
    assert finer_tick("us", 1) == "0.1 us"
    assert finer_tick("0.1 us", 2) == "0.001 us"
    assert finer_tick("10 ns", 1) == "1 ns"
    assert finer_tick("100 ns", 1) == "10 ns"
    assert finer_tick("", 2) == "0.01"


@given(st.integers(-LARGEST, LARGEST), st.integers(0, 12))
def test_decimals_are_exact(number: int, places: int) -> None:
    value = Decimal(number).scaleb(-places)
    assert exact(value) == Fraction(number, 10**places)
    assert decimal_places(value) <= places
    assert whole(value) == (number // 10**places if number % 10**places == 0 else None)


def test_numbers_as_people_write_them() -> None:
    assert (size("1.5 GiB"), size("16MB"), size("7"), size("2 kib"), size(3)) == (3 << 29, 16_000_000, 7, 2048, 3)
    assert [size(text) for text in ("", "GiB", "1.5 B", "-1 GB", "1e3", "1 XB", "9" * 40, "5 EiB")] == [None] * 8
    assert (whole(np.int64(3)), whole(np.float64(3.0)), whole(True), whole(3.5)) == (3, 3, None, None)
    for value in (Decimal("1e999"), Decimal("1e-999"), Decimal("NaN"), "3", None, 1j, [1]):
        assert whole(value) is None
