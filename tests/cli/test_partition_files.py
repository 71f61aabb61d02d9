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
        assert "busiest rank or link: 1,230 us a micro-batch (no partition has less)" in told
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
        assert "1f1b, 3 micro-batches: makespan 83 ticks\n" in told
        assert "with as many layers on each stage: 81 ticks, which is less, though" in told

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

    @pytest.mark.parametrize(
        ("family", "told"), [("zb-v", "over all cuts between ranks: 2 units"), (None, "over all cuts: 52 units")]
    )
    def test_bytes_between_stages_of_one_rank_are_none(
        self, family: str | None, told: str, tmp_path: Path, capsys: Capture
    ) -> None:
        rows = [(1, 1), (1, 50), (4, 1), (1, 1), (1, 1)]
        text = "".join(
            f"[[layer]]\nforward={f}\nbackward_input={f}\nbackward_weight={f}\noutput={o}\n" for f, o in rows
        )
        (tmp_path / "m.toml").write_text(text)
        shape = ("--ranks", "2", "--virtual", "2", "--microbatches", "4", "--family", family or "interleaved-1f1b")
        assert main(["partition", str(tmp_path / "m.toml"), *shape]) == 0
        assert f"bytes {told}\n" in capsys.readouterr().out

    def test_what_was_cut_as_a_chain_is_the_best_of_consecutive_layers(self, tmp_path: Path, capsys: Capture) -> None:
        names = "".join(f'[[layer]]\nname = "{i}"\nforward = 1\nbackward = 1\n' for i in range(19))
        edges = [["0", str(i)] for i in range(1, 18)] + [[str(i), "18"] for i in range(1, 18)]
        (tmp_path / "m.toml").write_text(f"edges = {json.dumps(edges)}\n{names}")
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2"]) == 0
        told = "(no partition into consecutive layers has less; the graph was cut as a chain)"
        assert told in capsys.readouterr().out
        command = [
            "partition",
            str(tmp_path / "m.toml"),
            "--ranks",
            "2",
            "--microbatches",
            "1",
            "--joint",
            "--workers",
            "1",
        ]
        assert main(command) == 0
        assert "no partition into consecutive layers has a schedule with less" in capsys.readouterr().out

    @pytest.mark.parametrize("further", [(), ("--virtual", "2"), ("--joint",)])
    @pytest.mark.parametrize(
        ("text", "key"),
        [
            (
                f"[[layer]]\nrepeat = 4\nforward = {2**62}\nbackward = 1\n[devices]\nslowness = 1000\n",
                "layer[0].forward",
            ),
            ("[[layer]]\nrepeat = 3\n[[layer]]\nrepeat = 2\nstate = 4000000000000000000\n", "layer[1].state"),
            ("[[layer]]\nparameters = 4000000000000000000\n[[layer]]\nrepeat = 3\n", "layer[0].parameters"),
            (f"[[layer]]\nrepeat = 4\noutput = {2**61}\n", "layer[0].output"),
            (f"[[layer]]\nrepeat = 4\n[devices]\nlatency = {2**60}\n", "devices.latency"),
            (f"[[layer]]\nrepeat = 4\nforward = {2**57}\n", "layer"),
        ],
    )
    def test_numbers_that_are_too_many_to_count_are_told_with_file_and_key(
        self, text: str, key: str, further: tuple[str, ...], tmp_path: Path, capsys: Capture
    ) -> None:
        (tmp_path / "m.toml").write_text(text)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "--microbatches", "4", *further]) == 2
        told = capsys.readouterr().err
        assert f"m.toml: {key}: all " in told
        assert "2^60" in told
        assert "memory.static" not in told

    def test_the_largest_numbers_that_can_be_counted_are(self, tmp_path: Path, capsys: Capture) -> None:
        layer = f"[[layer]]\nforward = {2**54}\nbackward = {2**54}\nactivation = {2**54}\nparameters = {2**54}\n"
        text = f"{4 * layer}[devices]\nmemory = {2**62}\nbandwidth = {2**62}\n"
        (tmp_path / "m.toml").write_text(text)
        for virtual in ("1", "2"):
            shape = ("--ranks", "2", "--virtual", virtual, "--microbatches", "4")
            assert main(["partition", str(tmp_path / "m.toml"), *shape]) == 0
            assert f"busiest rank or link: {4 * 2**54:,} ticks" in capsys.readouterr().out
        tight = text.replace(str(2**62), str(2**56), 1)
        (tmp_path / "m.toml").write_text(tight)
        assert (
            main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "--virtual", "2", "--microbatches", "4"]) == 1
        )
        assert " units more on every rank" in capsys.readouterr().err

    def test_an_even_split_that_does_not_fit_is_shown_with_what_it_lacks(self, tmp_path: Path, capsys: Capture) -> None:
        """Not even one micro-batch of it fits on the last rank."""
        layers = "".join(f'[[layer]]\nname = "{name}"\nforward = 1\nactivation = 10\n' for name in "abc")
        text = f"{layers}[[layer]]\nforward = 1\n[devices]\nmemory = [100, 5]\n"
        (tmp_path / "m.toml").write_text(text)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "--microbatches", "2"]) == 0
        told = capsys.readouterr().out
        assert (
            "with as many layers on each stage: 6 ticks, with 10 units, 5 units over its 5 units, on rank 1\n" in told
        )
        assert told.endswith("peak memory by rank: 60 0 units\n")

    @pytest.mark.parametrize("wrong", [("--time-limit", "-1"), ("--workers", "0"), ("--time-limit", "nan")])
    def test_no_limits_that_are_none(self, wrong: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(MODEL)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err

    def test_it_writes_to_standard_output(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(MODEL)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "-o", "-"]) == 0
        assert capsys.readouterr().out.startswith('version = 1\nname = "small"\n')
