"""SV70 and SV71: what PyTorch's pipeline runtime and torchtitan need of a schedule, beyond what every runtime does.

PyTorch's runtime is ``_PipelineScheduleRuntime``, as it is in torch 2.13. torchtitan loads a schedule for it
(``parallelism.pipeline_parallel_schedule_csv``) and needs all that it needs, and more.
"""

from __future__ import annotations

from collections.abc import Iterator

from schedverify.core.op import Join, Kind, Step
from schedverify.core.problem import Problem
from schedverify.core.problem.stage_graph import chain_edges
from schedverify.core.result import Violation
from schedverify.core.schedule import is_transfer
from schedverify.verifier.rules.base import Case, NotApplicable, rule, violation_at
from schedverify.verifier.rules.parameters import reduced_once


@rule("SV701", "a pipeline that PyTorch's runtime can hold")
def held_by_the_runtime(case: Case) -> Iterator[Violation]:
    """The model is one chain of stages, each on one rank, at least one on each rank, to be trained.

    What it checks

    The problem is for training. It has one copy of the model, whose stages form a chain and share no weights; sequences
    are in one part. Each stage stands on one rank, and each rank has a stage.

    Why it matters

    PyTorch's runtime refuses a stage that feeds another than the next one (`_validate_adjacent_stage_communication`),
    a schedule without backwards and a stage on two ranks (`_validate_schedule`), and takes what it knows of the
    pipeline from a rank's first stage (`PipelineScheduleMulti.__init__`). It knows nothing of copies, of parts of a
    sequence, or of weights that two stages share: their gradients would not be added up, and the two drift apart.

    Example

    A problem of two ranks with `edges = [[0, 1], [0, 2], [1, 2]]` has a stage 0 that feeds stage 2 past stage 1.

    Formally

    form is not inference; replicas = slices = 1; edges = {(s, s + 1)}; tied is empty; |placement(s)| = 1 for every
    stage s; and every rank is in some placement(s).
    """
    for text in _unheld(case.problem):
        yield Violation("SV701", text)


@rule("SV702", "losses in the order of the micro-batches")
def losses_in_order(case: Case) -> Iterator[Violation]:
    """The last stage runs its F in the order of the micro-batches.

    What it checks

    In the order of the rank of the last stage, the F of that stage stand in rising order of their micro-batches.

    Why it matters

    PyTorch's runtime appends the loss of each F of the last stage to a list and takes micro-batch m's loss from place m
    (`_maybe_compute_loss`, `_maybe_get_loss`). In another order a backward begins from another micro-batch's loss: with
    B the gradients are wrong or the run fails, with I and W they can be zero, and nothing says so.

    Example

    In `1F1 1F0 1B0 1B1` on the rank of the last stage, the loss at place 0 is that of micro-batch 1.

    Formally

    For the last stage S - 1 and every rank r: the micro-batches of its F in the order of r rise strictly.
    """
    last = case.problem.stages - 1
    for rank in range(case.schedule.ranks):
        before = -1
        for position, step in enumerate(case.schedule.steps(rank)):
            for op in step.ops:
                if op.kind is Kind.F and op.stage == last and op.microbatch is not None:
                    if op.microbatch <= before:
                        text = f"it stands behind {last}F{before}"
                        yield violation_at("SV702", rank, position, str(op), text)
                    before = max(before, op.microbatch)


@rule("SV703", "gradients scaled once")
def scaled_once(case: Case) -> Iterator[Violation]:
    """Each stage has one REDUCE_GRAD, behind its last B or W.

    What it checks

    Where communication stands in the schedule, each stage of each rank has exactly one `REDUCE_GRAD` there, behind its
    last B or W. A schedule of compute operations alone gets them from PyTorch when it is loaded.

    Why it matters

    At `REDUCE_GRAD` PyTorch's runtime divides the gradients by the number of micro-batches (`perform_reduce_grad`). One
    that is missing leaves them too large by that factor, a second one divides again, one before the last backward
    leaves that backward out; nothing says so. SV305 asks for them only where one stands.

    Example

    `0F0 0SEND_F0 0RECV_B0 0B0` has no `0REDUCE_GRAD`.

    Formally

    If any operation but F, B, I and W stands in the schedule: for every stage s and every rank r in placement(s),
    exactly one REDUCE_GRAD of s stands in the order of r, and no B or W of s behind it.
    """
    check_lowered(case, "PyTorch adds REDUCE_GRAD when it is loaded")
    for rank, stages in enumerate(case.problem.stages_of):
        places: dict[int, list[int]] = {stage: [] for stage in stages}
        last: dict[int, tuple[int, str]] = {}
        for position, step in enumerate(case.schedule.steps(rank)):
            for op in step.ops:
                if op.kind is Kind.REDUCE_GRAD and op.stage in places:
                    places[op.stage].append(position)
                elif op.kind in (Kind.B, Kind.W):
                    last[op.stage] = position, str(op)
        for stage in stages:
            name = f"{stage}REDUCE_GRAD"
            yield from reduced_once("SV703", rank, name, places[stage], last.get(stage), f"no {name} follows")


@rule("SV704", "steps that PyTorch's CSV can hold")
def written_as_csv(case: Case) -> Iterator[Violation]:
    """No step is a group of communications or a wait, and no send or receive names its peer.

    What it checks

    Communications stand one by one, without a peer, and no `WAIT_SEND` or `WAIT_REDUCE_GRAD` among them.

    Why it matters

    A cell of PyTorch's CSV is one action; its peer is the stage before or behind (`_Action.from_str`,
    `get_fwd_recv_ops` and its like). There is no form for a group, and none for a wait before PyTorch 2.15: torch 2.13
    reads `1WAIT_REDUCE_GRAD` as a W.

    Example

    The group `[0SEND_F1;0RECV_B0]` has no cell; `0SEND_F1` and `0RECV_B0` have one each.

    Formally

    No step holds more than one operation but an overlapped one, no operation names a peer, and none waits.
    """
    yield from without_cell("SV704", case, waits=False)


@rule("SV705", "all communication, or none")
def all_or_none(case: Case) -> Iterator[Violation]:
    """Where anything but compute operations stands in the schedule, so does its communication.

    What it checks

    A schedule that holds `REDUCE_GRAD`, `UNSHARD` or `RESHARD`, and whose stages stand on several ranks, holds sends
    and receives too.

    Why it matters

    PyTorch adds what a schedule of compute operations needs, or nothing (`_load_csv` with `compute_only` and
    `compute_comms`). With a part of it the run fails at the first F that waits for an input.

    Example

    `0F0 0B0 0REDUCE_GRAD` and `1F0 1B0 1REDUCE_GRAD` reduce gradients and send nothing.

    Formally

    If any operation but F, B, I and W stands in the schedule and some stage s feeds a stage t of another rank, a send
    or receive stands in the schedule.
    """
    if not case.schedule.lowered:
        raise NotApplicable(
            "no communication stands in the schedule; PyTorch adds it when it is loaded", "schedverify lower adds it"
        )
    crosses = any(case.problem.owner_rank[a] != case.problem.owner_rank[b] for a, b in case.problem.edges)
    if crosses and not any(is_transfer(row).any() for row in case.schedule.rows):
        yield Violation("SV705", "no send and no receive stands in the schedule, but operations of the runtime do")


def _unheld(problem: Problem) -> Iterator[str]:
    if problem.form == "inference":
        yield "the schedule has no backward, and the runtime asks for one of each micro-batch"
    if problem.replicas > 1:
        yield f"there are {problem.replicas} copies of the model, the runtime holds one"
    if problem.slices > 1:
        yield f"sequences are in {problem.slices} parts, the runtime takes them whole"
    chain = set(chain_edges(problem.stages))
    for source, target in sorted(chain ^ set(problem.edges)):
        found = "feeds no stage" if (source, target) in chain else f"feeds stage {target}"
        yield f"stage {source} {found}, the runtime has it feed stage {source + 1}"
    for group in problem.tied:
        yield f"the stages {', '.join(map(str, group))} share weights, the runtime does not add up their gradients"
    for stage, ranks in enumerate(problem.placement):
        if len(ranks) > 1:
            yield f"stage {stage} stands on the ranks {', '.join(map(str, ranks))}, the runtime holds it on one"
    for rank, stages in enumerate(problem.stages_of):
        if not stages:
            yield f"rank {rank} has no stage, the runtime takes what it knows from the first of a rank"


def check_lowered(case: Case, by_pytorch: str) -> None:
    """Raise NotApplicable where no communication stands in a schedule; ``by_pytorch`` says what PyTorch does there."""
    if not case.schedule.lowered:
        raise NotApplicable(
            f"no communication stands in the schedule; {by_pytorch}", "schedverify lower adds the communication"
        )


def without_cell(code: str, case: Case, *, waits: bool) -> Iterator[Violation]:
    """Yield a violation for each step that has no cell in PyTorch's CSV, in which waits have one or not."""
    for rank in range(case.schedule.ranks):
        for position, step in enumerate(case.schedule.steps(rank)):
            if text := _no_cell(step, waits):
                message = f"rank {rank}, position {position} ({step}): {text}"
                yield Violation(code, message, rank, position, tuple(map(str, step.ops)))


def _no_cell(step: Step, waits: bool) -> str:
    if step.join is Join.GROUP:
        return "a group of communications"
    if not waits and any(op.kind in (Kind.WAIT_SEND_F, Kind.WAIT_SEND_B, Kind.WAIT_REDUCE_GRAD) for op in step.ops):
        return "a wait, which PyTorch's CSV does not have before 2.15"
    return "a peer is named" if any(op.peer is not None for op in step.ops) else ""


@rule("SV711", "a placement that torchtitan knows")
def known_placement(case: Case) -> Iterator[Violation]:
    """The stages stand in a loop or, two on each rank, in a V.

    What it checks

    The number of stages is a multiple of the number of ranks, and stage s stands on rank s mod P; or there are 2 P
    stages and stage s stands on rank min(s, 2 P - 1 - s).

    Why it matters

    torchtitan builds the stages of a rank before it reads the schedule, from the name of the schedule class in
    `parallelism.pipeline_parallel_schedule` alone: a V for `ZBVZeroBubble` and `DualPipeV`, else a loop
    (`pipeline_module_split`). A schedule of another placement meets stages that are elsewhere.

    Example

    With `placement = [0, 1, 1, 0]` rank 0 must have the stages 0 and 3; with `placement = [0, 0, 1, 1]` there is no
    name that gives them.

    Formally

    P divides S and placement(s) = {s mod P} for every s; or S = 2 P and placement(s) = {min(s, 2 P - 1 - s)}.
    """
    problem = case.problem
    if problem.stages % problem.ranks:
        text = f"{problem.stages} stages on {problem.ranks} ranks, torchtitan takes a multiple of the ranks"
        yield Violation("SV711", text)
    elif problem.owner_rank[: problem.stages] not in (_loop(problem), _v(problem)):
        text = f"the stages stand on the ranks {list(problem.owner_rank)}: no loop, no V of two a rank"
        yield Violation("SV711", text)


@rule("SV712", "compute operations alone")
def compute_alone(case: Case) -> Iterator[Violation]:
    """Nothing but F, B, I, W and overlapped pairs of them stands in the schedule.

    What it checks

    No send, receive, `UNSHARD`, `RESHARD`, `REDUCE_GRAD` or wait stands in any order.

    Why it matters

    torchtitan loads the file with `_load_csv(path)`, which takes compute operations and refuses all others
    (`_prepare_schedule_with_comms`). PyTorch adds the communication itself.

    Example

    `0F0 0SEND_F0 0RECV_B0 0B0` is refused at its second cell.

    Formally

    Every operation of every order is F, B, I or W.
    """
    for rank in range(case.schedule.ranks):
        for position, step in enumerate(case.schedule.steps(rank)):
            if not step.ops[0].kind.is_compute:
                message = f"rank {rank}, position {position} ({step}): torchtitan's file has no communication"
                yield Violation("SV712", message, rank, position, tuple(map(str, step.ops)))


def _loop(problem: Problem) -> tuple[int, ...]:
    return tuple(stage % problem.ranks for stage in range(problem.stages))


def _v(problem: Problem) -> tuple[int, ...]:
    if problem.stages != 2 * problem.ranks:
        return ()
    return tuple(min(stage, problem.stages - 1 - stage) for stage in range(problem.stages))
