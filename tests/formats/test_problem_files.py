"""Problem files: what is written reads back, and every way to spoil a file is told with its place."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.core.problem.keys import KEYS
from schedverify.formats.json_toml import MAX_BRACKETS, LongNumber, parse_json, parse_toml, place
from schedverify.formats.problem_files import brief, new, problem_from, to_json, to_toml
from schedverify.formats.schema import problem_schema
from support.strategies import problem_data, problems, read_or_refused

SCHEMA = Draft202012Validator(problem_schema())
TWO = "ranks = 2\nmicrobatches = 2\n[costs]\nforward = 1\nbackward = 2\n"
SPECS = Path(__file__).parents[2] / "specs" / "problems"


def parse_problem(text: str, form: str) -> Problem:
    return problem_from(parse_toml(text) if form == "toml" else parse_json(text))


def told(text: str, form: str = "toml") -> str:
    with pytest.raises(InputError) as caught:
        parse_problem(text, form)
    return str(caught.value)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(problems())
def test_what_is_written_reads_back(problem: Problem) -> None:
    toml, text = to_toml(problem), to_json(problem)
    assert parse_problem(toml, "toml") == problem
    assert parse_problem(text, "json") == problem
    assert tomllib.loads(toml) == json.loads(text) == brief(problem)
    assert to_toml(parse_problem(text, "json")) == toml


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(problem_data())
def test_what_the_reader_takes_fits_the_schema(data: dict[str, Any]) -> None:
    SCHEMA.validate(data)
    problem = parse_problem(json.dumps(data), "json")
    SCHEMA.validate(problem.to_dict())
    SCHEMA.validate(brief(problem))


def test_a_written_problem_is_brief() -> None:
    problem = Problem.chain(ranks=4, microbatches=8, name='zb "x"', latency=3, capacity=[5, 5, 5, 6])
    assert to_toml(problem) == (
        'version = 1\nname = "zb \\"x\\""\nranks = 4\nmicrobatches = 8\nstages = 4\nplacement = "loop"\n'
        'form = "fused"\ntick = "tick"\nreplicas = 1\nslices = 1\n\n[costs]\nforward = 1\nbackward = 2\n\n'
        "[links]\nlatency = 3\nbytes = 0\n\n[memory]\nactivation = 1\nweight_stash = 0\nrecompute = false\n"
        'boundary = 0\nstatic = 0\ncapacity = [5, 5, 5, 6]\n\n[objective]\nminimize = "makespan"\n'
    )
    assert "edges = []" in to_toml(Problem.chain(ranks=2, microbatches=1, edges=[]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ranks = \n", "line 1, column 9: no TOML: Invalid value"),
        ("ranks = 1\nranks = 2\n", "stands twice; keep one"),
        ("[costs]\n[costs]\n", "stands twice; keep one"),
        ("a = '\x1b[31m", "line 1, column "),
        (TWO.replace("1\n", "1.5\n"), 'costs.forward: 1.5 is no multiple of the tick (tick) (tick = "0.1 tick"'),
        (TWO.replace("= 1\n", "= nan\n"), "costs.forward: expected a number, found NaN (NaN and infinity"),
        (TWO.replace("= 1\n", "= -inf\n"), "costs.forward: expected a number, found -Infinity"),
        (TWO.replace("= 1\n", "= 1e400000000000000000000\n"), "costs.forward: expected a whole number"),
        (TWO.replace("= 1\n", "= 0." + "1" * 70 + "\n"), "found a number of 71 digits"),
        (TWO.replace("= 1\n", f"= {'9' * 5000}\n"), "line 4, column 11: a number of 5000 digits (numbers"),
        (TWO.replace("= 1\n", f"= {'9' * 100}\n"), "costs.forward: expected a whole number from 0 to 2^62, found an"),
        (TWO.replace("= 1\n", "= 1979-05-27\n"), "costs.forward: expected a whole number from 0 to 2^62, found 1979"),
        ("a = " + "[" * 10_000, "line 1, column 37: nested deeper than 32 levels"),
        (TWO + "[expected]\na = " + "[" * 40 + "]" * 40, "nested deeper than 32 levels"),
        (TWO + "[expected]\nbubble = nan\n", "expected.bubble: expected a number, found NaN"),
    ],
)  # fmt: skip
def test_what_is_no_problem_in_toml(text: str, words: str) -> None:
    assert words in told(text)
    assert all(line.isprintable() for line in told(text).splitlines())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"ranks": 2,}', "line 1, column 13: no JSON"),
        ('{"ranks":\n 2 3}', "line 2, column 4: no JSON"),
        ("[1, 2]", "expected a problem, an object of keys, found a list of 2"),
        ("3", "expected a problem, an object of keys, found 3"),
        ("[" * 10_000, "line 1, column 33: nested deeper than 32 levels"),
        ('{"a": "[[\\"[", "b": ' + "[" * 10_000, "line 1, column 52: nested deeper"),
        ('{"ranks": 2, "ranks": 3}', "ranks: the key stands twice (keep one)"),
        ('{"costs": {"forward": 1, "forward": 1}}', "costs.forward: the key stands twice"),
        ('{"boundary": [{"from": 0, "from": 1}]}', "boundary[0].from: the key stands twice"),
        ('{"ranks": NaN}', "ranks: expected a number, found NaN"),
        ('{"links": {"latency": [[0, -Infinity]]}}', "links.latency[0][1]: expected a number, found -Infinity"),
        ('{"ranks": ' + "9" * 5000 + "}", "expected a whole number from 1 to 65535, found a number of 5000 digits"),
        ('{"ranks": null}', "ranks: expected a value, found null (leave the key out)"),
        ('{"\\u001b[31m": 1}', "\\x1b[31m: unknown key"),
        ('{"name": "\\ud800"}', "name: expected a line of text"),
    ],
)  # fmt: skip
def test_what_is_no_problem_in_json(text: str, words: str) -> None:
    assert words in told(text, "json")
    assert all(line.isprintable() for line in told(text, "json").splitlines())


def test_faults_of_syntax_and_of_keys_are_told_together() -> None:
    message = told('{"ranks": NaN, "microbatches": 0, "microbatches": -1, "costs": {"forward": 0.5}, "x": 1}', "json")
    assert [line.partition(":")[0] for line in message.splitlines()] == [
        "x", "ranks", "microbatches", "costs.forward", "costs.backward",
    ]  # fmt: skip


def test_endless_numbers_and_many_brackets_are_bounded() -> None:
    assert parse_json("[1.5, 2]")[0].as_tuple().digits == (1, 5)
    assert parse_json("[" + "1" * 61 + "]") == [LongNumber(61)]
    assert parse_json("[-" + "1" * 60 + "]") == [LongNumber(60)]
    assert parse_toml("a = 0x" + "f" * 9)["a"] == 16**9 - 1
    for parse in (parse_json, parse_toml):
        with pytest.raises(InputError, match=f"at most {MAX_BRACKETS}"):
            parse("[]," * (MAX_BRACKETS + 1))
    assert place("ab\ncd\nef", 4) == "line 2, column 2"


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
def test_no_text_is_anything_but_a_problem_or_an_input_error(text: str) -> None:
    for form in ("toml", "json"):
        with pytest.raises(InputError):
            parse_problem(text, form)


@given(st.data())
def test_no_damage_is_anything_but_a_problem_or_an_input_error(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([path.read_text(encoding="utf-8") for path in sorted(SPECS.glob("*.toml"))]))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 9)))
    damaged = text[:start] + data.draw(st.text(max_size=9)) + text[end:]
    assert read_or_refused(lambda: parse_problem(damaged, "toml"), Problem)


# The template


def test_the_template_is_a_problem_and_shows_every_key() -> None:
    text = new()
    problem = parse_problem(text, "toml")
    assert problem == Problem.chain(ranks=4, microbatches=8, name="my-problem", form="split")
    for key in KEYS:
        assert any(line.lstrip("# ").startswith(f"{key.name} = ") and key.meaning in line for line in text.splitlines())


def test_the_template_is_a_problem_with_every_line_in_use() -> None:
    lines = new().splitlines()
    head = lines.index("")
    used = [line.removeprefix("# ") for line in lines[head:]]
    problem = parse_problem("\n".join(used), "toml")
    assert (problem.tick, problem.capacity, len(problem.boundaries)) == ("us", (8,) * 4, 1)
    for i in range(head, lines.index(next(line for line in lines if "[[boundary]]" in line))):
        single = "\n".join([*lines[:i], lines[i].removeprefix("# "), *lines[i + 1 :]])
        assert isinstance(parse_problem(single, "toml"), Problem)
