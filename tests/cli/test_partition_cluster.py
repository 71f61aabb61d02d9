"""The command `partition --cluster`: its table, JSON, files, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import schedverify as sv
from schedverify.cli import main
from schedverify.formats.megatron_cuts import read_layout
from schedverify.formats.schema import schemas

Capture = pytest.CaptureFixture[str]
FILE = """
nodes = 2
devices = 4
batch = 32

[device]
like = "a100-80gb"

[choices]
virtual = 1
microbatch_size = [1, 2]
"""


class TestCommand:
    @pytest.fixture
    def there(self, tmp_path: Path) -> str:
        (tmp_path / "cluster.toml").write_text(FILE)
        return str(tmp_path / "cluster.toml")

    def test_it_prints_a_table_and_why_others_are_not_in_it(self, there: str, capsys: Capture) -> None:
        assert main(["partition", "llama-2-7b", "--cluster", there, "--sequence", "2048", "--top", "2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split()[:5] == ["tensor", "pipeline", "data", "virtual", "micro-batch"]
        assert len([line for line in lines[1:] if line.split()[0].isdigit() and "ective" in line]) == 2
        assert any("does not fit: weights and optimizer alone take 121." in line for line in lines)

    def test_json_keeps_to_its_schema_and_options_fix_degrees(self, there: str, capsys: Capture) -> None:
        options = ("--cluster", there, "--sequence", "2048", "--ranks", "2", "--tensor-parallel", "4")
        assert main(["partition", "llama-2-7b", *options, "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        schema = json.loads(schemas()["advice.json"])
        Draft202012Validator.check_schema(schema)
        Draft202012Validator(schema).validate(found)
        assert {(s["setup"]["tensor_parallel"], s["setup"]["pipeline_parallel"]) for s in found["ranked"]} == {(4, 2)}
        assert sum(map(len, found["ranked"][0]["layers"])) == 34

    def test_the_best_is_written_as_problem_and_as_layout(self, there: str, tmp_path: Path, capsys: Capture) -> None:
        target = str(tmp_path / "p.toml")
        options = ("--cluster", there, "--sequence", "2048", "--ranks", "2", "-o", target, "--megatron-layout")
        assert main(["partition", "llama-2-7b", *options]) == 0
        assert "".join(read_layout(capsys.readouterr().out.strip())) == "E" + 32 * "t" + "L"
        assert sv.load(target).ranks == 2

    def test_what_does_not_go_together_is_told(self, there: str, capsys: Capture) -> None:
        assert main(["partition", "llama-2-7b", "--cluster", there, "--microbatches", "8"]) == 2
        assert "--microbatches: does not go with --cluster" in capsys.readouterr().err
        assert main(["partition", "llama-2-7b"]) == 2
        assert "--ranks: missing" in capsys.readouterr().err

    def test_where_nothing_fits_it_says_so(self, there: str, capsys: Capture) -> None:
        assert main(["partition", "llama-3-405b", "--cluster", there, "--sequence", "2048"]) == 1
        assert "GB too much" in capsys.readouterr().out
