"""Lowered schedules: what is said of sends and receives, under each discipline, and as which story."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from schedverify.core.discipline import Discipline
from schedverify.core.errors import InputError, UnknownNameError
from schedverify.core.problem import Problem
from schedverify.core.result import Report, Scope, Verdict
from schedverify.core.schedule import Schedule
from schedverify.generators import generate
from schedverify.lowering import add_communication
from schedverify.verifier.happens_before import EventGraph
from schedverify.verifier.matching import Transfers
from schedverify.verifier.occurrences import Occurrences
from schedverify.verifier.rules import deadlocks
from schedverify.verifier.stalls import Stalls
from schedverify.verifier.verification import verify
from support.mutants_communication import lowered_mutant
from support.random_schedules import base

DISCIPLINES = tuple(Discipline)
REPORTED = tomllib.loads((Path(__file__).parents[2] / "specs" / "deadlocks.toml").read_text(encoding="utf-8"))["case"]
LOOP = Problem.chain(ranks=2, microbatches=2, virtual=2)


def judged(text: str, problem: Problem | None, **keys: Any) -> Report:
    return verify(Schedule.parse(text), problem, **{"select": ["SV1", "SV2", "SV3"]} | keys)


def codes(report: Report) -> list[str]:
    return [violation.code for violation in report.violations]


# Orders that hang, as they were reported


@pytest.mark.parametrize("problem", [LOOP, None], ids=["placed", "read off"])
@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize("case", REPORTED, ids=lambda case: case["source"])
def test_reported_orders_hang_where_they_did(case: dict[str, Any], discipline: str, problem: Problem | None) -> None:
    report = verify(Schedule.of(case["orders"]), problem, discipline=discipline, excerpt=True)
    assert codes(report) == ["SV304"] * (discipline in case["hangs"])
    assert (discipline in case["runs"]) == (report["SV304"].verdict is Verdict.HOLDS)
    assert report.communication is not None
    assert report.communication.strictest == case["runs"][-1]
    for violation in report.violations:
        assert violation.message == "; ".join(violation.counterexample) == WAITS[case["source"]]


WAITS = {
    "pytorch/pytorch#172668, comment of 2026-01-21": (
        "rank 0 waits at position 0 (0SEND_F1) for 1RECV_F1; rank 1 waits at position 0 (1SEND_F0) for 2RECV_F0"
    ),
    "NVIDIA/nccl#479": (
        "rank 0 waits at position 0 (0SEND_F0) for 1RECV_F0; rank 1 waits at position 0 (1SEND_F1) for 2RECV_F1"
    ),
}


# What each discipline blocks

INFERENCE = Problem.chain(ranks=2, microbatches=2, stages=3, form="inference", bytes=8)
CROSSED = "0F0 0SEND_F0 0F1 0SEND_F1 2RECV_F0 2F0 2RECV_F1 2F1\n1RECV_F0 1F0 1SEND_F0 1RECV_F1 1F1 1SEND_F1"
RING = Problem.chain(ranks=3, microbatches=2, stages=4, form="inference")
HEAD_OF_LINE = (
    "0F0 0SEND_F0 3RECV_F0 3F0 0F1 0SEND_F1 3RECV_F1 3F1\n"
    "1RECV_F0 1F0 1RECV_F1 1SEND_F0 1F1 1SEND_F1\n"
    "2RECV_F0 2F0 2SEND_F0 2RECV_F1 2F1 2SEND_F1"
)
BOTH_FIRST = Problem.chain(ranks=2, microbatches=2, replicas=2, placement=[[0, 1], [1, 0]], form="inference")


@pytest.mark.parametrize(
    ("text", "problem", "strictest"),
    [
        (CROSSED, INFERENCE, "edge"),
        (CROSSED.replace("0SEND_F1 2RECV_F0", "[0SEND_F1;2RECV_F0]"), INFERENCE, "block"),
        (HEAD_OF_LINE, RING, "pair"),
        (HEAD_OF_LINE.replace("1RECV_F1 1SEND_F0", "[1RECV_F1;1SEND_F0]"), RING, "block"),
        ("0F0 0SEND_F0 3RECV_F1 3F1\n2F1 2SEND_F1 1RECV_F0 1F0", BOTH_FIRST, "edge"),
        # Both receive first: what rank 0 waits for is sent after rank 1 received, and the other way round.
        ("3RECV_F1 0F0 0SEND_F0 3F1\n1RECV_F0 2F1 2SEND_F1 1F0", BOTH_FIRST, "edge"),
        ("0F0 0SEND_F0 0F1 0SEND_F1\n1RECV_F1 1F1 1RECV_F0 1F0", None, "block"),
        # Two that meet in another order than they stand: the receive is free to run ahead only by name.
        ("0F0 0SEND_F0 3RECV_F1 3F1\n1RECV_F0 1F0 2F1 2SEND_F1", BOTH_FIRST, "block"),
    ],
)
def test_the_strictest_discipline(text: str, problem: Problem | None, strictest: str) -> None:
    report = judged(text, problem, select=["SV304"])
    assert report.communication is not None
    assert report.communication.strictest == strictest
    for discipline in DISCIPLINES:
        verdict = judged(text, problem, select=["SV304"], discipline=discipline)["SV304"].verdict
        laxer = DISCIPLINES.index(discipline) <= DISCIPLINES.index(Discipline(strictest))
        assert verdict is (Verdict.HOLDS if laxer else Verdict.VIOLATED), discipline


def test_names_alone_decide_under_tagged() -> None:
    """Rank 1 wants micro-batch 1 before it sends what micro-batch 1 waits for: only a name lets 0 in between."""
    text = "0F0 0SEND_F0 3RECV_F0 3F0 0F1 0SEND_F1\n1RECV_F1 1RECV_F0 1F0 2F0 2SEND_F0 1F1"
    problem = Problem.chain(ranks=2, microbatches=2, stages=4, placement="v", form="inference")
    report = judged(text, problem, select=["SV302", "SV304"], discipline="tagged", excerpt=True)
    assert report.ok
    assert report["SV302"].reason == "under tagged, messages are matched by name"
    swapped = judged(text, problem, select=["SV302", "SV304"], discipline="buffered", excerpt=True)
    assert codes(swapped) == ["SV302", "SV302", "SV304"]
    assert "rank 1, position 0 (1RECV_F1): what arrives is 0SEND_F0 (rank 0, position 1)" in str(swapped.violations[0])


@pytest.mark.parametrize(("eager_bytes", "strictest"), [(0, "edge"), (7, "edge"), (8, "block")])
def test_an_eager_send_is_complete_at_the_head_of_its_queue(eager_bytes: int, strictest: str) -> None:
    report = judged(CROSSED, INFERENCE, eager_bytes=eager_bytes)
    assert report.communication is not None
    assert report.communication.strictest == strictest
    assert f"at most {eager_bytes} bytes eager" in str(report.communication) or not eager_bytes


def test_a_send_before_its_operation_blocks_a_program_and_no_queue() -> None:
    report = judged("0SEND_F0 0F0\n1RECV_F0 1F0", None, discipline="block")
    assert codes(report) == ["SV303", "SV304"]
    assert "rank 0 waits at position 0 (0SEND_F0) for 0F0, which stands behind it at position 1" in str(
        report.violations
    )
    assert codes(judged("0SEND_F0 0F0\n1RECV_F0 1F0", None, discipline="rank")) == ["SV303"]


def test_a_stage_on_several_ranks_couples_them() -> None:
    problem = Problem.chain(ranks=3, microbatches=2, stages=2, placement=[[0, 1], 2], form="inference")
    text = "0F0 0SEND_F0 0F1 0SEND_F1\n0F0 0F1\n1RECV_F0 1F0 1RECV_F1 1F1"
    assert judged(text, problem, discipline="block").ok
    stuck = judged(text.replace("0F0 0F1", "0F1 0F0"), problem)
    assert codes(stuck) == ["SV201", "SV304"]
    assert "for rank 1 to reach it at position 1; rank 1 waits at position 0 (0F1) for rank 0 to reach it" in str(
        stuck.violations[1]
    )


def test_what_stands_still_is_told_with_what_it_waits_through() -> None:
    problem = Problem.chain(ranks=2, microbatches=1)
    report = judged("0F0 0RECV_B0 0B0 0SEND_F0\n1RECV_F0 1F0 1B0 1SEND_B0", problem, discipline="edge")
    assert [str(violation) for violation in report.violations] == [
        "SV304 rank 0 waits at position 2 (0B0) for 1SEND_B0, the other end of 0RECV_B0 at position 1; "
        "rank 1 waits at position 1 (1F0) for 0SEND_F0, the other end of 1RECV_F0 at position 0"
    ]


# Faults of matching


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0F0 0SEND_F0\n1F0", "rank 0, position 1 (0SEND_F0): nothing on rank 1 receives it, 1RECV_F0 is missing"),
        ("0F0\n1RECV_F0 1F0", "rank 1, position 0 (1RECV_F0): nothing on rank 0 sends it, 0SEND_F0 is missing"),
        ("0F0\n1F0", None),
        ("0F0 0SEND_F0 0SEND_F0\n1RECV_F0 1F0", "rank 0, position 2 (0SEND_F0): it stands at position 1 already"),
        ("0F0 0SEND_F0\n1RECV_F0 1F0 1SEND_F0", "rank 1, position 2 (1SEND_F0): stage 1 feeds no other"),
        ("0RECV_F0 0F0 0SEND_F0\n1RECV_F0 1F0", "rank 0, position 0 (0RECV_F0): no other stage feeds stage 0"),
        ("0F0 0SEND_F0\n1RECV_F0<1 1F0", "rank 1, position 0 (1RECV_F0<1): stage 1 does not feed stage 1"),
        ("0F0 0SEND_F0\n1RECV_F0<7 1F0", "rank 1, position 0 (1RECV_F0<7): stage 7 is absent; stages are 0 to 1"),
    ],
)
def test_a_fault_of_matching_has_its_place(text: str, message: str | None) -> None:
    report = judged(text, Problem.chain(ranks=2, microbatches=1, form="inference"))
    assert set(codes(report)) == ({"SV301"} if message else set())
    assert message is None or message in [violation.message for violation in report.violations]
    if message is None:
        assert report["SV301"].reason == "no send and no receive stands in the schedule"


def test_what_finds_no_partner_counts_as_met() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, form="inference")
    for text in ("0F0 0SEND_F0\n1F0", "0F0\n1RECV_F0 1F0"):
        report = judged(text, problem, discipline="block")
        assert report["SV304"].verdict is Verdict.HOLDS
        assert codes(report) == ["SV301"]


def test_an_excerpt_need_not_show_what_crossed_before_it() -> None:
    problem = Problem.chain(ranks=2, microbatches=2)
    text = "0F1 0SEND_F1 0RECV_B0 0B0\n1B0 1SEND_B0 1RECV_F1 1F1"
    assert judged(text, problem, excerpt=True, discipline="edge").ok
    assert "SV301" in codes(judged(text, problem))
    lacking = judged(text.replace("0RECV_B0 ", "").replace("1SEND_B0 ", ""), problem, excerpt=True)
    assert [violation.message for violation in lacking.violations] == [
        "rank 0, position 2 (0B0): what it reads of stage 1 is not sent, 1SEND_B0 and 0RECV_B0 are missing"
    ]


def test_peers_are_named_where_a_stage_has_several() -> None:
    problem = Problem.chain(ranks=3, microbatches=1, edges=[[0, 1], [0, 2], [1, 2]], form="inference")
    text = "0F0 0SEND_F0>1 0SEND_F0>2\n1RECV_F0 1F0 1SEND_F0\n2RECV_F0<0 2RECV_F0<1 2F0"
    assert judged(text, problem, discipline="block").ok
    swapped = judged(text.replace("0SEND_F0>1 0SEND_F0>2", "0SEND_F0>2 0SEND_F0>1"), problem)
    assert swapped.ok
    assert judged(text.replace("<0 2RECV_F0<1", "<1 2RECV_F0<0"), problem).ok
    unnamed = judged(text.replace("2RECV_F0<0", "2RECV_F0"), problem)
    assert codes(unnamed) == ["SV301", "SV301"]
    assert "it does not say which of the stages 0, 1 is at the other end; < names it" in str(unnamed.violations[0])


def test_both_copies_of_a_model_share_the_channels() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, replicas=2, placement="loop")
    lowered = add_communication(Schedule.parse("0F0 0B0 3F1 3B1\n2F1 1F0 1B0 2B1"), problem)
    assert verify(lowered, problem, discipline="block").ok


# All at once


def test_the_default_lowering_is_proved_under_every_discipline() -> None:
    for number in range(150):
        schedule, problem = Schedule.of(base(number).rows), base(number).problem
        report = verify(add_communication(schedule, problem), problem, select=["SV1", "SV2", "SV3"])
        assert report.ok, (number, list(map(str, report.violations)))
        assert report.communication is None or report.communication.strictest is Discipline.BLOCK, number


def test_a_story_leads_round() -> None:
    """Each rank of a story waits for the next one, the last for the first, each at a step that stands where told."""
    told = 0
    for seed in range(0, 4000, 16):
        problem, rows, _ = lowered_mutant(seed)
        schedule = Schedule.of(rows)
        for discipline in DISCIPLINES:
            graph = EventGraph(Occurrences(schedule, problem), Transfers(schedule, problem), discipline, 0)
            cycles = Stalls(graph, schedule).cycles() if graph.blocked.any() else []
            assert bool(cycles) == graph.blocked.any()
            for cycle in cycles:
                told += 1
                assert [wait.target for wait in cycle] == [wait.rank for wait in (*cycle[1:], cycle[0])]
                for wait in cycle:
                    step = str(list(schedule.steps(wait.rank))[wait.position])
                    assert wait.step == step or wait.step in step.strip("[]").split(";")
    assert told > 100


def test_a_group_that_computes_is_told_as_it_stands() -> None:
    problem = Problem.chain(ranks=2, microbatches=2)
    alone = judged("[0F0;0B1] 0F1 0B0\n1F0 1B0 1F1 1B1", problem)["SV201"].violations
    assert alone[0].message.startswith("rank 0 waits at position 0 ([0F0;0B1]) for 0F1")
    lowered = judged("[0F0;0B1] 0SEND_F0 0F1 0B0\n1RECV_F0 1F0 1B0 1F1 1B1", problem)["SV304"].violations
    assert lowered[0].message.startswith("rank 0 waits at position 0 ([0F0;0B1]) for 0F1")


def test_in_a_step_that_is_none_parameters_come_first() -> None:
    problem = Problem.chain(ranks=1, microbatches=1, form="inference")
    assert codes(judged("[0UNSHARD;0F0] 0RESHARD", problem)) == ["SV101"]
    assert codes(judged("0UNSHARD [0F0;0RESHARD]", problem)) == ["SV101", "SV305"]


def waits_in_a_circle(graph: EventGraph, ranks: tuple[int, ...]) -> bool:
    """Whether what waits on account of some ranks alone has a cycle."""
    edges = zip(graph.before.tolist(), graph.after.tolist(), graph.waiting_rank.tolist(), strict=True)
    chosen = nx.DiGraph((before, after) for before, after, account in edges if account in (*ranks, -1))
    return not nx.is_directed_acyclic_graph(chosen)


def test_a_story_has_the_fewest_ranks() -> None:
    rng = random.Random(2)
    seen: set[int] = set()
    for seed in range(0, 960, 16):
        problem, rows, _ = lowered_mutant(seed)
        schedule = Schedule.of(rows)
        discipline = rng.choice(DISCIPLINES)
        report = verify(schedule, problem, select=["SV304"], discipline=discipline)
        if not report.violations:
            continue
        graph = EventGraph(Occurrences(schedule, problem), Transfers(schedule, problem), discipline, 0)
        told = min(len({wait.split()[1] for wait in story.counterexample}) for story in report.violations)
        sizes = range(1, schedule.ranks + 1)
        subsets = (ranks for size in sizes for ranks in itertools.combinations(range(schedule.ranks), size))
        assert told == len(next(ranks for ranks in subsets if waits_in_a_circle(graph, ranks)))
        seen.add(told)
    assert seen >= {1, 2}


def ranks_told(seed: int, discipline: Discipline) -> int:
    """Return how many ranks the shortest story of a mutant's deadlocks has, 0 where it has none."""
    problem, rows, _ = lowered_mutant(seed)
    stories = verify(Schedule.of(rows), problem, select=["SV304"], discipline=discipline).violations
    return min((len({wait.split()[1] for wait in story.counterexample}) for story in stories), default=0)


def test_a_cycle_that_is_at_hand_is_told_where_looking_for_a_shorter_one_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds = [(seed, DISCIPLINES[seed % len(DISCIPLINES)]) for seed in range(240)]
    fewest = [ranks_told(*one) for one in seeds]
    monkeypatch.setattr(deadlocks, "MOST_VISITS", 1)
    at_hand = [ranks_told(*one) for one in seeds]
    assert all(bool(few) == bool(told) and few <= told for few, told in zip(fewest, at_hand, strict=True))
    assert {(1, 2), (1, 1), (2, 2), (0, 0)} <= set(zip(fewest, at_hand, strict=True))


# Asking


def test_a_wrong_way_of_asking_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'pair'"):
        judged("0F0\n1F0", None, discipline="pairs")
    with pytest.raises(InputError, match="eager_bytes"):
        judged("0F0\n1F0", None, eager_bytes=-1)


def test_a_verdict_on_communication_is_for_every_duration() -> None:
    problem = Problem.chain(ranks=4, microbatches=8)
    report = verify(add_communication(generate("1f1b", problem), problem), problem)
    assert report.ok
    for code in ("SV301", "SV302", "SV303", "SV304"):
        assert (report[code].verdict, report[code].scope) == (Verdict.HOLDS, Scope.EVERY_DURATION)
    unlowered = verify(generate("1f1b", problem), problem)
    assert unlowered["SV304"].verdict is Verdict.NOT_APPLICABLE
    assert unlowered.communication is None


LOADED = """import sys, schedverify as sv
from schedverify.lowering import add_communication
problem = sv.Problem.chain(ranks=2, microbatches=4)
order = sv.generate("1f1b", problem)
lowered = {lowered!r} and add_communication(order, problem)
before = set(sys.modules)
assert sv.verify(lowered or order, problem).ok
print(*sorted(name for name in set(sys.modules) - before if "verifier" in name or "simulator" in name))
assert not {{"networkx", "numba"}} & set(sys.modules)
"""


def loaded(*, lowered: bool) -> set[str]:
    """Return what is loaded to find that a schedule is right, by the last part of each module's name."""
    code = LOADED.format(lowered=lowered)
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return {name.rpartition(".")[2] for name in found.stdout.split()}


def test_what_is_about_communication_is_loaded_only_where_some_stands() -> None:
    # p2p_events is there with the lowering, which places waits by it
    events, stories = {"happens_before", "matching", "p2p_engine"}, {"stalls", "wait_cycles"}
    assert not loaded(lowered=False) & (events | stories | {"certificates"})
    assert loaded(lowered=True) & (events | stories | {"certificates"}) == events


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ((6, 0, 6, 0), []),
        ((6, 0, 1, 0), ["3SEND_B1"]),
        ((1, 0, 6, 0), ["0SEND_F0"]),
        ((6, 0, 0, 0), ["3SEND_B1"]),
        ((1, 0, 2, 0), ["0SEND_F0", "3SEND_B1"]),
        (None, []),
    ],
)
def test_each_copy_of_a_boundary_is_held_against_its_declaration(
    sizes: tuple[int, ...] | None, told: list[int]
) -> None:
    problem = Problem.chain(
        ranks=2, microbatches=2, replicas=2, stages=2, placement=[[0, 1], [1, 0]], bytes=sizes and list(sizes),
        boundaries=[{"from": 0, "to": 1, "bytes": 2}, {"from": 0, "to": 1, "bytes": 4}],
    )  # fmt: skip
    schedule = Schedule.parse("0F0 3F1 3B1 0B0\n2F1 1F0 1B0 2B1")
    report = verify(add_communication(schedule, problem), problem, select=["SV306"])
    assert [violation.operations[0] for violation in report.violations] == told
    assert all("boundary 0 to 1 declares 6" in violation.message for violation in report.violations)
