"""Partitions in the order of their bounds: all of them, none twice, none too early but those that are out of turn."""

from __future__ import annotations

from itertools import combinations, pairwise

from schedverify.core.model import Layer, Model
from schedverify.partitioner.best_first import PartitionsByBound
from schedverify.partitioner.lower_bounds import MakespanBounds

Layers = tuple[tuple[int, ...], ...]
MODEL = Model("m", tuple(Layer(f"l{i}", 1 + i * 5 % 4, 1 + i * 3 % 5, output=i) for i in range(7)))


def every(layers: int, stages: int) -> list[Layers]:
    """Return every partition of a chain."""
    return [
        tuple(tuple(range(*pair)) for pair in pairwise((0, *cuts, layers)))
        for cuts in combinations(range(1, layers), stages - 1)
    ]


def bounds_of(model: Model, stages: int, microbatches: int = 4) -> MakespanBounds:
    return MakespanBounds(model, tuple(range(stages)), stages, microbatches)


def heavy(layers: Layers) -> tuple[int, str]:
    """Judge a partition by the square of its largest stage, far above what the tables know."""
    return 1000 * max(map(len, layers)) ** 2, str(layers[0])


def test_all_come_in_the_order_of_what_they_are_judged_to_be() -> None:
    partitions = PartitionsByBound(bounds_of(MODEL, 3), heavy)
    found = list(partitions.below(lambda: None, lambda: False))
    assert [whole.bound for whole in found] == sorted(heavy(layers)[0] for layers in every(7, 3))
    assert sorted(whole.layers for whole in found) == every(7, 3)
    assert all((whole.bound, whole.judged) == heavy(whole.layers) for whole in found)
    assert partitions.least is None


def test_of_equal_bounds_the_most_even_comes_first() -> None:
    model = Model("m", tuple(Layer(f"l{i}", 1, 1) for i in range(6)))
    first = next(PartitionsByBound(bounds_of(model, 3), lambda _: (10**6, None)).below(lambda: None, lambda: False))
    assert first.layers == ((0, 1), (2, 3), (4, 5))


def test_what_is_not_below_the_limit_is_forgotten() -> None:
    partitions = PartitionsByBound(bounds_of(MODEL, 3), heavy)
    assert {whole.bound for whole in partitions.below(lambda: 9001, lambda: False)} == {9000}
    assert list(partitions.below(lambda: None, lambda: False)) == []


def test_a_limit_may_fall_between_two() -> None:
    limit = 10**9
    partitions = PartitionsByBound(bounds_of(MODEL, 3), heavy)
    stream = partitions.below(lambda: limit, lambda: False)
    assert next(stream).bound == 9000
    limit = 9000
    assert list(stream) == []


def test_those_that_are_impossible_are_passed_over() -> None:
    possible = every(7, 3)[::2]
    partitions = PartitionsByBound(bounds_of(MODEL, 3), lambda layers: heavy(layers) if layers in possible else None)
    assert sorted(whole.layers for whole in partitions.below(lambda: None, lambda: False)) == possible


def test_it_ends_when_it_is_over_and_goes_on_where_it_was() -> None:
    partitions = PartitionsByBound(bounds_of(MODEL, 3), heavy)
    left = 6
    found = []

    def over() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    found += partitions.below(lambda: None, over)
    assert len(found) < len(every(7, 3))
    found += partitions.below(lambda: None, lambda: False)
    assert sorted(whole.layers for whole in found) == every(7, 3)


def test_nothing_comes_where_no_partition_is() -> None:
    partitions = PartitionsByBound(bounds_of(Model("m", MODEL.layers[:2]), 2), lambda _: None)
    assert partitions.least is not None
    assert list(partitions.below(lambda: None, lambda: False)) == []


def test_where_none_comes_for_long_one_comes_out_of_turn_and_again_in_its_turn() -> None:
    """780 beginnings of 41 layers on 3 stages are below what a whole partition is judged to be."""
    model = Model("m", tuple(Layer(f"l{i}", 1, 1) for i in range(41)))
    partitions = PartitionsByBound(bounds_of(model, 3), lambda _: (10**6, None))
    stream = partitions.below(lambda: None, lambda: False)
    early = next(stream)
    assert early.bound == 10**6
    assert partitions.least is not None
    assert partitions.least < early.bound
    found = [early, *stream]
    layers = [whole.layers for whole in found]
    assert sorted(set(layers)) == every(41, 3)
    assert layers.count(early.layers) == 2
