"""What the figures of a problem imply: durations, neighbours, and which operations are its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from schedverify.core.op import Join, Kind, Op
from schedverify.core.problem import Problem
from support.strategies import problems

TWO_COPIES = {"ranks": 2, "microbatches": 3, "replicas": 2, "replica_of": [0, 1, 1]}
"""Stages 0 and 1 are of copy 0, which micro-batch 0 goes through; stages 2 and 3 are of copy 1."""


def test_a_recomputing_stage_pays_its_forward_again() -> None:
    problem = Problem.chain(
        ranks=2, microbatches=1, forward=[3, 5], backward=[7, 8], backward_input=[4, 6], backward_weight=2,
        recompute=[False, True],
    )  # fmt: skip
    assert [problem.duration(kind, 0) for kind in (Kind.F, Kind.B, Kind.I, Kind.W)] == [3, 7, 4, 2]
    assert [problem.duration(int(kind), 1) for kind in (Kind.F, Kind.B, Kind.I, Kind.W)] == [5, 13, 11, 2]


def test_an_overlapped_pair_costs_the_sum_or_what_is_given() -> None:
    overlapped = [{"forward": 1, "backward": 0, "cost": 9}]
    problem = Problem.chain(ranks=2, microbatches=2, forward=[3, 5], backward=[7, 8], overlapped=overlapped)
    forward, backward = Op(Kind.F, 1, 1), Op(Kind.B, 0, 0)
    assert problem.step_duration((forward,)) == 5
    assert problem.step_duration((forward, backward)) == problem.step_duration((backward, forward)) == 9
    assert problem.step_duration((Op(Kind.F, 0, 1), Op(Kind.B, 1, 0))) == 11


def test_each_stage_stands_behind_those_that_feed_it() -> None:
    edges = [[3, 1], [1, 0], [3, 2], [2, 0]]
    assert Problem.chain(ranks=4, microbatches=1, edges=edges).topological_order == (3, 1, 2, 0)
    assert Problem.chain(ranks=2, microbatches=2, replicas=2).topological_order == (0, 2, 1, 3)


@pytest.mark.parametrize(
    ("form", "kinds"),
    [
        (
            "fused",
            "F B SEND_F RECV_F SEND_B RECV_B WAIT_SEND_F WAIT_SEND_B UNSHARD RESHARD REDUCE_GRAD WAIT_REDUCE_GRAD",
        ),
        (
            "split",
            "F B I W SEND_F RECV_F SEND_B RECV_B WAIT_SEND_F WAIT_SEND_B UNSHARD RESHARD REDUCE_GRAD WAIT_REDUCE_GRAD",
        ),
        ("inference", "F SEND_F RECV_F WAIT_SEND_F UNSHARD RESHARD"),
    ],
)
def test_a_form_has_its_kinds(form: str, kinds: str) -> None:
    problem = Problem.chain(ranks=2, microbatches=1, form=form)
    assert " ".join(kind.name for kind in Kind if problem.has_kind(kind)) == kinds


@pytest.mark.parametrize(
    ("op", "fits"),
    [
        ("0F0", True), ("1B0", True), ("2F1", True), ("3B2", True),
        ("0F1", False), ("2F0", False),  # of the other copy
        ("0F3", False), ("4F0", False), ("65000F0", False), ("0F16777215", False),  # out of range
        ("0I0", False), ("0W0", False),  # of another form
        ("3SEND_B2", True), ("3SEND_B0", False), ("0RECV_F0", True), ("0SEND_F0>3", True),
        ("3UNSHARD", True), ("4RESHARD", False), ("0REDUCE_GRAD", True),
        ("3WAIT_SEND_B2", True), ("3WAIT_SEND_B0", False), ("0WAIT_SEND_F0>3", True), ("3WAIT_REDUCE_GRAD", True),
        ("4WAIT_REDUCE_GRAD", False),
    ],
)  # fmt: skip
def test_an_operation_is_the_problem_s_or_not(op: str, fits: bool) -> None:
    problem = Problem.chain(**TWO_COPIES)
    assert problem.has_operation(Op.parse(op)) is fits
    words = np.array([[Op.parse(op).pack(), Op.parse(op).pack(Join.OVERLAP)]])
    assert problem.has_operations(words).tolist() == [[fits, fits]]


@pytest.mark.parametrize("op", [Op(Kind.F, -1, 0), Op(Kind.F, 0, -1)])
def test_an_operation_below_zero_is_none(op: Op) -> None:
    assert not Problem.chain(**TWO_COPIES).has_operation(op)


@given(problems())
def test_one_operation_and_many_are_judged_alike(problem: Problem) -> None:
    stages, microbatches = range(problem.total_stages + 1), range(problem.microbatches + 1)
    ops = [Op(kind, s, None if kind >= Kind.UNSHARD else m) for kind in Kind for s in stages for m in microbatches]
    packed = np.array([op.pack() for op in ops])
    assert problem.has_operations(packed).tolist() == [problem.has_operation(op) for op in ops]


def test_a_micro_batch_passes_its_own_copy() -> None:
    problem = Problem.chain(**TWO_COPIES)
    passing = [[True, False, False]] * 2 + [[False, True, True]] * 2
    assert problem.passing().tolist() == passing
    assert [[problem.passes(stage, m) for m in range(3)] for stage in range(4)] == passing
    assert [problem.copy_of(stage) for stage in range(4)] == [0, 0, 1, 1]


def test_bytes_take_whole_ticks_on_a_link() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, latency=[[0, 5], [6, 0]], bytes=[10, 1], bandwidth=3)
    assert (problem.forward_lag(0, 1), problem.backward_lag(1, 0)) == (5 + 4, 6 + 4)


def test_neighbours_are_listed_by_side_and_stage() -> None:
    fork = Problem.chain(ranks=3, microbatches=1, stages=3, edges=[[0, 1], [0, 2]])
    offsets, peers = fork.peers_across
    assert (offsets.tolist(), peers.tolist()) == ([0, 2, 2, 2, 2, 3, 4], [1, 2, 0, 0])
    offsets, peers = Problem.chain(ranks=1, microbatches=1, virtual=2).peers_within
    assert (offsets.tolist(), peers.tolist()) == ([0, 1, 1, 1, 2], [1, 0])
