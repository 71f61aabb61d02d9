"""JSON and TOML are read in one place, and what would cost more than its size is refused before it is read."""

from __future__ import annotations

import ast
import tomllib
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schedverify
from schedverify import InputError
from schedverify.formats.json_toml import MAX_DEPTH, LongNumber, parse_json, parse_toml

PACKAGE = Path(schedverify.__file__).parent
OWN_WORDS = {
    "optimizer/solvers/pumpkin.py": "what our own child process prints",
    "optimizer/solvers/pumpkin_child.py": "what our own parent process asks",
    "runner/control/exchange.py": "what the ranks of one run tell each other",
    "runner/compute/structures.py": "in what values the tensors stand that one rank sends another",
}
"""Modules that read JSON which schedverify itself has written a moment ago, and who writes it."""
MANY = 4000


def readers(path: Path) -> set[str]:
    """Return what a module takes of the parsers of Python."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.load", "json.loads", "json.JSONDecoder")
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name == "tomllib"}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "" for _ in node.names if node.module in ("json", "tomllib")}
    return found


def test_nobody_else_reads_json_or_toml() -> None:
    using = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if readers(path)}
    assert using == {"formats/json_toml.py", *OWN_WORDS}


DEEP = {
    "a key of many parts": "a" + ".a" * MANY + " = 1",
    "blanks between them": "a" + " . a" * MANY + " = 1",
    "a table": "[a" + ".a" * MANY + "]",
    "a list of tables": "[[ a" + ".a" * MANY + " ]]",
    "parts in quotes": 'a."b.c' + "\".'d.e'.\"" * MANY + '" = 1',
    "within an inline table": "x = [1, { a" + ".a" * MANY + " = 1 }]",
    "behind a text with quotes": 'x = """a"b""c\\""""\ny = "\\""\nz = \'"\'\na' + ".a" * MANY + " = 1",
    "behind five quotes": 'x = """a"""""\na' + ".a" * MANY + " = 1",
    "behind five others": "x = '''a'''''\na" + ".a" * MANY + " = 1",
    "behind a comment": "x = 1 # \"'\na" + ".a" * MANY + " = 1",
    "behind a text that is empty": 'x = ""\ny = \'\'\nz = """"""\na' + ".a" * MANY + " = 1",
    "inline tables": "a = " + "{ a = " * MANY + "1" + "}" * MANY,
    "lists": "a = " + "[" * MANY + "]" * MANY,
}


@pytest.mark.parametrize("name", DEEP)
def test_what_nests_beyond_the_bound_is_refused_with_its_place(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"line [0-9]+, column [0-9]+: nested deeper than 32 levels"):
            parse_toml(DEEP[name])
        assert tracemalloc.get_traced_memory()[1] < 100 * len(DEEP[name]) + 1_000_000
    finally:
        tracemalloc.stop()


def test_as_many_parts_as_levels_are_read() -> None:
    key = ".".join("a" * MAX_DEPTH)
    assert parse_toml(f"{key} = 1") == tomllib.loads(f"{key} = 1")
    assert parse_toml(f"[{key}]") == tomllib.loads(f"[{key}]")
    with pytest.raises(InputError, match="line 1, column 1: nested deeper"):
        parse_toml(f"{key}.a = 1")
    with pytest.raises(InputError, match="line 3, column 2: nested deeper"):
        parse_toml(f"x = 1\n\n[{key}.a]")


NOT_KEYS = {
    "text": 'a = "' + "b." * MANY + '"',
    "plain text": "a = '" + "b." * MANY + "'",
    "text of several lines": 'a = """' + '\n"b".' * MANY + '\\"""."""',
    "plain text of several lines": "a = '''" + "\n'b'." * MANY + "'''",
    "text that ends in quotes": 'a = """' + "b." * MANY + '"""""',
    "a comment": "a = 1 # " + "b." * MANY,
    "one part in quotes": '"' + "b." * MANY + '" = 1',
    "one part in other quotes": "[x.'" + "b." * MANY + "']",
    "numbers": "a = [" + "1.5, " * MANY + "]",
    "numbers by line": "a = [" + "1.5\n, " * MANY + "2.5]",
    "keys of two parts": "\n".join(f"a.b{i} = {i}.5" for i in range(MANY)),
    "times": "a = [" + "1979-05-27T00:32:00.999, " * 100 + "]",
    "digits in text": "a = '" + "9" * 5000 + "'\nb = 1 # " + "9" * 5000,
}


@pytest.mark.parametrize("name", NOT_KEYS)
def test_dots_that_part_no_key_are_not_counted(name: str) -> None:
    assert parse_toml(NOT_KEYS[name]).keys() == tomllib.loads(NOT_KEYS[name]).keys()


PARTS = st.sampled_from(["a", "b-1", '"c"', '"d.e"', "'f.#'", '"\\"."', "''"])
KEYS = st.lists(PARTS, min_size=1, max_size=MAX_DEPTH + 8).map(" . ".join)
VALUES = st.sampled_from([
    "1", "1.5", '"."', '"#"', "'.'", '"""\n."\\""""', '"""."""""', "'''\n.'.'''", "[1.5, 2.5]", "{ a.b = 1.5 }", "0x1f",
    '"\\\\"', '""', "''", '""""""', "1979-05-27 00:32:00.999",
])  # fmt: skip
LINES = st.one_of(
    st.tuples(KEYS, VALUES).map(" = ".join), KEYS.map("[{}]".format), KEYS.map("[[{}]]".format),
    st.sampled_from(["# . \"'", "", "  # '''"]),
)  # fmt: skip


def most_parts(text: str) -> int:
    """Return the most parts of a key of a text, as its own data shows: by the deepest table that one line can make."""
    return max((line.count(" . ") + 1 for line in text.split("\n")), default=0)


def refusal(text: str) -> str:
    """Return why a text is no TOML, or nothing where it is."""
    try:
        parse_toml(text)
    except InputError as error:
        return str(error)
    return ""


@given(st.lists(LINES, max_size=6).map("\n".join))
def test_keys_are_counted_as_toml_has_them(text: str) -> None:
    assert ("nested deeper" in refusal(text)) == (most_parts(text) > MAX_DEPTH)
    try:
        expected = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError:
        assert refusal(text)
    else:
        assert most_parts(text) > MAX_DEPTH or parse_toml(text) == expected


@given(st.text(alphabet="a.\"'#\\\n =[]{},1", max_size=80))
def test_marks_in_any_order_are_data_or_an_input_error(text: str) -> None:
    marks = text.count(".") + text.count("[") + text.count("{")
    assert "nested deeper" not in refusal(text) or marks >= MAX_DEPTH


def test_endless_numbers_are_refused_with_their_place() -> None:
    for number in ("9" * 5000, "0x" + "f" * 5000, "0b" + "1" * 5000, "9_" * 4999 + "9", "1." + "9" * 5000):
        with pytest.raises(InputError, match=r"line 2, column [0-9]+: a number of 5000 digits"):
            parse_toml(f"a = 1\nb = {number}")
    assert parse_json("[" + "9" * 5000 + "]") == [LongNumber(5000)]
    assert parse_toml(f"{'a' * 5000} = {'9' * 60}") == {"a" * 5000: int("9" * 60)}
