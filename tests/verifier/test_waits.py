"""Waits for sends and reductions, sentence by sentence of the law, on orders small enough to follow by hand."""

from __future__ import annotations

from typing import Any

import pytest

from schedverify.core.discipline import Discipline
from schedverify.core.problem import Problem
from schedverify.core.result import Report, Verdict
from schedverify.core.schedule import Schedule
from schedverify.simulator.engine import simulate
from schedverify.verifier.verification import verify

PAIR = {"ranks": 2, "microbatches": 2}
ONE = {"ranks": 2, "microbatches": 1}
FORWARD = ONE | {"form": "inference"}
FORWARDS = PAIR | {"form": "inference"}
FORK = {"ranks": 3, "microbatches": 1, "edges": [[0, 1], [0, 2]], "form": "inference"}
SENT = "0F0 0SEND_F0 0RECV_B0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0"


def judged(text: str, keys: dict[str, Any], **options: Any) -> Report:
    return verify(Schedule.parse(text), Problem.chain(**keys), **options)


def codes(text: str, keys: dict[str, Any], **options: Any) -> set[str]:
    return {violation.code for violation in judged(text, keys, **options).violations}


def hangs(text: str, keys: dict[str, Any], *, eager_bytes: int = 0) -> str:
    """Return the disciplines under which an order hangs."""
    return " ".join(d for d in Discipline if "SV304" in codes(text, keys, discipline=d, eager_bytes=eager_bytes))


# SV101 to SV103


def test_a_wait_is_an_operation_of_its_form_and_stage() -> None:
    assert codes("0F0 0SEND_F0 0WAIT_SEND_B0\n1RECV_F0 1F0", FORWARD) == {"SV101"}
    assert codes("0F0 0SEND_F0 0WAIT_REDUCE_GRAD\n1RECV_F0 1F0", FORWARD) == {"SV101"}
    assert codes("0F0 0SEND_F0 0WAIT_SEND_F1\n1RECV_F0 1F0", FORWARD) == {"SV101"}
    assert codes("0F0 0SEND_F0\n1RECV_F0 1F0 0WAIT_SEND_F0", FORWARD) == {"SV102"}


def test_a_group_holds_no_wait() -> None:
    report = judged("0F0 [0SEND_F0;0WAIT_SEND_F0]\n1RECV_F0 1F0", FORWARD)
    assert [v.code for v in report.violations] == ["SV101", "SV303"]
    assert "in the same step" in report.violations[1].message


# SV301: a wait is communication, so that what it is for must be sent


def test_a_wait_alone_is_communication() -> None:
    assert codes("0F0 0WAIT_SEND_F0\n1F0", FORWARD) == {"SV301", "SV303"}


# SV303


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0F0 0WAIT_SEND_F0 0SEND_F0\n1RECV_F0 1F0",
         "rank 0, position 1 (0WAIT_SEND_F0): 0SEND_F0, for which it waits, stands behind it at position 2"),
        ("0F0 0SEND_F0 0WAIT_SEND_F0 0WAIT_SEND_F0\n1RECV_F0 1F0",
         "rank 0, position 3 (0WAIT_SEND_F0): it stands at position 2 already"),
        ("0F0 0SEND_F0\n1RECV_F0 1F0 1WAIT_SEND_F0",
         "rank 1, position 2 (1WAIT_SEND_F0): no send that it could wait for stands on the rank"),
        ("0F0 0SEND_F0 0WAIT_SEND_F0>0\n1RECV_F0 1F0",
         "rank 0, position 2 (0WAIT_SEND_F0>0): no send that it could wait for stands on the rank"),
    ],
)  # fmt: skip
def test_a_wait_stands_behind_its_send_and_once(text: str, told: str) -> None:
    assert [v.message for v in judged(text, FORWARD, select=["SV3"]).violations] == [told]


@pytest.mark.parametrize(
    ("waits", "expected"),
    [
        ("0WAIT_SEND_F0>2 0WAIT_SEND_F0>1", set()),
        ("0WAIT_SEND_F0>1", set()),
        ("0WAIT_SEND_F0", {"SV303"}),
        ("0WAIT_SEND_F0>1 0WAIT_SEND_F0>1", {"SV303"}),
        ("0WAIT_SEND_F0>3", {"SV303"}),
    ],
)
def test_a_wait_names_its_peer_where_the_send_does(waits: str, expected: set[str]) -> None:
    assert codes(f"0F0 0SEND_F0>1 0SEND_F0>2 {waits}\n1RECV_F0 1F0\n2RECV_F0 2F0", FORK) == expected


def test_a_peer_that_is_the_only_one_may_be_named_or_not() -> None:
    for send in ("0SEND_F0", "0SEND_F0>1"):
        for wait in ("0WAIT_SEND_F0", "0WAIT_SEND_F0>1"):
            assert not codes(f"0F0 {send} {wait}\n1RECV_F0 1F0", FORWARD)


# SV304: a wait holds its rank's program until its send is complete


CROSSED = """\
0F0 0SEND_F0 0F1 0SEND_F1 {} 0RECV_B0 0B0 0RECV_B1 0B1
1RECV_F0 1F0 1B0 1RECV_F1 1SEND_B0 {} 1F1 1B1 1SEND_B1"""
LATE = "0F0 0SEND_F0 0WAIT_SEND_F0 2F0\n2F0 1RECV_F0 1F0"
"""Stage 2 stands on both ranks; rank 1 posts its receive behind it."""
LATE_KEYS = FORWARD | {"stages": 3, "placement": [0, 1, [0, 1]], "edges": [[0, 1]]}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("", "", ""),
        ("0WAIT_SEND_F0", "", ""),
        ("0WAIT_SEND_F1", "", ""),
        ("0WAIT_SEND_F0", "1WAIT_SEND_B0", ""),
        ("0WAIT_SEND_F0 0WAIT_SEND_F1", "1WAIT_SEND_B0", ""),
    ],
)
def test_waits_for_what_is_received_hold_nothing_up(first: str, second: str, expected: str) -> None:
    assert hangs(CROSSED.format(first, second), PAIR) == expected


def test_a_wait_holds_the_program_where_its_send_needs_a_receive() -> None:
    assert hangs(LATE, LATE_KEYS) == "edge pair rank block"
    assert hangs(LATE.replace(" 0WAIT_SEND_F0", ""), LATE_KEYS) == "block"
    assert hangs(LATE, LATE_KEYS | {"bytes": 3}, eager_bytes=2) == "edge pair rank block"
    assert hangs(LATE, LATE_KEYS | {"bytes": 3}, eager_bytes=3) == ""


def test_a_wait_of_each_rank_makes_a_circle() -> None:
    text = "0F0 0SEND_F0 0F1 0SEND_F1 0WAIT_SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1\n" \
           "1RECV_F0 1F0 1B0 1SEND_B0 1WAIT_SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1"  # fmt: skip
    assert hangs(text, PAIR) == "edge pair rank block"
    assert hangs(text.replace(" 0WAIT_SEND_F1", ""), PAIR) == "pair rank block"
    story = [v.message for v in judged(text, PAIR, discipline="edge").violations]
    assert story == [
        "rank 0 waits at position 4 (0WAIT_SEND_F1) for 1RECV_F1, the other end of 0SEND_F1 at position 3; "
        "rank 1 waits at position 4 (1WAIT_SEND_B0) for 0RECV_B0, the other end of 1SEND_B0 at position 3"
    ]


def test_an_eager_send_is_complete_when_it_reaches_the_head() -> None:
    """Behind a send that is not eager it keeps its place, and so does the wait."""
    keys = {"ranks": 2, "microbatches": 1, "virtual": 2, "bytes": [3, 1, 1, 1]}
    held = "0SEND_F0 2SEND_F0 2WAIT_SEND_F0 2RECV_B0\n3SEND_B0 3WAIT_SEND_B0 1RECV_F0 3RECV_F0"
    assert [
        "SV304" in codes(held, keys, discipline=name, eager_bytes=1, excerpt=True) for name in ("edge", "pair")
    ] == [False, False]
    assert "SV304" in codes(held, keys, discipline="edge", excerpt=True)
    behind = "0SEND_F0 2SEND_F0 2WAIT_SEND_F0 2RECV_B0\n3RECV_F0 3SEND_B0 3WAIT_SEND_B0 1RECV_F0"
    assert "SV304" in codes(behind, keys, discipline="edge", eager_bytes=0, excerpt=True)


def test_a_wait_whose_send_is_missing_or_behind_it_counts_as_met() -> None:
    for waits in ("0WAIT_SEND_F0 0F0 0SEND_F0", "0F0 0WAIT_SEND_F0 0SEND_F0"):
        assert codes(f"{waits}\n1RECV_F0 1F0", FORWARD) == {"SV303"}
    assert codes("0F0 0SEND_F0 0WAIT_SEND_F0\n1F0", FORWARD) == {"SV301"}
    assert codes("0F0 0WAIT_SEND_F0\n1RECV_F0 1F0", FORWARD) == {"SV301", "SV303"}


def test_a_wait_for_a_send_in_front_of_its_maker_hangs_by_itself() -> None:
    report = judged("0SEND_F0 0WAIT_SEND_F0 0F0\n1RECV_F0 1F0", FORWARD, discipline="tagged")
    assert [v.code for v in report.violations] == ["SV303", "SV304"]
    assert report.violations[1].message.startswith(
        "rank 0 waits at position 0 (0SEND_F0) for 0F0, which stands behind it at position 2"
    )


# SV305


@pytest.mark.parametrize(
    ("first", "second", "wrong"),
    [
        ("0REDUCE_GRAD 0WAIT_REDUCE_GRAD", "1REDUCE_GRAD 1WAIT_REDUCE_GRAD", False),
        ("0REDUCE_GRAD", "1REDUCE_GRAD", False),
        ("0REDUCE_GRAD 0WAIT_REDUCE_GRAD", "1REDUCE_GRAD", True),
        ("0REDUCE_GRAD 0WAIT_REDUCE_GRAD", "1WAIT_REDUCE_GRAD 1REDUCE_GRAD", True),
        ("0REDUCE_GRAD 0WAIT_REDUCE_GRAD 0WAIT_REDUCE_GRAD", "1REDUCE_GRAD 1WAIT_REDUCE_GRAD", True),
        ("0WAIT_REDUCE_GRAD 0REDUCE_GRAD 0WAIT_REDUCE_GRAD", "1REDUCE_GRAD 1WAIT_REDUCE_GRAD", True),
        ("0WAIT_REDUCE_GRAD", "", True),
    ],
)
def test_each_reduction_is_waited_for_once_or_none_is(first: str, second: str, wrong: bool) -> None:
    assert codes(
        "\n".join(f"{row} {more}" for row, more in zip(SENT.split("\n"), (first, second), strict=True)), ONE
    ) == ({"SV305"} if wrong else set())


# SV402: by rank, the bytes on it while each of its steps runs


def peaks(text: str, **keys: Any) -> tuple[int, ...]:
    """Return the peaks of the timeline, which are the least capacities that the verifier admits."""
    known = {"ranks": 2, "microbatches": 1, "bytes": [10, 7], "activation": 100} | keys
    found = simulate(Schedule.parse(text), Problem.chain(**known), discipline="tagged").peak_memory
    for rank in range(2):
        for less in (0, 1):
            capacity = [max(peak - less * (at == rank), known["activation"]) for at, peak in enumerate(found)]
            report = judged(text, known | {"capacity": capacity}, select=["SV402"])
            assert [v.rank for v in report.violations] == [rank] * (capacity[rank] < found[rank])
    return found


def test_a_gradient_counts_from_the_step_that_makes_it_to_its_wait() -> None:
    row = "0F0 0SEND_F0 0RECV_B0 0B0\n1RECV_F0 1F0 {}"
    assert peaks(row.format("1B0 1SEND_B0")) == (110, 110)  # no wait on the rank: what is sent does not count
    assert peaks(row.format("1B0 1SEND_B0 1WAIT_SEND_B0")) == (110, 110)  # received until F ends, made when B begins
    assert peaks(row.format("1B0 1SEND_B0 1WAIT_SEND_B0"), activation=1) == (11, 11)


def test_a_gradient_that_waits_counts_beside_what_follows() -> None:
    text = (
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1\n1RECV_F0 1F0 1B0 1SEND_B0 {}1RECV_F1 1F1 1B1 1SEND_B1{}"
    )
    assert peaks(text.format("1WAIT_SEND_B0 ", ""), microbatches=2)[1] == 110
    assert peaks(text.format("", " 1WAIT_SEND_B0"), microbatches=2)[1] == 120
    assert peaks(text.format("", " 1WAIT_SEND_B1"), microbatches=2)[1] == 120  # the first has no wait: to the end
    assert peaks(text.format("", " 1WAIT_SEND_B0 1WAIT_SEND_B1"), microbatches=2)[1] == 120


def test_an_activation_counts_by_itself_from_the_end_of_its_backward_on() -> None:
    text = "0F0 0SEND_F0 {}0RECV_B0 0B0 {}\n1RECV_F0 1F0 1B0 1SEND_B0"
    assert peaks(text.format("", ""), activation=1)[0] == 11
    assert peaks(text.format("0WAIT_SEND_F0 ", ""), activation=1)[0] == 11
    assert peaks(text.format("", "0WAIT_SEND_F0"), activation=0, bytes=[10, 7])[0] == 10
    two = "0F0 0SEND_F0 0RECV_B0 0B0 {}0F1 0SEND_F1 0RECV_B1 0B1{}\n1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1"
    assert peaks(two.format("", ""), microbatches=2)[0] == 110
    assert peaks(two.format("0WAIT_SEND_F0 ", ""), microbatches=2)[0] == 110
    assert peaks(two.format("", " 0WAIT_SEND_F0"), microbatches=2)[0] == 120
    assert peaks(two.format("", " 0WAIT_SEND_F1"), microbatches=2)[0] == 120


def test_in_inference_an_activation_counts_from_the_end_of_its_forward_on() -> None:
    text = "0F0 0SEND_F0 {}0F1 0SEND_F1{}\n1RECV_F0 1F0 1RECV_F1 1F1"
    keys = {"form": "inference", "microbatches": 2}
    assert peaks(text.format("", ""), **keys)[0] == 100
    assert peaks(text.format("0WAIT_SEND_F0 ", ""), **keys)[0] == 100
    assert peaks(text.format("", " 0WAIT_SEND_F0"), **keys)[0] == 110
    assert peaks(text.format("", " 0WAIT_SEND_F1"), **keys)[0] == 110


def test_each_message_counts_on_its_own() -> None:
    problem = Problem.chain(**FORK | {"bytes": [10, 1, 1], "activation": 3})
    text = "0F0 0SEND_F0>1 0SEND_F0>2 0WAIT_SEND_F0>1 0WAIT_SEND_F0>2\n1RECV_F0 1F0\n2RECV_F0 2F0"
    assert simulate(Schedule.parse(text), problem).peak_memory[0] == 20


# SV404


@pytest.mark.parametrize(
    ("row", "most"),
    [
        ("0F0 0SEND_F0 0WAIT_SEND_F0 0F1 0SEND_F1 0WAIT_SEND_F1", 1),
        ("0F0 0SEND_F0 0WAIT_SEND_F0 0F1 0SEND_F1", 1),
        ("0F0 0SEND_F0 0F1 0WAIT_SEND_F0 0SEND_F1", 1),
        ("0F0 0SEND_F0 0F1 0SEND_F1 0WAIT_SEND_F0", 2),
        ("0F0 0SEND_F0 0F1 0SEND_F1 0WAIT_SEND_F1", 2),
        ("0F0 0F1 [0SEND_F0;0SEND_F1] 0WAIT_SEND_F0 0WAIT_SEND_F1", 2),
        ("0F0 0SEND_F0 0F1 0SEND_F1", 2),
    ],
)
def test_sends_that_are_begun_and_not_yet_waited_for(row: str, most: int) -> None:
    text = f"{row}\n1RECV_F0 1F0 1RECV_F1 1F1"
    assert not codes(text, FORWARDS | {"outstanding_sends": most})
    if most > 1:
        assert codes(text, FORWARDS | {"outstanding_sends": most - 1}) == {"SV404"}
        assert codes(text, FORWARDS | {"outstanding_sends": [most - 1, 9]}) == {"SV404"}
        assert not codes(text, FORWARDS | {"outstanding_sends": [most, 1]})


def test_without_a_limit_or_a_send_there_is_nothing_to_judge() -> None:
    limits = {"outstanding_sends": 1, "unsharded": 1}
    for text, keys in ((SENT, ONE), ("0F0 0B0\n1F0 1B0", ONE | limits)):
        report = judged(text, keys)
        assert {report[code].verdict for code in ("SV404", "SV405")} == {Verdict.NOT_APPLICABLE}
    assert judged(SENT, ONE | limits)["SV404"].verdict is Verdict.HOLDS


# SV405


@pytest.mark.parametrize(
    ("row", "most"),
    [
        ("0UNSHARD 0F0 0RESHARD 2UNSHARD 2F0 2RESHARD", 1),
        ("0UNSHARD 0F0 2UNSHARD 0RESHARD 2F0 2RESHARD", 2),
        ("2UNSHARD 0UNSHARD 0F0 2F0", 2),
        ("0F0 2UNSHARD 2F0", 1),
    ],
)
def test_stages_that_are_unsharded_at_once(row: str, most: int) -> None:
    problem = {"ranks": 2, "microbatches": 1, "stages": 3, "placement": [0, 1, 0], "edges": [], "form": "inference"}
    for limit in (1, 2):
        verdict = judged(f"{row}\n1F0", problem | {"unsharded": limit})["SV405"].verdict
        assert verdict is (Verdict.HOLDS if most <= limit else Verdict.VIOLATED)


# The timeline


def times(text: str, keys: dict[str, Any], discipline: str, eager_bytes: int = 0) -> list[tuple[int, int]]:
    """Return start and end of each step of rank 0."""
    timeline = simulate(Schedule.parse(text), Problem.chain(**keys), discipline=discipline, eager_bytes=eager_bytes)
    return list(zip(timeline.starts[0].tolist(), timeline.ends[0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("discipline", "eager_bytes", "expected"),
    [
        ("tagged", 0, [(0, 3), (3, 8), (3, 8), (8, 11)]),
        ("buffered", 0, [(0, 3), (3, 8), (3, 8), (8, 11)]),
        ("edge", 0, [(0, 3), (9, 14), (3, 14), (14, 17)]),
        ("pair", 10, [(0, 3), (3, 3), (3, 3), (3, 6)]),
        ("edge", 10, [(0, 3), (3, 3), (3, 3), (3, 6)]),
        ("block", 0, [(0, 3), (9, 14), (14, 14), (14, 17)]),
    ],
)
def test_a_wait_lasts_from_where_its_rank_comes_to_it_until_its_send_is_complete(
    discipline: str, eager_bytes: int, expected: list[tuple[int, int]]
) -> None:
    """Rank 1 posts the receive at 9; the message takes 5 ticks; what is eager is complete at the head."""
    keys = {"ranks": 2, "microbatches": 1, "stages": 4, "placement": [0, 1, 0, 1], "edges": [[0, 1]],
            "form": "inference", "forward": [3, 1, 3, 9], "bytes": 10, "bandwidth": 2, "latency": 4}  # fmt: skip
    text = "0F0 0SEND_F0 0WAIT_SEND_F0 2F0\n3F0 1RECV_F0 1F0"
    assert times(text, keys, discipline, eager_bytes) == expected


def test_what_follows_a_wait_is_posted_behind_it() -> None:
    keys = FORWARDS | {"forward": 1, "bytes": 4, "bandwidth": 1}
    text = "0F0 0SEND_F0 {}0F1 0SEND_F1\n1RECV_F0 1F0 1RECV_F1 1F1"
    assert times(text.format(""), keys, "edge") == [(0, 1), (1, 5), (1, 2), (6, 10)]
    assert times(text.format("0WAIT_SEND_F0 "), keys, "edge") == [(0, 1), (1, 5), (1, 5), (5, 6), (6, 10)]


def test_what_is_done_to_parameters_costs_nothing() -> None:
    first, second = SENT.split("\n")
    text = f"{first} 0REDUCE_GRAD 0WAIT_REDUCE_GRAD\n{second} 1REDUCE_GRAD 1WAIT_REDUCE_GRAD"
    assert times(text, ONE, "pair")[-2:] == [(6, 6), (6, 6)]
