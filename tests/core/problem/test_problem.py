"""Problems: every key is read, every fault is told with its place and a hint, and a problem's data gives it back."""

from __future__ import annotations

import inspect
import pickle
import re
import sys
from decimal import Decimal
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Boundary, Problem
from schedverify.core.problem.keys import KEYS, REMARKS
from schedverify.core.problem.numbers import LARGEST
from support.strategies import problem_data, problems
from support.wrong_problems import BASE, faults, made, told

# What is read


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(problem_data())
def test_a_problem_s_data_gives_it_back(data: dict[str, Any]) -> None:
    problem = Problem.of(data)
    again = Problem.of(problem.to_dict())
    assert again == problem
    assert hash(again) == hash(problem)
    assert pickle.loads(pickle.dumps(problem)) == problem
    assert problem.to_dict() == again.to_dict()


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(problems())
def test_lists_have_their_lengths(problem: Problem) -> None:
    total = problem.stages * problem.replicas
    assert problem.total_stages == total
    by_stage = ("placement", "forward", "backward", "boundary_bytes", "activation", "weight_stash", "recompute")
    assert {len(getattr(problem, name)) for name in by_stage} == {total}
    assert len(problem.static) == len(problem.latency) == len(problem.latency[0]) == problem.ranks
    assert len(problem.replica_of) == problem.microbatches
    assert sum(map(len, problem.stages_of)) == sum(map(len, problem.placement))
    assert all(stage in problem.predecessors[after] for stage in range(total) for after in problem.successors[stage])


def test_every_key_is_read() -> None:
    data = {
        "version": 1, "name": "all", "source": "here", "ranks": 2, "microbatches": 4, "stages": 3,
        "placement": [[0, [1, 0], 1], [1, 0, 0]], "form": "split", "tick": "us", "edges": [[0, 2], [1, 2]],
        "tied": [[0, 2]], "partition": [["a", "b"], [], ["c"]],
        "replicas": 2, "replica_of": [0, 0, 1, 1], "slices": 2, "expected": {"makespan": 1.5},
        "costs": {"forward": [1, 2, 3], "backward": 9, "backward_input": 4, "backward_weight": [1, 2, 3, 4, 5, 6],
                  "overlapped": [{"forward": 0, "backward": 5, "cost": 7}]},
        "links": {"latency": [[0, 5], [6, 0]], "bytes": 10, "bandwidth": 3, "buffer": 4},
        "memory": {"unit": "KiB", "activation": "1.5 KiB", "weight_stash": 1, "boundary": 2,
                   "recompute": [True, False, True], "static": [3, 4], "capacity": "1 GB"},
        "limits": {"in_flight": [5, 6], "in_flight_stage": 4, "makespan": 1000, "outstanding_sends": 2,
                   "unsharded": [1, 3]},
        "objective": {"minimize": "peak-memory", "then": "span"},
        "boundary": [{"from": 0, "to": 2, "shape": [4, 8], "dtype": "float32", "bytes": 128}],
    }  # fmt: skip
    tops = {*data, *(f"{table}.{name}" for table in data if isinstance(data[table], dict) for name in data[table])}
    assert {key.path for key in KEYS if key.table != "boundary"} - tops == {"virtual"}
    problem = Problem.of(data)
    assert problem.placement == ((0,), (1, 0), (1,), (1,), (0,), (0,))
    assert (problem.owner_rank, problem.stages_of) == ((0, 1, 1, 1, 0, 0), ((0, 1, 4, 5), (1, 2, 3)))
    assert (problem.name, problem.tick, problem.form) == ("all", "us", "split")
    assert (problem.stages, problem.replicas, problem.slices, problem.replica_of) == (3, 2, 2, (0, 0, 1, 1))
    assert (problem.edges, problem.tied) == (((0, 2), (1, 2)), ((0, 2),))
    assert problem.partition == (("a", "b"), (), ("c",))
    assert (problem.successors, problem.predecessors[2]) == (((2,), (2,), (), (5,), (5,), ()), (0, 1))
    assert (problem.forward, problem.backward, problem.backward_input) == ((1, 2, 3) * 2, (9,) * 6, (4,) * 6)
    assert (problem.backward_weight, problem.overlapped) == ((1, 2, 3, 4, 5, 6), ((0, 5, 7),))
    assert (problem.latency, problem.bandwidth, problem.buffer) == (((0, 5), (6, 0)), ((3, 3), (3, 3)), 4)
    assert (problem.activation, problem.weight_stash, problem.boundary) == ((1536,) * 6, (1,) * 6, (2,) * 6)
    assert (problem.recompute, problem.static) == ((True, False, True) * 2, (3, 4))
    assert (problem.capacity, problem.in_flight, problem.in_flight_stage) == ((10**9,) * 2, (5, 6), (4,) * 6)
    assert (problem.makespan_limit, problem.minimize, problem.then) == (1000, "peak-memory", "span")
    assert (problem.outstanding_sends, problem.unsharded) == ((2, 2), (1, 3))
    assert problem.boundaries == (Boundary(0, 2, (4, 8), "float32", 128),)
    assert (problem.forward_lag(0, 2), problem.backward_lag(2, 0), problem.forward_lag(1, 2)) == (9, 10, 0)


def test_defaults() -> None:
    problem = made()
    assert problem == Problem.chain(ranks=4, microbatches=8, forward=1, backward=2)
    assert (problem.form, problem.placement) == ("fused", ((0,), (1,), (2,), (3,)))
    assert problem.edges == ((0, 1), (1, 2), (2, 3))
    assert (problem.activation, problem.weight_stash, problem.capacity) == ((1,) * 4, (0,) * 4, None)
    assert problem.backward_input == problem.backward_weight == ()
    assert made(costs={"backward_input": 1, "backward_weight": 1}).form == "split"
    assert Problem.chain(ranks=1, microbatches=1, form="inference").backward == (0,)
    summed = Problem.chain(ranks=2, microbatches=1, backward_input=3, backward_weight=[1, 2], form="fused")
    assert summed.backward == (4, 5)


def test_named_placements() -> None:
    assert made(virtual=2).owner_rank == (0, 1, 2, 3, 0, 1, 2, 3)
    assert made(virtual=2, placement="v").owner_rank == (0, 1, 2, 3, 3, 2, 1, 0)
    assert made(stages=6, placement="v").owner_rank == (0, 1, 2, 3, 3, 2)
    assert made(replicas=2).owner_rank == (0, 1, 2, 3, 3, 2, 1, 0)
    assert made(replicas=2).replica_of == (0, 0, 0, 0, 1, 1, 1, 1)
    assert made(replicas=3).replica_of == (0, 0, 0, 1, 1, 1, 2, 2)
    assert made(replicas=3, slices=4).replica_of == (0, 0, 0, 0, 1, 1, 1, 1)


def test_boundaries_are_a_keyword_of_chain() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, boundaries=[{"from": 0, "to": 1}])
    assert problem.boundaries == (Boundary(0, 1),)


# Faults, each with its key


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("ranks", {"ranks": 0}),
        ("ranks", {"ranks": True}),
        ("ranks", {"ranks": "4"}),
        ("ranks", {"ranks": 10**9}),
        ("ranks", {"ranks": 10**5000}),
        ("ranks", {"ranks": None}),
        ("microbatches", {"microbatches": 0}),
        ("microbatches", {"microbatches": 2.5}),
        ("microbatches", {"ranks": 60_000, "microbatches": 10_000}),
        ("virtual", {"virtual": -1}),
        ("stages", {"stages": [1]}),
        ("stages", {"virtual": 60_000}),
        ("stages", {"replicas": 60_000}),
        ("placement", {"placement": "zigzag"}),
        ("placement", {"placement": {}}),
        ("placement", {"placement": []}),
        ("placement", {"placement": [0, 1], "stages": 3}),
        ("placement[1]", {"placement": [0, 4]}),
        ("placement[0]", {"placement": [-1, 0]}),
        ("placement[1]", {"placement": [0, [1, 1]]}),
        ("placement[1]", {"placement": [0, []]}),
        ("placement[1]", {"placement": [0, "1"]}),
        ("placement", {"placement": [0, 1], "replicas": 2}),
        ("placement[1]", {"placement": [[0, 1], [1]], "replicas": 2}),
        ("placement[1][0]", {"placement": [[0, 1], [9, 1]], "replicas": 2}),
        ("form", {"form": "half"}),
        ("form", {"form": ["fused"]}),
        ("name", {"name": 3}),
        ("name", {"name": "x" * 1001}),
        ("name", {"name": "\x1b[31mred"}),
        ("name", {"name": "\ud800"}),
        ("tick", {"tick": 1}),
        ("source", {"source": 1}),
        ("expected", {"expected": 27}),
        ("edges", {"edges": 3}),
        ("edges[0]", {"edges": [[0]]}),
        ("edges[0]", {"edges": [[1, 1]]}),
        ("edges[0][1]", {"edges": [[0, 4]]}),
        ("edges[1]", {"edges": [[0, 1], [0, 1]]}),
        ("edges", {"edges": [[0, 1], [1, 2], [2, 0]]}),
        ("tied[0]", {"tied": [[0]]}),
        ("tied[0]", {"tied": [[2, 2]]}),
        ("tied[0]", {"tied": [[0, 7]]}),
        ("replicas", {"replicas": 0}),
        ("replica_of", {"replica_of": [0]}),
        ("replica_of[1]", {"replica_of": [0, 1, 0, 0, 0, 0, 0, 0]}),
        ("slices", {"slices": 3}),
        ("slices", {"slices": 0}),
        ("replica_of[6]", {"slices": 2, "replicas": 2, "replica_of": [0, 0, 1, 1, 0, 0, 0, 1]}),
        ("costs", {"costs": 3}),
        ("costs.forward", {"costs": {"forward": -1}}),
        ("costs.forward", {"costs": {"forward": [1, 2]}}),
        ("costs.forward[2]", {"costs": {"forward": [1, 2, "x", 4]}}),
        ("costs.forward[0]", {"costs": {"forward": [[1], 2, 3, 4]}}),
        ("costs.forward", {"costs": {"forward": float("nan")}}),
        ("costs.forward", {"costs": {"forward": Decimal("sNaN")}}),
        ("costs.forward", {"costs": {"forward": float("inf")}}),
        ("costs.forward", {"costs": {"forward": LARGEST + 1}}),
        ("costs", {"costs": {"forward": LARGEST}}),
        ("costs", {"links": {"latency": LARGEST // 8}}),
        ("costs.backward_weight", {"costs": {"backward_input": 1}}),
        ("costs.backward_input", {"form": "split"}),
        ("costs.overlapped", {"costs": {"overlapped": {}}}),
        ("costs.overlapped[0]", {"costs": {"overlapped": [3]}}),
        ("costs.overlapped[0].cost", {"costs": {"overlapped": [{"forward": 0, "backward": 1}]}}),
        (
            "costs.overlapped[0].price",
            {"costs": {"overlapped": [{"forward": 0, "backward": 1, "cost": 1, "price": 1}]}},
        ),
        ("costs.overlapped[0].cost", {"costs": {"overlapped": [{"forward": 0, "backward": 1, "cost": -1}]}}),
        ("costs.overlapped[0].backward", {"costs": {"overlapped": [{"forward": 0, "backward": 4, "cost": 1}]}}),
        ("costs.overlapped[1]", {"costs": {"overlapped": [{"forward": 0, "backward": 1, "cost": 1}] * 2}}),
        ("links.latency", {"links": {"latency": [[0, 1]]}}),
        ("links.latency[0][1]", {"links": {"latency": [[0, -1, 1, 1], [1] * 4, [1] * 4, [1] * 4]}}),
        ("links.bandwidth", {"links": {"bandwidth": 0}}),
        ("links.bandwidth[1][0]", {"links": {"bandwidth": [[0, 1, 1, 1], [0, 0, 1, 1], [1] * 4, [1] * 4]}}),
        ("links.bytes", {"links": {"bytes": "1.5 GHz"}}),
        ("links.bytes", {"links": {"bytes": "0.3 B"}}),
        ("links.buffer", {"links": {"buffer": 0}}),
        ("memory", {"memory": {"activation": LARGEST}}),
        ("memory.activation", {"memory": {"activation": -3}}),
        ("memory.weight_stash", {"memory": {"weight_stash": 2}}),
        ("memory.recompute", {"memory": {"recompute": 1}}),
        ("memory.recompute", {"memory": {"recompute": [True]}}),
        ("memory.static", {"memory": {"static": [1, 2]}}),
        ("memory.capacity[0]", {"memory": {"capacity": 0}}),
        ("memory.capacity", {"memory": {"capacity": "lots"}}),
        ("limits.in_flight", {"limits": {"in_flight": 0}}),
        ("limits.in_flight_stage", {"limits": {"in_flight_stage": [1]}}),
        ("limits.makespan", {"limits": {"makespan": "soon"}}),
        ("limits.outstanding_sends", {"limits": {"outstanding_sends": -1}}),
        ("limits.unsharded", {"limits": {"unsharded": [1, 2, 3]}}),
        ("objective.minimize", {"objective": {"minimize": "span "}}),
        ("objective.then", {"objective": {"then": "peak memory"}}),
        ("objective.then", {"objective": {"then": "makespan"}}),
        ("partition", {"partition": [["a"], ["b"]]}),
        ("partition", {"partition": "a"}),
        ("partition[0]", {"partition": ["a", ["b"], ["c"], ["d"]]}),
        ("partition[1][0]", {"partition": [["a"], [1], ["c"], ["d"]]}),
        ("partition[3][1]", {"partition": [["a"], ["b"], [], ["d", "a"]]}),
        ("boundary", {"boundary": {"from": 0, "to": 1}}),
        ("boundary[0]", {"boundary": [7]}),
        ("boundary[0].to", {"boundary": [{"from": 0}]}),
        ("boundary[0].size", {"boundary": [{"from": 0, "to": 1, "size": 3}]}),
        ("boundary[0]", {"boundary": [{"from": 0, "to": 2}]}),
        ("boundary[0].from", {"boundary": [{"from": 4, "to": 1}]}),
        ("boundary[0].shape", {"boundary": [{"from": 0, "to": 1, "shape": 4}]}),
        ("boundary[0].shape[1]", {"boundary": [{"from": 0, "to": 1, "shape": [4, 0]}]}),
        ("boundary[0].dtype", {"boundary": [{"from": 0, "to": 1, "dtype": 32}]}),
        ("boundary[0].bytes", {"boundary": [{"from": 0, "to": 1, "bytes": "-1 B"}]}),
    ],
)
def test_a_fault_has_its_key_and_says_what_would_do(key: str, changes: dict[str, Any]) -> None:
    found = told(**changes)
    assert key in found
    assert found[key].hint or "expected" in found[key].message
    assert str(found[key]).isprintable()


@pytest.mark.parametrize("name", ["ranks", "microbatches", "costs"])
def test_what_is_missing_is_told(name: str) -> None:
    found = faults({key: value for key, value in BASE.items() if key != name})
    assert [fault.message for fault in found.values()][:1] == ["missing"]
    assert found[{"costs": "costs.forward"}.get(name, name)].hint


def test_data_that_is_no_table() -> None:
    for data in (None, [], "ranks", 3):
        assert "expected a table" in faults(data)[""].message


def test_another_version_is_refused_by_name_and_alone() -> None:
    assert faults({"version": 2, "rank": 3}) == {
        "version": Fault("version", "expected 1, found 2", "a newer schedverify wrote it; update schedverify")
    }
    assert faults(BASE | {"version": "1"})["version"].hint == "write version = 1, or leave it out"
    assert faults(BASE | {"version": None}).keys() == {"version"}
    assert Problem.of(BASE | {"version": 1}) == made()


def test_all_faults_are_told_at_once() -> None:
    found = faults({
        "ranks": 0, "microbatches": -1, "form": "half", "foward": 3, "placement": "w",
        "costs": {"forward": [1, -2, 2.5]}, "links": {"latency": "x", "buffer": 0},
        "memory": {"capacity": "?"}, "boundary": [{"from": "a", "to": 0}], "limits": 3,
    })  # fmt: skip
    assert set(found) == {
        "ranks", "microbatches", "form", "foward", "placement", "costs.forward[1]", "costs.forward[2]",
        "links.latency", "links.buffer", "memory.capacity", "boundary[0].from", "limits",
    }  # fmt: skip


def test_what_follows_from_another_fault_is_not_told() -> None:
    assert set(faults(BASE | {"ranks": 0, "costs": {"forward": [1, 2, 3], "backward": 1}})) == {"ranks"}
    assert set(told(form="half", costs={"backward_input": 1})) == {"form"}
    assert set(told(placement=[0, 9, 1])) == {"placement[1]"}


def test_keywords_of_chain_are_checked_as_keys_are() -> None:
    with pytest.raises(InputError, match="did you mean 'latency'") as caught:
        Problem.chain(ranks=2, microbatches=2, latancy=3, expected={}, foo=1)
    assert [fault.key for fault in caught.value.faults] == ["latancy", "expected", "foo"]


def test_each_key_of_the_file_is_a_keyword_of_chain() -> None:
    parameters = inspect.signature(Problem.chain).parameters.values()
    keywords = {parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    assert keywords == {key.name for key in KEYS if key.table != "boundary"} - set(REMARKS) | {"boundaries"}
    documented = re.findall(r"^([a-z_]+(?:, [a-z_]+)*)$", str(inspect.getdoc(Problem.chain)), re.MULTILINE)
    assert {name for line in documented for name in line.split(", ")} == keywords | {"unknown"}


def test_a_keyword_that_is_none_is_left_out() -> None:
    given = Problem.chain(ranks=2, microbatches=3, virtual=None, placement=None, forward=None, capacity=None)
    assert given == Problem.chain(ranks=2, microbatches=3)
    with pytest.raises(InputError, match="ranks: missing"):
        Problem.chain(ranks=None, microbatches=2)  # type: ignore[arg-type]


def test_a_problem_is_told_in_a_line() -> None:
    problem = Problem.chain(ranks=2, microbatches=4, name="p")
    assert repr(problem) == "<Problem 'p': 2 ranks, 2 stages, 4 micro-batches, fused>"


# Large problems stay quick


@pytest.mark.parametrize("shape", ["ranks", "virtual"])
def test_the_largest_problems_are_expanded_and_compared_in_calls_by_their_size(shape: str) -> None:
    sizes = (1_000, 65_535)
    small, large = (_calls({"ranks": 1} | {shape: size}) for size in sizes)
    assert large / small < 1.1 * sizes[1] / sizes[0]


def _calls(keys: dict[str, int]) -> int:
    """Count the calls of Python and C functions that it takes to make, write, read again and compare a problem."""
    count = 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        problem = Problem.chain(microbatches=10, latency=3, capacity=1 << 40, **keys)
        assert Problem.of(problem.to_dict()) == problem
        assert hash(problem) is not None
    finally:
        sys.setprofile(None)
    return count
