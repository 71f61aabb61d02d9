"""SV1: a schedule has the operations it needs, each once, where it belongs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from schedverify.core.op import JOIN_SHIFT, Join, Kind, Op, Step, unpack
from schedverify.core.problem import Problem
from schedverify.core.result import Violation
from schedverify.core.schedule import IntArray, Words, kinds, op_stages, positions
from schedverify.verifier.absences import Passing, Run, by_group, told_runs
from schedverify.verifier.occurrences import Occurrences
from schedverify.verifier.rules.base import PAIR_MASK, Case, More, rule


@rule("SV101", "well-formed steps")
def well_formed(case: Case) -> Iterator[Violation]:
    """Every step is well formed.

    What it checks

    Each operation's kind fits the problem's form (fused: F and B; split: F, B, I and W; inference: F, and no gradient
    is sent, received or reduced), its stage and micro-batch are in range, the micro-batch goes through the stage's copy
    of the model, and a step of more than one operation is an overlapped pair of one F and one B, or a group of sends
    and receives.

    Why it matters

    An operation that the problem does not know has no cost, no inputs and no place: nothing more can be said of it.
    An engine would fail on it, or index past the end of its micro-batches.

    Example

    With two stages and two micro-batches, `2F0` names an absent stage and `0F2` an absent micro-batch.

    Formally

    For every rank r, every position i and every operation k(s, m) of the step at (r, i): k is admitted by the form,
    0 <= s < S·replicas, 0 <= m < M, replica_of(m) = floor(s / S); and the step is one operation, or one F and one B,
    or a group of which every member sends or receives.
    """
    for rank, row in enumerate(() if case.sound else case.schedule.rows):
        for position, step in enumerate(case.schedule.steps(rank) if malformed(row, case.problem) else ()):
            faults = [fault for op in step.ops if (fault := _fault(op, case.problem))]
            if step.join is Join.OVERLAP and not _is_pair(step):
                faults.append("an overlapped step is one F and one B")
            if step.join is Join.GROUP and not all(op.kind.is_transfer for op in step.ops):
                faults.append("a group holds sends and receives only")
            if faults:
                message = f"rank {rank}, position {position} ({step}): {'; '.join(faults)}"
                yield Violation("SV101", message, rank, position, tuple(map(str, step.ops)))


@rule("SV102", "operations on the ranks of their stage")
def on_their_ranks(case: Case) -> Iterator[Violation]:
    """Every operation is on the rank of its stage.

    What it checks

    Each operation stands on the rank, or on all the ranks, of its stage, and on no other; sends, waits for them and
    receives on the first of them only.

    Why it matters

    A rank has the weights of its own stages only. An operation elsewhere would run on weights that are not there; one
    that lacks on one rank of a tensor-parallel stage leaves the others waiting in a collective.

    Example

    With stage 1 on rank 1, `1F0` in the order of rank 0 is on a foreign rank.

    Formally

    For every operation o of stage s that stands anywhere: if o computes, the set of ranks on which o stands is
    placement(s); if it sends, receives or is a `WAIT_SEND`, it is {first(s)}; else it is a subset of placement(s).
    """
    if case.sound:
        return
    yield from _astray(case)
    if not doubled(case.occurrences) and not misplaced(case.occurrences):
        return
    for op, places in case.occurrences.places.items():
        ranks = case.problem.placement[op.stage]
        found = {rank for rank, _ in places}
        for rank, position in places:
            if rank not in ranks:
                where = f"stage {op.stage} is on rank {', '.join(map(str, ranks))}"
                yield Violation("SV102", f"rank {rank} runs {op} at position {position}, but {where}", rank, position,
                                (str(op),))  # fmt: skip
        for rank in sorted(set(ranks) - found) if found & set(ranks) else ():
            others = ", ".join(map(str, sorted(found)))
            yield Violation("SV102", f"{op} lacks on rank {rank}; it stands on rank {others}", rank, None, (str(op),))


@rule("SV103", "completeness")
def complete(case: Case) -> Iterator[Violation | More]:
    """Every needed operation is there.

    What it checks

    For every stage and every micro-batch that goes through it there is an F, and in training a B, or an I and a W.
    An excerpt (`--excerpt`) may lack operations: they count as done before it begins. What lacks of one kind, stage and
    successive micro-batches is told as a run, by its first and its last operation.

    Why it matters

    A missing forward or input part starves the stages that wait for it. A missing W loses the gradient of a
    micro-batch in silence: the run goes on and trains on the rest.

    Example

    `0F0 0F1 0B0` on a rank with stage 0 and two micro-batches lacks 0B1.

    Formally

    For every s and m with replica_of(m) = floor(s / S): F(s, m) stands in the schedule, and, unless the form is
    inference, B(s, m) does, or both I(s, m) and W(s, m) do.
    """
    if case.sound or case.excerpt:
        return
    problem, there = case.problem, _there(case.occurrences)
    passing, kinds_needed = Passing(problem), list(there)

    def tell(group: int, run: Run) -> Violation:
        stage, kind = group // len(there), kinds_needed[group % len(there)]
        names = tuple(str(Op(kind, stage, m)) for m in dict.fromkeys(run))
        text = f"{' to '.join(names)} {'stands' if run.size == 1 else 'stand'} nowhere"
        rank = problem.owner_rank[stage]
        return Violation("SV103", f"{text}; stage {stage} is on rank {rank}", rank, None, names, count=run.size)

    stages = range(problem.total_stages)
    yield from told_runs((passing.without(stage, there[kind].get(stage)) for stage in stages for kind in there), tell)


@rule("SV104", "nothing twice")
def nothing_twice(case: Case) -> Iterator[Violation]:
    """No operation stands twice.

    What it checks

    None stands twice in one rank's order, and no B stands beside an I or W of the same stage and micro-batch, be it on
    another one of the stage's ranks.

    Why it matters

    A doubled backward adds the same gradient twice, and a doubled forward overwrites activations that a backward
    still needs: the loss goes on falling, a little differently.

    Example

    `0F0 0B0 0W0`: B is the whole backward, so W adds its part again.

    Formally

    For every rank r and operation o, o stands at most once in the order of r; for every s and m, not both B(s, m) and
    one of I(s, m), W(s, m) stand on ranks of placement(s).
    """
    if case.sound or not doubled(case.occurrences):
        return
    for op, places in case.occurrences.places.items():
        first: dict[int, int] = {}
        for rank, position in places:
            if rank in first:
                message = f"rank {rank} runs {op} at position {position} again; it stands at position {first[rank]}"
                yield Violation("SV104", message, rank, position, (str(op),))
            first.setdefault(rank, position)
        own = case.problem.placement[op.stage]
        whole = op.kind == Kind.B and any(rank in own for rank, _ in places)
        for part in (op._replace(kind=kind) for kind in ((Kind.I, Kind.W) if whole else ())):
            for rank, position in case.occurrences.places.get(part, ()):
                if rank not in own:
                    continue
                message = f"rank {rank} runs {part} at position {position} beside {op}, which is the whole backward"
                yield Violation("SV104", message, rank, position, (str(op), str(part)))


def _fault(op: Op, problem: Problem) -> str:
    """Return what is wrong with an operation in itself, or nothing."""
    if not problem.has_kind(op.kind):
        return f"{op.kind.name} is no operation of a problem whose form is {problem.form}"
    m = op.microbatch or 0
    if op.stage >= problem.total_stages:
        return f"stage {op.stage} is absent; stages are 0 to {problem.total_stages - 1}"
    if m >= problem.microbatches:
        return f"micro-batch {m} is absent; micro-batches are 0 to {problem.microbatches - 1}"
    if op.microbatch is not None and not problem.passes(op.stage, m):
        own = f"stage {op.stage} of copy {problem.copy_of(op.stage)}"
        return f"micro-batch {m} goes through copy {problem.replica_of[m]}, not through {own}"
    return ""


def _astray(case: Case) -> Iterator[Violation]:
    """Tell the communication that stands on a rank where its stage is not, or does not send and receive."""
    problem = case.problem
    for rank, row in enumerate(case.schedule.rows):
        stage = op_stages(row)
        away = (kinds(row) > int(Kind.W)) & problem.has_operations(row)
        away[away] = problem.owner_rank_array[stage[away]] != rank
        places = positions(row)
        for index in np.flatnonzero(away).tolist():
            op, ranks = unpack(int(row[index])), problem.placement[int(stage[index])]
            if op.kind.is_communication or rank not in ranks:
                where = f"stage {op.stage} is on rank {', '.join(map(str, ranks))}"
                where += ", which sends and receives on the first" if rank in ranks else ""
                message = f"rank {rank} has {op} at position {places[index]}, but {where}"
                yield Violation("SV102", message, rank, int(places[index]), (str(op),))


def _is_pair(step: Step) -> bool:
    return sorted(op.kind for op in step.ops) == [Kind.F, Kind.B]


def _there(occurrences: Occurrences) -> dict[Kind, dict[int, IntArray]]:
    """Return by kind that is needed, and by stage, the micro-batches that do not lack it; B stands for I and W."""
    ops, form = occurrences.ops, occurrences.problem.form
    keys = {kind: ops[kinds(ops) == int(kind)] & PAIR_MASK for kind in (Kind.F, Kind.B, Kind.I, Kind.W)}
    if form == "split":
        needed = {Kind.F: keys[Kind.F]} | {part: np.union1d(keys[Kind.B], keys[part]) for part in (Kind.I, Kind.W)}
    else:
        needed = {kind: keys[kind] for kind in (Kind.F, Kind.B)[: 1 if form == "inference" else 2]}
    return {kind: by_group(found) for kind, found in needed.items()}


def malformed(row: Words, problem: Problem) -> bool:
    """Whether a row holds an operation that the problem does not know, or a step of several."""
    return bool((~problem.has_operations(row)).any() or (row >> JOIN_SHIFT != 0).any())


def doubled(occurrences: Occurrences) -> bool:
    """Whether an operation stands twice on one rank, or a B beside an I or W of it on ranks of its stage."""
    op = occurrences.op[occurrences.own]
    part = (kinds(op) == int(Kind.I)) | (kinds(op) == int(Kind.W))
    both = np.isin(op[part] & PAIR_MASK, op[kinds(op) == int(Kind.B)] & PAIR_MASK)
    return bool(occurrences.again.any() or both.any())


def misplaced(occurrences: Occurrences) -> bool:
    """Whether an operation stands on a foreign rank, or lacks on a rank of its stage; where none stands twice."""
    wanted = np.array([len(ranks) for ranks in occurrences.problem.placement])
    found = np.bincount(occurrences.index, minlength=len(occurrences.ops))
    return bool((~occurrences.own).any() or (found != wanted[op_stages(occurrences.ops)]).any())
