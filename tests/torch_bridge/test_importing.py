"""Torch's schedules come over as they are: live objects and every class, without a process group."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from schedverify.core.errors import InputError, UnknownNameError
from schedverify.core.schedule import Schedule
from schedverify.generators import generate
from schedverify.planner.proved_lowering import lower
from schedverify.torch_bridge import (
    from_torch,
    live_schedule,
    problem_from_torch,
    torch_classes,
    torch_loop,
    torch_problem,
    torch_schedule,
)
from schedverify.verifier.infer_problem import deduce_problem
from schedverify.verifier.verification import verify

schedules = pytest.importorskip("torch.distributed.pipelining.schedules", reason="torch is not installed")

SEVERAL = ("Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV")
KNOWN = ("1F1B", "GPipe", "ForwardOnly", *SEVERAL)
IN_A_V = ("ZBVZeroBubble", "DualPipeV")


def grid(name: str, most_ranks: int = 4, most_microbatches: int = 9) -> list[dict[str, int]]:
    """Return the shapes of a small grid that a class takes."""
    found = []
    for ranks, virtual, microbatches in itertools.product(
        range(1, most_ranks + 1), (1, 2, 3), range(1, most_microbatches)
    ):
        shape = {"ranks": ranks, "virtual": virtual, "microbatches": microbatches}
        try:
            live_schedule(name, **shape)
        except InputError:
            continue
        found.append(shape)
    return found


def texts(order: dict[int, list[Any]]) -> list[list[str]]:
    return [[repr(action) for action in order[rank] if action is not None] for rank in range(len(order))]


class TestClasses:
    def test_the_bridge_knows_every_class_that_the_package_has(self) -> None:
        assert set(torch_classes()) == set(KNOWN)

    def test_a_class_goes_by_the_names_that_torch_takes(self) -> None:
        for name, kind in torch_classes().items():
            if name != "ForwardOnly":
                assert schedules.get_schedule_class(name) is kind
            assert type(live_schedule(kind.__name__, ranks=2, microbatches=4, virtual=virtual_of(name))) is kind

    @pytest.mark.parametrize("name", SEVERAL)
    @pytest.mark.parametrize("deferred", [False, True])
    def test_the_orders_are_those_of_the_object(self, name: str, deferred: bool) -> None:
        shapes = grid(name)
        assert len(shapes) >= 10
        for shape in shapes:
            live = live_schedule(name, **shape, defer_receives=deferred)
            assert torch_schedule(name, **shape).strings() == texts(live.pipeline_order)
            lowered = torch_schedule(name, **shape, lowered=True, defer_receives=deferred)
            assert lowered.strings() == texts(live.pipeline_order_with_comms)

    @pytest.mark.parametrize("name", SEVERAL)
    def test_every_order_is_right_for_the_problem_of_its_class(self, name: str) -> None:
        for shape in grid(name, most_ranks=3):
            problem = torch_problem(name, **shape)
            assert problem.microbatches == shape["microbatches"]
            verify(torch_schedule(name, **shape), problem).raise_for_violations()
            verify(torch_schedule(name, **shape, lowered=True), problem).raise_for_violations()

    def test_the_placement_is_the_one_the_class_has(self) -> None:
        assert torch_problem("ScheduleInterleaved1F1B", ranks=3, microbatches=3, virtual=2).owner_rank == (
            0,
            1,
            2,
            0,
            1,
            2,
        )
        for name in IN_A_V:
            assert torch_problem(name, ranks=3, microbatches=6, virtual=2).owner_rank == (0, 1, 2, 2, 1, 0)
        assert torch_problem("GPipe", ranks=3, microbatches=1).owner_rank == (0, 1, 2)

    def test_the_form_is_the_one_the_class_has(self) -> None:
        forms = {name: torch_problem(name, ranks=2, microbatches=4, virtual=virtual_of(name)).form for name in KNOWN}
        assert {name for name, form in forms.items() if form == "split"} == {"InterleavedZeroBubble", *IN_A_V}
        assert forms["ForwardOnly"] == "inference"
        assert forms["GPipe"] == forms["1F1B"] == forms["LoopedBFS"] == "fused"

    def test_costs_are_keywords_of_the_problem(self) -> None:
        problem = torch_problem("ZBVZeroBubble", ranks=2, microbatches=3, virtual=2, forward=4, latency=2)
        assert problem.forward == (4,) * 4
        assert problem.latency[0][1] == 2

    def test_overlapped_pairs_come_over(self) -> None:
        assert "(0F7;7B3)OVERLAP_F_B" in str(torch_schedule("DualPipeV", ranks=4, microbatches=10, virtual=2))

    def test_our_lowering_of_a_torch_order_needs_no_process_group_either(self) -> None:
        problem = torch_problem("ZBVZeroBubble", ranks=2, microbatches=3, virtual=2)
        lowered = lower(torch_schedule("ZBVZeroBubble", ranks=2, microbatches=3, virtual=2), problem)
        assert verify(lowered, problem, discipline="block").ok

    def test_deferred_receives_of_zbv_are_out_of_order(self) -> None:
        shape = {"ranks": 2, "microbatches": 3, "virtual": 2}
        deferred = torch_schedule("ZBVZeroBubble", **shape, lowered=True, defer_receives=True)
        report = verify(deferred, torch_problem("ZBVZeroBubble", **shape))
        assert "SV302" in {violation.code for violation in report.violations}


class TestSingleStageClasses:
    def test_gpipe_publishes_gpipe(self) -> None:
        problem = torch_problem("GPipe", ranks=3, microbatches=5)
        assert torch_schedule("GPipe", ranks=3, microbatches=5) == generate("gpipe", problem)
        assert verify(torch_schedule("GPipe", ranks=3, microbatches=5, lowered=True), problem, discipline="block").ok

    def test_the_reduction_that_they_publish_comes_over_from_the_object(self) -> None:
        live = live_schedule("GPipe", ranks=2, microbatches=2)
        assert from_torch(live).strings() == texts(live.pipeline_order)
        assert "0REDUCE_GRAD" in from_torch(live).strings()[0][-2:]

    @pytest.mark.parametrize("ranks", range(1, 7))
    def test_the_order_that_1f1b_publishes_is_wrong_on_the_last_rank(self, ranks: int) -> None:
        for microbatches in range(ranks, 2 * ranks + 3):
            shape = {"ranks": ranks, "microbatches": microbatches}
            report = verify(torch_schedule("1F1B", **shape), torch_problem("1F1B", **shape))
            assert not report.ok
            said = {(violation.code, violation.rank): violation.message for violation in report.violations}
            assert ("SV103", ranks - 1) in said, said
            assert f"{ranks - 1}F0" in said["SV103", ranks - 1]
            assert f"{ranks - 1}F{microbatches}" in said["SV101", ranks - 1]

    def test_torch_s_own_lowering_refuses_the_order_of_1f1b(self) -> None:
        with pytest.raises(InputError, match="ranks=2, microbatches=3, virtual=1: torch's lowering refuses it: "):
            torch_schedule("1F1B", ranks=2, microbatches=3, lowered=True)

    def test_forward_only_publishes_no_order(self) -> None:
        with pytest.raises(
            InputError, match=r"_ScheduleForwardOnly\.pipeline_order: there is no order in it .*torch_loop"
        ):
            torch_schedule("ForwardOnly", ranks=2, microbatches=3)


class TestLoops:
    """The loops that are written by hand, run on stages that write down what they are told."""

    @pytest.mark.parametrize("name", ["GPipe", "1F1B", "ForwardOnly"])
    def test_every_loop_is_right_under_every_discipline(self, name: str) -> None:
        for ranks in range(1, 6):
            for microbatches in range(ranks, 10):
                shape = {"ranks": ranks, "microbatches": microbatches}
                verify(
                    torch_loop(name, **shape), torch_problem(name, **shape), discipline="block"
                ).raise_for_violations()

    @pytest.mark.parametrize(("name", "family"), [("GPipe", "gpipe"), ("1F1B", "1f1b"), ("ForwardOnly", "gpipe")])
    def test_the_compute_order_is_that_of_the_family(self, name: str, family: str) -> None:
        for ranks, microbatches in ((1, 1), (1, 3), (2, 2), (3, 7), (5, 5), (5, 12)):
            shape = {"ranks": ranks, "microbatches": microbatches}
            assert torch_loop(name, **shape).compute_only() == generate(family, torch_problem(name, **shape))

    def test_what_is_launched_as_one_batch_is_a_group(self) -> None:
        assert torch_loop("Schedule1F1B", ranks=2, microbatches=2).strings() == [
            ["0F0", "0SEND_F0", "0F1", "[0SEND_F1;0RECV_B0]", "0B0", "0RECV_B1", "0B1", "0REDUCE_GRAD"],
            ["1RECV_F0", "1F0", "1B0", "[1SEND_B0;1RECV_F1]", "1F1", "1B1", "1SEND_B1", "1REDUCE_GRAD"],
        ]

    def test_torch_s_own_functions_stay_as_they_are(self) -> None:
        before = schedules._batch_p2p, schedules._sorted_batch_p2p, schedules.Schedule1F1B._step_microbatches
        torch_loop("1F1B", ranks=2, microbatches=2)
        assert before == (schedules._batch_p2p, schedules._sorted_batch_p2p, schedules.Schedule1F1B._step_microbatches)

    def test_every_class_runs_a_loop_or_an_order_with_communication(self) -> None:
        for name in KNOWN:
            shape = {"ranks": 2, "microbatches": 4}
            if name in SEVERAL:
                assert torch_schedule(name, **shape, virtual=2, lowered=True).lowered
                with pytest.raises(InputError, match=r"has no loop of its own|exactly 2 stages"):
                    torch_loop(name, **shape)
            else:
                assert torch_loop(name, **shape).lowered

    @pytest.mark.parametrize("ranks", [0, "2", 1.0])
    def test_a_number_that_is_none_is_told(self, ranks: Any) -> None:
        with pytest.raises(InputError, match="ranks: expected a whole number"):
            torch_loop("GPipe", ranks=ranks, microbatches=2)


class TestLiveObjects:
    def test_a_runtime_that_loaded_a_csv_holds_its_order_with_communication(self, tmp_path: Any) -> None:
        wanted = torch_schedule("Interleaved1F1B", ranks=2, microbatches=4, virtual=2, lowered=True)
        (tmp_path / "s.csv").write_text("\n".join(map(",".join, wanted.strings())), encoding="utf-8")
        live = live_schedule("LoopedBFS", ranks=2, microbatches=4, virtual=2)
        live._load_csv(tmp_path / "s.csv", "compute_comms")
        assert from_torch(live, lowered=True) == wanted

    def test_the_problem_is_read_off_the_object_not_off_its_order(self) -> None:
        live = live_schedule("ZBVZeroBubble", ranks=2, microbatches=4, virtual=2)
        for row in live.pipeline_order.values():
            row[:] = [action for action in row if action is None or action.microbatch_index != 3]
        assert problem_from_torch(live).microbatches == 4
        assert deduce_problem(from_torch(live)).microbatches == 3
        assert not verify(from_torch(live), problem_from_torch(live)).ok

    def test_every_kind_of_action_comes_over(self) -> None:
        kinds = schedules._ComputationType
        rows = {0: [], 1: []}
        for kind in kinds:
            without = kind.value in ("UNSHARD", "RESHARD", "REDUCE_GRAD", "WAIT_REDUCE_GRAD")
            parts = (schedules._Action(1, kinds.FORWARD, 2), schedules._Action(0, kinds.FULL_BACKWARD, 1))
            rows[1].append(
                schedules._Action(-1, kind, None, parts)
                if kind is kinds.OVERLAP_F_B
                else schedules._Action(3, kind, None if without else 5)
            )
        found = from_torch(SimpleNamespace(pipeline_order=rows))
        assert found.strings() == [[], [repr(action) for action in rows[1]]]
        assert len(found) == len(kinds) + 1

    @pytest.mark.parametrize("order", [{0: [], 2: []}, {1: []}, {0: ["0F0"], "1": []}])
    def test_ranks_that_are_not_counted_from_zero_are_refused(self, order: dict[Any, list[Any]]) -> None:
        with pytest.raises(InputError, match="their keys are 0, 1"):
            from_torch(SimpleNamespace(pipeline_order=order))

    def test_an_action_of_an_unknown_kind_is_told_with_its_place(self) -> None:
        with pytest.raises(InputError, match=r"rank 1, position 1: '1ALLREDUCE' is no operation"):
            from_torch(SimpleNamespace(pipeline_order={0: [], 1: [None, "1F0", "1ALLREDUCE"]}))

    def test_the_order_of_the_keys_is_not_the_order_of_the_ranks(self) -> None:
        assert from_torch(SimpleNamespace(pipeline_order={1: ["1F0"], 0: ["0F0"]})) == Schedule.of([["0F0"], ["1F0"]])

    def test_an_object_without_an_order_is_told(self) -> None:
        with pytest.raises(InputError, match=r"object\.pipeline_order: there is no order in it"):
            from_torch(object())
        with pytest.raises(InputError, match=r"ScheduleGPipe\.pipeline_order_with_comms: .* written by hand"):
            from_torch(live_schedule("GPipe", ranks=2, microbatches=2), lowered=True)


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "shape", "said"),
        [
            ("Interleaved1F1B", (2, 5, 2), "multiple of the number of rounds"),
            ("InterleavedZeroBubble", (2, 5, 2), "multiple of the number of rounds"),
            ("ZBVZeroBubble", (2, 4, 1), "exactly 2 stages per rank"),
            ("DualPipeV", (2, 3, 2), "at least as many microbatches as stages"),
            ("1F1B", (4, 3, 1), "greater than or equal to the number of stages"),
            ("GPipe", (4, 3, 2), "has one stage a rank; found 2"),
        ],
    )
    def test_a_shape_that_a_class_refuses_is_told_in_torch_s_words(
        self, name: str, shape: tuple[int, int, int], said: str
    ) -> None:
        ranks, microbatches, virtual = shape
        for make in (torch_schedule, torch_problem):
            with pytest.raises(InputError, match=said) as caught:
                make(name, ranks=ranks, microbatches=microbatches, virtual=virtual)
            assert "virtual" in str(caught.value)
            if "stage a rank" not in said:
                assert f"ranks={ranks}, microbatches={microbatches}, virtual={virtual}" in str(caught.value)

    def test_an_unknown_class_is_told_with_the_nearest(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'ZBVZeroBubble'"):
            torch_schedule("ZBVZeroBuble", ranks=2, microbatches=2)

    @pytest.mark.parametrize("wrong", [0, -1, 2.0, "2", True, 1 << 20])
    def test_a_number_that_is_none_is_told_with_its_name(self, wrong: Any) -> None:
        for key in ("ranks", "microbatches", "virtual"):
            with pytest.raises(InputError, match=f"{key}: expected a whole number from 1 to"):
                torch_schedule("LoopedBFS", **{"ranks": 2, "microbatches": 2, "virtual": 1} | {key: wrong})


def virtual_of(name: str) -> int:
    return 2 if name in SEVERAL else 1
