"""The command `partition` for a decoder by its shape, and options that go before its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schedverify.cli import main
from schedverify.formats.models.model_files import load_model
from support.model_texts import DECODER as FILE

Capture = pytest.CaptureFixture[str]


class TestCommand:
    OPTIONS = ("--device", "a100-80gb", "--sequence", "4096", "--tensor-parallel", "2", "--ranks", "4")

    def test_a_model_that_comes_along_is_cut(self, capsys: Capture) -> None:
        assert main(["partition", "llama-2-7b", *self.OPTIONS, "--megatron-layout"]) == 0
        assert capsys.readouterr().out == "Et*8|(t*8|)*2,t*8L\n"

    def test_options_go_before_the_file(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(FILE.replace('alone = ["head"]', ""))
        assert main(["partition", str(tmp_path / "m.toml"), *self.OPTIONS, "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert sum(map(len, found["layers"])) == 6
        changes = {"training": {"sequence": 4096}}
        assert load_model(tmp_path / "m.toml", changes).layers[1].output == 2 * 4096 * 4096 // 2

    def test_names_and_files_that_are_none_are_told(self, capsys: Capture) -> None:
        assert main(["partition", "llama-2-7", *self.OPTIONS]) == 2
        assert (
            "no model of this name comes with schedverify (did you mean 'llama-2-7b' or 'llama-2-70b'?)"
            in capsys.readouterr().err
        )
        profile = Path(__file__).parents[2] / "specs" / "profiles" / "vgg16.txt"
        assert main(["partition", str(profile), *self.OPTIONS]) == 2
        assert "device: is for a decoder, and this is a profile of PipeDream" in capsys.readouterr().err
