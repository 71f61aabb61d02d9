"""Inputs that nobody meant, of every form: documented exit codes, messages with file and key, no traceback."""

import pytest

from support import fuzzed_texts
from support.fuzzing import Attempt, Ending, attempt, call, complaints


def wrongs(form: str | None, numbers: range) -> list[str]:
    found = []
    for number in numbers:
        tried = attempt(number, form)
        found += [
            f"{number}: {' '.join(tried.command)}: {each}" for each in complaints(tried, call(tried), costs=False)
        ]
    return found


@pytest.mark.parametrize("form", list(fuzzed_texts.forms()))
def test_files_that_nobody_meant_end_in_a_message_or_an_answer(form: str) -> None:
    assert wrongs(form, range(100 if form != "problem to search" else 15)) == []


@pytest.mark.slow
@pytest.mark.parametrize("first", range(102_000, 106_000, 1_000))
def test_thousands_of_files_that_nobody_meant_end_in_a_message_or_an_answer(first: int) -> None:
    assert wrongs(None, range(first, first + 1_000)) == []


@pytest.mark.parametrize("form", list(fuzzed_texts.forms()))
def test_what_is_bent_is_right_before(form: str) -> None:
    """Some command takes each right file: what is refused afterwards is refused for the change."""
    every = fuzzed_texts.forms()[form]
    for suffix, text in every.seeds:
        codes = []
        for command in every.commands:
            words = tuple(word.replace("BAD", f"bad{suffix}") for word in command.split())
            others = {name: other.encode() for name, other in fuzzed_texts.files().items() if name in words}
            codes.append(call(Attempt(words, form, others | {f"bad{suffix}": text.encode()}, f"bad{suffix}")).code)
        assert 0 in codes, (suffix, text)


def ended(code: object = 0, out: str = "", err: str = "", seconds: float = 0, memory: int = 0) -> list[str]:
    tried = Attempt(("verify", "bad.txt", "--format", "json"), "schedule", {"bad.txt": b"x"}, "bad.txt")
    return complaints(tried, Ending(code, out, err, seconds, memory))


def test_a_bad_end_is_seen() -> None:
    refusal = "schedverify: bad.txt: line 1, step 1: 'x' is no operation\n"
    assert ended(2, err=refusal) == ended(0, "{}\n") == []
    assert ended(2, err="schedverify: line 1: 'x' is no operation\n") == ["does not name the file"]
    assert ended(2, err="schedverify: bad.txt: is wrong\n") == ["does not name a key"]
    assert ended("KeyError: 'x'") == ["ended with KeyError: 'x'"]
    assert ended(130) == ["ended with 130"]
    assert ended(0, "{}", "Traceback (most recent call last)") == ["shows its inside"]
    assert ended(1, '{"a": "\x1b[31m"}')[0] == "prints what a terminal obeys"
    assert ended(0, "note\n{}") == ["prints something beside its JSON"]
    assert ended(0, "3") == ["prints JSON that is no object"]
    assert ended(0, "{}", seconds=11) == ["took 11.0 s"]
    assert ended(0, "{}", memory=600_000_000) == ["took 600 MB"]
