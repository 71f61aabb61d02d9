"""Decoders by their shape, against what papers and model cards say of FLOPs, bytes and parameters."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedverify.core.errors import InputError
from schedverify.core.model import Model
from schedverify.costmodel.decoder import RECOMPUTE, Decoder, Device, Training, decoder_model, layer_costs
from schedverify.costmodel.decoder.device import Link
from schedverify.costmodel.decoder.layer_costs import head_flops, layer_flops, model_flops
from schedverify.formats.models.decoder_files import known
from schedverify.formats.models.model_files import model_from
from schedverify.partitioner.stage_problem import cut

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

    @pytest.mark.parametrize("family", ["1f1b", "zb-v"])
    def test_a_rank_with_embedding_and_head_holds_a_tied_table_once(self, family: str) -> None:
        """With zb-v the first rank has the first stage and the last; with one rank it has all of them."""
        shape, training = Decoder(6, 64, 4, 500, tied=True), Training(32, recompute="none")
        model = decoder_model(shape, training, Device(Fraction(10**12)), name="d", tick=Fraction(1, 10**9))
        whole = 18 * shape.parameters
        alone = cut(model, ranks=1, microbatches=4, virtual=2 if family == "zb-v" else 1, family=family)
        two = cut(model, ranks=2, microbatches=4, virtual=2 if family == "zb-v" else 1, family=family)
        assert sum(alone.problem.static) == whole
        assert sum(two.problem.static) == whole + (0 if family == "zb-v" else 18 * 500 * 64)

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
        assert layer_costs.layer_activation(shape, training) == formula

    def test_selective_recomputation_saves_what_was_published(self) -> None:
        """70% for GPT-3 and 65% for the model of 530 billion, section 5 of arXiv 2205.05198."""
        for name, percent in (("gpt-3-175b", 70), ("megatron-530b", 65)):
            every = layer_costs.layer_activation(shape_of(name), Training(2048, recompute="none"))
            kept = layer_costs.layer_activation(shape_of(name), Training(2048))
            assert round(100 * (1 - kept / every)) == percent

    @given(gpts())
    def test_the_head_keeps_what_the_paper_says(self, given_: tuple[Decoder, Training]) -> None:
        shape, training = given_
        s, b, h, v, t = 384, training.microbatch_size, shape.hidden, shape.vocabulary, training.tensor_parallel
        found = layer_costs.head_activation(shape, Training(s, b, tensor_parallel=t))
        assert found == 4 * s * b * h * (1 + Fraction(v, h)) / t

    @given(gpts())
    def test_the_weight_part_holds_what_the_zero_bubble_paper_says(self, given_: tuple[Decoder, Training]) -> None:
        shape, training = given_
        alone = Training(training.sequence, training.microbatch_size)
        assert layer_costs.layer_stash(shape, alone) == 32 * alone.tokens * shape.hidden
        assert layer_costs.layer_stash(shape, training) <= layer_costs.saved_activation(shape, training)

    @pytest.mark.parametrize("name", PUBLISHED)
    @pytest.mark.parametrize("together", [True, False])
    def test_of_every_model_the_weight_part_holds_no_more_than_there_is(self, name: str, together: bool) -> None:
        training = Training(4096, tensor_parallel=8, sequence_parallel=together)
        assert layer_costs.layer_stash(shape_of(name), training) <= layer_costs.layer_activation(
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
        assert training.number_bytes * 1000 + training.state_bytes(1000) == 1000 * bytes_


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
        assert room == 10**9 - 10**6 - layer_costs.saved_activation(TINY, Training(32, recompute="full"))
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
