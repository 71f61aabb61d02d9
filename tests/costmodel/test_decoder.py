"""Decoders by their shape, against what papers and model cards say of FLOPs, bytes and parameters."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schedverify.cli import main
from schedverify.core.errors import InputError
from schedverify.core.model import Model
from schedverify.costmodel.decoder import RECOMPUTE, Decoder, Device, Training, activations, decoder_model
from schedverify.costmodel.decoder.device import Link
from schedverify.costmodel.decoder.flops import head_flops, layer_flops, model_flops
from schedverify.formats.json_toml import parse_toml
from schedverify.formats.models.decoder_files import known
from schedverify.formats.models.model_files import load_model, model_from
from schedverify.formats.schema import schemas

Capture = pytest.CaptureFixture[str]
PUBLISHED = {
    "gpt-3-175b": 175_000_000_000,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3-405b": 405_853_388_800,
    "mixtral-8x7b": 46_702_792_704,
    "megatron-22b": 22_000_000_000,
    "megatron-530b": 530_000_000_000,
    "megatron-1t": 1_008_000_000_000,
}
"""Table 2.1 of arXiv 2005.14165; the sizes that the model cards' checkpoints have; table 1 of arXiv 2104.04473."""
STEPS = {"megatron-22b": (8, 4, "1.10", "41.5"), "gpt-3-175b": (64, 64, "13.75", "51.4"),
         "megatron-530b": (280, 280, "37.83", "56.0"), "megatron-1t": (512, 512, "71.49", "56.3")}  # fmt: skip
"""Table 5 of arXiv 2205.05198: devices, sequences of a step, its seconds, percent of the peak that the model takes."""


def shape_of(name: str, **changes: int) -> Decoder:
    values = {key: value for key, value in known("decoder")[name].items() if key != "source"}
    return Decoder(**values | changes)


@st.composite
def gpts(draw: st.DrawFn) -> tuple[Decoder, Training]:
    heads, split = draw(st.integers(1, 8)) * 8, draw(st.sampled_from((1, 2, 4, 8)))
    shape = Decoder(draw(st.integers(1, 99)), heads * draw(st.sampled_from((64, 128))), heads,
                    draw(st.integers(1, 9)) * 840, positions=draw(st.integers(1, 9)) * 128, biases=True, dropout=True,
                    tied=True)  # fmt: skip
    training = Training(draw(st.integers(1, 9)) * 128, draw(st.integers(1, 4)), tensor_parallel=split,
                        sequence_parallel=draw(st.booleans()), recompute=draw(st.sampled_from(RECOMPUTE)))  # fmt: skip
    return shape, training


class TestParameters:
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_the_models_that_come_along_have_the_published_counts(self, name: str) -> None:
        found, published = shape_of(name).parameters, PUBLISHED[name]
        assert abs(found - published) <= published / 100
        if "llama" in name or "mixtral" in name:
            assert found == published

    def test_every_model_that_comes_along_is_held_against_something(self) -> None:
        assert set(PUBLISHED) == set(known("decoder"))
        assert all("source" in values for table in ("decoder", "device") for values in known(table).values())

    @given(gpts())
    def test_gpts_have_what_the_formula_says(self, given_: tuple[Decoder, Training]) -> None:
        shape, _ = given_
        l, h, v, s = shape.layers, shape.hidden, shape.vocabulary, shape.positions
        formula = 12 * l * h**2 * (1 + Fraction(13, 12 * h) + Fraction(v + s, 12 * l * h))
        assert shape.parameters == formula + 2 * h

    def test_what_devices_hold_comes_to_the_whole(self) -> None:
        shape = shape_of("llama-2-70b")
        norms = 2 * shape.hidden
        assert 8 * (shape.layer_parameters(8) - norms) + norms == shape.layer_parameters()


class TestFlops:
    @given(gpts())
    def test_a_step_takes_what_the_formulas_say(self, given_: tuple[Decoder, Training]) -> None:
        shape, training = given_
        b, s, l, h, v = training.microbatch_size, training.sequence, shape.layers, shape.hidden, shape.vocabulary
        if training.recompute == "full":
            assert model_flops(shape, training) == 96 * b * s * l * h**2 * (
                1 + Fraction(s, 6 * h) + Fraction(v, 16 * l * h)
            )
        if training.recompute == "none":
            assert model_flops(shape, training) == 72 * b * s * l * h**2 * (
                1 + Fraction(s, 6 * h) + Fraction(v, 12 * l * h)
            )

    @given(gpts())
    def test_each_pass_takes_what_the_zero_bubble_paper_says(self, given_: tuple[Decoder, Training]) -> None:
        shape, training = given_
        b, s, h = training.microbatch_size, training.sequence, shape.hidden
        forward, backward_input, backward_weight = layer_flops(shape, training)
        again = {"none": 0, "selective": 4 * b * s**2 * h, "full": forward}[training.recompute]
        assert forward == s * b * h * (24 * h + 4 * s)
        assert backward_input == s * b * h * (24 * h + 8 * s) + again
        assert backward_weight == s * b * h * 24 * h
        assert sum(head_flops(shape, training)) == 6 * b * s * h * shape.vocabulary

    @pytest.mark.parametrize("name", STEPS)
    def test_measured_steps_come_to_the_published_part_of_the_peak(self, name: str) -> None:
        devices, sequences, seconds, percent = STEPS[name]
        shape = shape_of(name, vocabulary=51200)
        flops = sequences * model_flops(shape, Training(2048, recompute="none"))
        longest, shortest = Fraction(seconds) + Fraction("0.005"), Fraction(seconds) - Fraction("0.005")
        low, high = (flops / (time * devices * 312 * 10**10) for time in (longest, shortest))
        assert low - Fraction("0.05") <= Fraction(percent) <= high + Fraction("0.05")

    def test_a_gate_keys_and_experts_count(self) -> None:
        shape = Decoder(1, 64, 8, 100, kv_heads=2, ffn=96, gated=True, experts=4, top_k=2)
        training = Training(10, recompute="none")
        weights = 64 * 64 + 2 * 64 * 16 + 64 * 64 + 2 * 3 * 64 * 96 + 64 * 4
        assert layer_flops(shape, training).backward_weight == 2 * 10 * weights
        assert layer_flops(shape, training).forward == 2 * 10 * weights + 4 * 10 * 10 * 64


class TestActivations:
    @given(gpts())
    def test_a_layer_keeps_what_the_paper_says(self, given_: tuple[Decoder, Training]) -> None:
        shape, training = given_
        b, s, h, a, t = (
            training.microbatch_size,
            training.sequence,
            shape.hidden,
            shape.heads,
            training.tensor_parallel,
        )
        core = {"none": Fraction(5 * a * s, h), "selective": 0, "full": 0}[training.recompute]
        if training.recompute == "full":
            formula = Fraction(2 * s * b * h, t if training.sequence_parallel else 1)
        elif training.sequence_parallel:
            formula = Fraction(s * b * h, t) * (34 + core)
        else:
            formula = s * b * h * (10 + Fraction(24, t) + core / t)
        assert activations.layer_activation(shape, training) == formula

    def test_selective_recomputation_saves_what_was_published(self) -> None:
        """70% for GPT-3 and 65% for the model of 530 billion, section 5 of arXiv 2205.05198."""
        for name, percent in (("gpt-3-175b", 70), ("megatron-530b", 65)):
            every = activations.layer_activation(shape_of(name), Training(2048, recompute="none"))
            kept = activations.layer_activation(shape_of(name), Training(2048))
            assert round(100 * (1 - kept / every)) == percent

    @given(gpts())
    def test_the_head_keeps_what_the_paper_says(self, given_: tuple[Decoder, Training]) -> None:
        shape, training = given_
        s, b, h, v, t = 384, training.microbatch_size, shape.hidden, shape.vocabulary, training.tensor_parallel
        found = activations.head_activation(shape, Training(s, b, tensor_parallel=t))
        assert found == 4 * s * b * h * (1 + Fraction(v, h)) / t

    @given(gpts())
    def test_the_weight_part_holds_what_the_zero_bubble_paper_says(self, given_: tuple[Decoder, Training]) -> None:
        shape, training = given_
        alone = Training(training.sequence, training.microbatch_size)
        assert activations.layer_stash(shape, alone) == 32 * alone.tokens * shape.hidden
        assert activations.layer_stash(shape, training) <= activations.kept_activation(shape, training)

    @pytest.mark.parametrize("name", PUBLISHED)
    @pytest.mark.parametrize("together", [True, False])
    def test_of_every_model_the_weight_part_holds_no_more_than_there_is(self, name: str, together: bool) -> None:
        training = Training(4096, tensor_parallel=8, sequence_parallel=together)
        assert activations.layer_stash(shape_of(name), training) <= activations.layer_activation(
            shape_of(name), training
        )


class TestTraining:
    @pytest.mark.parametrize(
        ("training", "bytes_"),
        [
            (Training(1), 18),
            (Training(1, bytes_per_parameter=16), 16),
            (Training(1, dtype="fp32"), 16),
            (Training(1, data_parallel=4, distributed_optimizer=True), 6 + 12 / 4),
            (Training(1, dtype="fp32", data_parallel=4, distributed_optimizer=True), 8 + 8 / 4),
        ],
    )
    def test_a_parameter_takes_what_megatrons_guide_says(self, training: Training, bytes_: float) -> None:
        assert training.number * 1000 + training.state_bytes(1000) == 1000 * bytes_


FAST = Device(Fraction(10**12), Fraction(1, 2), inside=Link(Fraction(10**9), Fraction(1, 10**6)))
TINY = Decoder(2, 64, 8, 100, ffn=256)


def made(training: Training, device: Device = FAST, tick: int = 10**9) -> Model:
    return decoder_model(TINY, training, device, tick=Fraction(1, tick))


class TestModel:
    def test_a_layer_takes_its_flops_at_the_devices_efficiency(self) -> None:
        model = made(Training(32, recompute="none"))
        flops = layer_flops(TINY, Training(32, recompute="none"))
        layer = model.layers[1]
        assert layer.forward == -(-flops.forward * 2 // 1000)
        assert layer.backward_input == -(-flops.backward_input * 2 // 1000)
        assert layer.backward_weight == -(-flops.backward_weight * 2 // 1000)
        assert [layer.name for layer in model.layers] == ["embedding", "decoder0", "decoder1", "head"]
        assert model.tick == "ns"

    def test_devices_that_share_a_layer_reduce_two_tensors_a_pass(self) -> None:
        alone, shared = (made(Training(32, recompute="none", tensor_parallel=t)).layers[1] for t in (1, 2))
        ring = 2 * (1000 + 2 * 2 * 32 * 64 // 2)
        assert shared.forward == -(-alone.forward // 2) + ring
        assert shared.backward_weight == -(-(alone.backward_weight or 0) // 2)

    def test_memory_bandwidth_makes_small_layers_slower(self) -> None:
        slow = Device(Fraction(10**12), memory_bandwidth=Fraction(10**6))
        model = made(Training(32), slow)
        assert model.layers[1].forward > made(Training(32)).layers[1].forward
        assert model.layers[0].forward == 2 * 2 * 32 * 64 * 1000

    def test_full_recomputation_pays_the_forward_again_and_keeps_the_inputs(self) -> None:
        every, full = made(Training(32, recompute="none")), made(Training(32, recompute="full"))
        assert not full.split
        assert abs(full.layers[1].backward - every.layers[1].backward - every.layers[1].forward) <= 1
        assert full.layers[1].activation == full.layers[1].output == 2 * 32 * 64
        assert full.layers[-1].work == every.layers[-1].work

    def test_what_recomputation_needs_is_taken_off_the_memory(self) -> None:
        device = Device(Fraction(10**12), memory=10**9, reserved=10**6)
        room = made(Training(32, recompute="full"), device).devices.memory[0]
        assert room == 10**9 - 10**6 - activations.kept_activation(TINY, Training(32, recompute="full"))
        assert made(Training(32), device).devices.memory == (10**9 - 10**6,)

    def test_a_measured_layer_takes_about_what_is_computed(self) -> None:
        """7.2 ms forward and 11.8 ms backward, table 4 of arXiv 2205.05198: the 22B model, 8 devices, 4 sequences."""
        values = {"decoder": {"like": "megatron-22b"}, "device": {"like": "a100-80gb"}}
        training = {"sequence": 2048, "microbatch_size": 4, "tensor_parallel": 8, "recompute": "none"}
        layer = model_from({**values, "training": training}).layers[1]
        assert abs(layer.work - 19_000) < 1_900
        assert abs(layer.forward - 7_200) < 1_440

    def test_what_does_not_go_together_is_told(self) -> None:
        with pytest.raises(InputError) as caught:
            decoder_model(
                Decoder(1, 65, 8, 10, kv_heads=3, top_k=2),
                Training(8, tensor_parallel=5, bytes_per_parameter=9),
                FAST,
                tick=Fraction(1),
            )
        for told in ("8 heads do not divide a width of 65", "3 heads of keys do not divide 8", "2 of 1 experts",
                     "5 devices do not divide 8 heads", "weight and optimizer alone take 14 bytes, not 9"):  # fmt: skip
            assert told in str(caught.value)


FILE = """
name = "mine"
tick = "0.1 us"

[decoder]
like = "llama-2-7b"
layers = 4

[training]
sequence = 2048
tensor_parallel = 2

[device]
like = "h100-80gb"
memory_bandwidth = "2 TB"

[devices]
bandwidth = 77

[partition]
alone = ["head"]
"""


class TestFiles:
    def test_tables_are_read_and_go_before_what_they_are_like(self) -> None:
        model = model_from(parse_toml(FILE))
        assert len(model.layers) == 6
        assert model.tick == "0.1 us"
        assert model.wishes.alone == (5,)
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
            (('"2 TB"', '"2 TB"\nreserved = "81 GB"'), "device.memory: 80000000000 bytes, of which 81000000000"),
        ],
    )
    def test_what_is_wrong_is_told(self, change: tuple[str, str], told: str) -> None:
        with pytest.raises(InputError) as caught:
            model_from(parse_toml(FILE.replace(*change)))
        assert told in str(caught.value)

    def test_tables_without_a_decoder_are_told(self) -> None:
        with pytest.raises(InputError, match=r"training: is for a \[decoder\], and there is none"):
            model_from(parse_toml("[training]\nsequence = 1\n[[layer]]\nforward = 1"))


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
        assert "no model of this name comes with schedverify (did you mean 'llama-2-7b'?)" in capsys.readouterr().err
        profile = Path(__file__).parents[2] / "specs" / "profiles" / "vgg16.txt"
        assert main(["partition", str(profile), *self.OPTIONS]) == 2
        assert "device: is for a decoder, and this is a profile of PipeDream" in capsys.readouterr().err
