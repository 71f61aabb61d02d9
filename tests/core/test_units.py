"""Times and sizes as they are told: exact where they can be, and never alike where they differ."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schedverify as sv
from schedverify.core.problem.numbers import size as size_of
from schedverify.core.units import SIZES, Units, unit_of

GIB = 1 << 30
COUNTS = st.integers(0, 1 << 50) | st.integers(0, 1 << 40).map(lambda count: count // 1024 * 1024)


def test_the_units_are_those_of_the_standards() -> None:
    assert SIZES == {
        "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15,
        "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50,
    }  # fmt: skip


def test_what_the_issue_shows() -> None:
    units = Units("us", "GiB")
    assert units.over(19327352832, 17179869184) == "18.0 GiB, 2.0 GiB over its 16 GiB"
    assert units.over(16 * GIB + 1, 16 * GIB) == "16.0 GiB, 1 B over its 16 GiB"
    assert Units().over(18, 16) == "18 units, 2 units over its 16 units"
    assert (Units().size(1), Units().size(0)) == ("1 unit", "0 units")


@pytest.mark.parametrize(
    ("tick", "ticks", "text"),
    [("tick", 33, "33 ticks"), ("tick", 1, "1 tick"), ("us", 1234567, "1,234,567 us"), ("0.1 us", 45, "4.5 us"),
     ("0.1us", 40, "4 us"), ("2 ms", 50, "100 ms"), ("slot", 3, "3 slot"),
     ("a long name of a tick", 3, "3 a long name o..."),
     ("", 3, "3 "), ("10 us", 10**18, f"{10**19:,} us")],
)  # fmt: skip
def test_times(tick: str, ticks: int, text: str) -> None:
    assert Units(tick).time(ticks) == text


@given(st.sampled_from(sorted(SIZES)), st.lists(COUNTS, min_size=1, max_size=5), st.lists(COUNTS, max_size=2))
def test_sizes_that_differ_look_different_and_are_right_to_a_tenth(
    unit: str, counts: list[int], beside: list[int]
) -> None:
    texts, told = Units("us", unit).sizes(counts, beside)
    assert len(set(texts)) == len(set(counts))
    texts = [text.replace(",", "") for text in texts]
    assert SIZES[told] <= SIZES[unit]
    assert told == "B" or ("i" in told) is ("i" in unit)
    for count, text in zip(counts, texts, strict=True):
        assert abs(Fraction(text) * SIZES[told] - count) <= Fraction(SIZES[told], 20)
        assert (re.fullmatch(r"[0-9]+", text) is not None) is (told == "B")
    all_texts = Units("us", unit).sizes([*counts, *beside])[0]
    assert texts == [text.replace(",", "") for text in all_texts[: len(counts)]]


@given(st.sampled_from(sorted(SIZES)), st.integers(0, 1 << 60))
def test_a_size_that_is_given_reads_back_where_it_is_short(unit: str, count: int) -> None:
    text = Units("us", unit).given(count)
    assert size_of(Units("us", unit).exact(count).replace(",", "")) == count
    exact = size_of(text.replace(",", "")) == count
    assert exact or text == Units("us", unit).size(count)
    lengths = [length for name, length in SIZES.items() if 1 < length <= SIZES[unit] and ("i" in name) is ("i" in unit)]
    assert exact or not any(count * 1000 % length == 0 for length in lengths)


@given(st.sampled_from(sorted(SIZES)), st.integers(1, 999))
def test_a_size_comes_out_as_the_file_has_it(unit: str, count: int) -> None:
    text = f"{count} {unit}"
    assert Units("us", unit).given(size_of(text) or 0) == text


def test_the_unit_of_a_text() -> None:
    assert [unit_of(size) for size in ("1.5 GiB", "2gb", " 7 kib ", "12b", "12", 12, 1.5, None, "1.5 X")] == [
        "GiB", "GB", "KiB", "B", "", "", "", "", "",
    ]  # fmt: skip


def test_values_of_objectives() -> None:
    units = Units("us", "GiB")
    assert units.values("makespan", 3, 4) == ["3 us", "4 us"]
    assert units.values("peak-memory", GIB, GIB + 1) == [f"{GIB:,} B", f"{GIB + 1:,} B"]
    assert Units().values("peak-memory", 1, 2) == ["1 unit", "2 units"]
    assert units.value("peak-memory", 3 * GIB // 2) == "1.5 GiB"


class TestOfAProblem:
    @pytest.mark.parametrize(
        ("keys", "unit"),
        [
            ({}, ""), ({"capacity": 16}, ""), ({"capacity": "16 GiB"}, "GiB"), ({"capacity": "16"}, ""),
            ({"capacity": ["16 gib", "17179869185"], "activation": "1 MB"}, "GiB"),
            ({"activation": "1 MiB", "capacity": "80 GB", "static": "1 GiB"}, "GB"),
            ({"activation": "1 MiB", "static": "1 KiB"}, "KiB"),
            ({"activation": "512 KiB", "boundary": "1 MiB"}, "MiB"),
            ({"bytes": "16 MiB"}, "MiB"), ({"bytes": "1 GiB", "capacity": "512 MiB"}, "MiB"),
            ({"unit": "GiB", "capacity": 1 << 34}, "GiB"), ({"unit": "MiB", "capacity": "16 GiB"}, "MiB"),
        ],
    )  # fmt: skip
    def test_it_is_the_file_s(self, keys: dict[str, object], unit: str) -> None:
        problem = sv.Problem.chain(ranks=2, microbatches=1, **{"activation": 1, **keys})  # type: ignore[arg-type]
        assert problem.units == Units("tick", unit)
        assert sv.Problem.of(problem.to_dict()) == problem
        assert problem.to_dict()["memory"].get("unit", "") == unit

    def test_a_wrong_unit_is_told(self) -> None:
        with pytest.raises(sv.InputError, match=r"memory\.unit: expected one of B, kB, .*did you mean 'GiB'"):
            sv.Problem.of({"ranks": 1, "microbatches": 1, "costs": {"forward": 1, "backward": 1},
                           "memory": {"unit": "Gib"}})  # fmt: skip

    def test_a_plan_keeps_it_and_plans_without_one_keep_their_digest(self, tmp_path) -> None:
        for capacity, unit in (("8 GiB", "GiB"), (8 * GIB, None)):
            problem = sv.Problem.chain(ranks=2, microbatches=2, activation=GIB, capacity=capacity)
            sv.save(sv.plan_of(sv.generate("1f1b", problem), problem), tmp_path / "plan.json")
            data = sv.load(tmp_path / "plan.json").problem.to_dict()
            assert data["memory"].get("unit") == unit
            assert ('"unit"' in (tmp_path / "plan.json").read_text()) is (unit is not None)

    def test_a_plan_suits_its_problem_in_any_unit(self) -> None:
        keys = {"ranks": 2, "microbatches": 2, "activation": GIB}
        first, second = sv.Problem.chain(capacity="8 GiB", **keys), sv.Problem.chain(capacity=8 * GIB, **keys)
        assert first != second
        assert sv.verify(sv.plan_of(sv.generate("1f1b", first), first), second).ok
