"""The oracle's reading of a problem and of a schedule's texts; it imports nothing of schedverify."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

Place = tuple[int, int]
"""A rank, and the position of a step in its order, from 0."""

KINDS = {"fused": "FB", "split": "FBIW", "inference": "F"}


class Op(NamedTuple):
    kind: str
    stage: int
    microbatch: int

    @property
    def pair(self) -> tuple[int, int]:
        return self.stage, self.microbatch


class Step(NamedTuple):
    ops: tuple[Op, ...]
    grouped: bool
    """Whether it is written in square brackets."""


@cache
def read_step(text: str) -> Step:
    """Parse ``0F1``, ``(0F1;1B0)OVERLAP_F_B`` or ``[0F1;1B0]``; anything else is a ValueError."""
    overlap = re.fullmatch(r"\((.+)\)OVERLAP_F_B", text)
    group = re.fullmatch(r"\[(.+)\]", text)
    inner = overlap[1] if overlap else group[1] if group else text
    members = inner.split(";") if overlap or group else [inner]
    ops = []
    for member in members:
        match = re.fullmatch(r"([0-9]+)([FBIW])([0-9]+)", member)
        if match is None:
            raise ValueError(f"the oracle knows no {member!r}")
        ops.append(Op(match[2], int(match[1]), int(match[3])))
    return Step(tuple(ops), group is not None)


class Law:
    """The data of one problem, asked in the words of the law."""

    def __init__(self, problem: dict[str, Any]) -> None:
        self.form = problem["form"]
        self.ranks = problem["ranks"]
        self.microbatches = problem["microbatches"]
        self.slices = problem["slices"]
        self.copy_size = problem["stages"]
        copies = problem["replicas"]
        self.stages = copies * self.copy_size
        self.copy_of_microbatch = problem.get("replica_of", [0] * self.microbatches)
        placement = problem["placement"] if copies > 1 else [problem["placement"]]
        entries = [entry for copy in placement for entry in copy]
        self.ranks_of = [set(entry) if isinstance(entry, list) else {entry} for entry in entries]
        self.feeds: list[list[int]] = [[] for _ in range(self.stages)]
        self.fed_by: list[list[int]] = [[] for _ in range(self.stages)]
        for copy in range(copies):
            for source, target in problem["edges"]:
                self.feeds[source + copy * self.copy_size].append(target + copy * self.copy_size)
                self.fed_by[target + copy * self.copy_size].append(source + copy * self.copy_size)
        memory, limits = problem["memory"], problem["limits"]
        self.activation, self.weight_stash = memory["activation"], memory["weight_stash"]
        self.recompute, self.boundary = memory["recompute"], memory["boundary"]
        self.static, self.capacity = memory["static"], memory.get("capacity")
        self.in_flight, self.in_flight_stage = limits.get("in_flight"), limits.get("in_flight_stage")
        self.outstanding_sends, self.unsharded = limits.get("outstanding_sends"), limits.get("unsharded")

    def admits(self, op: Op) -> bool:
        """Whether the operation is one of the problem's: kind, stage, micro-batch, and the copy it goes through."""
        in_range = op.stage < self.stages and op.microbatch < self.microbatches
        return op.kind in KINDS[self.form] and in_range and self.passes(op.stage, op.microbatch)

    def passes(self, stage: int, microbatch: int) -> bool:
        return self.copy_of_microbatch[microbatch] == stage // self.copy_size

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Every (stage, micro-batch) that passes."""
        for stage in range(self.stages):
            for microbatch in range(self.microbatches):
                if self.passes(stage, microbatch):
                    yield stage, microbatch

    def reads(self, op: Op) -> set[Op]:
        """What an operation waits for, whether it stands in the schedule or not."""
        kind, stage, m = op
        if kind == "W":
            return {Op("I", stage, m)}
        if kind == "F":
            found = {Op("F", source, m) for source in self.fed_by[stage]}
            if m % self.slices != 0:
                found.add(Op("F", stage, m - 1))
            return found
        found = {Op("F", stage, m)}
        for target in self.feeds[stage]:
            found |= {Op("B", target, m), Op("I", target, m)}
        if (m + 1) % self.slices != 0:
            found |= {Op("B", stage, m + 1), Op("I", stage, m + 1)}
        return found

    def kept(self, stage: int) -> int:
        """Bytes that a stage holds from the start of F on."""
        return self.boundary[stage] if self.recompute[stage] else self.activation[stage]


@dataclass
class Case:
    """One schedule under one problem; ``known`` are the operations that every property but SV101 looks at."""

    law: Law
    rows: list[list[Step]]
    excerpt: bool

    def __post_init__(self) -> None:
        self.known: list[list[list[Op]]] = [
            [[op for op in step.ops if self.law.admits(op)] for step in row] for row in self.rows
        ]
        self.where: dict[Op, list[Place]] = {}
        for rank, row in enumerate(self.known):
            for position, ops in enumerate(row):
                for op in ops:
                    self.where.setdefault(op, []).append((rank, position))

    def ranks_with(self, op: Op) -> set[int]:
        return {rank for rank, _ in self.where.get(op, [])}

    def stands(self, kind: str, pair: tuple[int, int]) -> bool:
        return Op(kind, *pair) in self.where


def case_of(rows: list[list[str]], problem: dict[str, Any], excerpt: bool) -> Case:
    """Read the texts of a schedule under the data of a problem."""
    return Case(Law(problem), [[read_step(text) for text in row] for row in rows], excerpt)
