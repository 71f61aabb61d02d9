"""Problems: every key is read, every fault is told with its place and a hint, and a problem's data gives it back."""

from __future__ import annotations

import copy
import pickle
import time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schedverify.core.errors import Fault, InputError, clean, shown
from schedverify.core.problem import Boundary, Problem
from schedverify.core.problem.keys import KEYS, names
from schedverify.core.problem.numbers import LARGEST, decimal_places, exact, finer_tick, size, whole
from support.strategies import problem_data, problems

BASE: dict[str, Any] = {"ranks": 4, "microbatches": 8, "costs": {"forward": 1, "backward": 2}}


def made(**changes: Any) -> Problem:
    """Make a problem of BASE, with tables merged."""
    data = copy.deepcopy(BASE)
    for name, value in changes.items():
        data[name] = data[name] | value if name == "costs" and isinstance(value, dict) else value
    return Problem.of(data)


def faults(data: Any) -> dict[str, Fault]:
    with pytest.raises(InputError) as caught:
        Problem.of(data)
    return {fault.key: fault for fault in caught.value.faults}


def told(**changes: Any) -> dict[str, Fault]:
    with pytest.raises(InputError) as caught:
        made(**changes)
    return {fault.key: fault for fault in caught.value.faults}


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
        "memory": {"activation": "1.5 KiB", "weight_stash": 1, "recompute": [True, False, True], "boundary": 2,
                   "static": [3, 4], "capacity": "1 GB"},
        "limits": {"in_flight": [5, 6], "in_flight_stage": 4, "makespan": 1000},
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


@pytest.mark.parametrize(
    ("data", "key", "hint"),
    [
        ({"latency": 1}, "latency", "it belongs in [links]"),
        ({"shape": [1]}, "shape", "it belongs in [[boundary]]"),
        ({"costs": BASE["costs"] | {"virtual": 2}}, "costs.virtual", "it belongs at the top, before every table"),
        ({"limits": {"capacity": 1}}, "limits.capacity", "it belongs in [memory]"),
        ({"rank": 4}, "rank", "did you mean 'ranks'?"),
        ({"link": {}}, "link", "did you mean 'links'?"),
        ({"links": {"latence": 1}}, "links.latence", "did you mean 'latency'?"),
        ({"objective": {"xyz": 1}}, "objective.xyz", "[objective] takes minimize, then"),
    ],
)
def test_an_unknown_key_is_told_with_where_it_belongs(data: dict[str, Any], key: str, hint: str) -> None:
    assert faults(BASE | data)[key] == Fault(key, "unknown key", hint)


def test_every_key_in_a_wrong_table_is_sent_home() -> None:
    for key in KEYS:
        for table in ("costs", "links", "memory", "limits", "objective"):
            if key.name not in names(table):
                hint = faults(BASE | {table: dict.fromkeys([key.name], 1)})[f"{table}.{key.name}"].hint
                assert (f"[{key.table}]" if key.table else "at the top") in hint or key.table == "boundary"


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


def test_a_flood_of_faults_is_cut_short() -> None:
    with pytest.raises(InputError) as caught:
        Problem.of(BASE | {f"x{i}": 0 for i in range(120)})
    assert len(caught.value.faults) == 51
    assert str(caught.value.faults[-1]) == "and 70 more"
    began = time.process_time()
    with pytest.raises(InputError, match="at least 10000 more"):
        Problem.of(BASE | {f"x{i}": 0 for i in range(500_000)})
    assert time.process_time() - began < 5


def test_keywords_of_chain_are_checked_as_keys_are() -> None:
    with pytest.raises(InputError, match="did you mean 'latency'") as caught:
        Problem.chain(ranks=2, microbatches=2, latancy=3, expected={}, foo=1)
    assert [fault.key for fault in caught.value.faults] == ["latancy", "expected", "foo"]


# Numbers


def test_a_tick_that_would_do_is_named_for_the_whole_file() -> None:
    found = told(tick="us", costs={"forward": 18.5, "backward": Decimal("3.25")}, limits={"makespan": 10.125})
    for key, here in (("costs.forward", 18500), ("costs.backward", 3250), ("limits.makespan", 10125)):
        assert found[key].message.endswith("is no multiple of the tick (us)")
        assert found[key].hint == f'tick = "0.001 us" would do, with every duration in it: here {here}'
    overlapped = [{"forward": 0, "backward": 1, "cost": 0.5}]
    assert "0.1 tick" in told(costs={"overlapped": overlapped})["costs.overlapped[0].cost"].hint
    matrix = [[0, 1.5, 1, 1], *[[1] * 4] * 3]
    assert "0.1 tick" in told(links={"latency": matrix})["links.latency[0][1]"].hint
    assert made(costs={"forward": 18.0}).forward == (18,) * 4


def test_finer_ticks() -> None:
    assert finer_tick("us", 1) == "0.1 us"
    assert finer_tick("0.1 us", 2) == "0.001 us"
    assert finer_tick("10 ns", 1) == "1 ns"
    assert finer_tick("100 ns", 1) == "10 ns"
    assert finer_tick("", 2) == "0.01"


@given(st.integers(-LARGEST, LARGEST), st.integers(0, 12))
def test_decimals_are_exact(number: int, places: int) -> None:
    value = Decimal(number).scaleb(-places)
    assert exact(value) == Fraction(number, 10**places)
    assert decimal_places(value) <= places
    assert whole(value) == (number // 10**places if number % 10**places == 0 else None)


def test_numbers_as_people_write_them() -> None:
    assert (size("1.5 GiB"), size("16MB"), size("7"), size("2 kib"), size(3)) == (3 << 29, 16_000_000, 7, 2048, 3)
    assert [size(text) for text in ("", "GiB", "1.5 B", "-1 GB", "1e3", "1 XB", "9" * 40, "5 EiB")] == [None] * 8
    assert (whole(np.int64(3)), whole(np.float64(3.0)), whole(True), whole(3.5)) == (3, 3, None, None)
    for value in (Decimal("1e999"), Decimal("1e-999"), Decimal("NaN"), "3", None, 1j, [1]):
        assert whole(value) is None


def test_values_are_shown_short_and_safe() -> None:
    assert shown("\x1b]0;title\x07").isprintable()
    assert clean("a\nb") == "a\\nb"
    assert max(len(shown(value)) for value in ("x" * 999, 10**5000, "\U000e0001" * 99, Decimal("1" * 99))) <= 62
    assert [shown(value) for value in (None, True, [1], {}, 2.5)] == ["null", "true", "a list of 1", "a table", "2.5"]


def test_a_problem_is_told_in_a_line() -> None:
    problem = Problem.chain(ranks=2, microbatches=4, name="p")
    assert repr(problem) == "<Problem 'p': 2 ranks, 2 stages, 4 micro-batches, fused>"


# Capacity


def least(**changes: Any) -> list[int]:
    """Return by rank the least capacity that is accepted, as the faults tell it."""
    made(memory=changes["memory"] | {"capacity": 1 << 40}, **{k: v for k, v in changes.items() if k != "memory"})
    found = told(**changes | {"memory": changes["memory"] | {"capacity": 0}})
    return [int(fault.hint.split()[0]) for fault in found.values()]


def test_capacity_is_what_one_micro_batch_needs() -> None:
    assert least(memory={"activation": 3}) == [3] * 4
    assert least(memory={"activation": 3, "static": [0, 1, 2, 3]}) == [3, 4, 5, 6]
    assert least(memory={"activation": 3}, virtual=3) == [9] * 4
    assert least(memory={"activation": 3}, virtual=3, slices=2) == [18] * 4
    assert least(memory={"activation": [1, 2, 3, 4]}, form="inference", ranks=1, virtual=4) == [4]
    recomputing = {"activation": 10, "recompute": True, "boundary": 1}
    assert least(memory=recomputing, virtual=2) == [11] * 4
    assert least(memory=recomputing, virtual=2, slices=2) == [13] * 4
    assert least(memory=recomputing, form="inference") == [1] * 4
    assert least(memory={"activation": 3}, ranks=1, stages=3, edges=[[0, 1], [0, 2]]) == [6]
    assert least(memory={"activation": 3}, ranks=1, stages=4, edges=[[0, 1], [0, 2], [1, 3], [2, 3]]) == [12]
    assert least(memory={"activation": 3}, ranks=1, stages=3, edges=[]) == [3]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(1, 7), st.data())
def test_forests_and_graphs_need_what_their_ancestors_keep(ranks: int, stages: int, data: st.DataObject) -> None:
    edges = {(data.draw(st.integers(0, stage - 1)), stage) for stage in range(1, stages) if data.draw(st.booleans())}
    if stages > 2 and data.draw(st.booleans()):
        edges.add((0, stages - 1))
    placement = data.draw(st.lists(st.integers(0, ranks - 1), min_size=stages, max_size=stages))
    held = data.draw(st.lists(st.integers(1, 9), min_size=stages, max_size=stages))

    def before(stage: int) -> set[int]:
        sources = {source for source, target in edges if target == stage}
        return sources.union(*map(before, sources))

    wanted = [
        max((sum(held[o] for o in before(s) | {s} if placement[o] == rank) for s in range(stages)
             if placement[s] == rank), default=0)
        for rank in range(ranks)
    ]  # fmt: skip
    changes = {"ranks": ranks, "placement": placement, "edges": [list(edge) for edge in edges]}
    assert made(memory={"activation": held, "capacity": wanted}, **changes).capacity == tuple(wanted)
    for rank in range(ranks):
        if wanted[rank]:
            less = [need - (i == rank) for i, need in enumerate(wanted)]
            assert set(told(memory={"activation": held, "capacity": less}, **changes)) == {f"memory.capacity[{rank}]"}


# Large problems stay quick


@pytest.mark.parametrize("keys", [{"ranks": 65_535}, {"ranks": 1, "virtual": 65_535}])
def test_the_largest_problems_are_expanded_and_compared_in_seconds(keys: dict[str, int]) -> None:
    began = time.process_time()
    problem = Problem.chain(microbatches=10, latency=3, capacity=1 << 40, **keys)
    assert Problem.of(problem.to_dict()) == problem
    assert hash(problem) is not None
    assert time.process_time() - began < 20


def test_a_large_graph_that_is_no_forest_is_bounded() -> None:
    edges = [[i, i + 1] for i in range(19_999)] + [[i, i + 2] for i in range(19_998)]
    began = time.process_time()
    problem = Problem.chain(ranks=1, virtual=20_000, microbatches=2, edges=edges, capacity=1 << 40)
    assert len(problem.edges) == 39_997
    assert time.process_time() - began < 10
