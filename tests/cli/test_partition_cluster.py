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


SMALL = """
[decoder]
layers = 4
hidden = 64
heads = 2
vocabulary = 100

[training]
sequence = 64
"""
TINY = """
nodes = 1
devices = 4
batch = 8

[device]
peak = 1e12
memory = "MEMORY"

[choices]
virtual = [1, 2]
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

    @pytest.mark.parametrize(
        ("choices", "told"),
        [
            ({"tensor_parallel": 1, "pipeline_parallel": 2, "data_parallel": 2}, "multiply to 8 devices"),
            ({"virtual": 2, "pipeline_parallel": 1}, "several stages on a rank are for pipelines of several ranks"),
        ],
    )
    def test_where_no_set_up_can_be_made_it_says_why(
        self, choices: dict[str, int], told: str, tmp_path: Path, capsys: Capture
    ) -> None:
        head = FILE.partition("[choices]")[0]
        text = "".join(f"{name} = {value}\n" for name, value in choices.items())
        (tmp_path / "cluster.toml").write_text(f"{head}[choices]\n{text}")
        there = str(tmp_path / "cluster.toml")
        assert main(["partition", "llama-2-7b", "--cluster", there, "--sequence", "2048"]) == 2
        error = capsys.readouterr().err
        assert "cluster.toml: choices: " in error
        assert told in error

    def test_small_numbers_can_be_read(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(SMALL)
        memory = "1 MB"
        (tmp_path / "c.toml").write_text(TINY.replace("MEMORY", memory))
        assert main(["partition", str(tmp_path / "m.toml"), "--cluster", str(tmp_path / "c.toml")]) == 1
        assert "weights and optimizer alone take 944.9 kB, 76.0 kB over its 868.928 kB" in capsys.readouterr().out
        (tmp_path / "c.toml").write_text(TINY.replace("MEMORY", "100 MB"))
        assert main(["partition", str(tmp_path / "m.toml"), "--cluster", str(tmp_path / "c.toml")]) == 0
        best = capsys.readouterr().out.splitlines()[1].split()
        assert 0 < float(best[-1]) < 0.1
        assert float(best[7]) > 0

    def test_a_decoder_that_is_too_large_to_count_is_told_with_its_file(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(SMALL.replace("64", str(2**31)))
        (tmp_path / "c.toml").write_text(TINY.replace("MEMORY", "1 GB"))
        assert main(["partition", str(tmp_path / "m.toml"), "--cluster", str(tmp_path / "c.toml")]) == 2
        assert "m.toml: decoder: all steps together take more than 2^60 ticks" in capsys.readouterr().err

    def test_a_cut_that_fits_is_found_where_even_ones_do_not(self, tmp_path: Path, capsys: Capture) -> None:
        """1F1B interleaved on 16 ranks: 86.0 GB with equally many layers on each stage, of 80."""
        device = 'like = "a100-80gb"\nbetween_bandwidth = "25 GB"'
        choices = 'tensor_parallel = 1\nvirtual = 2\nmicrobatch_size = 2\nrecompute = "selective"'
        text = f"nodes = 2\ndevices = 8\nbatch = 64\n[device]\n{device}\n[choices]\n{choices}\n"
        (tmp_path / "c.toml").write_text(text)
        command = [
            "partition",
            "llama-2-13b",
            "--cluster",
            str(tmp_path / "c.toml"),
            "--sequence",
            "4096",
            "--ranks",
            "16",
        ]
        assert main([*command, "--format", "json"]) == 0
        (best,) = json.loads(capsys.readouterr().out)["ranked"]
        assert best["setup"]["microbatches"] == 32
        assert best["peak_memory"] <= 80 * 10**9

    def test_where_nothing_fits_it_says_so(self, there: str, capsys: Capture) -> None:
        assert main(["partition", "llama-3-405b", "--cluster", there, "--sequence", "2048"]) == 1
        assert "GB over its 80 GB" in capsys.readouterr().out
