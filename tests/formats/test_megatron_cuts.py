"""Megatron's layout strings: read, written, and refused where Megatron would."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedverify.core.errors import InputError
from schedverify.core.model import Layer, Model
from schedverify.formats.json_toml import parse_toml
from schedverify.formats.megatron_cuts import megatron_layout, read_layout, refusals
from schedverify.formats.models.model_files import model_from
from schedverify.partitioner.stage_problem import cut
from support.model_texts import MODEL


@pytest.fixture
def small() -> Model:
    return model_from(parse_toml(MODEL))


class TestMegatron:
    def test_the_example_of_its_own_guide_is_read(self) -> None:
        stages = read_layout("Et*3|(tt|)*29,m|L")
        assert (len(stages), stages[0], stages[1], stages[-2:]) == (32, "Ettt", "tt", ["m", "L"])
        assert refusals(stages, 16) == []

    def test_what_people_wrote_by_hand_is_read(self) -> None:
        stages = read_layout("Et*2|(t*2|)*34,t*3|(t*2|)*3,tL")
        assert len(stages) == 40
        assert "".join(stages).count("t") == 80
        assert refusals(stages, 8) == []

    def test_a_partition_is_written_and_read_again(self, small: Model) -> None:
        found = cut(small, ranks=2, microbatches=4, virtual=2)
        text = megatron_layout(small, found.partition.layers, 2)
        letters = {"embedding": "E", "decoder": "t", "loss": "L"}
        assert read_layout(text) == [
            "".join(letters[small.layers[i].kind] for i in on) for on in found.partition.layers
        ]

    @given(st.lists(st.integers(1, 4), min_size=1, max_size=30))
    @settings(deadline=None)
    def test_any_layout_is_written_and_read_again(self, sizes: list[int]) -> None:
        kinds = ["embedding", *["decoder"] * (sum(sizes) - 2), "loss"] if sum(sizes) > 1 else []
        if not kinds:
            return
        model = Model("m", tuple(Layer(f"l{i}", kind=kind) for i, kind in enumerate(kinds)))
        starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        layers = [range(a, b) for a, b in pairwise(starts)]
        stages = read_layout(megatron_layout(model, layers, 1))
        assert list(map(len, stages)) == sizes
        assert "".join(stages) == "E" + "t" * (len(kinds) - 2) + "L"

    @pytest.mark.parametrize(
        ("layout", "told"),
        [
            ("Et|tL|t", "the last layer must be the loss"),
            ("tE|tL", "the first layer must be the embedding"),
            ("Et|mt|L|", "decoder layers must stand before"),
            ("Em|m|tL", "must stand in one stage"),
            ("Et|tL|t", "3 stages are no multiple of 2 ranks"),
        ],
    )
    def test_what_it_would_refuse_is_told(self, layout: str, told: str) -> None:
        assert any(told in text for text in refusals(read_layout(layout), 2))

    def test_other_letters_and_layers_are_told(self, small: Model) -> None:
        with pytest.raises(InputError, match="'x' is no letter"):
            read_layout("Ex|L")
        plain = Model("m", tuple(Layer(f"l{i}") for i in range(2)))
        with pytest.raises(InputError, match="l0 is of no kind that Megatron knows"):
            megatron_layout(plain, [[0], [1]], 2)
