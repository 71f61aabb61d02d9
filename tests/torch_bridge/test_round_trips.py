"""What torch writes comes back from us, and what we write comes back from torch, byte for byte, whichever its version.

Every class with an order, both forms, every option of its lowering that the installed version has.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from schedverify.cli import main  # noqa: E402
from schedverify.core.errors import InputError, ScheduleError  # noqa: E402
from schedverify.core.problem import Problem  # noqa: E402
from schedverify.core.schedule import Schedule  # noqa: E402
from schedverify.formats import Layout, load_with_layout, save  # noqa: E402
from schedverify.formats.torch_csv import layout_of, parse_csv, to_csv  # noqa: E402
from schedverify.generators import families  # noqa: E402
from schedverify.lowering import add_sharding  # noqa: E402
from schedverify.planner.export import WITH_WAITS, for_torch  # noqa: E402
from schedverify.planner.proved_lowering import lower  # noqa: E402
from schedverify.torch_bridge import from_torch, live_schedule, torch_classes  # noqa: E402
from schedverify.torch_bridge.stand_ins import lowered_by_torch  # noqa: E402
from schedverify.torch_bridge.torch_internals import is_single_class, knows_waits  # noqa: E402

FORMS = ("compute_only", "compute_comms")
SINCE_2_15: list[dict[str, Any]] = [
    {"max_outstanding_sends": 1}, {"max_outstanding_sends": 2}, {"max_outstanding_sends": 4, "defer_receives": True},
    {"max_active_stages": 1}, {"max_active_stages": 2, "unshard_lookahead": "auto"}, {"unshard_lookahead": "auto"},
    {"defer_reductions": True},
    {"max_outstanding_sends": 2, "max_active_stages": 2, "unshard_lookahead": "auto", "defer_reductions": True},
]  # fmt: skip
OPTIONS: list[dict[str, Any]] = [{}, {"defer_receives": True}, *(SINCE_2_15 if knows_waits() else [])]
Shape = dict[str, int]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lowered(name: str, shape: Shape, options: dict[str, Any]) -> Any:
    """Return an object that holds the order of a class in both forms, or that of GPipe in torch's runtime."""
    if not is_single_class(torch_classes()[name]):
        return live_schedule(name, **shape, **options)
    order = live_schedule(name, **shape).pipeline_order
    computing = {rank: [action for action in row if action.is_compute_op] for rank, row in order.items()}
    runtime = lowered_by_torch(computing, ranks=shape["ranks"], microbatches=shape["microbatches"], **options)
    runtime.pipeline_order = computing
    return runtime


def orders(ranks: Iterable[int], virtual: Iterable[int], microbatches: Iterable[int]) -> Iterator[tuple[str, Any, Any]]:
    """Yield, with its name, what each class makes of each shape and option that it takes, and an empty one to load."""
    names = [name for name in torch_classes() if name not in ("1F1B", "ForwardOnly")]
    for name, p, v, m in itertools.product(names, ranks, virtual, microbatches):
        shape = {"ranks": p, "virtual": v, "microbatches": m}
        try:
            empty = lowered(name, shape, {})
        except InputError:
            continue
        for options in OPTIONS:
            with contextlib.suppress(InputError):
                yield f"{name} {shape} {options}", lowered(name, shape, options), empty


def come_back(path: Path, *shapes: Iterable[int]) -> dict[str, int]:
    """Send every order in both forms there and back, and return by form how many came back the same."""
    count = dict.fromkeys(FORMS, 0)
    for (what, live, other), form in itertools.product(orders(*shapes), FORMS):
        live._dump_csv(path, form)
        written = path.read_bytes()
        schedule = parse_csv(written.decode())
        assert schedule == from_torch(live, lowered=form == "compute_comms"), what
        ours = to_csv(schedule, comms=schedule.lowered, layout=layout_of(written.decode())).encode()
        assert ours == written, what
        path.write_bytes(ours)
        other._load_csv(path, form)
        other._dump_csv(path, form)
        assert path.read_bytes() == ours, what
        count[form] += 1
    return count


def test_what_torch_writes_comes_back_from_us_and_ours_from_torch(desk: Path) -> None:
    count = come_back(desk / "torch.csv", (1, 2, 3), (1, 2), (1, 2, 4, 7))
    assert min(count.values()) > 20 * len(OPTIONS), count


@pytest.mark.slow
def test_so_it_does_on_many_shapes(desk: Path) -> None:
    count = come_back(desk / "torch.csv", range(1, 6), range(1, 4), range(1, 10))
    assert min(count.values()) > 100 * len(OPTIONS), count


@pytest.mark.parametrize("form", FORMS)
def test_the_commands_and_python_keep_the_same_bytes(form: str, desk: Path) -> None:
    for name in ("DualPipeV", "ZBVZeroBubble", "InterleavedZeroBubble"):
        live = live_schedule(name, ranks=2, microbatches=4, virtual=2)
        live._dump_csv("in.csv", form)
        written = Path("in.csv").read_bytes()
        assert main(["convert", "in.csv", "out.csv"]) == 0
        assert Path("out.csv").read_bytes() == written
        schedule, layout = load_with_layout("in.csv")
        assert schedule == from_torch(live, lowered=form == "compute_comms")
        save(schedule, "saved.csv", layout=layout)
        assert Path("saved.csv").read_bytes() == written


def ours(problem: Problem, schedule: Schedule) -> Iterator[tuple[str, Schedule]]:
    """Yield the forms in which an order of ours can be given to torch's runtime, plain and with gathered parameters."""
    profile = WITH_WAITS if knows_waits() else "torch"
    with_comms = lower(schedule, problem)
    yield "compute_only", schedule
    yield "compute_comms", for_torch(with_comms, problem, profile=profile)
    yield "compute_comms", for_torch(add_sharding(with_comms, problem), problem, profile=profile)


def test_every_family_of_ours_comes_back_from_torch(desk: Path) -> None:
    count = dict.fromkeys(FORMS, 0)
    for family, v, m, placement, form in itertools.product(
        families(), (1, 2), (3, 4), ("loop", "v"), ("fused", "split")
    ):
        keys = {} if form == "fused" else {"backward_input": 1, "backward_weight": 1}
        problem = Problem.chain(ranks=2, microbatches=m, virtual=v, placement=placement, form=form, **keys)
        if not family.suits(problem) or (v == 1 and placement == "v"):
            continue
        empty = live_schedule("LoopedBFS", ranks=2, microbatches=m, virtual=v)
        try:
            forms = list(ours(problem, family.generate(problem)))
        except ScheduleError:
            continue
        for kind, schedule in forms:
            save(schedule, "ours.csv", layout=Layout("\r\n"))
            empty._load_csv("ours.csv", kind)
            empty._dump_csv("torch.csv", kind)
            assert Path("torch.csv").read_bytes() == Path("ours.csv").read_bytes(), (family.name, problem)
            count[kind] += 1
    assert count["compute_only"] >= 40
    assert count["compute_comms"] == 2 * count["compute_only"]
