"""Files of clusters, and the decoders that go with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from schedverify.core.errors import InputError
from schedverify.costmodel.parallelism import Choices
from schedverify.formats.json_toml import parse_toml
from schedverify.formats.models.cluster_files import cluster_from, load_decoder
from schedverify.formats.schema import schemas

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


class TestFiles:
    def test_a_cluster_is_read(self) -> None:
        found = cluster_from(parse_toml(FILE))
        assert (found.size, found.batch, found.device.memory) == (8, 32, 80 * 10**9)
        assert found.choices == Choices(virtual=(1,), microbatch_size=(1, 2))
        assert cluster_from(parse_toml(FILE), "h100-80gb").device.peak == 989 * 10**12
        Draft202012Validator(json.loads(schemas()["cluster.json"])).validate(parse_toml(FILE))

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (("nodes = 2", ""), "nodes: missing (a cluster needs it)"),
            (("nodes = 2", "nodes = 0"), "nodes: expected a whole number from 1"),
            (("nodes = 2", "nodes = 100000"), "100000 nodes of 4 are more than 65536 devices"),
            (("nodes = 2", "node = 2"), "node: unknown key (did you mean 'nodes'?)"),
            (("nodes = 2", "version = 2\nnodes = 2"), "version: expected 1, found 2"),
            (('"a100-80gb"', '"a100"'), "device.like: nothing of this name comes with schedverify"),
            (('like = "a100-80gb"', ""), "device.peak: missing"),
            (("virtual = 1", "virtual = []"), "choices.virtual: expected at least one choice"),
            (("virtual = 1", "virtual = [1, 'a']"), "choices.virtual: expected a whole number"),
            (("virtual = 1", "recompute = 'some'"), "choices.recompute: expected one of none, selective, full"),
            (("[choices]", "[choice]"), "choice: unknown key (did you mean 'choices'?)"),
        ],
    )
    def test_what_is_wrong_is_told(self, change: tuple[str, str], told: str) -> None:
        with pytest.raises(InputError) as caught:
            cluster_from(parse_toml(FILE.replace(*change)))
        assert told in str(caught.value)

    def test_a_model_that_is_no_decoder_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "m.toml"
        path.write_text("[[layer]]\nforward = 1\n")
        with pytest.raises(InputError, match=r"m.toml: decoder: missing \(a cluster needs a model by its shape"):
            load_decoder(path)
        path.write_text('[decoder]\nlike = "llama-2-7b"\nhiden = 3\n[training]\nsequence = 8\n[devices]\nlatency = 1\n')
        with pytest.raises(InputError) as caught:
            load_decoder(path)
        assert "devices: does not go with a cluster" in str(caught.value)
        assert "decoder.hiden: unknown key (did you mean 'hidden'?)" in str(caught.value)

    def test_what_the_model_says_of_degrees_is_fixed(self, tmp_path: Path) -> None:
        path = tmp_path / "m.toml"
        path.write_text('[decoder]\nlike = "llama-2-7b"\n[training]\nsequence = 8\nrecompute = "none"\n')
        assert load_decoder(path).fixed == {"recompute": ("none",)}
