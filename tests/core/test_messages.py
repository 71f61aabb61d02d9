"""Which tensors cross between ranks, and how the peers of sends and receives are named."""

from __future__ import annotations

import numpy as np
import pytest

from schedverify.core.messages import expanded, named, needed_messages, short
from schedverify.core.op import Op, unpack
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule

FORK = Problem.chain(ranks=3, microbatches=1, stages=3, edges=[[0, 1], [0, 2]])
"""Stage 0 on rank 0 feeds stage 1 on rank 1 and stage 2 on rank 2."""


def packed(*texts: str) -> np.ndarray:
    return np.array([Op.parse(text).pack() for text in texts])


def texts(words: np.ndarray) -> list[str]:
    return [str(unpack(word)) for word in words.tolist()]


def test_each_edge_between_ranks_has_a_message_each_way() -> None:
    schedule = Schedule.parse("0F0 0B0\n1F0 1B0\n2F0 2B0")
    messages = needed_messages(schedule, FORK)
    assert messages.maker.tolist() == [0, 0, 3, 5]
    assert texts(messages.sends) == ["0SEND_F0>1", "0SEND_F0>2", "1SEND_B0>0", "2SEND_B0>0"]
    assert texts(messages.receives) == ["1RECV_F0<0", "2RECV_F0<0", "0RECV_B0<1", "0RECV_B0<2"]


def test_nothing_is_sent_on_one_rank_nor_by_a_weight_gradient() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, placement=[0, 0, 1], form="split")
    schedule = Schedule.parse("0F0 1F0 1I0 1W0 0I0 0W0\n2F0 2I0 2W0")
    messages = needed_messages(schedule, problem)
    assert messages.maker.tolist() == [1, 7]
    assert texts(messages.sends) == ["1SEND_F0>2", "2SEND_B0>1"]


def test_the_first_rank_of_a_stage_sends_for_it() -> None:
    problem = Problem.chain(ranks=3, microbatches=1, placement=[[0, 1], 2])
    messages = needed_messages(Schedule.parse("0F0\n0F0\n1F0"), problem)
    assert messages.maker.tolist() == [0]


def test_runs_are_expanded_to_their_members() -> None:
    run, member = expanded(np.array([5, 9, 2]), np.array([2, 0, 3]))
    assert (run.tolist(), member.tolist()) == ([0, 0, 2, 2, 2], [5, 6, 2, 3, 4])


@pytest.mark.parametrize(
    ("bare", "full"),
    [
        ("1RECV_F0", "1RECV_F0<0"),
        ("1SEND_B0", "1SEND_B0>0"),
        ("0SEND_F0>1", "0SEND_F0>1"),
        ("0RECV_B0<2", "0RECV_B0<2"),
    ],
)
def test_a_peer_is_named_or_left_out_where_it_is_the_only_one(bare: str, full: str) -> None:
    assert texts(named(packed(bare), FORK)) == [full]
    assert texts(short(packed(full), FORK)) == [bare]


def test_a_peer_that_is_one_of_several_is_not_guessed() -> None:
    assert texts(named(packed("0SEND_F0", "0RECV_B0"), FORK)) == ["0SEND_F0", "0RECV_B0"]
