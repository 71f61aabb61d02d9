"""From a model file to a problem: the profiles of real networks, files, Megatron's layout, and the command."""

from __future__ import annotations

import json
import re
import time
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import schedverify as sv
from schedverify.cli import main
from schedverify.core.errors import InfeasibleError, InputError
from schedverify.core.model import Devices, Layer, Model, PartitionConstraints
from schedverify.formats.json_toml import parse_toml
from schedverify.formats.megatron_cuts import megatron_layout, read_layout, refusals
from schedverify.formats.models.model_files import load_model, model_from
from schedverify.formats.models.pipedream import parse_profile
from schedverify.formats.schema import schemas
from schedverify.partitioner import least_bottleneck
from schedverify.partitioner.stage_problem import cut, even_split, evenly, stage_problem

PROFILES = Path(__file__).parents[2] / "specs" / "profiles"
KNOWN = {"vgg16": (4, 216_450, 672_535), "resnet50": (8, 56_684, 443_419), "gnmt": (8, 19_032, 89_416)}
"""Stages, the best bottleneck and the whole work in microseconds, as PipeDream's optimizer has them."""
Capture = pytest.CaptureFixture[str]
Edges = tuple[tuple[int, int], ...] | None
MODEL = """
name = "small"
tick = "us"
tied = [["embedding", "head"]]

[[layer]]
name = "embedding"
kind = "embedding"
forward = 10
backward_input = 5
backward_weight = 15
parameters = "2 MiB"
output = 100

[[layer]]
name = "t"
kind = "decoder"
repeat = 6
forward = 100
backward_input = 110
backward_weight = 90
activation = 64
weight_stash = 32
parameters = 10
output = 100

[[layer]]
name = "head"
kind = "loss"
forward = 180
backward_input = 180
backward_weight = 180
"""


@pytest.fixture
def small() -> Model:
    return model_from(parse_toml(MODEL))


@pytest.mark.parametrize("name", KNOWN)
def test_profiles_of_real_networks_come_to_what_pipedream_finds(name: str) -> None:
    stages, bottleneck, whole = KNOWN[name]
    model = load_model(PROFILES / f"{name}.txt")
    assert sum(layer.work for layer in model.layers) == whole
    assert not any("Input" in layer.name for layer in model.layers)
    found = cut(model, ranks=stages, microbatches=8)
    assert found.partition.bottleneck == bottleneck
    assert not found.partition.linearized
    assert max(f + b for f, b in zip(found.problem.forward, found.problem.backward, strict=True)) == bottleneck


def test_a_thousand_layers_on_64_stages_take_a_moment() -> None:
    """No test by timing: the time is far below the limit, and a slow machine has room for forty times as much."""
    layers = tuple(Layer(f"l{i}", 1 + i * 7919 % 20_000, 1 + i * 104_729 % 20_000, output=5) for i in range(1000))
    model, states = Model("m", layers), tuple(((1,),) for _ in range(64))
    began = time.process_time()
    found = least_bottleneck(model, tuple(range(64)), states)
    assert time.process_time() - began < 2
    assert sum(map(len, found.layers)) == 1000


def test_a_problem_has_the_sums_of_its_stages(small: Model) -> None:
    found = cut(small, ranks=2, microbatches=4)
    problem = found.problem
    assert found.names == [["embedding", "t0", "t1", "t2", "t3"], ["t4", "t5", "head"]]
    assert problem.form == "split"
    assert problem.forward == (410, 380)
    assert problem.backward_weight == (15 + 360, 180 + 180)
    assert problem.activation == (256, 128)
    assert problem.static == (2 * 2**20 + 40, 20)
    assert problem.boundary_bytes[0] == 100
    assert problem.tied == ((0, 1),)
    assert found.partition.bottleneck == 30 + 4 * 300


def test_several_stages_a_rank_share_load_and_memory(small: Model) -> None:
    found = cut(small, ranks=2, microbatches=4, virtual=2)
    loads = [0, 0]
    for stage, home in enumerate(found.problem.owner_rank):
        loads[home] += found.problem.forward[stage] + found.problem.backward[stage]
    assert found.partition.proved
    assert max(loads) == found.partition.bottleneck == 1230
    assert sv.verify(sv.generate("interleaved-1f1b", found.problem), found.problem).ok


def test_memory_moves_the_cut(small: Model) -> None:
    """An early stage holds more micro-batches: with little memory it gets fewer layers."""
    loose = cut(small, ranks=2, microbatches=4)
    tight = Model(
        small.name, small.layers, small.tick, tied=small.tied, devices=Devices(memory=(2**21 + 2 * 64 * 2 + 20,))
    )
    found = cut(tight, ranks=2, microbatches=4)
    assert len(found.partition.layers[0]) < len(loose.partition.layers[0])
    assert found.problem.capacity is not None
    assert all(map(int.__le__, found.timeline().measures.peak_memory, found.problem.capacity))


def test_a_partition_beside_the_best_that_fits_no_memory_is_passed_over() -> None:
    """As many layers on each stage would put both large ones on one rank."""
    layers = tuple(Layer(f"l{i}", 1, 1, parameters=100 if i < 2 else 0) for i in range(4))
    found = cut(Model("m", layers, devices=Devices(memory=(150,))), ranks=2, microbatches=2)
    assert found.partition.layers == ((0,), (1, 2, 3))


def test_wishes_are_kept(small: Model) -> None:
    wishes = PartitionConstraints(pinned=((5, 0),), alone=(7,))
    found = cut(Model("m", small.layers, wishes=wishes), ranks=3, microbatches=4)
    assert 5 in found.partition.layers[0]
    assert found.partition.layers[2] == (7,)


def test_an_even_split_deals_out_all_layers(small: Model) -> None:
    assert even_split(small, 3) == ((0, 1, 2), (3, 4, 5), (6, 7))
    assert evenly(small, cut(small, ranks=2, microbatches=4)).forward == (310, 480)
    with pytest.raises(InputError, match="8 layers cannot fill 9 stages"):
        even_split(small, 9)


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


class TestFiles:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (('name = "small"', "version = 2"), "version: expected 1, found 2"),
            (("repeat = 6", "repeat = 0"), "layer[1].repeat: expected a whole number from 1"),
            (("forward = 10\n", "forward = 1.5\n"), "layer[0].forward: '1.5' is no multiple of the tick (us)"),
            (
                ("forward = 10\n", "forward = 1.5\nbackward = 2.25\n"),
                'layer[0].forward: 1.5 is no multiple of the tick (us) (tick = "0.01 us" would do, with every duration',
            ),
            (('tick = "us"', "tick = 3"), "tick: expected a line of text of at most 1000"),
            (('kind = "loss"', "kind = 0"), "layer[2].kind: expected one of embedding"),
            (("forward = 10\n", "forwar = 10\n"), "layer[0].forwar: unknown key (did you mean 'forward'?)"),
            (('"2 MiB"', '"2 MX"'), "layer[0].parameters: expected bytes"),
            (('name = "small"', 'name = "small"\nedges = [1]'), "edges[0]: expected a list, found 1"),
            (('kind = "loss"', 'kind = "los"'), "layer[2].kind: expected one of embedding"),
            (('"head"]]', '"tail"]]'), "tied[0][1]: no layer is called 'tail'"),
            (('name = "t"', 'name = "head"\n[[layer]]\nname = "head"'), "layer 8 is called 'head', and so is layer 1"),
            (("repeat = 6", "repeat = 100000"), "layer[1].repeat: 100000 makes too many layers (a model has at most"),
            (("backward_weight = 180", ""), "layer[2].backward_weight: missing beside backward_input (give both"),
            (("forward = 10\n", "forward = 10\nweight_stash = 7\n"), "layer[0].weight_stash: 7 is more than the act"),
            (('[[layer]]\nname = "t"', '[devices]\nmemori = 3\n[[layer]]\nname = "t"'), "devices.memori: unknown key"),
        ],
    )
    def test_what_is_wrong_is_told(self, change: tuple[str, str], told: str) -> None:
        with pytest.raises(InputError) as caught:
            model_from(parse_toml(MODEL.replace(*change)))
        assert told.replace("'1.5'", "1.5") in str(caught.value)

    def test_the_schema_takes_the_model(self) -> None:
        schema = json.loads(schemas()["model.json"])
        Draft202012Validator.check_schema(schema)
        Draft202012Validator(schema).validate(parse_toml(MODEL))

    def test_graphs_are_read_by_name(self) -> None:
        text = 'edges = [["a", "c"], ["b", "c"]]\n' + "".join(f'[[layer]]\nname = "{n}"\nforward = 1\n' for n in "abc")
        assert model_from(parse_toml(text)).all_edges == ((0, 2), (1, 2))
        with pytest.raises(InputError, match="layer 2 cannot feed layer 0"):
            model_from(parse_toml(text.replace('["a", "c"]', '["c", "a"]')))

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("node1 -- x\n", "line 1"),
            ("\tnode1 -- node2\n", "there is no node1"),
            ("nonsense\n", "is no node and no edge"),
        ],
    )
    def test_a_profile_that_is_none_is_told(self, text: str, told: str) -> None:
        with pytest.raises(InputError, match=told):
            parse_profile(text)


class TestCommand:
    def test_it_writes_a_problem_that_can_be_optimized(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(MODEL)
        target = str(tmp_path / "p.toml")
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "-o", target]) == 0
        told = capsys.readouterr().out
        assert "busiest rank or link: 1230 us a micro-batch (no partition has less)" in told
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
        assert "1f1b, 3 micro-batches: makespan 83 tick\n" in told
        assert "with as many layers on each stage: 81 tick, which is less, though" in told

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

    def test_an_even_split_that_does_not_fit_is_shown_with_what_it_lacks(self, tmp_path: Path, capsys: Capture) -> None:
        """Not even one micro-batch of it fits on the last rank."""
        layers = "".join(f'[[layer]]\nname = "{name}"\nforward = 1\nactivation = 10\n' for name in "abc")
        text = f"{layers}[[layer]]\nforward = 1\n[devices]\nmemory = [100, 5]\n"
        (tmp_path / "m.toml").write_text(text)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "--microbatches", "2"]) == 0
        told = capsys.readouterr().out
        assert "with as many layers on each stage: 6 tick, with 10 bytes on rank 1, which has 5\n" in told
        assert told.endswith("peak memory by rank: 60 0 bytes\n")

    @pytest.mark.parametrize("wrong", [("--time-limit", "-1"), ("--workers", "0"), ("--time-limit", "nan")])
    def test_no_limits_that_are_none(self, wrong: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(MODEL)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err

    def test_it_writes_to_standard_output(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "m.toml").write_text(MODEL)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "-o", "-"]) == 0
        assert capsys.readouterr().out.startswith('version = 1\nname = "small"\n')


def test_an_entry_counts_only_where_its_stage_begins_with_it() -> None:
    layers = [Layer(name, forward=1, backward=2, activation=10, entry=4) for name in "abcd"]
    chain = Model("chain", tuple(layers))
    assert cut(chain, ranks=2, microbatches=2).problem.activation == (16, 16)
    # d reads b and c: in a stage with both of them its entry is there already, in one with c alone it is not
    graph = Model("graph", tuple(layers), edges=((0, 1), (0, 2), (1, 3), (2, 3)))
    shape = cut(chain, ranks=2, microbatches=2).problem
    assert stage_problem(graph, ((0,), (1, 2, 3)), shape).activation == (10, 26)
    assert stage_problem(graph, ((0, 1), (2, 3)), shape).activation == (16, 20)


def test_an_entry_is_a_part_of_the_activation() -> None:
    with pytest.raises(InputError, match=r"layer\[0\]\.entry: 5 is more than the activation"):
        model_from({"layer": [{"activation": 4, "entry": 5}]})


def test_what_waits_for_w_is_held_though_the_entry_is_there_already() -> None:
    layers = tuple(Layer(name, 1, 2, 1, 1, activation=10, entry=5, weight_stash=10) for name in "abcd")
    assert cut(Model("m", layers), ranks=2, microbatches=2).problem.activation == (20, 20)


class TestNoPartition:
    """Why there is none: which wish, or which rank lacks how much."""

    @pytest.mark.parametrize("solver", [False, True])
    @pytest.mark.parametrize("edges", [None, tuple((0, i) for i in range(1, 7))])
    def test_what_is_told_to_be_lacking_is_enough_and_no_less_is(self, solver: bool, edges: Edges) -> None:
        layers = tuple(Layer(f"l{i}", 1, 1, activation=i % 3, parameters=3 * i) for i in range(7))
        states = (((2,),), ((1,),))
        with pytest.raises(InfeasibleError) as caught:
            least_bottleneck(
                Model("m", layers, edges=edges, devices=Devices(memory=(20, 9))), (0, 1), states, solver=solver
            )
        lacking = int(re.search(r"it takes (\d+) bytes more", str(caught.value))[1])  # type: ignore[index]
        for more, fits in ((lacking - 1, False), (lacking, True)):
            model = Model("m", layers, edges=edges, devices=Devices(memory=(20 + more, 9 + more)))
            with nullcontext() if fits else pytest.raises(InfeasibleError):
                least_bottleneck(model, (0, 1), states, solver=solver)
        assert re.search(r"holds (\d+) on rank (\d), which has (20|9)", str(caught.value))

    def test_two_stages_of_a_rank_hold_what_both_do(self) -> None:
        layers = tuple(Layer(f"l{i}", 1, 1, parameters=10) for i in range(4))
        with pytest.raises(InfeasibleError, match=r"it takes 5 bytes more .* holds 20 on rank \d, which has 15 "):
            cut(Model("m", layers, devices=Devices(memory=(15,))), ranks=2, virtual=2, microbatches=4)

    @pytest.mark.parametrize("edges", [None, ((0, 1), (0, 2), (1, 3), (2, 3))])
    def test_the_wish_in_the_way_is_named(self, edges: Edges) -> None:
        layers = tuple(Layer(f"l{i}", 1, 1) for i in range(4))
        wishes = PartitionConstraints(pinned=((0, 0), (3, 1)), alone=(1,))
        with pytest.raises(InfeasibleError, match=r"^partition: no cut into 4 .* \(without pinned\[1\] there is one\)"):
            cut(Model("m", layers, edges=edges, wishes=wishes), ranks=4, microbatches=4)
        wishes = PartitionConstraints(pinned=((3, 1), (3, 2)))
        with pytest.raises(InfeasibleError, match="more than one of them would have to go"):
            cut(Model("m", layers, wishes=wishes), ranks=4, microbatches=4)
