"""Which torch the bridge works with, and what it says where one lacks what it uses."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from schedverify.core.errors import InputError, UnsupportedError
from schedverify.torch_bridge import (
    from_torch,
    live_schedule,
    problem_from_torch,
    require_torch,
    torch_loop,
    torch_schedule,
)
from schedverify.torch_bridge.torch_internals import has_exchanged_shapes
from schedverify.torch_bridge.versions import PIECES, TESTED

torch = pytest.importorskip("torch", reason="torch is not installed")
schedules = pytest.importorskip("torch.distributed.pipelining.schedules")

SHAPE: dict[str, Any] = {"ranks": 2, "microbatches": 4, "virtual": 2}
SINCE_2_15 = {
    "max_outstanding_sends": 2,
    "max_active_stages": 1,
    "unshard_lookahead": (1, 1),
    "defer_reductions": True,
}
HAS_WAITS = hasattr(schedules._ComputationType, "WAIT_SEND_F")
since_2_15 = pytest.mark.skipif(not HAS_WAITS, reason="torch has waits since 2.15")
before_2_15 = pytest.mark.skipif(HAS_WAITS, reason="torch has them since 2.15")


def delete(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    """Delete a name of a module, or of a class in it, and then wherever that class has it from."""
    owner, _, attribute = name.rpartition(".")
    found: Any = importlib.import_module(module)
    homes = getattr(found, owner).__mro__ if owner else [found]
    for home in homes:
        if attribute in vars(home):
            monkeypatch.delattr(home, attribute)


class TestVersions:
    def test_the_installed_version_is_tested(self) -> None:
        assert any(torch.__version__.startswith(f"{each}.") for each in TESTED)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert {require_torch(use) for use in PIECES} == {torch}

    @pytest.mark.parametrize("version", ["2.16.0", "3.0.0a0+git12", "2.12.1"])
    def test_one_that_is_not_tested_is_warned_of_and_used(self, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "__version__", version)
        with pytest.warns(
            UserWarning, match=rf"^torch {version.replace('+', '.')} is not tested .* 2\.13, 2\.14 and 2\.15"
        ):
            assert require_torch() is torch
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert require_torch() is torch, "once is enough"

    @pytest.mark.parametrize("use", PIECES)
    def test_a_missing_piece_is_told_by_name(self, use: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for piece in PIECES[use]:
            module, _, name = piece.partition(":")
            delete(monkeypatch, module, name)
            with pytest.raises(
                UnsupportedError, match=rf"torch {torch.__version__[:5]}.* has no {module}\.{name}, which"
            ):
                require_torch(use)
            monkeypatch.undo()

    def test_what_is_not_used_may_be_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(schedules, "_sorted_batch_p2p")
        assert torch_schedule("LoopedBFS", **SHAPE).ranks == 2
        with pytest.raises(UnsupportedError, match="_sorted_batch_p2p"):
            torch_loop("GPipe", ranks=2, microbatches=2)

    def test_no_torch_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UnsupportedError, match="torch: it is not installed"):
            require_torch()


class TestWhatOnlyARunShows:
    """What no name of a module tells: what torch asks of a stage, and what its objects hold."""

    def test_a_constructor_that_asks_a_stage_for_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = schedules.ScheduleLoopedBFS.__init__

        def asks(self: Any, stages: Any, *args: Any, **kwargs: Any) -> None:
            made(self, stages, *args, **kwargs)
            stages[0].new_of_2_16()

        asks.__signature__ = inspect.signature(made)  # type: ignore[attr-defined]
        monkeypatch.setattr(schedules.ScheduleLoopedBFS, "__init__", asks)
        with pytest.raises(UnsupportedError, match="asks a stage for new_of_2_16, which the bridge does not know"):
            live_schedule("LoopedBFS", **SHAPE)

    def test_a_loop_that_asks_a_stage_for_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def asks(self: Any) -> None:
            self._stage.new_of_2_16()

        monkeypatch.setattr(schedules.ScheduleGPipe, "_step_microbatches", asks)
        with pytest.raises(UnsupportedError, match="asks a stage for new_of_2_16"):
            torch_loop("GPipe", ranks=2, microbatches=2)

    def test_an_error_of_torch_s_own_stays_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(schedules.ScheduleGPipe, "_step_microbatches", lambda self: None.nothing)
        with pytest.raises(AttributeError, match="nothing"):
            torch_loop("GPipe", ranks=2, microbatches=2)

    def test_an_object_that_holds_less(self) -> None:
        with pytest.raises(UnsupportedError, match=r"has no SimpleNamespace\._num_stages"):
            problem_from_torch(SimpleNamespace(pipeline_order={}))
        with pytest.raises(UnsupportedError, match=r"has no SimpleNamespace\._stages_forward_initialized"):
            has_exchanged_shapes(SimpleNamespace())


class TestOptionsOfItsLowering:
    @before_2_15
    @pytest.mark.parametrize(("option", "value"), SINCE_2_15.items())
    def test_an_option_that_this_version_does_not_have_is_told(self, option: str, value: Any) -> None:
        for name, virtual in (("LoopedBFS", 2), ("GPipe", 1)):
            with pytest.raises(UnsupportedError, match=rf"{option}: torch .* has no .* take torch 2\.15"):
                torch_schedule(name, ranks=2, microbatches=4, virtual=virtual, lowered=True, **{option: value})

    @since_2_15
    @pytest.mark.parametrize(("option", "value"), SINCE_2_15.items())
    def test_an_option_changes_what_is_lowered(self, option: str, value: Any) -> None:
        plain = torch_schedule("LoopedBFS", **SHAPE, lowered=True)
        assert torch_schedule("LoopedBFS", **SHAPE, lowered=True, **{option: value}) != plain

    def test_one_that_asks_for_nothing_is_taken_by_every_version(self) -> None:
        plain: dict[str, Any] = {"max_outstanding_sends": None, "defer_receives": False, "defer_reductions": False}
        plain |= {"max_active_stages": 3, "unshard_lookahead": "full"}
        for name, virtual in (("LoopedBFS", 2), ("GPipe", 1)):
            shape = {"ranks": 2, "microbatches": 4, "virtual": virtual, "lowered": True}
            assert torch_schedule(name, **shape, **plain) == torch_schedule(name, **shape)

    def test_one_that_there_is_not_is_told(self) -> None:
        with pytest.raises(InputError, match="defer_pp_recv: torch's lowering has no such option"):
            torch_schedule("LoopedBFS", **SHAPE, lowered=True, defer_pp_recv=True)

    def test_a_class_with_a_loop_of_its_own_has_none(self) -> None:
        with pytest.raises(UnsupportedError, match="has no defer_pp_recv for ScheduleGPipe"):
            live_schedule("GPipe", ranks=2, microbatches=2, defer_receives=True)

    @since_2_15
    def test_a_value_that_torch_refuses_is_told_in_its_words(self) -> None:
        with pytest.raises(InputError, match="max_active_stages must be a positive integer"):
            torch_schedule("LoopedBFS", **SHAPE, lowered=True, max_active_stages=0)


class TestWaits:
    @since_2_15
    def test_each_send_and_each_reduction_is_waited_for_once(self) -> None:
        rows = from_torch(live_schedule("ZBVZeroBubble", **SHAPE), lowered=True).strings()
        for row in rows:
            sends = [text for text in row if "SEND" in text and "WAIT" not in text]
            assert sorted(text.replace("SEND", "WAIT_SEND") for text in sends) == sorted(
                text for text in row if "WAIT_SEND" in text
            )
            assert row.count("0REDUCE_GRAD") == row.count("0WAIT_REDUCE_GRAD")
