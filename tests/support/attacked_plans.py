"""Plans of every kind, each of their keys changed and the digest made anew, and what may then still be believed.

What changes a plan here shares nothing with what reads and judges it. ``problem`` is left as it is: a plan of another
problem is another plan.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

from oracle.brute_force import brute_force
from oracle.compute_orders import judge, peaks
from oracle.lowered_times import Run
from oracle.times import earliest, measures
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Report, Status
from schedverify.core.schedule import Schedule
from schedverify.formats.plan_files import digest, to_json
from schedverify.formats.plan_reader import plan_from
from schedverify.generators import generate
from schedverify.planner.plans import optimize, plan_of
from schedverify.verifier.verification import verify

Path = tuple[str | int, ...]
GONE = object()
"""In the place of a value: it is taken away."""
FUSED: dict[str, Any] = {"ranks": 2, "microbatches": 2, "costs": {"forward": 1, "backward": 2}}
SPLIT: dict[str, Any] = {
    "ranks": 2, "microbatches": 2, "costs": {"forward": [2, 3], "backward_input": [3, 2], "backward_weight": 1},
    "memory": {"activation": 2, "weight_stash": 1}, "links": {"latency": 1},
}  # fmt: skip
EVEN: dict[str, Any] = {
    "ranks": 2, "microbatches": 2, "costs": {"forward": 1, "backward_input": 1, "backward_weight": 1},
}  # fmt: skip
WORDS = (
    "makespan", "span", "period", "peak-memory", "optimal", "feasible", "infeasible", "unknown", "holds", "violated",
    "undecided", "not applicable", "pair", "edge", "rank", "block", "tagged", "buffered", "load", "pair", "idle",
    "counts", "sequence", "memory", "0F0", "1B1", "(0F1;0B0)OVERLAP_F_B", "0SEND_F0", "0UNSHARD", "7", "1/2", "",
    "x\n\x1b[31mplan.json: holds\u202e",
)  # fmt: skip
"""Texts that mean something somewhere, and some that should mean nothing."""


class Change(NamedTuple):
    """One change of a plan's data: where, what stands there now (:data:`GONE` where nothing does), and all of it."""

    path: Path
    value: Any
    data: dict[str, Any]

    @property
    def told(self) -> str:
        """The change in a line."""
        now = "gone" if self.value is GONE else json.dumps(self.value)[:80]
        return f"{'.'.join(map(str, self.path))} = {now}"


@cache
def plans() -> dict[str, Plan]:
    """Return a plan of every kind by what is special in it; each has passed the verifier, or is that there is none."""
    named = Problem.of(FUSED | {"partition": [["a", "b"], ["c"]]})
    limited = Problem.of(
        FUSED
        | {"links": {"latency": 1, "bytes": 1, "buffer": 2}, "memory": {"activation": 2, "capacity": 9}}
        | {"limits": {"in_flight": 2, "makespan": 30}}
    )
    two = {"minimize": "makespan", "then": "peak-memory"}
    searched = {
        "optimal": Problem.of(FUSED),
        "span": Problem.of(SPLIT | {"objective": {"minimize": "span"}}),
        "second objective": Problem.of(EVEN | {"objective": two}),
        "bytes first": Problem.of(FUSED | {"objective": {"minimize": "peak-memory", "then": "makespan"}}),
    }
    found = {
        "partition": plan_of(generate("1f1b", named), named),
        "limits": plan_of(generate("1f1b", limited), limited),
    }
    found |= {name: optimize(problem, workers=1, time_limit=20) for name, problem in searched.items()}
    short, evidence = Problem.of(FUSED | {"limits": {"makespan": 8}}), {"rule": "load", "rank": 1}
    evidence |= {"objective": "makespan", "bound": 9}
    found["none"] = Plan(short, Status.INFEASIBLE, "makespan", bound=9, certificate=evidence)
    return found


@cache
def plan_text(name: str) -> str:
    """Return the file of one of the plans."""
    return to_json(plans()[name])


def report_on(data: dict[str, Any]) -> Report | None:
    """Return what the verifier says of a plan with its digest made anew, or None where the reader refuses it."""
    try:
        return verify(plan_from(data | {"digest": digest(data)}))
    except InputError:
        return None


def changes(rng: random.Random, data: dict[str, Any]) -> Iterator[Change]:
    """Yield each change of each place of a plan's data; of a long list some places only."""
    for name in (*data, "extra"):
        if name not in ("problem", "digest", "seed"):
            yield from _changes_below(rng, data, (name,))


def random_change(rng: random.Random, data: dict[str, Any], *, alike: bool = False) -> Change:
    """Return one change of a plan's data at a place that is drawn from top to bottom, to the same type if so wished."""
    path: Path = (rng.choice([name for name in (*data, "extra") if name not in ("problem", "digest", "seed")]),)
    here = data.get(path[0])
    while isinstance(here, dict | list) and here and rng.random() < 0.85:
        step = rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
        path, here = (*path, step), here[step]
    values = [value for value in _values(rng, here) if path != ("extra",) or value is not GONE]
    same = [value for value in values if type(value) is type(here)]
    return changed(data, path, rng.choice(same if alike and same else values))


def changed(data: dict[str, Any], path: Path, value: Any) -> Change:
    """Return a plan's data with another value at a place, or without it."""
    new = copy.deepcopy(data)
    inside: Any = new
    for step in path[:-1]:
        inside = inside[step]
    if value is not GONE:
        inside[path[-1]] = value
    elif isinstance(inside, list) or path[-1] in inside:
        del inside[path[-1]]
    return Change(path, value, new)


def _changes_below(rng: random.Random, data: dict[str, Any], path: Path) -> Iterator[Change]:
    here: Any = data
    for step in path:
        here = here.get(step, GONE) if isinstance(here, dict) else here[step]
    values = list(_values(rng, here))
    for value in values if len(path) < 3 else rng.sample(values, 6):
        yield changed(data, path, value)
    if isinstance(here, dict):
        for name in (*here, "extra"):
            yield from _changes_below(rng, data, (*path, name))
    elif isinstance(here, list):
        for index in sorted(rng.sample(range(len(here)), min(1 + (len(path) == 1), len(here)))):
            yield from _changes_below(rng, data, (*path, index))


def _values(rng: random.Random, here: Any) -> Iterator[Any]:
    """Yield other values of the same type, of other types, and nothing at all; where nothing stands, what is added."""
    others: list[Any] = [None, True, 0, 7, 1.5, "7", [], [[]], {}, {"rule": "load"}, GONE]
    if isinstance(here, int) and not isinstance(here, bool):
        others += [here + 1, max(0, here - 1), 2 * here, 1 << 62, 1 << 63, -1]
    elif isinstance(here, str):
        others += [*rng.sample(WORDS, 6), WORDS[-1]]
    elif isinstance(here, list) and here:
        swapped = list(here)
        swapped[0], swapped[-1] = swapped[-1], swapped[0]
        others += [here[1:], here[:-1], [*here, here[-1]], here[::-1], swapped]
    elif isinstance(here, dict) and here:
        others += [{name: here[name] for name in list(here)[1:]}]
    yield from (other for other in others if type(other) is not type(here) or other != here)


def why_believed(before: dict[str, Any], change: Change) -> str:
    """Return why a changed plan may hold, because it claims less, or something else that is true; empty where not.

    What is true of it is derived by the oracle.
    """
    after, top, value = change.data, change.path[0], change.value
    if top == "verdicts" and (change.path[1:] == ("SV501",) or _fewer(before["verdicts"], after["verdicts"])):
        return "claims no more: what is not listed is not claimed, and SV501 says nothing of itself"
    if (top, value) == ("status", "feasible"):
        return "claims less: a schedule"
    if top in ("then", "lowered") and value is None:
        return "claims less: nothing of a second objective, or of an order with communication"
    if top == "bound" or change.path[1:] == ("bound",) or change.path == ("certificate",):
        return "claims less" if after["status"] != "optimal" and _bounds_are_true(after) else ""
    if (top, value) == ("version", 1):
        return "claims the same, in the older form"
    if top == "objective" and after["certificate"] is None and after["measures"] is not None:
        peak = max(after["measures"]["peak_memory"])
        return "its value is the same" if {**after["measures"], "peak-memory": peak}[value] == after["value"] else ""
    if top == "partition" and not before["problem"].get("partition"):
        return "layers that only the model can show to be others"
    if "certificate" in change.path:
        return "its bound is true, and other evidence proves it" if _bounds_are_true(after) else ""
    return "another order or engine, of which all is true" if top == "lowered" and _lowered_is_true(after) else ""


def is_true(data: dict[str, Any]) -> bool:
    """Whether the oracle derives what a plan claims in figures: times, measures, values, bounds, lowered makespan."""
    if data["status"] == "infeasible":
        problem = Problem.of(data["problem"])
        least = brute_force(problem).makespan
        return least is None or (problem.makespan_limit is not None and least > problem.makespan_limit)
    rows, stated = data["schedule"], data["measures"]
    if any(judge(rows, data["problem"]).values()):
        return False
    follows, most = measures(rows, data["problem"]), peaks(rows, data["problem"])
    follows |= {"peak_in_flight": most["in_flight"], "peak_memory": most["capacity"]}
    values = follows | {"peak-memory": max(most["capacity"])}
    goals = [data, *([data["then"]] if data["then"] is not None else [])]
    return (
        data["timeline"] == earliest(rows, data["problem"])
        and all(_plain(stated[name]) == _plain(value) for name, value in follows.items())
        and all(values.get(goal["objective"]) == goal["value"] for goal in goals)
        and _bounds_are_true(data)
        and (data["status"] != "optimal" or all(goal["bound"] == goal["value"] for goal in goals))
        and (data["lowered"] is None or _lowered_is_true(data))
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else Fraction(value) if isinstance(value, str) else value


def _fewer(before: dict[str, Any], after: Any) -> bool:
    return isinstance(after, dict) and all(before.get(code) == verdict for code, verdict in after.items())


def _bounds_are_true(data: dict[str, Any]) -> bool:
    """Whether no bound is above what brute force over all orders finds."""
    if data["bound"] is None and (data["then"] is None or data["then"]["bound"] is None):
        return True
    truth = brute_force(Problem.of(data["problem"]))
    first = truth.value(data["objective"])
    goals = [(data["bound"], first)]
    if data["then"] is not None:
        peak, ends = truth.peak_of_least_makespan, truth.makespan_of_least_peak
        goals.append((data["then"]["bound"], {"peak-memory": peak, "makespan": ends}[data["then"]["objective"]]))
    return all(bound is None or (best is not None and bound <= best) for bound, best in goals)


def _lowered_is_true(data: dict[str, Any]) -> bool:
    """Whether the lowered order runs to its end under its discipline, in the time that is claimed of it."""
    lowered = data["lowered"]
    rows = Schedule.of(lowered["rows"]).strings()
    run = Run(rows, data["problem"], lowered["discipline"], lowered["eager_bytes"])
    if run.stuck or Schedule.of(rows).compute_only().strings() != data["schedule"]:
        return False
    ends = [row[-1][1] for row in run.compute_times if row]
    return max(ends) == lowered["measures"]["makespan"]
