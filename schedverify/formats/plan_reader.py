"""Reads plan files: every field's type, the digest, and what must fit together. What a plan claims is not trusted."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from dataclasses import fields
from fractions import Fraction
from typing import Any, Final

import numpy as np

from schedverify.core.discipline import Discipline
from schedverify.core.errors import Fault, Faults, InputError, check_version, clean, shown
from schedverify.core.op import JOIN_SHIFT, pack_step
from schedverify.core.problem import Problem
from schedverify.core.problem.keys import OBJECTIVES
from schedverify.core.problem.numbers import LARGEST
from schedverify.core.result import Lowered, Plan, SecondaryObjective, Status, Verdict
from schedverify.core.schedule import Schedule, Words
from schedverify.core.timeline import Measures
from schedverify.formats.json_toml import long_numbers, unfit
from schedverify.formats.plan_files import BY_RANK, OLDEST, RATIOS, TICKS, VERSION, digest

FIELDS: Final = (
    "version", "problem", "schedule", "lowered", "timeline", "measures", "verdicts", "status", "objective", "value",
    "bound", "certificate", "seed", "partition", "then", "digest",
)  # fmt: skip
LOWERED: Final = ("discipline", "eager_bytes", "rows", "measures")
MEASURES: Final = (*TICKS, *RATIOS, *BY_RANK)
SECOND: Final = tuple(field.name for field in fields(SecondaryObjective))
EVIDENCE: Final = ("rule", "objective", "bound")
"""What every certificate of a plan names, beside the place that its rule has."""
OF_A_SCHEDULE: Final = ("lowered", "timeline", "measures", "value", "then")
"""Keys that are null where there is no schedule."""
WHOLE: Final = ("timeline", "measures", "value")
"""Keys that are not null where there is one; in version 1 they could be."""
_STATUSES: Final = (Status.OPTIMAL, Status.FEASIBLE, Status.INFEASIBLE)
_WRITER: Final = "schedverify optimize writes whole plans"
_RATIO = re.compile(r"[0-9]{1,40}(/[1-9][0-9]{0,39})?")
_CODE = re.compile(r"SV[0-9]{1,6}")


def plan_from(data: Any) -> Plan:
    """Return the plan that parsed JSON describes; its measures, value, bound and verdicts are claims, not facts.

    Raises
    ------
    InputError
        With every fault (the first 50): a newer version, another digest than the content has, a field of another
        type, a schedule with another number of rows than the problem has ranks.
    """
    if not isinstance(data, Mapping):
        raise InputError(Fault("", f"expected a plan, an object of keys, found {shown(data)}"))
    check_version("version", data.get("version"), VERSION, "schedverify optimize writes plans", oldest=OLDEST)
    if faults := unfit(data, floats=False):
        raise InputError(faults)
    return _PlanReader(data).plan()


class _PlanReader(Faults):
    """The data of a plan and the faults found in it so far."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__()
        self.data = data
        self.old = data["version"] == OLDEST

    def plan(self) -> Plan:
        """Check every field and return the plan."""
        needed = [name for name in FIELDS if name != "then" or not self.old]
        self.check_keys("", self.data, FIELDS, needed=needed, missing=_WRITER)
        self._check_digest()
        problem = self._problem()
        ranks = problem.ranks if problem else 0
        status = Status(self._one_of("status", _STATUSES, self.data.get("status")))
        schedule = self._compute_order(status, ranks)
        read = {
            "status": status,
            "schedule": schedule,
            "starts": self._starts(schedule),
            "measures": self._measures("measures", self.data.get("measures"), ranks),
            "lowered": self._lowered(schedule, ranks),
            "verdicts": self._verdicts(),
            "objective": self._one_of("objective", OBJECTIVES, self.data.get("objective")),
            "value": self._number_or_null("value", self.data.get("value")),
            "bound": self._number_or_null("bound", self.data.get("bound")),
            "certificate": self._certificate("certificate", self.data.get("certificate")),
            "then": self._second(),
            "seed": self._number("seed", self.data.get("seed")),
            "partition": self._partition(problem),
        }
        self.raise_faults()
        return Plan(problem=problem, read=True, **read)  # type: ignore[arg-type]

    def _check_digest(self) -> None:
        given = self.data.get("digest")
        if "digest" in self.data and given != digest(self.data):
            message = f"the content has another digest than {shown(given)}: the file was changed after it was written"
            self.fault("digest", message, "write the plan again")

    def _problem(self) -> Problem | None:
        if "problem" not in self.data:
            return None
        try:
            return Problem.of(self.data["problem"])
        except InputError as error:
            for fault in error.faults:
                self.fault(f"problem.{fault.key}" if fault.key else "problem", fault.message, fault.hint)
            return None

    def _compute_order(self, status: Status, ranks: int) -> Schedule | None:
        """Take the schedule, which a plan has unless it is that there is none, and what must then be there or not."""
        if status is Status.INFEASIBLE:
            for name in ("schedule", *OF_A_SCHEDULE):
                if self.data.get(name) is not None:
                    self.fault(name, "expected null: the plan is that there is no schedule", "the status is infeasible")
            return None
        for name in WHOLE if not self.old else ():
            if name in self.data and self.data[name] is None:
                self.fault(name, "expected what follows from the schedule, found null", _WRITER)
        schedule = self._schedule("schedule", self.data.get("schedule"), ranks)
        if schedule is not None and schedule.lowered:
            self.fault("schedule", "there is communication in it", "lowered.rows has the order with communication")
        return schedule

    def _schedule(self, key: str, value: Any, ranks: int) -> Schedule | None:
        rows = self._rows(key, value, ranks, "rank")
        packed = [self._packed(f"{key}[{rank}]", row) for rank, row in enumerate(rows)]
        return None if self.wrong(key) else Schedule(packed)

    def _packed(self, place: str, row: list[Any]) -> Words:
        words = array("q")
        for position, step in enumerate(row):
            try:
                words.extend(pack_step(step if isinstance(step, str) else shown(step)))
            except InputError as error:
                for fault in error.faults:
                    self.fault(f"{place}[{position}]", fault.message, fault.hint)
        return np.array(words, dtype=np.int64)

    def _starts(self, schedule: Schedule | None) -> tuple[tuple[int, ...], ...]:
        if self.data.get("timeline") is None:
            return ()
        rows = self._rows("timeline", self.data["timeline"], schedule.ranks if schedule else 0, "rank")
        for rank, (row, order) in enumerate(zip(rows, schedule.rows if schedule else (), strict=False)):
            steps = int((order >> JOIN_SHIFT == 0).sum())
            if len(row) != steps:
                self.fault(f"timeline[{rank}]", f"{len(row)} starts for {steps} steps", "one for each step")
        return tuple(self._numbers(f"timeline[{rank}]", row) for rank, row in enumerate(rows))

    def _lowered(self, schedule: Schedule | None, ranks: int) -> Lowered | None:
        table = self.data.get("lowered")
        if table is None:
            return None
        if not isinstance(table, Mapping):
            self.fault("lowered", f"expected an object or null, found {shown(table)}")
            return None
        self.check_keys("lowered", table, LOWERED, needed=LOWERED, missing=_WRITER)
        order = self._schedule("lowered.rows", table.get("rows"), ranks)
        if order is not None and schedule is not None and order.compute_only() != schedule.compute_only():
            message = "the rows are not the plan's schedule with communication in it"
            self.fault("lowered.rows", message, "take the communication out, and it is another order")
        if "measures" in table and table["measures"] is None:
            self.fault("lowered.measures", "expected an object, found null")
        discipline = self._one_of("lowered.discipline", tuple(Discipline), table.get("discipline"))
        eager_bytes = self._number("lowered.eager_bytes", table.get("eager_bytes"))
        measures = self._measures("lowered.measures", table.get("measures"), ranks)
        if order is None or measures is None:
            return None
        return Lowered(order, Discipline(discipline), eager_bytes, measures)

    def _measures(self, place: str, table: Any, ranks: int) -> Measures | None:
        if table is None:
            return None
        if not isinstance(table, Mapping):
            self.fault(place, f"expected an object, found {shown(table)}")
            return None
        self.check_keys(place, table, MEASURES, needed=MEASURES, missing=_WRITER)
        ticks = {name: self._number(f"{place}.{name}", table.get(name)) for name in TICKS}
        ratios = {name: self._ratio(f"{place}.{name}", table.get(name)) for name in RATIOS}
        lists = {name: self._by_rank(f"{place}.{name}", table.get(name), ranks) for name in BY_RANK}
        return Measures(**ticks, **ratios, **lists)  # type: ignore[arg-type]

    def _ratio(self, key: str, value: Any) -> Fraction | None:
        if isinstance(value, str) and _RATIO.fullmatch(value):
            return Fraction(value)
        if value is not None or not key.endswith("overhead"):
            self.fault(key, f"expected a ratio as text, found {shown(value)}", 'such as "15/4"')
        return None

    def _by_rank(self, key: str, value: Any, ranks: int) -> tuple[int, ...]:
        if not isinstance(value, list) or (ranks and len(value) != ranks):
            self.fault(key, f"expected a list with a number for each rank, found {shown(value)}")
            return ()
        return self._numbers(key, value)

    def _verdicts(self) -> dict[str, Verdict]:
        table = self.data.get("verdicts")
        if not isinstance(table, Mapping):
            self.fault("verdicts", f"expected an object of codes and verdicts, found {shown(table)}")
            return {}
        known = tuple(Verdict)
        for code, verdict in table.items():
            if not _CODE.fullmatch(code) or verdict not in known:
                message = f"expected a code such as SV201 and one of {', '.join(known)}, found {shown(verdict)}"
                self.fault(f"verdicts.{clean(code)}", message)
        read = {code: Verdict(table[code]) for code in sorted(table) if table[code] in known}
        # version 1 said that of the order without communication, of which nothing else can be said
        if self.old and read.get("SV403") is Verdict.NOT_APPLICABLE:
            del read["SV403"]
        return read

    def _second(self) -> SecondaryObjective | None:
        table = self.data.get("then")
        if table is None:
            return None
        if not isinstance(table, Mapping):
            self.fault("then", f"expected an object or null, found {shown(table)}")
            return None
        self.check_keys("then", table, SECOND, needed=SECOND, missing=_WRITER)
        if not self.old and "value" in table and table["value"] is None:
            self.fault("then.value", "expected what follows from the schedule, found null", _WRITER)
        return SecondaryObjective(
            self._one_of("then.objective", OBJECTIVES, table.get("objective")),
            self._number_or_null("then.value", table.get("value")),
            self._number_or_null("then.bound", table.get("bound")),
            self._certificate("then.certificate", table.get("certificate")),
        )

    def _one_of(self, key: str, choices: tuple[str, ...], value: Any) -> str:
        return str(value) if self.is_one_of(key, value, choices) else choices[0]

    def _certificate(self, place: str, value: Any) -> Mapping[str, Any] | None:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.fault(place, f"expected an object or null, found {shown(value)}")
            return None
        for name in EVIDENCE if not self.old else ():
            if name not in value:
                self.fault(f"{place}.{name}", "missing", "evidence names its rule, its objective and its bound")
        for key, number in long_numbers(place, value):
            self.fault(key, f"{shown(number)} is beyond 2^62", "no number of a plan is")
        return value

    def _partition(self, problem: Problem | None) -> tuple[tuple[str, ...], ...] | None:
        """Take the layers of each stage: those that the problem names, or what it could name."""
        value = self.data.get("partition")
        if problem is None:
            return None
        if problem.partition:
            if value != [list(layers) for layers in problem.partition]:
                message = "the problem has other layers in its stages"
                self.fault("partition", message, "a plan repeats those of its problem")
            return problem.partition
        if value is None:
            return None
        try:
            named = Problem.of({**self.data["problem"], "partition": value})
        except InputError as error:
            for fault in error.faults:
                self.fault(*fault)
            return None
        if not named.partition or not all(named.partition):
            message = f"expected a list of layers for each of {problem.stages} stages, found a stage without"
            self.fault("partition", message, "null, where the layers are not known")
        return named.partition

    def _rows(self, key: str, value: Any, length: int, of: str) -> list[list[Any]]:
        """Take a list of lists, ``length`` of them where that is known."""
        if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
            self.fault(key, f"expected a list with a list for each {of}, found {shown(value)}")
            return []
        if (length and len(value) != length) or not value:
            message = f"{len(value)} rows, where the problem has {length or 'at least 1'} {of}s"
            self.fault(key, message, "a row for each")
        return value

    def _numbers(self, key: str, values: list[Any]) -> tuple[int, ...]:
        if all(type(value) is int and 0 <= value <= LARGEST for value in values):
            return tuple(values)
        return tuple(self._number(f"{key}[{i}]", value) for i, value in enumerate(values))

    def _number_or_null(self, key: str, value: Any) -> int | None:
        return None if value is None else self._number(key, value)

    def _number(self, key: str, value: Any) -> int:
        if type(value) is int and 0 <= value <= LARGEST:
            return value
        self.fault(key, f"expected a whole number from 0 to 2^62, found {shown(value)}")
        return 0
