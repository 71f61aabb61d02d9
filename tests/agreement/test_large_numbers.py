"""Ticks and bytes so large that their sums just fit into 2^62: everything is exact up to there, and refused beyond.

Each drawn problem is scaled up until a sum that a property or timeline can make reaches the bound; what follows must be
what follows of the small one, scaled. What the sums are is reckoned here a second time: message by message.
"""

from __future__ import annotations

from typing import Any

import pytest

from oracle.lowered import total_by_step
from oracle.messages import Program, Wires
from oracle.times import entry_of
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.simulator.engine import simulate
from schedverify.verifier.rules import Case
from schedverify.verifier.rules.memory import _Bytes
from schedverify.verifier.verification import verify
from support.random_lowered import lowered_base
from support.random_schedules import base

LARGEST = 1 << 62
NUMBERS = range(150)
KINDS = ("forward", "backward", "backward_input", "backward_weight")
DISCIPLINES = ("tagged", "buffered", "edge", "pair", "rank", "block")


def scaled(data: dict[str, Any], table: str, names: tuple[str, ...], factor: int) -> dict[str, Any]:
    """Return a problem's data with the numbers of some keys multiplied, be they one, a list or a square."""

    def times(value: Any) -> Any:
        return [times(each) for each in value] if isinstance(value, list) else value * factor

    return data | {table: {key: times(value) if key in names else value for key, value in data[table].items()}}


def most_bytes(data: dict[str, Any]) -> int:
    """Bytes of all activations, boundaries and messages of a problem, and the most static ones."""
    law, memory = Wires(data), data["memory"]
    sizes = 0
    for source in range(law.stages):
        for target in law.feeds[source]:
            there_and_back = 1 if law.form == "inference" else 2
            sizes += law.bytes[source] * there_and_back * (law.home[source] != law.home[target])
    held = sum(memory["activation"]) + sum(memory["boundary"])
    return (held + sizes) * law.microbatches + max(memory["static"])


def with_bytes(data: dict[str, Any], factor: int) -> Problem:
    names = ("activation", "weight_stash", "boundary", "static")
    return Problem.of(scaled(scaled(data, "memory", names, factor), "links", ("bytes",), factor))


def test_bytes_are_exact_up_to_the_bound_and_refused_beyond() -> None:
    above = 0
    for number in NUMBERS:
        found = lowered_base(number)
        data = {**found.data, "memory": {k: v for k, v in found.data["memory"].items() if k != "capacity"}}
        data["boundary"] = []
        factor = LARGEST // max(most_bytes(data), 1)
        problem, schedule = with_bytes(data, factor), Schedule.of(found.rows)
        peaks = [factor * max(total_by_step(Program(found.rows, data), rank)) if row else
                 factor * data["memory"]["static"][rank] for rank, row in enumerate(found.rows)]  # fmt: skip
        story = f"number {number}, factor {factor}: {data}\n{found.rows}"
        assert list(simulate(schedule, problem).peak_memory) == peaks, story
        case = Case(schedule, problem)
        levels = [max([problem.static[rank], *_Bytes(case, rank).levels()]) for rank in range(problem.ranks)]
        assert levels == [max(peak, static) for peak, static in zip(peaks, problem.static, strict=True)], story
        tight = [max(peak - (peak == max(peaks)), 1) for peak in peaks]
        try:
            limited = Problem.of(problem.to_dict() | {"memory": problem.to_dict()["memory"] | {"capacity": tight}})
        except InputError:
            continue  # one micro-batch alone needs more
        above += 1
        assert not verify(schedule, limited, select=["SV402"]).ok, story
    for number in NUMBERS:
        data = lowered_base(number).data
        if most_bytes(data) > 1:
            with pytest.raises(
                InputError, match=r"(links\.bytes|memory): activations and messages, each by itself, add"
            ):
                with_bytes(data, LARGEST // most_bytes(data) + 1)
    assert above > 20


def most_ticks(data: dict[str, Any]) -> int:
    """Ticks of all operations of a problem, the forward of a recomputing backward too, and of all messages' lags."""
    law, costs = Wires(data), data["costs"]
    ticks = sum(costs["forward"]) + sum(sum(costs.get(name, ())) for name in KINDS)
    for source in range(law.stages):
        for target in law.feeds[source]:
            ends = law.home[source], law.home[target]
            lags = [entry_of(data["links"]["latency"], *way) for way in (ends, ends[::-1])]
            ticks += sum(lags) * (ends[0] != ends[1])
    return ticks * law.microbatches


@pytest.mark.parametrize("lowers", [False, True])
def test_ticks_are_exact_up_to_the_bound(lowers: bool) -> None:
    for number in NUMBERS:
        found = lowered_base(number) if lowers else base(number)
        data = {**found.data, "limits": {}, "links": {"latency": found.data["links"]["latency"]}}
        data["costs"] = {**data["costs"], "overlapped": []}
        most = most_ticks(Problem.of(data).to_dict())
        step = LARGEST // max(most, 4)  # no latency is above 3
        large = Problem.of(scaled(scaled(data, "costs", KINDS, step), "links", ("latency",), step))
        discipline = DISCIPLINES[number % len(DISCIPLINES)]
        small, big = (simulate(Schedule.of(found.rows), p, discipline=discipline) for p in (Problem.of(data), large))
        for row, times in zip(small.ends, big.ends, strict=True):
            assert [end * step for end in row.tolist()] == times.tolist(), f"number {number}, step {step}"
        assert (big.makespan, big.span) == (step * small.makespan, step * small.span)
        assert big.bubble_fraction == small.bubble_fraction
        if most > 4:
            with pytest.raises(InputError, match="more than 2\\^62"):
                Problem.of(scaled(scaled(data, "costs", KINDS, step + 1), "links", ("latency",), step + 1))


def test_bytes_to_two_stages_of_a_rank_are_two_messages() -> None:
    data = {
        "ranks": 2, "microbatches": 1, "placement": [0, 1, 1], "edges": [[0, 1], [0, 2]], "form": "inference",
        "costs": {"forward": 1}, "memory": {"activation": 0, "capacity": 1 << 62},
    }  # fmt: skip
    with pytest.raises(InputError, match=r"links\.bytes: activations and messages, each by itself"):
        Problem.of(data | {"links": {"bytes": [1 << 62, 0, 0]}})
    rows = "0F0 0SEND_F0>1 0SEND_F0>2\n1RECV_F0 2RECV_F0 1F0 2F0"
    for size, verdict in ((1 << 60, "holds"), (1 << 61, "violated")):
        limited = data | {"links": {"bytes": [size, 0, 0]}, "memory": {"activation": 0, "capacity": (1 << 62) - 1}}
        report = verify(Schedule.parse(rows), Problem.of(limited), select=["SV402"])
        assert report.verdict == verdict
        assert report.measures is not None
        assert report.measures.peak_memory == (0, 2 * size)
