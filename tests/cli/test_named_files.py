"""Whatever is wrong with a file is told with the file and the key, also where it shows only later, in a search."""

from __future__ import annotations

from pathlib import Path

import pytest

import schedverify as sv
from schedverify import formats
from schedverify.cli import main
from schedverify.core.errors import Fault, InputError
from schedverify.models import partition
from support.run_traces import a_plan, as_predicted

TWO = "ranks = 2\nmicrobatches = 2\n[costs]\nforward = 1\nbackward = 2\n"
LAYERS = '[[layer]]\nname = "a"\nforward = 1\nbackward = 2\n[[layer]]\nname = "b"\nforward = 1\nbackward = 2\n'
DECODER = '[decoder]\nlike = "llama-3-8b"\n[training]\nsequence = 128\n[device]\nlike = "h100-80gb"\n'
HUGE = 1 << 62

CASES = {
    # of a model, where the cut shows it
    "wishes": (LAYERS + '[partition]\ntogether = [["a", "b"]]\n', "partition f.toml --ranks 2", 1, "partition"),
    "wishes, joint": (
        LAYERS + '[partition]\ntogether = [["a", "b"]]\n',
        "partition f.toml --ranks 2 --joint",
        1,
        "devices.memory",
    ),
    "few layers": (LAYERS, "partition f.toml --ranks 3", 2, "layer"),
    "few layers, joint": (LAYERS, "partition f.toml --ranks 3 --joint", 2, "layer"),
    "little memory": (
        LAYERS.replace("backward = 2", "backward = 2\nactivation = 5") + "[devices]\nmemory = 3\n",
        "partition f.toml --ranks 2",
        1,
        "devices.memory",
    ),
    "sums of repeats": (
        LAYERS.replace("backward = 2", f"backward = 2\nactivation = {HUGE}\nrepeat = 4", 1),
        "partition f.toml --ranks 2",
        2,
        "layer[0].activation",
    ),
    "sums of costs": (
        LAYERS.replace("forward = 1", f"forward = {HUGE // 8}"),
        "partition f.toml --ranks 2",
        2,
        "layer[0].forward",
    ),
    "sums over micro-batches": (
        LAYERS.replace("forward = 1", f"forward = {HUGE // 64}"),
        "partition f.toml --ranks 2 --microbatches 64",
        2,
        "layer",
    ),
    "latency": (LAYERS + f"[devices]\nlatency = {HUGE}\n", "partition f.toml --ranks 2", 2, "devices.latency"),
    "like of a training": (
        DECODER.replace("sequence = 128", 'sequence = 128\nlike = "x"'),
        "partition f.toml --ranks 2",
        2,
        "training.like",
    ),
    "like of a device": (DECODER.replace("h100-80gb", "h900"), "partition f.toml --ranks 2", 2, "device.like"),
    # of a problem, where the search or the family shows it
    "bytes of a boundary": (
        TWO + "[links]\nbytes = 1024\n[[boundary]]\nfrom = 0\nto = 1\nbytes = 16384\n",
        "optimize f.toml",
        2,
        "boundary[0].bytes",
    ),
    "period": (TWO + '[objective]\nminimize = "period"\n', "optimize f.toml", 2, "objective.minimize"),
    "buffer": (TWO + "[links]\nbuffer = 1\n", "optimize f.toml", 2, "links.buffer"),
    "too long": (
        TWO.replace("microbatches = 2", "microbatches = 9999999"),
        "generate gpipe --problem f.toml",
        2,
        "microbatches",
    ),
    "no name": (TWO + '[links]\n"" = 1\n', "optimize f.toml", 2, "links.''"),
    "no name at the top": ('"" = 1\n' + TWO, "optimize f.toml", 2, "''"),
    "a name of blanks": ('" " = 1\n' + TWO, "optimize f.toml", 2, "' '"),
    "form": (TWO, "generate zb-h1 --problem f.toml", 2, "form"),
    "virtual": (TWO.replace("[costs]", "virtual = 2\n[costs]", 1), "generate 1f1b --problem f.toml", 2, "placement"),
}


@pytest.mark.parametrize("name", CASES)
def test_file_and_key_are_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, words, code, key = CASES[name]
    monkeypatch.chdir(tmp_path)
    Path("f.toml").write_text(text, encoding="utf-8")
    assert main(words.split()) == code
    told = capsys.readouterr()
    assert told.err.startswith(f"schedverify: f.toml: {key}: ")
    assert "(" in told.err  # what would do
    assert not any(word in told.err for word in ("Traceback", "please report"))


SPREAD = "0F100000\n50000F0\n"
"""Two operations of a problem with more than can be."""


@pytest.mark.parametrize(
    "words", ["verify", "simulate", "lower", "draw", "convert f.txt x.csv", "convert f.txt x.json"]
)
def test_a_schedule_is_named_where_its_problem_is_read_off_it(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.txt").write_text(SPREAD, encoding="utf-8")
    assert main(words.split() if " " in words else [words, "f.txt"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("schedverify: f.txt: microbatches: 100001 micro-batches through 50001 stages make ")


def test_an_option_is_not_said_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.toml").write_text(TWO, encoding="utf-8")
    Path("m.toml").write_text(LAYERS, encoding="utf-8")
    Path("stuck.txt").write_text("0F0 0B0 0F1 0B1\n1F0 1F1 1B0 1B1\n", encoding="utf-8")
    for words, told in (
        ("optimize p.toml --workers 0", "--workers: "),
        ("optimize p.toml --seed -1", "--seed: "),
        ("optimize p.toml --hint stuck.txt", "--hint: SV201 "),
        ("verify stuck.txt --select SV9", "unknown property 'SV9'"),
        ("partition m.toml --ranks 2 --plan x.json", "--plan: stands without --joint"),
        ("partition m.toml", "--ranks: missing"),
    ):
        assert main(words.split()) == 2
        assert f"schedverify: {told}" in capsys.readouterr().err.replace(
            "schedverify: m.toml: unknown", "schedverify: unknown"
        )


def test_python_names_the_file_of_a_model_too(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(LAYERS, encoding="utf-8")
    with pytest.raises(InputError, match=r"m.toml: layer: 2 layers cannot fill 3 stages"):
        partition(tmp_path / "m.toml", ranks=3)
    with pytest.raises(InputError, match=r"^layer: 2 layers cannot fill 3 stages"):
        partition(formats.models.model_files.load_model(tmp_path / "m.toml"), ranks=3)


def test_a_run_that_cannot_be_measured_is_told_with_its_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step that never ran leaves nothing to draw or to measure of it."""
    monkeypatch.chdir(tmp_path)
    plan = a_plan()
    sv.save(plan, "plan.json")
    ran = as_predicted(plan, 1)
    cut = type(ran)(ran.plan, ran.ranks, tuple(step[:3] for step in ran.steps), ran.errors)
    formats.save_run(cut, "run.json")
    for output in (["--draw", "x.svg"], ["-o", "x.toml"]):
        code = main(["conform", "plan.json", "run.json", *output])
        told = capsys.readouterr()
        assert "the run did not follow the plan" in told.out  # the answer is there all the same
        assert code == 1 or told.err.startswith("schedverify: run.json: ")


def test_of_what_an_error_is_said() -> None:
    error = InputError(Fault("workers", "too many"))
    assert error.about("f", ["workers"]) is error
    assert str(error.about("f", [])) == "f: workers: too many"
    assert str(error.within("g").about("f", [])) == "g: workers: too many"
