"""Operations: made of text or fields, packed, printed as themselves; what does not fit is refused."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given

from schedverify.core.errors import InputError
from schedverify.core.op import Join, Kind, Op, unpack
from support.strategies import ops


@given(ops(list(Kind), peers=True))
def test_an_operation_packs_and_prints_and_comes_back(op: Op) -> None:
    assert Op.parse(str(op)) == op
    assert unpack(op.pack()) == op
    assert 0 <= op.pack(Join.GROUP) < 2**63


@given(ops(list(Kind), peers=True))
def test_an_operation_is_made_of_its_text_and_prints_as_itself(op: Op) -> None:
    assert Op(str(op)) == op
    assert repr(op) == f"Op('{op}')"
    assert eval(repr(op)) == op
    assert pickle.loads(pickle.dumps(op)) == op
    assert op._replace(stage=op.stage) == Op(*op)


def test_an_operation_that_is_none() -> None:
    assert (str(Op("2F0")), Op("2F0").kind, Op("0SEND_F1>3").peer) == ("2F0", Kind.F, 3)
    with pytest.raises(InputError, match="'2X0' is no operation"):
        Op("2X0")


def test_an_operation_knows_what_it_may_have() -> None:
    with pytest.raises(InputError, match="takes no micro-batch"):
        Op(Kind.UNSHARD, 0, 1).pack()
    with pytest.raises(InputError, match="takes a micro-batch"):
        Op(Kind.F, 0).pack()
    with pytest.raises(InputError, match="names no peer"):
        Op(Kind.F, 0, 0, 1).pack()


@pytest.mark.parametrize(
    ("text", "op"),
    [
        ("0WAIT_SEND_F1", Op(Kind.WAIT_SEND_F, 0, 1)),
        ("3WAIT_SEND_B0>1", Op(Kind.WAIT_SEND_B, 3, 0, 1)),
        ("2WAIT_REDUCE_GRAD", Op(Kind.WAIT_REDUCE_GRAD, 2)),
        ("007WAIT_SEND_F001", Op(Kind.WAIT_SEND_F, 7, 1)),
    ],
)
def test_a_wait_names_what_it_waits_for(text: str, op: Op) -> None:
    assert Op.parse(text) == op
    assert op.kind.is_send_wait is (op.microbatch is not None) is op.kind.is_communication
    assert not op.kind.is_transfer
    assert not op.kind.is_send


@pytest.mark.parametrize("text", ["0WAIT_SEND_F1<2", "0WAIT_SEND_F", "2WAIT_REDUCE_GRAD0", "0WAIT_RECV_F1"])
def test_a_wait_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match="is no operation"):
        Op.parse(text)
