"""Why there is no partition: the constraint in the way, or how much memory is missing where."""

from __future__ import annotations

import re
from contextlib import nullcontext

import pytest

from schedverify.core.errors import InfeasibleError
from schedverify.core.model import Devices, Layer, Model, PartitionConstraints
from schedverify.partitioner import least_bottleneck
from schedverify.partitioner.stage_problem import cut

Edges = tuple[tuple[int, int], ...] | None


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
