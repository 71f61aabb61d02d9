"""The oracle of lowered schedules against cases worked out by hand from the law, and against the law's inclusions."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest

from oracle import communication
from oracle.communication import Judge
from oracle.lowered import ill_formed_steps, received_by_step, shared_verdicts
from oracle.machine import DISCIPLINES
from oracle.messages import Program, Wires, read_lowered
from schedverify.core.problem import Problem
from support import mutants_communication, random_lowered
from support.mutants_communication import LOWERED_FAULTS, lowered_mutant
from support.random_traffic import traffic

ALL = "tagged buffered edge pair rank block"
FROM_EDGE = "edge pair rank block"
FROM_PAIR = "pair rank block"

TWO = {"ranks": 2, "microbatches": 1}
FORWARD = TWO | {"form": "inference"}
FORWARDS = FORWARD | {"microbatches": 2}
LOOP = {"ranks": 2, "virtual": 2, "microbatches": 2}
RING = {"ranks": 3, "virtual": 2, "microbatches": 2}
FORK = {"ranks": 3, "microbatches": 1, "edges": [[0, 1], [0, 2]], "form": "inference"}
LOCAL = FORWARD | {"stages": 3, "placement": [0, 0, 1]}
SHARED = {"ranks": 3, "microbatches": 1, "placement": [[0, 1], 2], "form": "inference"}
SLICED = FORWARDS | {"slices": 2}
COPIES = {"ranks": 2, "microbatches": 2, "stages": 2, "replicas": 2, "placement": [[0, 1], [1, 0]], "form": "inference"}


def rows_of(text: str) -> list[list[str]]:
    return [line.split() if line.strip() != "-" else [] for line in text.split("/")]


# What it shows; the problem; the rows, parted by "/"; the codes beside SV304; the disciplines under which it hangs.
HAND = [
    ("send and receive at once", TWO, "0F0 0SEND_F0 0RECV_B0 0B0 / 1RECV_F0 1F0 1B0 1SEND_B0", "", ""),
    ("a stage between stages of one rank", LOCAL, "0F0 1F0 1SEND_F0 / 2RECV_F0 2F0", "", ""),
    ("named peers", FORWARD, "0F0 0SEND_F0>1 / 1RECV_F0<0 1F0", "", ""),
    ("a fork names its peers", FORK, "0F0 0SEND_F0>1 0SEND_F0>2 / 1RECV_F0 1F0 / 2RECV_F0 2F0", "", ""),
    ("copies run in opposite directions", COPIES,
     "0F0 0SEND_F0 3RECV_F1 3F1 / 2F1 [2SEND_F1;1RECV_F0] 1F0", "", ""),
    ("slices wait on their own stage", SLICED, "0F0 0SEND_F0 0F1 0SEND_F1 / 1RECV_F0 1F0 1RECV_F1 1F1", "", ""),
    # SV301
    ("a lone send", FORWARD, "0F0 0SEND_F0 / 1F0", "SV301", ""),
    ("a lone receive", FORWARD, "0F0 / 1RECV_F0 1F0", "SV301", ""),
    ("one message missing at both ends", FORWARDS, "0F0 0SEND_F0 0F1 / 1RECV_F0 1F0 1F1", "SV301", ""),
    ("sent twice", FORWARD, "0F0 0SEND_F0 0SEND_F0 / 1RECV_F0 1F0", "SV301", ""),
    ("sent and received twice", FORWARD, "0F0 0SEND_F0 0SEND_F0 / 1RECV_F0 1RECV_F0 1F0", "SV301", ""),
    ("between stages of one rank", LOCAL, "0F0 0SEND_F0 1RECV_F0 1F0 1SEND_F0 / 2RECV_F0 2F0", "SV301", ""),
    ("a peer that is no neighbour", FORK, "0F0 0SEND_F0>0 0SEND_F0>2 / 1F0 / 2RECV_F0 2F0", "SV301", ""),
    ("a peer that is absent", FORWARD, "0F0 0SEND_F0>2 / 1RECV_F0 1F0", "SV301", ""),
    ("no peer named where there are two", FORK, "0F0 0SEND_F0 0SEND_F0>2 / 1RECV_F0 1F0 / 2RECV_F0 2F0", "SV301", ""),
    ("the last stage sends on", FORWARD, "0F0 0SEND_F0 / 1RECV_F0 1F0 1SEND_F0", "SV301", ""),
    ("the send on a foreign rank", RING | {"form": "inference", "microbatches": 1, "virtual": 1},
     "0F0 / 1RECV_F0 1F0 1SEND_F0 / 0SEND_F0 2RECV_F0 2F0", "SV301", ""),
    ("nothing is asked of what the problem does not admit", FORWARD, "0F0 0SEND_F0 0SEND_F1 / 1RECV_F0 1F0", "", ""),
    ("a stranger's message takes part in the order", FORK | {"ranks": 3},
     "0F0 0SEND_F0>1 0SEND_F0>2 / 1RECV_F0 1SEND_F0>2 1F0 / 2RECV_F0<1 2RECV_F0 2F0", "SV301", ""),
    ("what stays alone goes on in its turn", FORWARDS | {"ranks": 3, "edges": [[0, 1], [1, 2], [0, 2]]},
     "0F0 0SEND_F0>1 / 1F0 / 2F0", "SV301", ""),
    # SV302
    ("swapped at the receiver", FORWARDS, "0F0 0SEND_F0 0F1 0SEND_F1 / 1RECV_F1 1RECV_F0 1F0 1F1", "SV302", ""),
    ("a group counts in the order written", FORWARDS, "0F0 0F1 [0SEND_F0;0SEND_F1] / [1RECV_F1;1RECV_F0] 1F0 1F1",
     "SV302", ""),
    ("swapped, and by name it would hang", TWO | {"microbatches": 2},
     "0F0 0F1 0SEND_F0 0RECV_B1 0B1 0SEND_F1 0RECV_B0 0B0 / 1RECV_F1 1F1 1B1 1SEND_B1 1RECV_F0 1F0 1B0 1SEND_B0",
     "SV302", "tagged"),
    # SV303
    ("sent before it is made", FORWARD, "0SEND_F0 0F0 / 1RECV_F0 1F0", "SV303", "block"),
    ("received after it is read", FORWARD, "0F0 0SEND_F0 / 1F0 1RECV_F0", "SV303", ALL),
    ("W does not make the gradient, I does", TWO | {"form": "split"},
     "0F0 0SEND_F0 0RECV_B0 0I0 0W0 / 1RECV_F0 1F0 1I0 1SEND_B0 1W0", "", ""),
    # SV304
    ("both send first on one pair, as in pytorch#172668", LOOP,
     "0SEND_F1 2RECV_F0 2F0 / 1SEND_F0 1RECV_F1 1F1", "", FROM_PAIR),
    ("both send first, one of them in a group", LOOP, "[0SEND_F1;2RECV_F0] 2F0 / 1SEND_F0 1RECV_F1 1F1", "", ""),
    ("both send first, as in NVIDIA/nccl#479", LOOP, "0SEND_F0 2RECV_F1 / 1SEND_F1 1RECV_F0", "", FROM_PAIR),
    ("one group each, as advised there", LOOP, "[0SEND_F0;2RECV_F1] / [1SEND_F1;1RECV_F0]", "", ""),
    ("both receive first", LOOP, "2RECV_F0 0SEND_F1 / 1RECV_F1 1SEND_F0", "", FROM_PAIR),
    ("a ring of three queues", RING, "3RECV_F0 0SEND_F1 / 1RECV_F1 4SEND_F0 / 5RECV_F0 2SEND_F0", "", "rank block"),
    ("a ring with one group in it", RING, "[3RECV_F0;0SEND_F1] / 1RECV_F1 4SEND_F0 / 5RECV_F0 2SEND_F0", "", ""),
    ("an early receive holds up a send", RING,
     "0SEND_F0 3RECV_F0 0SEND_F1 / 1RECV_F0 1F0 1RECV_F1 1SEND_F0 / 2RECV_F0 2F0 2SEND_F0", "", "rank block"),
    ("two sends cross on one channel", FORWARDS, "0F0 0F1 [0SEND_F0;0SEND_F1] / 1RECV_F0 1F0 1RECV_F1 1F1", "", ""),
    ("each waits for what the other sends later", TWO | {"microbatches": 2},
     "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 / 1RECV_F1 1F1 1RECV_F0 1F0 1B0 1SEND_B0", "SV302", ALL),
    ("a shared stage waits for all its ranks", SHARED, "0F0 0SEND_F0 / 0F0 / 1RECV_F0 1F0", "", ""),
    ("the second rank of a stage does not send", SHARED, "0F0 / 0F0 0SEND_F0 / 1RECV_F0 1F0", "SV301", ""),
    ("a computing circle hangs without a message", LOCAL, "1F0 0F0 1SEND_F0 / 2RECV_F0 2F0", "", ALL),
    # A rank that is held up by a send does not come to the stage that it shares.
    ("block holds up a shared stage", {"ranks": 2, "microbatches": 1, "edges": [[0, 1]], "stages": 3,
     "placement": [0, 1, [0, 1]], "form": "inference"}, "0F0 0SEND_F0 2F0 / 2F0 1RECV_F0 1F0", "", "block"),
    # SV305
    ("sharded around every use", FORWARDS,
     "0UNSHARD 0F0 0SEND_F0 0RESHARD 0UNSHARD 0F1 0SEND_F1 0RESHARD / 1RECV_F0 1F0 1RECV_F1 1F1", "", ""),
    ("used while sharded", FORWARD, "0F0 0UNSHARD 0RESHARD 0SEND_F0 / 1RECV_F0 1F0", "SV305", ""),
    ("never sharded again", FORWARD, "0UNSHARD 0F0 0SEND_F0 / 1RECV_F0 1F0", "SV305", ""),
    ("unsharded twice", FORWARD, "0UNSHARD 0UNSHARD 0F0 0RESHARD 0SEND_F0 / 1RECV_F0 1F0", "SV305", ""),
    ("resharded first", FORWARD, "0RESHARD 0UNSHARD 0F0 0RESHARD 0SEND_F0 / 1RECV_F0 1F0", "SV305", ""),
    ("reduced on each rank", TWO, "0F0 0SEND_F0 0RECV_B0 0B0 0REDUCE_GRAD / 1RECV_F0 1F0 1B0 1SEND_B0 1REDUCE_GRAD",
     "", ""),
    ("one stage is not reduced", TWO, "0F0 0SEND_F0 0RECV_B0 0B0 0REDUCE_GRAD / 1RECV_F0 1F0 1B0 1SEND_B0", "SV305",
     ""),
    ("reduced twice", TWO,
     "0F0 0SEND_F0 0RECV_B0 0B0 0REDUCE_GRAD 0REDUCE_GRAD / 1RECV_F0 1F0 1B0 1SEND_B0 1REDUCE_GRAD", "SV305", ""),
    ("reduced too early", TWO | {"form": "split"},
     "0F0 0SEND_F0 0RECV_B0 0I0 0REDUCE_GRAD 0W0 / 1RECV_F0 1F0 1B0 1SEND_B0 1REDUCE_GRAD", "SV305", ""),
]  # fmt: skip

EXCERPTS = {
    "both send first on one pair, as in pytorch#172668",
    "both send first, as in NVIDIA/nccl#479",
    "one group each, as advised there",
    "both send first, one of them in a group",
    "both receive first",
    "a ring of three queues",
    "a ring with one group in it",
    "an early receive holds up a send",
    "each waits for what the other sends later",
}


def judge_of(keys: dict, text: str, excerpt: bool = False) -> Judge:
    return Judge(rows_of(text), Problem.chain(**keys).to_dict(), excerpt)


@pytest.mark.parametrize(("name", "keys", "text", "codes", "hangs"), HAND, ids=[case[0] for case in HAND])
def test_hand_cases(name: str, keys: dict, text: str, codes: str, hangs: str) -> None:
    judge = judge_of(keys, text, name in EXCERPTS)
    for discipline in DISCIPLINES:
        verdicts = judge.verdicts(discipline)
        expected = set(codes.split()) - ({"SV302"} if discipline == "tagged" else set())
        expected |= {"SV304"} if discipline in hangs.split() else set()
        assert set(verdicts) == set(communication.CODES)
        assert {code for code, violated in verdicts.items() if violated} == expected, discipline


EAGER = [
    ("both send first", "0SEND_F1 2RECV_F0 2F0 / 1SEND_F0 1RECV_F1 1F1", [2, 1, 1, 1], {0: FROM_PAIR, 1: "", 2: ""}),
    ("one of them is eager", "0SEND_F1 2RECV_F0 2F0 / 1SEND_F0 1RECV_F1 1F1", [3, 1, 1, 1], {0: FROM_PAIR, 2: ""}),
    ("an eager send keeps its place behind a receive", "2RECV_F0 0SEND_F1 / 1RECV_F1 1SEND_F0", [1, 1, 1, 1],
     {0: FROM_PAIR, 1: FROM_PAIR}),
    ("a gradient is as large as what went forward", "0F0 0SEND_F0 0RECV_B0 0B0 / 1F0 1B0 1SEND_B0 1RECV_F0",
     [2, 1, 1, 1], {1: ALL, 2: ALL}),
    ("an eager send behind one that is not", "0SEND_F0 2SEND_F0 / 3RECV_F0 1RECV_F0", [2, 1, 1, 1], {0: "", 1: ""}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sizes", "hangs"), [case[1:] for case in EAGER], ids=[case[0] for case in EAGER])
def test_eager_messages(text: str, sizes: list[int], hangs: dict[int, str]) -> None:
    judge = judge_of(LOOP | {"bytes": sizes}, text, excerpt=True)
    for eager_bytes, expected in hangs.items():
        stuck = {name for name in DISCIPLINES if judge.run(name, eager_bytes).is_stuck}
        assert stuck == set(expected.split()), eager_bytes


# What is under way at most in the channel from rank 0 to rank 1: the rows, an eager size, and the most by discipline.
UNDER_WAY = [
    ("nothing asks for an answer", "0F0 0SEND_F0 0F1 0SEND_F1 0F2 0SEND_F2 / 1RECV_F0 1F0 1RECV_F1 1F1 1RECV_F2 1F2",
     {("buffered", 0): 3, ("tagged", 0): 3, ("tagged", 1): 3, ("edge", 0): 0, ("pair", 0): 0, ("block", 1): 3}),
    ("the second is sent after an answer to the first",
     "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0F2 0SEND_F2 / 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1RECV_F2 1F2",
     {("buffered", 0): 2, ("tagged", 1): 2, ("pair", 1): 2}),
    ("received in any order, by name", "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B1 0B1 0F2 0SEND_F2 / "
     "1RECV_F1 1F1 1B1 1SEND_B1 1RECV_F0 1F0 1RECV_F2 1F2", {("tagged", 1): 2, ("buffered", 0): 2}),
    ("a lone send is never received", "0F0 0SEND_F0 / 1F0", {("buffered", 0): 1, ("block", 1): 1}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "most"), [case[1:] for case in UNDER_WAY], ids=[case[0] for case in UNDER_WAY])
def test_messages_under_way(text: str, most: dict[tuple[str, int], int]) -> None:
    keys = {"ranks": 2, "microbatches": 3, "bytes": 1}
    for (discipline, eager_bytes), expected in most.items():
        judge = judge_of(keys | {"buffer": max(expected, 1)}, text)
        assert judge.most_under_way(judge.run(discipline, eager_bytes)).get((0, 1), 0) == expected
        assert not judge.verdicts(discipline, eager_bytes=eager_bytes)["SV403"]
        if expected > 1:
            assert judge_of(keys | {"buffer": expected - 1}, text).verdicts(discipline, eager_bytes=eager_bytes)[
                "SV403"
            ]


@pytest.mark.parametrize("shape", [[2, 4], [4, 2]])
def test_what_meets_is_what_the_boundary_declares(shape: list[int]) -> None:
    keys = {"ranks": 2, "virtual": 2, "microbatches": 1, "form": "inference"}
    boundaries = [
        {"from": 0, "to": 1, "shape": [2, 4], "dtype": "float16"},
        {"from": 2, "to": 3, "shape": shape, "dtype": "float16"},
    ]
    text = "0F0 0SEND_F0 2RECV_F0 2F0 2SEND_F0 / {} 1F0 1SEND_F0 {} 3F0"
    for boundary, first in ((boundaries, "1RECV_F0"), (boundaries, "3RECV_F0"), ([], "3RECV_F0")):
        second = {"1RECV_F0": "3RECV_F0", "3RECV_F0": "1RECV_F0"}[first]
        judge = judge_of(keys | {"boundaries": boundary}, text.format(first, second))
        wrong = bool(boundary) and first == "3RECV_F0" and shape == [4, 2]
        assert judge.verdicts("pair")["SV306"] == wrong
        assert not judge.verdicts("tagged")["SV306"]


def test_places() -> None:
    judge = judge_of(FORWARDS, "0F0 0SEND_F0 0F1 / 1F0 1RECV_F0 [1RECV_F1;1RECV_F0] 1F1")
    assert judge.mismatches() == {(1, 2)}
    assert judge.out_of_order() == {(1, 1), (1, 2)}
    assert judge.run("edge").reached == [3, 0]


def test_texts_of_lowered_steps() -> None:
    for text in ("0SEND_F1<2", "0RECV_F1>2", "0SEND_I1", "0UNSHARD1", "0SEND_F", "[0SEND_F1;]", "0WAIT_F1", "0F1>2"):
        with pytest.raises(ValueError, match="oracle knows no"):
            read_lowered(text)
    assert read_lowered("[0SEND_F1]") == read_lowered("0SEND_F1")


def test_an_excerpt_needs_a_message_only_where_both_its_ends_compute() -> None:
    crossing, arriving = "{} 0F1 0SEND_F1", "{} 1RECV_F1 1F1"
    both = f"{crossing.format('0F0')} / {arriving.format('1F0')}"
    reader = f"{crossing.format('')} / {arriving.format('1F0')}"
    assert judge_of(FORWARDS, both, excerpt=True).verdicts("pair")["SV301"]
    assert not judge_of(FORWARDS, reader, excerpt=True).verdicts("pair")["SV301"]
    assert judge_of(FORWARDS, reader, excerpt=False).verdicts("pair")["SV301"]


def test_nothing_is_missing_of_a_compute_order() -> None:
    assert not judge_of(FORWARD, "0F0 / 1F0").verdicts("pair")["SV301"]


def test_the_oracle_of_communication_stands_alone() -> None:
    names = ("communication", "lowered", "messages", "machine")
    imported = set()
    for name in names:
        tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    own = {f"oracle.{name}" for name in (*names, "compute_orders", "law", "memory")}
    assert imported - own == {"__future__", "re", "collections", "collections.abc", "functools", "typing"}


SHARED_BY_CODE = [
    ("0F0 [0SEND_F0;0F0] 0RECV_B0 0B0 / 1RECV_F0 1F0 1B0 1SEND_B0", "SV101 SV104"),
    ("0F0 (0SEND_F0;0RECV_B0)OVERLAP_F_B 0B0 / 1RECV_F0 1F0 1B0 1SEND_B0", "SV101"),
    ("0F0 [0UNSHARD;0RESHARD] 0SEND_F0 0RECV_B0 0B0 / 1RECV_F0 1F0 1B0 1SEND_B0", "SV101"),
    ("0F0 0SEND_F0 0RECV_B0 0B0 2UNSHARD / 1RECV_F0 1F0 1B0 1SEND_B1", "SV101"),
    ("0F0 1RECV_F0 0RECV_B0 0B0 / 0SEND_F0 1F0 1B0 1SEND_B0", "SV102"),
    ("0F0 0SEND_F0 0RECV_B0 0B0 1UNSHARD / 1RECV_F0 1F0 1B0 1SEND_B0", "SV102"),
    ("0SEND_F0 0RECV_B0 0B0 / 1RECV_F0 1F0 1B0 1SEND_B0", "SV103"),
    ("0F0 0SEND_F0 0SEND_F0 0RECV_B0 0B0 / 1RECV_F0 1F0 1B0 1SEND_B0", ""),
    ("0RECV_B0 0B0 0F0 0SEND_F0 / 1RECV_F0 1F0 1B0 1SEND_B0", "SV201"),
    ("0F0 0RECV_B0 0SEND_F0 0B0 / 1RECV_F0 1F0 1B0 1SEND_B0", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "codes"), SHARED_BY_CODE)
def test_what_lowered_schedules_share_with_compute_orders(text: str, codes: str) -> None:
    verdicts = shared_verdicts(judge_of(TWO, text).program)
    assert {code for code, violated in verdicts.items() if violated} == set(codes.split())


def test_only_inference_lacks_gradients() -> None:
    program = judge_of(FORWARD, "0F0 0SEND_F0 0RECV_B0 0REDUCE_GRAD 0UNSHARD / 1RECV_F0 1F0 1SEND_B0").program
    assert ill_formed_steps(program) == {(0, 2), (0, 3), (1, 2)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1RECV_F0 1F0 1B0", [3, 3, 0]),
        ("1RECV_F0 1RECV_F1 1F0 1SEND_F0 1F1", [3, 6, 6, 3, 3]),
        ("[1RECV_F1;1RECV_B0] 1F1 1I0 1W0", [3 + 5, 3 + 5, 5, 0]),
        ("1RECV_F0 1RECV_F0 1F0 1F0", [3, 6, 6, 0]),
    ],
)
def test_received_bytes_step_by_step(text: str, expected: list[int]) -> None:
    keys = {"ranks": 3, "microbatches": 2, "form": "split", "bytes": [3, 5, 7]}
    assert list(received_by_step(judge_of(keys, f"- / {text} / -").program, 1)) == expected


# The inclusions of section 4, on programs of which most are wrong


def broken_inclusions(free: dict[str, bool], *, ordered: bool, alike: bool) -> list[str]:
    """Return the inclusions of section 4 that do not hold for a program.

    ``free`` says under which disciplines it is free of deadlock, ``ordered`` whether SV302 holds, ``alike`` whether
    SV303 holds and no stage stands on several ranks.
    """
    claims = {
        "block implies rank": free["rank"] or not free["block"],
        "rank implies pair": free["pair"] or not free["rank"],
        "pair implies edge": free["edge"] or not free["pair"],
        "edge implies buffered": free["buffered"] or not free["edge"],
        "in order, buffered implies tagged": free["tagged"] or not free["buffered"] or not ordered,
        "rank is block": free["rank"] == free["block"] or not alike,
    }
    return [claim for claim, holds in claims.items() if not holds]


@pytest.mark.parametrize("eager_bytes", [0, 2])
def test_inclusions(eager_bytes: int) -> None:
    accepted = dict.fromkeys(DISCIPLINES, 0)
    for seed in range(0, 20_000, 13):
        if seed % 2:
            problem, rows, name = lowered_mutant(seed)
            judge = Judge(rows, problem.to_dict())
        else:
            problem, data, rows = traffic(seed)
            judge, name = Judge(rows, data, excerpt=True), "traffic"
        free = {discipline: not judge.run(discipline, eager_bytes).is_stuck for discipline in DISCIPLINES}
        alike = not judge.out_of_order() and all(len(ranks) == 1 for ranks in judge.law.ranks_of)
        broken = broken_inclusions(free, ordered=not judge.crossed(), alike=alike)
        assert not broken, (broken, seed, name, rows, problem.to_dict())
        for discipline in DISCIPLINES:
            accepted[discipline] += free[discipline]
    # Without waits, the queue of a channel holds up a receive until the one before it is there, complete or not.
    assert accepted["buffered"] >= accepted["edge"] > accepted["pair"] > accepted["rank"] > accepted["block"] > 100


def test_bases_run_under_every_discipline() -> None:
    for number in range(0, 1250, 9):
        found = random_lowered.lowered_base(number)
        judge = Judge(found.rows, found.data)
        for discipline in DISCIPLINES:
            verdicts = judge.verdicts(discipline, eager_bytes=2) | shared_verdicts(judge.program)
            assert {code for code, violated in verdicts.items() if violated} <= {"SV403"}, (number, discipline)


def test_mutants_repeat_and_every_fault_and_code_occurs() -> None:
    first = [lowered_mutant(seed) for seed in range(40)]
    random_lowered.lowered_base.cache_clear()
    assert first == [lowered_mutant(seed) for seed in range(40)]
    names, codes, alone = set(), dict.fromkeys(communication.CODES, 0), set()
    for seed in range(4000):
        problem, rows, name = lowered_mutant(seed)
        names |= set(name.split(" + "))
        discipline = random.Random(seed).choice(DISCIPLINES)
        verdicts = Judge(rows, problem.to_dict()).verdicts(discipline, eager_bytes=2)
        violated = [code for code, found in verdicts.items() if found]
        for code in violated:
            codes[code] += 1
        if len(violated) == 1:
            alone.add(violated[0])
    assert names == set(LOWERED_FAULTS)
    assert min(codes.values()) > 2, codes
    assert alone >= {"SV301", "SV302", "SV303", "SV304", "SV305", "SV403", "SV404"}


def test_every_group_is_one_position() -> None:
    program = Program(rows_of("[0SEND_F0;0SEND_F0] 0F0 / -"), Problem.chain(**FORWARD).to_dict())
    assert [len(items) for items in program.items[0]] == [2, 0]
    assert isinstance(program.law, Wires)
    assert mutants_communication.members("[0SEND_F0;0RECV_B0]") == ["0SEND_F0", "0RECV_B0"]


@pytest.mark.parametrize(
    ("sizes", "wrong"),
    [([6, 0, 6, 0], False), ([6, 0, 1, 0], True), ([1, 0, 6, 0], True), ([6, 0, 0, 0], True), ([0, 0, 0, 0], False)],
)
def test_the_bytes_of_each_copy_are_those_of_the_boundary(sizes: list[int], wrong: bool) -> None:
    keys = {
        "ranks": 2, "microbatches": 2, "replicas": 2, "stages": 2, "placement": [[0, 1], [1, 0]], "form": "inference",
        "bytes": sizes, "boundaries": [{"from": 0, "to": 1, "bytes": 6}],
    }  # fmt: skip
    text = "0F0 0SEND_F0 3RECV_F1 3F1 / 1RECV_F0 1F0 2F1 2SEND_F1"
    assert judge_of(keys, text).verdicts("pair")["SV306"] == wrong
