"""Faults of an input are collected, and values in messages are short and safe."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedverify.core.errors import (
    Fault,
    Faults,
    InputError,
    UnknownNameError,
    check_version,
    clean,
    nearest,
    printable,
    shown,
)
from schedverify.core.problem import Problem
from support.wrong_problems import BASE


def test_values_are_shown_short_and_safe() -> None:
    assert shown("\x1b]0;title\x07").isprintable()
    assert clean("a\nb") == "a\\nb"
    assert max(len(shown(value)) for value in ("x" * 999, 10**5000, "\U000e0001" * 99, Decimal("1" * 99))) <= 62
    assert [shown(value) for value in (None, True, [1], {}, 2.5)] == ["null", "true", "a list of 1", "a table", "2.5"]


@given(st.text(alphabet=st.sampled_from("a:#[ \\\n\r\x1b\u202e\u2028\x9b\x85\udcff\u200bé你")) | st.text())
def test_printable_text_is_one_line_that_nothing_obeys(text: str) -> None:
    safe = printable(text)
    assert safe.isprintable()
    assert printable(safe) == safe
    assert len(safe.splitlines()) <= 1
    assert "##[" not in safe
    assert not any(word.startswith("::") for word in safe.split())
    if text.isprintable() and "::" not in text and "##[" not in text:
        assert safe == text


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_an_error_has_a_line_for_each_fault_whatever_stands_in_it(key: str, message: str, hint: str, name: str) -> None:
    told = str(InputError([Fault(key, message, hint), Fault("", message)], name))
    lines = told.split("\n")
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_a_flood_of_faults_is_cut_short() -> None:
    with pytest.raises(InputError) as caught:
        Problem.of(BASE | {f"x{i}": 0 for i in range(120)})
    assert len(caught.value.faults) == 51
    assert str(caught.value.faults[-1]) == "and 70 more"
    read = 0

    class Flood(dict[str, Any]):
        def items(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
            nonlocal read
            for item in super().items():
                read += 1
                yield item

    with pytest.raises(InputError, match="at least 10000 more"):
        Problem.of(Flood(BASE | {f"x{i}": 0 for i in range(500_000)}))
    assert read == len(BASE) + 50 + 10_000


def test_one_place_has_one_fault() -> None:
    faults = Faults()
    faults.fault("costs.forward[2]", "too long", "shorten it")
    faults.fault("costs.forward[2]", "too short")
    faults.fault("links", "missing")
    assert faults.found == 2
    assert (faults.wrong("costs.forward"), faults.wrong("memory", "links"), faults.wrong("memory")) == (
        True,
        True,
        False,
    )
    with pytest.raises(InputError) as caught:
        faults.raise_faults()
    assert str(caught.value) == "costs.forward[2]: too long (shorten it)\nlinks: missing"
    assert str(caught.value.within("a.toml")).startswith("a.toml: costs.forward[2]: too long")
    Faults().raise_faults()


def test_the_keys_of_a_table_are_checked() -> None:
    faults = Faults()
    faults.check_keys("row[1]", {"form": 1, "to": 2}, ["from", "to"], needed=["from"], missing="each row has it")
    assert [*map(str, faults.faults)] == [
        "row[1].form: unknown key (did you mean 'from'?)",
        "row[1].from: missing (each row has it)",
    ]


def test_a_choice_is_one_of_the_known_ones() -> None:
    faults = Faults()
    assert faults.is_one_of("form", "split", ("fused", "split"))
    assert not faults.is_one_of("form", "spilt", ("fused", "split"))
    assert not faults.is_one_of("other", 3, ("fused", "split"))
    assert [*map(str, faults.faults)] == [
        "form: expected one of fused, split, found 'spilt' (did you mean 'split'?)",
        "other: expected one of fused, split, found 3",
    ]


@pytest.mark.parametrize(
    ("found", "hint"),
    [
        (3, "a newer schedverify wrote it; update schedverify"),
        (1, "convert it"),
        ("2", "convert it"),
        (True, "convert it"),
    ],
)
def test_another_version_is_refused(found: Any, hint: str) -> None:
    check_version("version", 2, 2, "convert it")
    with pytest.raises(InputError) as caught:
        check_version("version", found, 2, "convert it")
    assert caught.value.faults == (Fault("version", f"expected 2, found {shown(found)}", hint),)


def test_an_unknown_name_says_the_nearest_or_all() -> None:
    assert nearest("latancy", ["bytes", "latency"]) == "did you mean 'latency'?"
    assert nearest("x", ["bytes", "latency"]) == ""
    families = ["1f1b", "gpipe", "eager-1f1b", "zb-h1", "zb-h2", "zb-v", "zb-1p"]
    assert nearest("1F1B", families) == "did you mean '1f1b'?"
    assert nearest("ZB_H1", families) == nearest("zb h1", families) == "did you mean 'zb-h1'?"
    assert nearest("zb-h", families) == "did you mean 'zb-h1' or 'zb-h2'?"
    assert nearest("dualpipe", families) == nearest("zb", families) == nearest("", families) == ""
    assert (
        str(UnknownNameError.among("family", "gpip", ["1f1b", "gpipe"]))
        == "unknown family 'gpip' (did you mean 'gpipe'?)"
    )
    assert str(UnknownNameError.among("family", "x", ["gpipe", "1f1b"])) == "unknown family 'x' (known: 1f1b, gpipe)"
