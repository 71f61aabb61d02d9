"""Partition and schedule together: bounds valid for every partition, optima equal to all partitions one by one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schedverify as sv
from oracle.brute_force import first_in_first_out
from schedverify.cli import main
from schedverify.core.errors import InputError
from schedverify.core.model import Devices, Layer, Model, PartitionConstraints
from schedverify.core.problem import Problem
from schedverify.optimizer import Progress
from schedverify.optimizer.bounds.costs import Costs
from schedverify.optimizer.bounds.formulas import best_bound, load_bounds, pair_bounds
from schedverify.partitioner.best_first import PATIENCE, PartitionsByBound
from schedverify.partitioner.lower_bounds import MakespanBounds
from schedverify.partitioner.stage_problem import stage_problem
from schedverify.verifier.claims import claims_of

Layers = tuple[tuple[int, ...], ...]
SHAPES = [(1, 1, "loop"), (2, 1, "loop"), (3, 1, "loop"), (4, 1, "loop"), (2, 2, "loop"), (2, 2, "v"), (1, 2, "v")]


@st.composite
def models(draw: st.DrawFn, ranks: int, most: int = 7) -> Model:
    """Draw a chain or a graph of up to ``most`` layers, with wishes, ties and devices."""
    count, small, split = draw(st.integers(1, most)), st.integers(1, 9), draw(st.booleans())
    layers = tuple(_layer(draw, f"l{i}", split) for i in range(count))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.none() | st.none() | st.lists(st.sampled_from(pairs), unique=True).map(tuple)) if pairs else None
    member = st.integers(0, count - 1)
    constraints = PartitionConstraints(
        draw(st.lists(st.tuples(member, st.sampled_from([0, -1])), max_size=1).map(tuple)),
        draw(st.lists(st.lists(member, min_size=2, max_size=2, unique=True).map(tuple), max_size=1).map(tuple))
        if count > 1
        else (),
        draw(st.lists(member, max_size=1).map(tuple)),
    )
    each = {"min_size": ranks, "max_size": ranks}
    devices = Devices(
        draw(st.just(()) | st.lists(st.integers(10, 90), **each).map(tuple)),
        draw(st.just((1,)) | st.lists(st.integers(1, 3), **each).map(tuple)),
        draw(st.integers(0, 3)),
        draw(st.none() | small),
    )
    return Model(
        "drawn",
        layers,
        edges=edges,
        constraints=draw(st.just(PartitionConstraints()) | st.just(constraints)),
        devices=devices,
    )


def _layer(draw: st.DrawFn, name: str, split: bool) -> Layer:
    small, some = st.integers(1, 9), st.integers(0, 9)
    parts = (draw(small), draw(small)) if split else (None, None)
    activation = draw(some)
    stash = draw(st.integers(0, activation)) if split else 0
    entry = draw(st.just(0) | st.integers(0, activation))
    times = draw(small), draw(small), *parts
    return Layer(name, *times, activation, stash, draw(some), 0, draw(some), entry=entry)


def every(model: Model, stages: int) -> Iterator[Layers]:
    """Yield every partition that keeps the edges and the wishes, by trying every assignment of layers to stages."""
    constraints = model.constraints
    orders = model.all_edges
    for stage_of in itertools.product(range(stages), repeat=len(model.layers)):
        on = tuple(tuple(i for i, at in enumerate(stage_of) if at == stage) for stage in range(stages))
        if (
            all(on)
            and all(stage_of[a] <= stage_of[b] for a, b in orders)
            and all(stage_of[layer] == stage % stages for layer, stage in constraints.pinned)
            and all(len({stage_of[layer] for layer in group}) == 1 for group in constraints.together)
            and all(len(on[stage_of[layer]]) == 1 for layer in constraints.alone)
        ):
            yield on


def problem_of(model: Model, layers: Layers, shape: Problem) -> Problem | None:
    """Return the problem of a partition; None where a rank cannot hold a single micro-batch."""
    try:
        return stage_problem(model, layers, shape)
    except InputError:
        return None


def bound_of(problem: Problem) -> int:
    """Return the highest of the optimizer's bounds, which the verifier holds against brute force elsewhere."""
    bound = best_bound(problem, "makespan")
    return 0 if bound is None else bound.value


@given(st.sampled_from(SHAPES), st.data())
@settings(deadline=None, max_examples=40)
def test_all_partitions_come_in_the_order_of_their_bounds(drawn: tuple[int, int, str], data: st.DataObject) -> None:
    """What is known of a beginning is never above the bound of any partition that begins so: else one would be late."""
    ranks, virtual, placement = drawn
    model = data.draw(models(ranks))
    if ranks * virtual > len(model.layers):
        return
    shape = Problem.chain(ranks=ranks, microbatches=data.draw(st.integers(1, 5)), virtual=virtual, placement=placement)
    problems = {layers: problem_of(model, layers, shape) for layers in every(model, shape.stages)}
    if len(problems) * shape.stages >= PATIENCE:
        return  # so many may have one yielded out of turn
    expected = {layers: bound_of(problem) for layers, problem in problems.items() if problem is not None}

    def judge(layers: Layers) -> tuple[int, None] | None:
        return (expected[layers], None) if layers in expected else None

    times = MakespanBounds(model, shape.owner_rank, ranks, shape.microbatches)
    limit = data.draw(st.none() | st.sampled_from(sorted(expected.values()))) if expected else None
    found = [
        (whole.layers, whole.bound) for whole in PartitionsByBound(times, judge).below(lambda: limit, lambda: False)
    ]
    assert [bound for _, bound in found] == sorted(bound for _, bound in found)
    assert dict(found) == {layers: bound for layers, bound in expected.items() if limit is None or bound < limit}
    assert len(found) == len(dict(found))


def test_the_first_bound_is_the_least_of_loads_and_ways() -> None:
    """With one stage a rank and no memory limits the tables know it before a stage is placed."""
    layers = tuple(Layer(f"l{i}", 1 + i * 7 % 5, 9, output=i) for i in range(9))
    model = Model("m", layers, devices=Devices(slowness=(1, 2, 1), latency=2, bandwidth=4))
    shape, root = Problem.chain(ranks=3, microbatches=6), MakespanBounds(model, (0, 1, 2), 3, 6).root()
    known = [Costs(stage_problem(model, layers, shape)) for layers in every(model, 3)]
    rules = [[*load_bounds(costs, "makespan"), *pair_bounds(costs, "makespan")] for costs in known]
    assert root is not None
    assert root.bound == min(max(bound.value for bound in bounds) for bounds in rules)


def _agrees_with_brute_force(data: st.DataObject, drawn: tuple[int, int, str], most: int) -> None:
    """Hold the optimum, the bounds, and what is said of partitions that were not tried against all orders of all."""
    ranks, virtual, _ = drawn
    model = data.draw(models(ranks, most))
    if ranks * virtual > len(model.layers):
        return
    count = data.draw(st.integers(1, 2 if ranks * virtual > 2 or model.split else 3))
    names = ("loop",) if virtual == 1 else data.draw(st.sampled_from([("loop",), ("loop", "v")]))
    if ranks * virtual * count * (3 if model.split else 2) > 20:
        count = 1  # all orders of more operations than that take minutes
    shapes = [Problem.chain(ranks=ranks, microbatches=count, virtual=virtual, placement=name) for name in names]
    problems = {(shape.owner_rank, layers): problem_of(model, layers, shape)
                for shape in shapes for layers in every(model, shape.stages)}  # fmt: skip
    truths = {key: first_in_first_out(problem) for key, problem in problems.items() if problem is not None}
    asked = {"ranks": ranks, "microbatches": count, "virtual": virtual, "placements": names}
    if not truths:
        with pytest.raises(InputError):
            sv.partition_jointly(model, **asked, workers=1)
        return
    found = sv.partition_jointly(model, **asked, workers=1)
    best = min(truths.values())
    assert (found.status, found.plan.value, found.bound, found.gap) == (sv.Status.OPTIMAL, best, best, 0)
    assert truths[found.plan.problem.owner_rank, found.layers] == best
    assert (found.plan.problem.owner_rank, found.layers) in [(one.placement, one.layers) for one in found.tried]
    assert found.first is None or found.first.value >= best
    tried = {(one.placement, one.layers): one.bound for one in found.tried}
    assert all(bound <= truths[key] for key, bound in tried.items())
    for key in set(truths) - set(tried):
        alike = any(bound_of_twin(problems[key], problems[other]) for other in tried)
        assert alike or bound_of(problems[key]) >= best, "neither its bound nor a partition like it rules it out"


def bound_of_twin(problem: Problem, other: Problem) -> bool:
    """Whether another problem is nowhere larger than this one: no schedule of this one is shorter, then."""

    def figures(p: Problem) -> tuple[int, ...]:
        return (*p.forward, *p.backward, *p.backward_input, *p.backward_weight, *p.activation, *p.weight_stash,
                *p.static, *p.boundary_bytes)  # fmt: skip

    return problem.owner_rank == other.owner_rank and all(map(int.__ge__, figures(problem), figures(other)))


@given(st.sampled_from([*SHAPES[1:3], *SHAPES[4:]]), st.data())
@settings(deadline=None, max_examples=8)
def test_the_optimum_is_that_of_all_orders_of_all_partitions(drawn: tuple[int, int, str], data: st.DataObject) -> None:
    _agrees_with_brute_force(data, drawn, 5)


@pytest.mark.slow
@given(st.sampled_from(SHAPES), st.data())
@settings(deadline=None, max_examples=60)
def test_many_optima_are_those_of_all_orders_of_all_partitions(
    drawn: tuple[int, int, str], data: st.DataObject
) -> None:
    _agrees_with_brute_force(data, drawn, 6)


def decoder(layers: int = 12, head: int = 260, **devices: object) -> Model:
    """Return a chain with next to nothing to do in its first layer, and much in its last."""
    first = Layer("embedding", 10, 20, 5, 15, 1, parameters=500, output=10)
    inner = (Layer(f"t{i}", 100, 200, 110, 90, 10, 5, 100, output=10) for i in range(layers))
    last = Layer("head", head, 2 * head, head, head, 5, parameters=500)
    return Model("decoder", (first, *inner, last), devices=Devices(**({"latency": 4} | devices)))  # type: ignore[arg-type]


class TestTogether:
    def test_it_is_shorter_than_partition_first_and_proved(self) -> None:
        found = sv.partition_jointly(decoder(24), ranks=4, microbatches=8, workers=1)
        assert found.first is not None
        assert found.first.value is not None
        assert (found.plan.value, found.bound, found.status) == (17862, 17862, sv.Status.OPTIMAL)
        assert found.gain == 1 - Fraction(17862, found.first.value) > 0
        assert found.partitions == 2300
        assert len(found.tried) < 10

    def test_the_plan_is_verified_and_names_its_layers(self) -> None:
        plain = Model("m", tuple(Layer(f"l{i}", 2 + i % 3, 4 + i % 2, output=1) for i in range(6)))
        found = sv.partition_jointly(plain, ranks=2, virtual=2, microbatches=2, workers=1)
        plan = found.plan
        assert plan.schedule is not None
        assert plan.lowered is not None
        assert sv.verify(plan.schedule, plan.problem, claims=claims_of(plan)).ok
        assert plan.partition == tuple(tuple(found.model.layers[i].name for i in on) for on in found.layers)
        assert plan.problem == stage_problem(found.model, found.layers, plan.problem)

    def test_memory_and_unequal_ranks_are_kept(self) -> None:
        layers = tuple(Layer(f"l{i}", 2, 4, activation=10, parameters=100) for i in range(10))
        model = Model("m", layers, devices=Devices(memory=(500, 600, 700), slowness=(1, 1, 2)))
        found = sv.partition_jointly(model, ranks=3, microbatches=4, workers=1)
        plan = found.plan
        assert plan.measures is not None
        assert all(map(int.__le__, plan.measures.peak_memory, (500, 600, 700)))
        assert len(found.layers[2]) < len(found.layers[1])
        assert found.status is sv.Status.OPTIMAL

    def test_wishes_are_kept(self) -> None:
        model = dataclasses.replace(decoder(), constraints=PartitionConstraints(pinned=((6, 0),), alone=(13,)))
        found = sv.partition_jointly(model, ranks=3, microbatches=4, workers=1)
        assert 6 in found.layers[0]
        assert found.layers[2] == (13,)
        assert found.partitions is None

    def test_it_fits_where_no_family_does(self) -> None:
        """Memory for one micro-batch at a time: 1F1B has two in flight on the first rank."""
        layers = tuple(Layer(f"l{i}", 2, 4, activation=100) for i in range(4))
        model = Model("m", layers, devices=Devices(memory=(250,)))
        found = sv.partition_jointly(model, ranks=2, microbatches=3, workers=1)
        assert (found.first, found.gain) == (None, None)
        assert found.layers == ((0, 1), (2, 3))

    def test_equal_partitions_are_passed_over_and_those_behind_them_are_not(self) -> None:
        """Of layers that feed each other in no way, many in a row are no better than one that is known."""
        costs = [(8, 1, 1, 5), (8, 1, 5, 3), (8, 5, 7, 4), (1, 5, 3, 5), (2, 6, 1, 8), (7, 1, 1, 1)]
        model = Model("m", tuple(Layer(f"l{i}", *each) for i, each in enumerate(costs)), edges=())
        found = sv.partition_jointly(model, ranks=3, microbatches=1, workers=1)
        assert (found.status, found.plan.value, found.bound) == (sv.Status.OPTIMAL, 46, 46)

    def test_none_that_fits_is_told(self) -> None:
        with pytest.raises(InputError, match="no cut into 2 stages keeps memory and wishes"):
            sv.partition_jointly(decoder(memory=(100,)), ranks=2, microbatches=2)
        with pytest.raises(InputError, match="14 layers cannot fill 15 stages"):
            sv.partition_jointly(decoder(), ranks=15, microbatches=2)

    def test_it_ends_when_asked_with_what_it_has(self) -> None:
        stop = threading.Event()
        stop.set()
        found = sv.partition_jointly(decoder(), ranks=4, microbatches=8, stop=stop)
        assert found.status in (sv.Status.FEASIBLE, sv.Status.UNKNOWN)
        assert found.reason == "the search was stopped"

    def test_one_worker_and_a_seed_give_the_same(self) -> None:
        plain = Model("m", tuple(Layer(f"l{i}", 2 + i % 3, 4 + i % 2) for i in range(9)))
        asked = {"ranks": 3, "microbatches": 3, "workers": 1, "seed": 3, "time_limit": 3000}  # no part meets its limit
        one, other = (sv.partition_jointly(plain, **asked) for _ in range(2))
        assert (one.plan, one.layers, one.bound, one.tried) == (other.plan, other.layers, other.bound, other.tried)

    def test_a_bound_holds_of_many_partitions_at_once(self) -> None:
        """Forty stages have 10^23 partitions: some are tried out of turn, and no other is below the bound."""
        found = sv.partition_jointly(decoder(80), ranks=8, virtual=5, microbatches=2, time_limit=0.5, workers=1)
        assert found.plan.value is not None
        assert 2 * 3 * 100 * 82 // 8 < found.bound <= found.plan.value
        assert found.gap is not None

    def test_progress_tells_of_better_plans_and_bounds(self) -> None:
        told: list[Progress] = []
        found = sv.partition_jointly(decoder(24), ranks=4, microbatches=8, workers=1, progress=told.append)
        assert (told[-1].value, told[-1].bound) == (found.plan.value, found.bound)
        assert [now.value for now in told] == sorted((now.value or 0 for now in told), reverse=True)


class TestCommand:
    MODEL = "\n".join(
        f'[[layer]]\nname = "{name}"\nforward = {f}\nbackward = {2 * f}\noutput = 10'
        for name, f in (("a", 1), ("b", 5), ("c", 4), ("d", 5), ("e", 9))
    )

    def test_it_tells_what_was_gained_and_proved(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "m.toml").write_text(self.MODEL)
        target, problem = tmp_path / "plan.json", tmp_path / "problem.json"
        command = ["partition", str(tmp_path / "m.toml"), "--ranks", "2", "--microbatches", "4", "--joint"]
        assert main([*command, "--plan", str(target), "-o", str(problem), "--workers", "1"]) == 0
        told = capsys.readouterr().out
        assert "no partition has a schedule with less" in told
        assert "partition first, schedule second:" in told
        assert "of 4; the others have a bound of" in told
        plan = sv.load(str(target))
        assert plan.partition == (("a", "b", "c", "d"), ("e",))
        assert plan.problem == sv.load(str(problem))
        assert main(["verify", str(target)]) == 0

    def test_json_has_the_bounds_of_what_was_tried(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "m.toml").write_text(self.MODEL)
        command = ["partition", str(tmp_path / "m.toml"), "--ranks", "2", "--microbatches", "4", "--joint"]
        assert main([*command, "--format", "json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["status"], told["gap"], told["partitions"]) == ("optimal", 0, 4)
        assert told["tried"][0]["layers"] == [[0, 1, 2], [3, 4]]
        assert told["partition_first"]["makespan"] >= told["value"] == told["bound"]

    def test_a_plan_needs_the_search(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "m.toml").write_text(self.MODEL)
        assert main(["partition", str(tmp_path / "m.toml"), "--ranks", "2", "--plan", "p.json"]) == 2
        assert "--plan: stands without --joint" in capsys.readouterr().err
