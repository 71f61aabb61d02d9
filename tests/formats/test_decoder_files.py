"""Model files of decoders: tables, what comes along, and what is wrong in them."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from schedverify.core.errors import InputError
from schedverify.formats.json_toml import parse_toml
from schedverify.formats.models.decoder_files import known
from schedverify.formats.models.model_files import model_from
from schedverify.formats.schema import schemas
from support.model_texts import DECODER as FILE


class TestFiles:
    def test_tables_are_read_and_go_before_what_they_are_like(self) -> None:
        model = model_from(parse_toml(FILE))
        assert len(model.layers) == 6
        assert model.tick == "0.1 us"
        assert model.constraints.alone == (5,)
        assert model.devices.memory == (80 * 10**9,)
        assert model.devices.bandwidth == 77
        assert model.layers[1].output == 2 * 2048 * 4096 // 2

    def test_the_schema_takes_it(self) -> None:
        validator = Draft202012Validator(json.loads(schemas()["model.json"]))
        data = json.loads(json.dumps(parse_toml(FILE), default=float))
        validator.validate(data)
        assert list(validator.iter_errors({**data, "decoder": {"layers": 0}}))

    @pytest.mark.parametrize("device", known("device"))
    @pytest.mark.parametrize("name", known("decoder"))
    def test_all_that_comes_along_makes_models(self, name: str, device: str) -> None:
        data = {"decoder": {"like": name}, "training": {"sequence": 2048, "tensor_parallel": 8}}
        model = model_from({**data, "device": {"like": device}})
        assert model.split
        assert len(model.layers) == known("decoder")[name]["layers"] + 2
        assert all(layer.weight_stash <= layer.activation for layer in model.layers)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (('"llama-2-7b"', '"llama-2-8b"'), "decoder.like: nothing of this name comes with schedverify"),
            (("layers = 4", "layer = 4"), "decoder.layer: unknown key (did you mean 'layers'?)"),
            (("layers = 4", "layers = 1.5"), "decoder.layers: expected a whole number from 1"),
            (("layers = 4", "gated = 1"), "decoder.gated: expected one of true, false, found 1"),
            (('"h100-80gb"', '"h100"'), "device.like: nothing of this name comes with schedverify"),
            (('like = "h100-80gb"', ""), "device.peak: missing (or name one that comes along: a100-80gb"),
            (("sequence = 2048", ""), "training.sequence: missing (tokens of a sequence)"),
            (("sequence = 2048", "sequence = 2048\nrecompute = 'half'"), "expected one of none, selective, full"),
            (('"2 TB"', '"2 TX"'), "device.memory_bandwidth: expected a number from 1"),
            (('"2 TB"', '"2 TB"\nefficiency = 1.5'), "device.efficiency: expected a number from 0 to 1, found 1.5"),
            (('"0.1 us"', '"tick"'), "tick: a decoder's durations are computed"),
            (("tensor_parallel = 2", "tensor_parallel = 3"), "3 devices do not divide 32 heads"),
            (('["head"]', '["heads"]'), "partition.alone[0]: no layer is called 'heads' (did you mean 'head'?)"),
            (("[devices]", "[[layer]]\n[devices]"), "layer: a model has [[layer]] or [decoder], not both"),
            (('"2 TB"', '"2 TB"\nreserved = "81 GB"'), "device.memory: 80.0 GB, of which 81.0 GB hold no layer"),
        ],
    )
    def test_what_is_wrong_is_told(self, change: tuple[str, str], told: str) -> None:
        with pytest.raises(InputError) as caught:
            model_from(parse_toml(FILE.replace(*change)))
        assert told in str(caught.value)

    def test_tables_without_a_decoder_are_told(self) -> None:
        with pytest.raises(InputError, match=r"training: is for a \[decoder\], and there is none"):
            model_from(parse_toml("[training]\nsequence = 1\n[[layer]]\nforward = 1"))
