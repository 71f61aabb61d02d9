"""From a model and its partition to a problem: sums of stages, memory, constraints, profiles of real networks."""

from __future__ import annotations

from pathlib import Path

import pytest

import schedverify as sv
from schedverify.core.errors import InputError
from schedverify.core.model import Devices, Layer, Model, PartitionConstraints
from schedverify.formats.json_toml import parse_toml
from schedverify.formats.models.model_files import load_model, model_from
from schedverify.partitioner.stage_problem import cut, even_split, evenly, stage_problem
from support.model_texts import MODEL

PROFILES = Path(__file__).parents[2] / "specs" / "profiles"
KNOWN = {"vgg16": (4, 216_450, 672_535), "resnet50": (8, 56_684, 443_419), "gnmt": (8, 19_032, 89_416)}
"""Stages, the best bottleneck and the whole work in microseconds, as PipeDream's optimizer has them."""


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
    constraints = PartitionConstraints(pinned=((5, 0),), alone=(7,))
    found = cut(Model("m", small.layers, constraints=constraints), ranks=3, microbatches=4)
    assert 5 in found.partition.layers[0]
    assert found.partition.layers[2] == (7,)


def test_an_even_split_deals_out_all_layers(small: Model) -> None:
    assert even_split(small, 3) == ((0, 1, 2), (3, 4, 5), (6, 7))
    assert evenly(small, cut(small, ranks=2, microbatches=4)).forward == (310, 480)
    with pytest.raises(InputError, match="8 layers cannot fill 9 stages"):
        even_split(small, 9)


def test_an_entry_counts_only_where_its_stage_begins_with_it() -> None:
    layers = [Layer(name, forward=1, backward=2, activation=10, entry=4) for name in "abcd"]
    chain = Model("chain", tuple(layers))
    assert cut(chain, ranks=2, microbatches=2).problem.activation == (16, 16)
    # d reads b and c: in a stage with both of them its entry is there already, in one with c alone it is not
    graph = Model("graph", tuple(layers), edges=((0, 1), (0, 2), (1, 3), (2, 3)))
    shape = cut(chain, ranks=2, microbatches=2).problem
    assert stage_problem(graph, ((0,), (1, 2, 3)), shape).activation == (10, 26)
    assert stage_problem(graph, ((0, 1), (2, 3)), shape).activation == (16, 20)


def test_what_waits_for_w_is_held_though_the_entry_is_there_already() -> None:
    layers = tuple(Layer(name, 1, 2, 1, 1, activation=10, entry=5, weight_stash=10) for name in "abcd")
    assert cut(Model("m", layers), ranks=2, microbatches=2).problem.activation == (20, 20)
