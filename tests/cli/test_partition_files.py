"""The command `partition`: from a model file to a problem, a layout, JSON, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import schedverify as sv
from schedverify.cli import main
from schedverify.formats.schema import schemas
from support.model_texts import MODEL

Capture = pytest.CaptureFixture[str]


class TestCommand:
    def test_it_writes_a_problem_that_can_be_optimized(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(MODEL)
        target = str(tmp_path / "p.toml")
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "-o", target]) == 0
        told = capsys.readouterr().out
        assert "busiest rank or link: 1230 us a micro-batch (no partition has less)" in told
        assert "embedding to t3" in told
        problem = sv.load(target)
        assert sv.optimize(problem, time_limit=5, workers=1).value is not None
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["layers"][0] == ["embedding", "t0", "t1", "t2", "t3"]

    def test_it_prints_a_layout_and_nothing_else(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(MODEL)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "--megatron-layout"]) == 0
        assert capsys.readouterr().out == "Et*4|t*2L\n"

    def test_too_many_stages_are_told(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(MODEL)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "9"]) == 2
        assert "8 layers cannot fill 9 stages" in capsys.readouterr().err

    def test_it_says_where_an_even_split_is_shorter(self, tmp_path: Path, capsys: Capture) -> None:
        work = [(6, 5), (6, 3), (2, 4), (1, 3), (4, 3), (6, 4)]
        layers = "".join(f"[[layer]]\nforward = {forward}\nbackward = {backward}\n" for forward, backward in work)
        (tmp_path / "m.toml").write_text(layers)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "3", "--microbatches", "3"]) == 0
        told = capsys.readouterr().out
        assert "1f1b, 3 micro-batches: makespan 83 tick\n" in told
        assert "with as many layers on each stage: 81 tick, which is less, though" in told

    @pytest.mark.parametrize("form", [None, "megatron-layout", "megatron-flags", "torch", "torchtitan", "deepspeed"])
    def test_what_it_prints_as_json_fits_the_schema(self, form: str | None, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(MODEL)
        to = () if form is None else ("--to", form)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "--format", "json", *to]) == 0
        printed = json.loads(capsys.readouterr().out)
        Draft202012Validator(json.loads(schemas()["partition.json"])).validate(printed)
        assert (printed["tick"], printed["placement"]) == ("us", [0, 1])
        assert form is None or printed[form]

    def test_keys_that_stand_twice_are_refused(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.json").write_text('{"name": "a", "name": "b", "layer": [{"forward": 1}]}')
        assert main(["partition", str(tmp_path / "m.json"), "--ranks", "1"]) == 2
        assert "name: the key stands twice" in capsys.readouterr().err

    def test_no_partition_is_a_verdict(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(MODEL + "[devices]\nmemory = 1024\n")
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2"]) == 1
        assert "devices.memory: no cut into 2 stages fits; it takes" in capsys.readouterr().err

    def test_an_even_split_that_does_not_fit_is_shown_with_what_it_lacks(self, tmp_path: Path, capsys: Capture) -> None:
        """Not even one micro-batch of it fits on the last rank."""
        layers = "".join(f'[[layer]]\nname = "{name}"\nforward = 1\nactivation = 10\n' for name in "abc")
        text = f"{layers}[[layer]]\nforward = 1\n[devices]\nmemory = [100, 5]\n"
        (tmp_path / "m.toml").write_text(text)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "--microbatches", "2"]) == 0
        told = capsys.readouterr().out
        assert "with as many layers on each stage: 6 tick, with 10 bytes on rank 1, which has 5\n" in told
        assert told.endswith("peak memory by rank: 60 0 bytes\n")

    @pytest.mark.parametrize("wrong", [("--time-limit", "-1"), ("--workers", "0"), ("--time-limit", "nan")])
    def test_no_limits_that_are_none(self, wrong: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(MODEL)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err

    def test_it_writes_to_standard_output(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(MODEL)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "-o", "-"]) == 0
        assert capsys.readouterr().out.startswith('version = 1\nname = "small"\n')
