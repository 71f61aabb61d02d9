"""Where operations stand, in right schedules and in wrong ones: arrays and mapping say the same."""

from __future__ import annotations

import numpy as np

from schedverify.core.op import Op, unpack
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.verifier.occurrences import Occurrences
from support.mutants import mutant


def texts(words: np.ndarray) -> list[str]:
    return [str(unpack(word)) for word in words.tolist()]


def packed(*names: str) -> np.ndarray:
    return np.array([Op.parse(name).pack() for name in names])


def test_entries_and_steps_stand_rank_by_rank() -> None:
    problem = Problem.chain(ranks=2, microbatches=2)
    found = Occurrences(Schedule.parse("0F0 0F1 0B0\n1F0 (1F1;1B0)OVERLAP_F_B"), problem)
    assert texts(found.op) == ["0F0", "0F1", "0B0", "1F0", "1F1", "1B0"]
    assert found.rank.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.position.tolist() == [0, 1, 2, 0, 1, 1]
    assert found.step.tolist() == [0, 1, 2, 3, 4, 4]
    assert (found.step_rank.tolist(), found.step_position.tolist()) == ([0, 0, 0, 1, 1], [0, 1, 2, 0, 1])
    assert found.node.tolist() == [0, 1, 2, 3, 4]
    assert [[list(map(str, ops)) for ops in row] for row in found.steps] == [
        [["0F0"], ["0F1"], ["0B0"]], [["1F0"], ["1F1", "1B0"]],
    ]  # fmt: skip


def test_what_the_problem_does_not_know_is_left_out_and_keeps_its_position() -> None:
    problem = Problem.chain(ranks=2, microbatches=2)
    schedule = Schedule.parse("0F2 0F0 0SEND_F0 0I0 0B0\n2F0 1F0 1UNSHARD 1B0")
    assert [problem.has_operations(row).tolist() for row in schedule.rows] == [
        [False, True, True, False, True], [False, True, True, True],
    ]  # fmt: skip
    found = Occurrences(schedule, problem)
    assert texts(found.op) == ["0F0", "0B0", "1F0", "1B0"]
    assert found.position.tolist() == [1, 4, 1, 3]
    assert found.places == {Op.parse("0F0"): [(0, 1)], Op.parse("0B0"): [(0, 4)], Op.parse("1F0"): [(1, 1)],
                            Op.parse("1B0"): [(1, 3)]}  # fmt: skip
    forwards = Problem.chain(ranks=2, microbatches=2, form="inference")
    gradients = Schedule.parse("0F0 0SEND_F0 0RECV_B0 0B0 0REDUCE_GRAD\n-")
    assert forwards.has_operations(gradients.rows[0]).tolist() == [True, True, False, False, False]


def test_micro_batches_pass_through_their_own_copy() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, replicas=2, replica_of=[0, 1])
    row = Schedule.parse("0F0 0F1 2F0 2F1\n-").rows[0]
    assert problem.has_operations(row).tolist() == [True, False, False, True]


def test_the_main_instance_is_the_first_on_each_rank_of_the_stage_else_on_the_lowest_rank() -> None:
    problem = Problem.chain(ranks=3, microbatches=1, stages=2, placement=[[0, 1], 2])
    found = Occurrences(Schedule.parse("0F0 0F0 1F0\n1F0 0F0\n0F0"), problem)
    first, second = Op.parse("0F0"), Op.parse("1F0")
    assert found.main == {first: ((0, 0), (1, 1)), second: ((0, 2),)}
    assert [found.is_main(first, *place) for place in ((0, 0), (0, 1), (1, 1), (2, 0))] == [True, False, True, False]
    assert found.own.tolist() == [True, True, False, False, True, False]
    assert found.again.tolist() == [False, True, False, False, False, False]
    assert found.node.tolist() == [0, 1, 2, 3, 0, 5]
    assert found.first(packed("0F0", "1F0", "1B0")).tolist() == [0, 2, -1]
    ops, ranks = packed("0F0", "0F0", "1F0", "1F0", "1B0"), np.array([1, 2, 1, 2, 0])
    assert found.first_on(ops, ranks).tolist() == [4, 5, 3, -1, -1]


def test_nothing_stands_nowhere() -> None:
    found = Occurrences(Schedule.parse("-\n0SEND_F0"), Problem.chain(ranks=2, microbatches=1))
    assert found.first(packed("0F0")).tolist() == found.first_on(packed("0F0"), np.array([0])).tolist() == [-1]
    assert (found.node.tolist(), found.main) == ([], {})


def test_arrays_and_mapping_say_the_same_of_mutants() -> None:
    for seed in range(300):
        problem, rows, _ = mutant(seed)
        found = Occurrences(Schedule.of(rows), problem)
        listed = [(op, place) for op, places in found.places.items() for place in places]
        entries = zip(found.op.tolist(), found.rank.tolist(), found.position.tolist(), strict=True)
        assert sorted(listed) == sorted((unpack(op), (rank, position)) for op, rank, position in entries)
        on_stage = {(op, place) for op, places in found.main.items() for place in places}
        for op, place in on_stage:
            step = int(found.first_on(packed(str(op)), np.array([place[0]]))[0])
            assert (int(found.step_rank[step]), int(found.step_position[step])) == place
