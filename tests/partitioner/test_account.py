"""What partitions come to, by hand, and the cuts that follow: bytes that ranks hold, and queues between them."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest

import schedverify as sv
from schedverify.core.errors import InfeasibleError, UndecidedError
from schedverify.core.model import Devices, Layer, Model
from schedverify.partitioner.account import (
    Moment,
    Usage,
    activations,
    lacking,
    link_ticks,
    moments_of,
    one_of_each,
    peaks_of,
    queues_of,
    usage_of,
)
from schedverify.partitioner.stage_problem import Cut, cut
from schedverify.planner.joint import partition_jointly

Edges = tuple[tuple[int, int], ...] | None
TWO = tuple(Layer(name, 1, 2, activation=10, entry=4, output=4) for name in "ab")
"""As a profile writes them: of the activation 4 are the input, which the layer before holds as its output."""


def model(*layers: tuple[int, int, int], edges: Edges = None, bandwidth: int | None = None) -> Model:
    """Return a model of layers with forward, backward and output."""
    made = tuple(Layer(f"l{i}", f, b, output=o) for i, (f, b, o) in enumerate(layers))
    return Model("m", made, edges=edges, devices=Devices(bandwidth=bandwidth))


def split(*layers: tuple[int, int, int], memory: tuple[int, ...]) -> Model:
    """Return a model of layers with ticks of each of F, I and W, bytes in flight and bytes that wait for W."""
    made = tuple(
        Layer(f"l{i}", ticks, 2 * ticks, ticks, ticks, activation=active, weight_stash=stash)
        for i, (ticks, active, stash) in enumerate(layers)
    )
    return Model("m", made, devices=Devices(memory))


def fits(made: Cut) -> bool:
    """Whether what the verifier says of memory holds of the family's schedule."""
    schedule = sv.generate(made.family, made.problem)
    return sv.verify(schedule, made.problem, select=["SV402"]).ok


class TestEntries:
    """Bytes that a stage holds only of its first layer's input."""

    def test_what_a_layer_before_holds_is_held_once(self) -> None:
        made = cut(Model("m", TWO, devices=Devices(memory=(16,))), ranks=1, microbatches=1)
        assert list(made.timeline().peak_memory) == [16]
        with pytest.raises(
            InfeasibleError, match=r"takes 1 unit more .* holds 16 units, 1 unit over its 15 units, on rank 0"
        ):
            cut(Model("m", TWO, devices=Devices(memory=(15,))), ranks=1, microbatches=1)

    def test_the_joint_search_counts_it_once_as_well(self) -> None:
        found = partition_jointly(Model("m", TWO, devices=Devices(memory=(16,))), ranks=1, microbatches=1, workers=1)
        assert (found.plan.value, found.bound) == (6, 6)
        layers = tuple(Layer(name, 1, 2, activation=10, entry=4, output=4) for name in "abcd")
        for memory, virtual in ((28, 1), (32, 2)):
            tight = Model("m", layers, devices=Devices(memory=(memory,)))
            assert partition_jointly(tight, ranks=1, virtual=virtual, microbatches=1, workers=1).plan.value == 12

    def test_a_rank_with_less_room_takes_more_layers_where_they_hold_less(self) -> None:
        """Alone the second layer holds 10; with the first one, which holds 0, and whose output it reads, 1."""
        layers = (Layer("a", 1, 1), Layer("b", 1, 1, activation=10, entry=9), Layer("c", 1, 1))
        made = cut(Model("m", layers, devices=Devices(memory=(9,))), ranks=2, microbatches=1)
        assert made.layers == ((0, 1), (2,))

    def test_the_best_of_all_cuts_is_found_where_it_counts(self) -> None:
        rows = [(10, 11, 7, 0, 6, 9, 10), (3, 11, 7, 0, 7, 8, 12), (9, 10, 4, 0, 1, 10, 1), (3, 17, 4, 0, 1, 4, 3),
                (0, 7, 0, 0, 0, 3, 18), (6, 14, 4, 0, 4, 12, 15)]  # fmt: skip
        layers = tuple(
            Layer(f"l{i}", f, b, activation=a, weight_stash=w, entry=e, parameters=p, output=o)
            for i, (f, b, a, w, e, p, o) in enumerate(rows)
        )
        made = cut(Model("m", layers, devices=Devices((60, 29, 34), bandwidth=2)), ranks=3, microbatches=5)
        assert made.partition.bottleneck == 39
        assert fits(made)

    def test_of_a_graph_it_counts_where_a_stage_lacks_one_that_feeds_the_layer(self) -> None:
        layers = tuple(Layer(name, 1, 1, activation=10, entry=4) for name in "abcd")
        graph = Model("m", layers, edges=((0, 1), (0, 2), (1, 3), (2, 3)))
        assert activations(graph, ((0,), (1, 2, 3))) == [10, 26]
        assert activations(graph, ((0, 1), (2, 3))) == [16, 20]
        assert activations(graph, ((0, 1, 2, 3),)) == [28]
        tight = Model("m", layers, edges=graph.edges, devices=Devices(memory=(26,)))
        assert cut(tight, ranks=2, microbatches=1).partition.proved


class TestWaitingForW:
    """Bytes from I to W."""

    def test_a_rank_that_lacks_room_for_them_gets_no_layers(self) -> None:
        """ZB-H1's rank 1 of 2 has one micro-batch in flight and one waiting for W: 20 bytes of the last layer."""
        layers = ((1, 10, 10), (1, 0, 0), (1, 10, 10))
        with pytest.raises(
            InfeasibleError, match=r"takes 5 units more .* holds 20 units, 5 units over its 15 units, on rank 1"
        ):
            cut(split(*layers, memory=(20, 15)), ranks=2, microbatches=4, family="zb-h1")
        assert fits(cut(split(*layers, memory=(20, 20)), ranks=2, microbatches=4, family="zb-h1"))

    @pytest.mark.parametrize("family", ["zb-h1", "zb-h2", "zb-1p", "zb-2p"])
    def test_no_cut_breaks_a_rank_s_memory(self, family: str) -> None:
        kept = 0
        for room in range(20, 200, 12):
            tight = split((2, 9, 9), (1, 3, 0), (3, 8, 2), (1, 7, 7), (2, 5, 5), memory=(room, room // 2, room))
            try:
                made = cut(tight, ranks=3, microbatches=5, family=family)
            except InfeasibleError:
                continue
            assert fits(made)
            kept += 1
        assert kept

    def test_of_two_stages_a_rank_too(self) -> None:
        made = cut(split(*[(1, 10, 10)] * 4, memory=(40,)), ranks=2, virtual=2, microbatches=4, family="zb-v")
        assert fits(made)


class TestOrdersThatFollowCosts:
    """What zb-1p holds follows from the cut; where there are too many cuts to try each, it may stay open."""

    LAYERS = tuple((1 + i % 3, 4 + i % 5, 2) for i in range(24))

    def test_where_the_best_fits_it_is_proved(self) -> None:
        made = cut(split(*self.LAYERS, memory=(10_000,)), ranks=6, microbatches=4, family="zb-1p")
        assert made.partition.proved
        assert fits(made)

    def test_what_fits_for_certain_is_given_and_nothing_claimed_that_is_not_proved(self) -> None:
        """Of one micro-batch in flight the first rank alone has little room; of four it has room for few layers."""
        tight = split(*self.LAYERS, memory=(60, *[10_000] * 5))
        made = cut(tight, ranks=6, microbatches=4, family="zb-1p")
        loose = cut(split(*self.LAYERS, memory=(10_000,)), ranks=6, microbatches=4, family="zb-1p")
        assert fits(made)
        assert made.partition.bottleneck >= loose.partition.bottleneck
        assert made.partition.proved == (made.partition.bottleneck == loose.partition.bottleneck)

    def test_where_none_is_sure_to_fit_it_stays_open(self) -> None:
        """One micro-batch of some cut fits; the most that the family may have in flight does not, of any."""
        with pytest.raises(UndecidedError, match="no cut into 6 stages that fits was found, nor a proof"):
            cut(split(*self.LAYERS, memory=(30,)), ranks=6, microbatches=12, family="zb-1p")

    def test_where_not_even_one_micro_batch_fits_it_is_proved(self) -> None:
        with pytest.raises(InfeasibleError, match="no cut into 6 stages fits"):
            cut(split(*self.LAYERS, memory=(10,)), ranks=6, microbatches=12, family="zb-1p")


class TestLinks:
    """One queue for each pair of ranks."""

    def test_moves_do_not_make_a_link_busier(self) -> None:
        """Of [0,1][2,3][4] the first link takes 10 ticks; that of [0][1,2][3,4] takes 6."""
        made = cut(model((1, 1, 3), (1, 1, 5), (2, 3, 3), (0, 1, 0), (3, 0, 0), bandwidth=1), ranks=3, microbatches=4)
        assert made.layers == ((0,), (1, 2), (3, 4))
        assert made.partition[1:3] == (7, 6) == usage_of(made.model, made.layers, (0, 1, 2))[::2]

    @pytest.mark.parametrize("seed", range(12))
    def test_moves_do_not_make_the_largest_stage_larger(self, seed: int) -> None:
        layers = [(1 + (seed * i) % 5, 1 + (seed + i) % 4, (seed + 3 * i) % 6) for i in range(7)]
        made = cut(model(*layers, bandwidth=2), ranks=2, virtual=2, microbatches=4, workers=1)
        every = [
            tuple(tuple(range(*pair)) for pair in pairwise((0, *inner, 7))) for inner in combinations(range(1, 7), 3)
        ]
        least = min(usage_of(made.model, each, (0, 1, 0, 1)) for each in every)
        assert usage_of(made.model, made.layers, (0, 1, 0, 1)) == least

    def test_there_is_none_between_stages_of_one_rank(self) -> None:
        """The 50 bytes stay on rank 1, and so do not count."""
        rows = [(1, 1), (1, 50), (4, 1), (1, 1), (1, 1)]
        layers = tuple(Layer(f"l{i}", f, 2 * f, f, f, output=o) for i, (f, o) in enumerate(rows))
        made = cut(Model("m", layers, devices=Devices(bandwidth=1)), ranks=2, virtual=2, microbatches=4, family="zb-v")
        assert made.partition[1:3] == (15, 2)
        assert made.layers[1] == (1,)

    def test_boundaries_between_two_ranks_share_their_queue(self) -> None:
        assert queues_of((0, 1, 0, 1)) == {(0, 1): [0, 1, 2]}
        assert queues_of((0, 1, 1, 0)) == {(0, 1): [0, 2]}
        assert queues_of((2, 0, 1)) == {(0, 2): [0], (0, 1): [1]}
        assert (link_ticks(5, 2), link_ticks(5, None)) == (6, 0)
        made = cut(model(*[(1, 1, 4)] * 4, bandwidth=2), ranks=2, virtual=2, microbatches=4)
        assert made.partition.bottleneck == 3 * 2 * 2
        assert usage_of(made.model, made.layers, (0, 1, 0, 1)) == Usage(12, 2, 12)


class TestGraphs:
    """Several stages a rank, and what is cut as a chain."""

    def test_a_graph_of_a_thousand_sets_is_cut_as_one(self) -> None:
        """Ten layers beside one another, dealt out by their work to two ranks with two stages each; in order 27."""
        works = [9, 1, 8, 2, 7, 3, 6, 4, 5, 5]
        layers = [(1, 0, 0), *((0, work, 0) for work in works), (1, 0, 0)]
        edges = (*((0, i) for i in range(1, 11)), *((i, 11) for i in range(1, 11)))
        made = cut(model(*layers, edges=edges), ranks=2, virtual=2, microbatches=4, workers=1)
        assert (made.partition.bottleneck, made.partition.linearized, made.partition.proved) == (26, False, True)

    def test_in_their_order_layers_keep_entries_as_well(self) -> None:
        """17 layers that read from the first: a stage that begins with one of them keeps the entries of all."""
        edges = tuple((0, i) for i in range(1, 18))
        layers = tuple(Layer(f"l{i}", 1, 1, activation=5, entry=3) for i in range(18))
        for placement, family in (((0, 1), "naive"), ((0, 0), "gpipe")):
            ranks = max(placement) + 1
            least = min(
                max(peaks_of(Model("m", layers, edges=edges), (tuple(range(end)), tuple(range(end, 18))), placement,
                             one_of_each(placement, ranks)))
                for end in range(1, 18)
            )  # fmt: skip
            shape = {"ranks": ranks, "virtual": 2 // ranks, "microbatches": 1, "workers": 1}
            made = cut(Model("m", layers, edges=edges, devices=Devices((least,))), family=family, **shape)
            assert made.partition.linearized
            assert max(made.timeline().peak_memory) == least
            with pytest.raises(InfeasibleError, match="takes 1 unit more"):
                cut(Model("m", layers, edges=edges, devices=Devices((least - 1,))), family=family, **shape)


def test_moments_are_those_at_which_a_rank_holds_most() -> None:
    """While 0F1 runs both micro-batches are in flight; while 0I1 runs the second is, and the first waits for W."""
    schedule = sv.Schedule.parse("0F0 0F1 0I0 0I1 0W0 0W1")
    ((most),) = moments_of(schedule, ((0,),))
    assert set(most) == {Moment((2,), (0,)), Moment((1,), (1,)), Moment((0,), (2,))}
    assert one_of_each((0, 1, 0), 3) == ((Moment((1, 1), (0, 0)),), (Moment((1,), (0,)),), (Moment((), ()),))


def test_what_is_lacking_is_that_of_the_rank_that_lacks_most() -> None:
    assert lacking([5, 9], (7,)) == 2
    assert lacking([5, 9], (1, 9)) == 4
    assert lacking([5, 9], ()) == lacking([5, 9], (9,)) == 0
