"""Where a model can be cut: down-sets, what stands before them, what goes over them, and what lies between two."""

from __future__ import annotations

from schedverify.core.model import Layer, Model
from schedverify.partitioner.cuts import cuts_of, possible_stages

WORK = (4, 3, 5)
LAYERS = tuple(
    Layer(f"l{i}", work - 1, 1, activation=10 * i, parameters=i, output=i + 1) for i, work in enumerate(WORK)
)
FORK = Model("fork", LAYERS, edges=((0, 1), (0, 2)))


def test_a_chain_is_cut_between_its_layers() -> None:
    cuts = cuts_of(Model("chain", LAYERS))
    assert (len(cuts), cuts.members, cuts.linearized) == (4, None, False)
    assert cuts.work.tolist() == [0, 4, 7, 12]
    assert (cuts.resident.tolist(), cuts.activation.tolist()) == ([0, 0, 1, 3], [0, 0, 10, 30])
    assert cuts.crossing.tolist() == [0, 1, 2, 0]
    assert cuts.layers_between(1, 3) == (1, 2)


def test_a_graph_is_cut_at_its_down_sets() -> None:
    cuts = cuts_of(FORK)
    assert cuts.members is not None
    assert cuts.members.astype(int).tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]]
    assert cuts.work.tolist() == [0, 4, 7, 9, 12]
    assert cuts.crossing.tolist() == [0, 1, 1, 1, 0]  # the output of layer 0, once, as long as a reader stands behind
    assert cuts.layers_between(1, 4) == (1, 2)


def test_a_graph_with_too_many_down_sets_is_taken_as_a_chain() -> None:
    cuts = cuts_of(FORK, most=4)
    assert cuts.linearized
    assert cuts.members is None
    assert cuts.crossing.tolist() == [0, 1, 1, 0]


def test_a_layer_that_is_alone_shares_no_stage() -> None:
    four = Model("chain", (*LAYERS, Layer("l3")))
    assert possible_stages(cuts_of(four), (1,)).astype(int).tolist() == [
        [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0],
    ]  # fmt: skip
    assert possible_stages(cuts_of(FORK), (2,)).astype(int).tolist() == [
        [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0],
    ]  # fmt: skip
