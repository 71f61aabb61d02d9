"""The cut of a model in the forms that frameworks take: by their own rules, and by themselves where they are here."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path

import pytest

from schedverify.cli import main
from schedverify.core.errors import InputError, UnknownNameError
from schedverify.core.model import Layer, Model, even_parts
from schedverify.formats.framework_cuts import FRAMEWORKS, for_framework
from schedverify.formats.megatron_cuts import Flags, decoder_layers, megatron_flags

Capture = pytest.CaptureFixture[str]


def gpt(decoders: int) -> Model:
    kinds = ["embedding", *["decoder"] * decoders, "loss"]
    return Model("gpt", tuple(Layer(f"{kind}{i}", 1, 2, kind=kind) for i, kind in enumerate(kinds)))


def stages_of(decoders: list[int]) -> list[range]:
    """Return the layers of stages with so many decoder layers, embedding and loss in the first and last one."""
    sizes = list(decoders)
    sizes[0] += 1
    sizes[-1] += 1
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return [range(first, last) for first, last in pairwise(starts)]


def said(decoders: list[int], ranks: int) -> str:
    return " ".join(megatron_flags(gpt(sum(decoders)), stages_of(decoders), ranks))


class TestMegatronFlags:
    @pytest.mark.parametrize(
        ("decoders", "ranks", "flags"),
        [
            ([4], 1, ""),
            ([4, 4], 2, ""),
            ([3, 4, 4, 4], 4, "--account-for-embedding-in-pipeline-split"),
            ([4, 4, 4, 3], 4, "--account-for-loss-in-pipeline-split"),
            ([0, 1, 1, 0], 4, "--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split"),
            ([2, 4, 4, 4], 4, "--decoder-first-pipeline-num-layers 2"),
            ([4, 4, 4, 2], 4, "--decoder-last-pipeline-num-layers 2"),
            ([13, 14], 2, "--account-for-embedding-in-pipeline-split"),
            ([10, 14], 2, "--decoder-first-pipeline-num-layers 10"),
            ([3, 4, 4, 2], 4, "--decoder-first-pipeline-num-layers 3 --decoder-last-pipeline-num-layers 2"),
            ([2, 3, 3, 2, 3, 3], 3, "--num-virtual-stages-per-pipeline-rank 2 --decoder-first-pipeline-num-layers 4"),
            ([1, 2, 2, 2, 2, 2], 3, "--num-virtual-stages-per-pipeline-rank 2 "
                                    "--account-for-embedding-in-pipeline-split"),
        ],
    )  # fmt: skip
    def test_what_they_can_say(self, decoders: list[int], ranks: int, flags: str) -> None:
        assert said(decoders, ranks) == f"--pipeline-model-parallel-size {ranks} {flags}".rstrip()

    @pytest.mark.parametrize(
        ("decoders", "ranks"),
        [([4, 3, 4, 4], 4), ([1, 2, 2, 2, 2, 1, 2, 2], 4), ([0, 4, 4, 2], 4), ([2, 2], 1), ([1, 2, 2, 1, 1, 2], 3)],
    )
    def test_what_they_cannot(self, decoders: list[int], ranks: int) -> None:
        with pytest.raises(InputError, match=r"flags cannot say stages of .* \(the layout string can"):
            said(decoders, ranks)

    @pytest.mark.parametrize("ranks", [1, 2, 3])
    @pytest.mark.parametrize("virtual", [1, 2])
    def test_all_that_megatron_builds_by_some_flags_is_said(self, ranks: int, virtual: int) -> None:
        """Every flag with every value: what comes out is said by flags again that give it."""
        built = 0
        for total, embedding, loss in product(range(1, 13), (False, True), (False, True)):
            ends = [None, *range(total + 1)]
            for first, last in product(ends, ends if ranks > 1 else [None]):
                made = decoder_layers(total, ranks, virtual, Flags(first, last, embedding, loss))
                if made is None:
                    continue
                built += 1
                assert sum(made) == total
                assert len(made) == ranks * virtual
                assert said(made, ranks)
        assert built > 10 or (ranks, virtual) == (1, 2)

    @pytest.mark.filterwarnings("ignore")
    def test_megatron_builds_what_we_say(self) -> None:
        """Its own configuration and its own count of layers, for every flag with every value."""
        torch = pytest.importorskip("torch")
        config = pytest.importorskip(
            "megatron.core.transformer.transformer_config", reason="the extra bench is missing"
        )
        from megatron.core.transformer.transformer_block import get_num_layers_to_build

        def built(total: int, ranks: int, virtual: int, flags: Flags) -> list[int] | None:
            chunks = list(range(virtual)) if virtual > 1 else [None]
            try:
                asked = config.TransformerConfig(
                    num_layers=total, hidden_size=8, num_attention_heads=2, pipeline_dtype=torch.float32,
                    pipeline_model_parallel_size=ranks,
                    virtual_pipeline_model_parallel_size=virtual if virtual > 1 else None,
                    num_layers_in_first_pipeline_stage=flags.first, num_layers_in_last_pipeline_stage=flags.last,
                    account_for_embedding_in_pipeline_split=flags.embedding,
                    account_for_loss_in_pipeline_split=flags.loss,
                )  # fmt: skip
                counts = [get_num_layers_to_build(asked, chunk, rank) for chunk in chunks for rank in range(ranks)]
                return counts if min(counts) >= 0 else None  # it does not look whether middle ranks have any left
            except (AssertionError, ValueError):
                return None

        takes = 0
        for ranks, virtual, total in product((2, 3, 4), (1, 2), range(1, 7)):
            ends = [None, *range(total + 1)]
            for flags in map(Flags, *zip(*product(ends, ends, (False, True), (False, True)), strict=True)):
                found = built(total, ranks, virtual, flags)
                assert found == decoder_layers(total, ranks, virtual, flags), (total, ranks, virtual, flags)
                takes += found is not None
        assert takes > 100

    def test_multi_token_prediction_stands_in_the_last_stage(self) -> None:
        kinds = ["embedding", "decoder", "decoder", "mtp", "loss"]
        model = Model("m", tuple(Layer(f"l{i}", kind=kind) for i, kind in enumerate(kinds)))
        assert megatron_flags(model, [[0, 1], [2, 3, 4]], 2) == ["--pipeline-model-parallel-size", "2"]
        with pytest.raises(InputError, match="in the last one"):
            megatron_flags(model, [[0], [1, 2, 3], [4]], 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("decoders", [[4, 4], [0, 1, 5, 2], [1, 2, 2, 1], [3]])
def test_megatron_takes_our_layout(decoders: list[int]) -> None:
    """Its own parser gives the layers of each stage, and its own check passes them."""
    reason = "the extra bench is missing"
    layouts = pytest.importorskip("megatron.core.transformer.pipeline_parallel_layer_layout", reason=reason)
    total, stages = sum(decoders), stages_of(decoders)
    ranks = min(len(decoders), 2)
    text = for_framework("megatron-layout", gpt(total), stages, [stage % ranks for stage in range(len(stages))])
    layout = layouts.PipelineParallelLayerLayout(text, ranks)
    layout.validate_layer_layout(total, None)
    kinds = [[kind.name for kind in layout.layout[s % ranks][s // ranks]] for s in range(len(stages))]
    assert kinds == [[gpt(total).layers[i].kind for i in members] for members in stages]


class TestLists:
    def test_deepspeed_takes_where_stages_begin(self) -> None:
        """As ``partition_uniform`` and ``partition_balanced`` return them: one number more than there are stages."""
        assert for_framework("deepspeed", gpt(6), [range(3), range(3, 5), range(5, 8)], [0, 1, 2]) == [0, 3, 5, 8]

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(("layers", "stages"), [(8, 3), (7, 7), (12, 4)])
    def test_deepspeed_writes_an_even_split_the_same(self, layers: int, stages: int) -> None:
        utils = pytest.importorskip("deepspeed.runtime.utils", reason="the extra bench is missing")
        placement = list(range(stages))
        ours = for_framework("deepspeed", gpt(layers - 2), even_parts(layers, stages), placement)
        assert ours == utils.partition_uniform(layers, stages)

    def test_torchtitan_has_names_of_its_own(self) -> None:
        assert for_framework("torchtitan", gpt(3), [range(2), range(2, 4), range(4, 5)], [0, 1, 2]) == [
            ["tok_embeddings", "layers.0"], ["layers.1", "layers.2"], ["norm", "lm_head"],
        ]  # fmt: skip
        plain = Model("m", tuple(Layer(name) for name in ("wte", "blocks.0", "ln")))
        assert for_framework("torchtitan", plain, [[0, 1], [2]], [0, 1]) == [["wte", "blocks.0"], ["ln"]]

    def test_torch_takes_the_names_that_stages_begin_with(self) -> None:
        plain = Model("m", tuple(Layer(name) for name in ("wte", "blocks.0", "ln")))
        assert for_framework("torch", plain, [[0], [1], [2]], [0, 1, 0]) == ["blocks.0", "ln"]

    @pytest.mark.parametrize("name", FRAMEWORKS)
    def test_a_graph_cut_freely_is_refused(self, name: str) -> None:
        with pytest.raises(InputError, match="the layers of stage 0 do not follow each other"):
            for_framework(name, gpt(2), [[0, 2], [1, 3]], [0, 1])

    @pytest.mark.parametrize("name", ["megatron-layout", "megatron-flags", "deepspeed"])
    def test_a_placement_that_is_not_theirs_is_refused(self, name: str) -> None:
        with pytest.raises(InputError, match="stages stand on ranks 0, 1, 1, 0"):
            for_framework(name, gpt(6), stages_of([1, 2, 2, 1]), [0, 1, 1, 0])

    def test_deepspeed_has_one_stage_a_rank(self) -> None:
        with pytest.raises(InputError, match="4 stages on 2 ranks"):
            for_framework("deepspeed", gpt(6), stages_of([1, 2, 2, 1]), [0, 1, 0, 1])

    def test_another_framework_is_refused(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'torch'"):
            for_framework("torsh", gpt(1), [[0, 1, 2]], [0])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torch_cuts_a_model_at_the_split_points() -> None:
    """``pipeline()`` makes stages with exactly our layers, and their outputs in turn are the model's."""
    torch = pytest.importorskip("torch")
    from torch import nn
    from torch.distributed.pipelining import SplitPoint, pipeline

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 8)
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
            self.head = nn.Linear(8, 11)

        def forward(self, words: object) -> object:
            hidden = self.embed(words)
            for layer in self.layers:
                hidden = layer(hidden).relu()
            return self.head(hidden)

    names = ["embed", *(f"layers.{i}" for i in range(4)), "head"]
    model = Model("net", tuple(Layer(name, 1, 2) for name in names))
    layers = [[0, 1], [2, 3, 4], [5]]
    points = for_framework("torch", model, layers, [0, 1, 2])
    torch.manual_seed(0)
    net, words = Net(), torch.tensor([[1, 2, 3]])
    cut = pipeline(net, (words,), split_spec=dict.fromkeys(points, SplitPoint.BEGINNING))
    held = [{name.rpartition(".")[0] for name in cut.get_stage_module(s).state_dict()} for s in range(cut.num_stages)]
    assert held == [{names[i] for i in members} for members in layers]
    hidden = words
    for stage in range(cut.num_stages):
        hidden = cut.get_stage_module(stage)(hidden)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    assert torch.equal(hidden, net(words))


MODEL = """
[[layer]]
name = "e"
kind = "embedding"
forward = 1
backward = 1
[[layer]]
name = "layers."
kind = "decoder"
repeat = 4
forward = 3
backward = 6
[[layer]]
name = "head"
kind = "loss"
forward = 1
backward = 2
"""


@pytest.mark.parametrize(
    ("form", "text", "value"),
    [
        ("megatron-layout", "Et*2|t*2L", "Et*2|t*2L"),
        ("megatron-flags", "--pipeline-model-parallel-size 2", "--pipeline-model-parallel-size 2"),
        ("torch", '["layers.2"]', ["layers.2"]),
        ("torchtitan", '[["tok_embeddings", "layers.0", "layers.1"], ["layers.2", "layers.3", "norm", "lm_head"]]',
         [["tok_embeddings", "layers.0", "layers.1"], ["layers.2", "layers.3", "norm", "lm_head"]]),
        ("deepspeed", "[0, 3, 6]", [0, 3, 6]),
    ],
)  # fmt: skip
def test_the_command_prints_the_form_and_nothing_else(
    form: str, text: str, value: object, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "m.toml").write_text(MODEL)
    command = ["partition", str(tmp_path / "m.toml"), "--ranks", "2", "--to", form]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{text}\n"
    assert main([*command, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[form] == value


def test_the_command_refuses_what_a_form_cannot_say(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "m.toml").write_text(MODEL)
    target = tmp_path / "p.toml"
    code = main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "--virtual", "2", "--to", "deepspeed",
                 "-o", str(target)])  # fmt: skip
    assert code == 2
    assert "DeepSpeed has one stage a rank" in capsys.readouterr().err
    assert not target.exists()
