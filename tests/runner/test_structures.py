"""A value is its tensors and its structure, whatever it is made of; texts of structures are not trusted."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import OrderedDict, namedtuple
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from hypothesis import example, given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from schedverify.core.errors import InputError  # noqa: E402
from schedverify.runner.compute.parcels import parcel_of  # noqa: E402
from schedverify.runner.compute.structures import (  # noqa: E402
    MOST_TEXT,
    TENSOR,
    class_named,
    put_together,
    structure_of,
    taken_apart,
    tensors_in,
    text_of,
)
from schedverify.runner.p2p import headers  # noqa: E402
from schedverify.runner.p2p.headers import MessageForm, form_in, form_of, header_objection, header_of, text_bytes_in  # noqa: E402
from schedverify.runner.p2p.messages import DTYPES, MOST_TENSORS  # noqa: E402


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass
class Output:
    hidden: Any
    rest: Any = None
    made: Any = dataclasses.field(init=False, default=None)


@dataclasses.dataclass(frozen=True)
class Fixed:
    one: Any


class Both(OrderedDict[str, Any]):
    """A dict that is no dataclass."""


def output(hidden: Any, made: Any) -> Output:
    found = Output(hidden, [hidden])
    found.made = made
    return found


TENSORS = st.builds(
    lambda shape, dtype: torch.ones(shape, dtype=dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | TENSORS


def containers(inner: Any) -> Any:
    lists, dicts = st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    several = st.builds(Pair, inner, inner) | st.builds(output, inner, inner) | st.builds(Fixed, inner)
    return lists | lists.map(tuple) | dicts | dicts.map(OrderedDict) | several


VALUES = st.recursive(LEAVES, containers, max_leaves=12)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same to the last bit, and of the same types; tensors are the same objects."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one is other
    if isinstance(one, float):
        return one.hex() == other.hex()
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@given(VALUES)
def test_a_value_is_its_tensors_and_its_structure(value: Any) -> None:
    tensors: list[Any] = []
    structure = taken_apart(value, tensors, "value")
    assert structure_of(text_of(structure)) == structure
    assert tensors_in(structure) == len(tensors)
    left = iter(tensors)
    assert same(put_together(structure, left), value)
    assert list(left) == []


@given(VALUES, VALUES)
@example(1, True)
@example(1, 1.0)
@example(0.0, -0.0)
@example([None], (None,))
@example({"a": 1, "b": 2}, {"b": 2, "a": 1})
@example(torch.ones(1), (torch.ones(1),))
def test_structures_differ_where_values_do(one: Any, other: Any) -> None:
    first: list[Any] = []
    second: list[Any] = []
    if taken_apart(one, first, "one") == taken_apart(other, second, "other"):
        structure = taken_apart(one, [], "one")
        assert same(put_together(structure, iter(second)), other)


@given(VALUES)
def test_a_header_and_its_text_tell_the_form(value: Any) -> None:
    form = form_of(parcel_of(value, "value"))
    if len(form.members) > MOST_TENSORS:
        assert "tensors, at most" in header_objection(form)
        return
    assert header_objection(form) == ""
    header, *text = header_of(form)
    sent = bytes(text[0].tolist()) if text else b""
    assert text_bytes_in(header) == len(sent)
    assert form_in(header, sent) == form


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({1, 2}, r"value: expected a tensor, found set"),
        ([{"a": object()}], r"value\[0\]\['a'\]: expected a tensor, found object"),
        ({1: None}, "found dict with keys that are no texts"),
        (Both(), "found Both"),
        (b"", "found bytes"),
        (3j, "found complex"),
        (dataclasses.make_dataclass("Made", ["x"])(1), "Made, a dataclass that its module does not name"),
    ],
)
def test_what_does_not_cross_is_refused(value: Any, found: str) -> None:
    with pytest.raises(InputError, match=found):
        parcel_of(value, "value")
    kept = parcel_of(value, "value", opaque=True).value()
    assert kept == value


def test_a_named_tuple_without_a_name_is_a_tuple() -> None:
    made = namedtuple("Nowhere", ["x"])(1)
    assert type(parcel_of(made, "value").value()) is tuple
    largest = torch.ones(2, 2).max(0)
    assert type(parcel_of(largest, "value").value()) is tuple


def test_a_model_output_is_what_it_was() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    one, two = torch.ones(2), torch.ones(3)
    value = outputs.BaseModelOutput(last_hidden_state=one, hidden_states=(one, two))
    structure = taken_apart(value, tensors := [], "value")
    made = put_together(structure_of(text_of(structure)), iter(tensors))
    assert type(made) is type(value)
    assert list(made) == list(value)
    assert made["hidden_states"][1] is two
    assert made.attentions is None
    value["more"] = one
    with pytest.raises(InputError, match="entries besides its fields"):
        parcel_of(value, "value")


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "[]", "{}", '["tensor",1]', '["set"]', '["dict","a"]', '["dict",1,["tensor"]]', '["int"]',
        '["int","1"]',
        '["bool",2]', '["float","x"]', '["float",1.0]', '["str",1]', '["none",0]', '["class","os:system"]',
        '["class","no.such.module:Name"]', '["class","subprocess:Popen","args",["none"]]', '["object",1]', "[" * 30000,
        '["class",1]', '["tuple",["object"]]', '["int",' + "9" * 5000 + "]", '["float","0x1p99999"]',
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_no_other_text_is_a_structure(text: str) -> None:
    with pytest.raises(ValueError, match="its structure is none that may cross"):
        structure_of(text)


def test_a_class_has_the_same_fields_at_both_ends() -> None:
    text = text_of(taken_apart(Output(None), [], "value"))
    with pytest.raises(ValueError, match="the fields of Output are others there: hidden, other, made"):
        structure_of(text.replace("rest", "other"))
    assert class_named(f"{__name__}:Output") is Output


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({0: 15}, "names 15 tensors"), ({0: -1}, "names -1 tensors"), ({1: -2}, "a text of -2 bytes"),
        ({1: MOST_TEXT + 1}, "a text of 65537 bytes"), ({2: 12}, "a tensor 0 that"), ({2: -1}, "a tensor 0 that"),
        ({3: 2}, "a tensor 0 that"), ({2: 6, 3: 1}, "a tensor 0 that"), ({4: 9}, "a tensor 0 that"),
        ({5: -1}, "a tensor 0 that"), ({5: 1 << 40}, "bytes, at most"), ({0: 0}, "0 tensors, its structure 1"),
        ({1: 5}, "its structure is none that may cross"),
    ],
    ids=str,
)  # fmt: skip
def test_no_other_row_of_numbers_is_a_header(words: dict[int, int], reason: str) -> None:
    header = header_of(MessageForm(((torch.float32, (2, 3)),), (True,), TENSOR))[0]
    for place, word in words.items():
        header[place] = word
    with pytest.raises(ValueError, match=reason):
        form_in(header, b"?" * (text_bytes_in(header) > 0))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([torch.ones(1)] * 15, "15 tensors, at most 14"),
        (torch.ones([1] * 9), "a tensor of 9 dimensions, at most 8"),
        (torch.ones(1).to(torch.float8_e5m2), "tensors of torch.float8_e5m2 do not cross"),
        ("x" * MOST_TEXT, "a structure of .* bytes as text"),
    ],
)
def test_what_no_header_holds_is_told(value: Any, reason: str) -> None:
    assert re.match(reason, headers.header_objection(form_of(parcel_of(value, "value"))))


def test_json_has_no_other_structures() -> None:
    structure = taken_apart({"a": (torch.ones(1), None)}, [], "value")
    assert json.loads(text_of(structure)) == ["dict", "a", ["tuple", ["tensor"], ["none"]]]
