"""What ``schedverify.models`` offers: what the command ``partition`` prints, as values."""

from __future__ import annotations

import json

import pytest

import schedverify as sv
from schedverify.cli import main

MODEL = "llama-2-7b"


def test_partition(tmp_path, capsys) -> None:
    main(["partition", MODEL, "--device", "a100-80gb", "--sequence", "2048", "--ranks", "4", "--format", "json"])
    printed = capsys.readouterr().out
    found = sv.partition(MODEL, device="a100-80gb", sequence=2048, ranks=4)
    assert isinstance(found, sv.models.Cut)
    assert json.loads(printed)["makespan"] == found.timeline().makespan
    given = sv.models.load_model(MODEL, {"training": {"sequence": 2048}, "device": {"like": "a100-80gb"}})
    assert sv.partition(given, ranks=4).partition == found.partition


def test_partition_jointly() -> None:
    layers = [{"name": f"l{i}", "forward": i + 1, "backward": 2 * i + 2, "output": 1} for i in range(4)]
    model = sv.models.model_from({"name": "four", "layer": layers})
    found = sv.partition(model, ranks=2, microbatches=2, joint=True, workers=1)
    assert isinstance(found, sv.Joint)
    assert found == sv.partition_jointly(model, ranks=2, microbatches=2, time_limit=20, workers=1)


def test_partition_for_a_cluster(tmp_path, capsys) -> None:
    cluster = tmp_path / "cluster.toml"
    cluster.write_text(
        'nodes = 1\ndevices = 4\nbatch = 16\n[device]\nlike = "a100-80gb"\n[choices]\nmicrobatch_size = 1\n',
        encoding="utf-8",
    )
    advice = sv.partition(MODEL, cluster=cluster, sequence=2048, tensor_parallel=1, virtual=1, top=1)
    assert isinstance(advice, sv.models.Advice)
    assert [priced.setup.tensor_parallel for priced in advice.ranked] == [1]
    main(["partition", MODEL, "--cluster", str(cluster), "--sequence", "2048", "--tensor-parallel", "1",
          "--virtual", "1", "--top", "1", "--format", "json"])  # fmt: skip
    assert json.loads(capsys.readouterr().out)["ranked"][0]["step"] == advice.ranked[0].step


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": MODEL}, "ranks: missing (how many devices the pipeline has, or a cluster)"),
        ({"model": "value", "ranks": 2, "sequence": 8},
         "training: is said of a decoder in a file (give the model's file or name)"),
        ({"model": "value", "cluster": "c.toml"},
         "model: expected a decoder beside a cluster (give its file or its name)"),
    ],
)  # fmt: skip
def test_partition_says_what_does_not_go_together(arguments, message) -> None:
    value = sv.models.model_from({"name": "one", "layer": [{"name": "a", "forward": 1, "backward": 2}]})
    model = value if arguments["model"] == "value" else arguments["model"]
    with pytest.raises(sv.InputError) as caught:
        sv.partition(**(arguments | {"model": model}))
    assert str(caught.value) == message
