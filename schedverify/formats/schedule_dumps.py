"""Dumps of a job: what each of its ranks runs, its stages and what they send, as the job itself has it.

What writes them stands in the page on dumps and needs nothing of this package.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from schedverify.core.errors import Fault, Faults, InputError, check_version, clean, clean_key, shown
from schedverify.core.op import Kind, pack_step
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, kinds
from schedverify.formats.json_toml import unfit

VERSION: Final = 1
_KEYS: Final = ("dump", "torch", "class", "microbatches", "ranks")
_OF_RANK: Final = ("order", "stages")
_WRITER: Final = "dump_schedule writes whole dumps"
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,4}")


class Dump(NamedTuple):
    """A schedule and the problem that it is for, as a dump has them.

    Attributes
    ----------
    schedule
        The order of each rank, with communication where the job has it there.
    problem
        Its costs are units; its boundaries are the tensors that the stages send, where the job knew all of them.
    """

    schedule: Schedule
    problem: Problem


def dump_from(data: Any) -> Dump:
    """Return the schedule and the problem that parsed JSON describes.

    Raises
    ------
    InputError
        With every fault (the first 50), each with the path of its key.
    """
    if not isinstance(data, Mapping):
        raise InputError(Fault("", f"expected a dump, an object of keys, found {shown(data)}"))
    check_version("dump", data.get("dump"), VERSION, _WRITER)
    if faults := unfit(data, floats=False):
        raise InputError(faults)
    return _JobReader(data).dump()


class _JobReader(Faults):
    """The data of a dump and the faults found in it so far."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__()
        self.data = data
        self.home: dict[int, int] = {}
        self.sent: dict[int, list[dict[str, Any]]] = {}

    def dump(self) -> Dump:
        """Check every field and return the schedule with its problem."""
        self.check_keys("", self.data, _KEYS, needed=_KEYS, missing=_WRITER)
        ranks = self.data.get("ranks")
        if not isinstance(ranks, list) or not ranks:
            self.fault("ranks", f"expected a list with an object for each rank, found {shown(ranks)}", _WRITER)
            ranks = []
        rows = [self._rank(f"ranks[{rank}]", rank, found) for rank, found in enumerate(ranks)]
        for stage in range(len(self.home)):
            if stage not in self.home:
                self.fault("ranks", f"stage {stage} is on no rank, and stage {max(self.home)} is", _WRITER)
        self.raise_faults()
        schedule = Schedule(rows)
        return Dump(schedule, self._problem(schedule))

    def _rank(self, place: str, rank: int, found: Any) -> list[int]:
        if not isinstance(found, Mapping):
            self.fault(place, f"expected an object, found {shown(found)}")
            return []
        self.check_keys(place, found, _OF_RANK, needed=_OF_RANK, missing=_WRITER)
        self._stages(f"{place}.stages", rank, found.get("stages"))
        order = found.get("order")
        if not isinstance(order, list):
            self.fault(f"{place}.order", f"expected a list of steps, found {shown(order)}")
            return []
        return [word for position, step in enumerate(order) for word in self._words(f"{place}.order[{position}]", step)]

    def _words(self, key: str, step: Any) -> list[int]:
        try:
            return pack_step(step if isinstance(step, str) else shown(step))
        except InputError as error:
            for fault in error.faults:
                self.fault(key, fault.message, fault.hint)
            return []

    def _stages(self, place: str, rank: int, found: Any) -> None:
        """Take the stages of a rank, each with the tensors that it sends: shape, dtype, and the bytes of a number."""
        if not isinstance(found, Mapping):
            self.fault(place, f"expected an object with a key for each stage, found {shown(found)}")
            return
        for name, tensors in found.items():
            key = f"{place}.{clean_key(name)}"
            if not _NUMBER.fullmatch(name):
                self.fault(key, "expected the number of a stage", "such as 0")
            elif int(name) in self.home:
                self.fault(key, f"stage {name} is on rank {self.home[int(name)]}, too", "each stage is on one rank")
            elif not isinstance(tensors, list):
                self.fault(key, f"expected a list of tensors, found {shown(tensors)}")
            else:
                self.home[int(name)] = rank
                self.sent[int(name)] = list(self._tensors(key, tensors))

    def _tensors(self, key: str, tensors: list[Any]) -> Iterator[dict[str, Any]]:
        for number, tensor in enumerate(tensors):
            match tensor:
                case [list() as shape, str() as dtype, int() as size] if all(type(n) is int and n >= 0 for n in shape):
                    name = dtype.removeprefix("torch.")
                    yield {"shape": shape, "dtype": clean(name), "bytes": math.prod(shape) * size}
                case _:
                    wanted = 'such as [[4, 1024], "torch.float32", 4]'
                    self.fault(f"{key}[{number}]", f"expected shape, dtype and bytes, found {shown(tensor)}", wanted)

    def _problem(self, schedule: Schedule) -> Problem:
        """Return the problem, in the form that the kinds of its operations show."""
        letters = {Kind(kind).name for row in schedule.rows for kind in np.unique(kinds(row))}
        parts = {"backward_input": 1, "backward_weight": 1} if letters & {"I", "W"} else {"backward": 2}
        form = "split" if letters & {"I", "W"} else "fused" if letters & {"B", "SEND_B", "RECV_B"} else "inference"
        stages = len(self.home)
        between = [stage for stage in range(stages) if stage + 1 < stages]
        known = all(self.sent[stage] for stage in between)
        rows = [{"from": stage, "to": stage + 1, **tensor} for stage in between for tensor in self.sent[stage]]
        about = {"ranks": schedule.ranks, "microbatches": self.data["microbatches"], "stages": stages, "form": form}
        costs = {"forward": 1} | (parts if form != "inference" else {})
        placement = [self.home[stage] for stage in range(stages)]
        return Problem.of({**about, "placement": placement, "costs": costs, "boundary": rows if known else []})
