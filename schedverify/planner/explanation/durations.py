"""Which durations of a problem decide how good a plan is: those of its critical path, and those its bound rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from schedverify.core.explanation import PathLink
from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.optimizer.tasks import whole_is_cheaper

MOST_DURATIONS: Final = 12
"""How many durations of a plan are tried; each of them is a search."""
_KEYS: Final = {Kind.F: "forward", Kind.B: "backward", Kind.I: "backward_input", Kind.W: "backward_weight"}


class Duration(NamedTuple):
    """What an operation of a stage takes: the place of its kind and the stage in a problem's table of costs."""

    stage: int
    kind: Kind

    @property
    def key(self) -> str:
        """The key of the kind in the table of costs."""
        return _KEYS[self.kind]

    def ticks(self, problem: Problem) -> int:
        """Return the ticks that it takes, without a second forward of a stage that recomputes."""
        return int(getattr(problem, self.key)[self.stage])

    def shortened(self, problem: Problem) -> Problem:
        """Return the problem in which it takes one tick less; a B that is the sum of I and W is it still."""
        keys = [self.key]
        if self.kind in (Kind.I, Kind.W):
            both = problem.backward_input[self.stage] + problem.backward_weight[self.stage]
            keys += ["backward"] * (problem.backward[self.stage] == both)
        changed: dict[str, Any] = {
            key: tuple(ticks - (stage == self.stage) for stage, ticks in enumerate(getattr(problem, key)))
            for key in keys
        }
        return replace(problem, **changed)


class Weighed(NamedTuple):
    """A duration, how often it stands on the critical path, and whether the bound rests on it."""

    duration: Duration
    on_path: int
    in_bound: bool

    def text(self, path: str) -> str:
        """Name the operation and the stage, and say why it counts; ``path`` is the word for the path."""
        times = f"{self.on_path} times " * (self.on_path > 1)
        often = f", {times}on the {path}" if self.on_path else ""
        return f"{self.duration.kind.name} of stage {self.duration.stage}{often}{', in the bound' * self.in_bound}"


def deciding_durations(
    problem: Problem, certificate: Mapping[str, Any] | None, path: Iterable[PathLink]
) -> list[Weighed]:
    """Return the durations above 0 that a bound rests on, by its certificate, then the others of a critical path.

    Of each of the two, those that stand on the path most often come first, and of these the longest.
    """
    ops = [Op.parse(text) for link in path for text in link.step.strip("()").split(";")]
    on_path = Counter(duration for op in ops for duration in _durations_of(problem, op))
    stages = set(stages_of_bound(problem, certificate or {}))
    carrying = {Duration(stage, Kind[letter]) for stage in stages for letter in problem.kinds}
    if problem.form == "split":  # what has an I has a W too; a B is an alternative to the two
        carrying -= {Duration(stage, Kind.B) for stage in stages if not whole_is_cheaper(problem, stage)}
    weighed = [
        Weighed(duration, on_path[duration], duration in carrying)
        for duration in {*on_path, *carrying}
        if duration.ticks(problem)
    ]

    def order(each: Weighed) -> tuple[bool, int, int, Duration]:
        return not each.in_bound, -each.on_path, -each.duration.ticks(problem), each.duration

    return sorted(weighed, key=order)


def _durations_of(problem: Problem, op: Op) -> Iterator[Duration]:
    """Yield what an operation takes: its own duration, and where the stage recomputes that of its forward."""
    yield Duration(op.stage, op.kind)
    if op.kind in (Kind.B, Kind.I) and problem.recompute[op.stage]:
        yield Duration(op.stage, Kind.F)


def stages_of_bound(problem: Problem, certificate: Mapping[str, Any]) -> Iterator[int]:
    """Yield the stages whose time a certificate counts.

    By its rule: those of a rank whose load is counted, both ends of the way there and back, the stage whose forwards
    must run before its first gradient op, or those of all ranks whose time has a price.
    """
    rule = certificate.get("rule")
    if rule in ("load", "idle", "sequence"):
        yield from problem.stages_of[certificate["rank"]]
    elif rule == "pair":
        yield from certificate["stages"]
    elif rule == "memory":
        yield certificate["stage"]
    elif rule == "counts":
        for row in certificate["rows"]:
            if row["row"] == "rank":
                yield from problem.stages_of[row["at"][0]]
