"""Wrong usage is told in our words: what is missing or wrong, the nearest name, how the command is called."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from schedverify.cli import main
from schedverify.cli.app import COMMANDS, application
from schedverify.cli.usage import arguments_of, usage_line

PROBLEM = "ranks = 2\nmicrobatches = 2\n[costs]\nforward = 1\nbackward = 2\n"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("p.toml").write_text(PROBLEM, encoding="utf-8")
    Path("s.txt").write_text("0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1\n", encoding="utf-8")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], words: str) -> list[str]:
    """Return the lines of a refusal, without the name in front of each."""
    code = main(words.split("|"))
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    lines = captured.err.splitlines()
    assert all(line.startswith("schedverify: ") for line in lines)
    return [line.removeprefix("schedverify: ") for line in lines]


WRONG = {
    # what is missing
    "verify": (
        "verify: SCHEDULE is missing (Schedule: text, PyTorch's CSV, a plan, or torch:CLASS; - for standard input)"
    ),
    "lint": "lint: FILES is missing (Files in .schedule.toml, CSV with a problem beside it, plans)",
    "convert|s.txt": "convert: TARGET is missing (File to write; - for standard output)",
    "run|plan.json": (
        "run: --model is missing (MODULE:FUNCTION, which returns the model; the current folder is on the path)"
    ),
    "verify|s.txt|--problem": "verify: --problem needs a value (Problem file, TOML or JSON)",
    "optimize|p.toml|-o": "optimize: -o needs a value (File to write; - for standard output)",
    # what is too many
    "verify|a|b": "verify: 'b' is one too many (it takes SCHEDULE)",
    "convert|a|b|c": "convert: 'c' is one too many (it takes SOURCE and TARGET)",
    "families|x": "families: 'x' is one too many (it takes options alone)",
    "verify|s.txt|p.toml": "verify: 'p.toml' has no place here (a problem file stands behind --problem)",
    "verify|s.txt|--select|SV101|SV201": (
        "verify: 'SV201' has no place here (names are parted by commas: --select SV101,SV201)"
    ),
    "verify|--ignore|SV1|SV2|SV3|s.txt": (
        "verify: 'SV3' has no place here (names are parted by commas: --ignore SV1,SV2,SV3)"
    ),
    "verify|s.txt|-p|p.toml|-p|p.toml": "verify: -p stands twice (give it once)",
    # names
    "verfy|s.txt": "no command 'verfy' (did you mean 'verify'?)",
    "Optimise": "no command 'Optimise' (did you mean 'optimize'?)",
    "conv": "no command 'conv' (did you mean 'convert'?)",
    "--vers": "no option '--vers' (did you mean '--version'?)",
    "verify|s.txt|--porblem|p.toml": "verify: no option '--porblem' (did you mean '--problem'?)",
    "verify|s.txt|--porblem=p.toml": "verify: no option '--porblem' (did you mean '--problem'?)",
    "optimize|p.toml|--timelimit|3": "optimize: no option '--timelimit' (did you mean '--time-limit'?)",
    "optimize|p.toml|--time_limt|3": "optimize: no option '--time_limt' (did you mean '--time-limit'?)",
    "verify|s.txt|-x": "verify: no option '-x'",
    "optimize|p.toml|--no-explain": "optimize: no option '--no-explain' (did you mean '--explain'?)",
    # values
    "verify|s.txt|--format|xml": "verify: --format: expected one of text, json, github, found 'xml'",
    "verify|s.txt|--discipline|Pair": (
        "verify: --discipline: expected one of tagged, buffered, edge, pair, rank, block, found 'Pair'"
        " (did you mean 'pair'?)"
    ),
    "optimize|p.toml|--objective|period": (
        "optimize: --objective: expected one of makespan, span, peak-memory, found 'period'"
    ),
    "optimize|p.toml|--time-limit|soon": "optimize: --time-limit: expected a number, found 'soon'",
    "optimize|p.toml|--seed|1.5": "optimize: --seed: expected a whole number, found '1.5'",
    "optimize|p.toml|--explain=maybe": "optimize: --explain: it takes no value, found 'maybe'",
    "generate|1f1b|--ranks|2.7|--microbatches|4": "generate: --ranks: expected a whole number, found '2.7'",
    "generate|1f1b|--ranks|0x2|--microbatches|4": "generate: --ranks: expected a whole number, found '0x2'",
    "generate|1f1b|--ranks|2|--microbatches|1e3": "generate: --microbatches: expected a whole number, found '1e3'",
    "partition|m.toml|--ranks|0": "partition: --ranks: expected 1 or more, found '0'",
    "partition|m.toml|--time-limit|nan": "partition: --time-limit: expected 0 or more, found 'nan'",
    "verify|s.txt|--eager-bytes|-1": "verify: --eager-bytes: expected 0 or more, found '-1'",
    "profile|m:build|--timeout|0": "profile: --timeout: expected more than 0, found '0.0'",
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG)
def test_wrong_usage_is_told_with_the_usage_line(desk: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, usage = told(capsys, words)
    assert first == WRONG[words]
    command = words.partition("|")[0]
    called = usage_line(application(), command) if command in COMMANDS else "schedverify COMMAND [OPTIONS]"
    assert usage.startswith(f"usage: {called}; ")
    assert usage.endswith(" --help says more")


ARGUMENTS = {  # words that can be parsed, of which the command itself refuses a value
    "optimize|p.toml|--time-limit|-5": "--time-limit: expected a number of seconds, found -5.0",
    "optimize|p.toml|--time-limit|nan": "--time-limit: expected a number of seconds, found nan",
    "optimize|p.toml|--workers|0": "--workers: expected a whole number from 1 to 4096",
    "optimize|p.toml|--seed|-1": "--seed: expected a whole number",
    "generate|1f1b|--ranks|0|--microbatches|2": "--ranks: expected a whole number from 1",
    "generate|1f1b|-p|p.toml|--ranks|2": "--ranks: stands beside --problem",
    "generate|1F1B": "unknown family '1F1B' (did you mean '1f1b'?)",
    "generate|ZB_H1": "unknown family 'ZB_H1' (did you mean 'zb-h1'?)",
    "generate|eager": "unknown family 'eager' (did you mean 'eager-1f1b'?)",
    "generate|zb": "unknown family 'zb' (known: 1f1b, ",
    "generate|dualpipe": "unknown family 'dualpipe' (known: 1f1b, ",
    "explain|deadlock": "unknown property 'deadlock' (SV304: no deadlock under the discipline)",
    "explain|Twice": "unknown property 'Twice' (SV104: nothing twice)",
    "explain|304": "unknown property '304' (did you mean 'SV304'?)",
    "explain|SV999": "unknown property 'SV999' (known: SV101, ",
    "explain|": "unknown property '' (known: SV101, ",
    "verify|s.txt|--select|deadlock": "unknown property 'DEADLOCK' (SV304: no deadlock under the discipline)",
    "verify|p.toml": "p.toml: a problem, where a schedule or a plan is expected (a schedule is text, PyTorch's CSV or a"
    " plan; a problem stands behind --problem)",
    "profile|foo": "model: 'foo' names no function (such as my_model:build)",
}  # fmt: skip


@pytest.mark.parametrize("words", ARGUMENTS)
def test_a_value_that_the_command_refuses(desk: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(words.split("|"))
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert f"schedverify: {ARGUMENTS[words]}" in captured.err


@pytest.mark.parametrize("words", ["-V", "--version"])
def test_the_version_by_either_name(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([words]) == 0
    version = capsys.readouterr().out
    assert version.count(".") == 2


@pytest.mark.parametrize(("words", "same"), [("help", "--help"), ("help|verify", "verify|--help"), ("", "--help")])
def test_help_by_a_word(words: str, same: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word for word in words.split("|") if word]) == 0
    first = capsys.readouterr().out
    assert main(same.split("|")) == 0
    assert capsys.readouterr().out == first
    assert first.startswith("Usage: schedverify ")


def test_no_word_of_the_parser_is_left(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command with each of its options misused in every way ends in two lines of ours."""
    app = application()
    for command in COMMANDS:
        arguments = arguments_of(app, command)
        needed = ["x"] * sum(each.index is not None and each.required for each in arguments)
        calls = [[command, *needed, "one", "too", "many"], [command, *needed, "--unknown"], [command, *needed, "-zz"]]
        calls += [
            [command, *needed, each.name] for each in arguments if each.index is None and bool not in hints(each.hint)
        ]
        calls += [[command, *needed, f"{each.name}=\u00e4"] for each in arguments if each.get_choices()]
        for words in calls:
            if (
                command in ("lint", "conform", "trace")
                and "--unknown" not in words
                and "-zz" not in words
                and "=" not in words[-1]
            ):
                continue  # it takes any number of files
            lines = told(capsys, "|".join(words))
            assert len(lines) == 2, (words, lines)
            assert not any(word in lines[0] for word in ("Parameter", "Unused", "Invalid", "Unknown", "Tokens"))


def hints(hint: object) -> tuple[object, ...]:
    return (hint, *getattr(hint, "__args__", ()))


def test_the_line_has_what_is_needed() -> None:
    app = application()
    assert usage_line(app, "run") == "schedverify run PLAN --model MODEL [OPTIONS]"
    assert usage_line(app, "explain") == "schedverify explain CODE"
    assert usage_line(app, "families") == "schedverify families [OPTIONS]"
    assert all(inspect.isfunction(app[command].default_command) for command in COMMANDS)
