"""The runner: executes a verified plan with torch.distributed, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.core.trace import BoundaryTransfer, StepSpan
from schedverify.runner.agreement import agree_on_plan, make_on_every_rank
from schedverify.runner.backends import backend_of, gloo_beside
from schedverify.runner.compute.batches import Tensors, feed_of
from schedverify.runner.compute.gradients import begin_average, set_aside, sum_shared, weights_of, weights_shared
from schedverify.runner.compute.side_inputs import with_side_inputs
from schedverify.runner.compute.stages import Stage
from schedverify.runner.control.exchange import exchange
from schedverify.runner.control.failure_notices import failure_notices_of
from schedverify.runner.execution import Execution
from schedverify.runner.failures import RunError
from schedverify.runner.p2p.boundaries import Boundaries, Hook
from schedverify.runner.p2p.messages import transfer_objection
from schedverify.runner.p2p.transport import Transport
from schedverify.runner.p2p.waiting import DEFAULT_TIMEOUT
from schedverify.runner.program import Stages, device_of, modules_of, program_of

Returned = TypeVar("Returned")


@dataclass(frozen=True)
class StepResult:
    """The results of one step on this rank.

    Attributes
    ----------
    loss
        The rank's share of the mean loss over the whole batch, a scalar; None where it holds no last stage. The shares
        of all ranks add up to it.
    outputs
        In inference, the output tensors by last stage (of all copies) and micro-batch: tuples, whose ``value()`` is
        what the stage returned.
    ran
        What ran and when, in nanoseconds, in the order of the positions.
    peak_in_flight
        The most pairs of stage and micro-batch that were in flight at once, counted while running.
    crossed
        All transfers that left or reached a stage of this rank.
    """

    loss: Any = None
    outputs: Mapping[tuple[int, int], Tensors] = field(default_factory=dict)
    ran: tuple[StepSpan, ...] = ()
    peak_in_flight: int = 0
    crossed: tuple[BoundaryTransfer, ...] = ()


class Runner:
    """Runs a plan's schedule on the ranks of a process group; every rank makes one, at the same time.

    The plan is verified on every rank, and all ranks agree on it before any tensor moves.

    Parameters
    ----------
    plan
        A plan, or the file of one.
    stages
        The modules of this rank: by stage (of all copies: copy ``k`` of the model has the stages ``k·S … k·S+S-1``), or
        a list in the order of the rank's stages. A module takes what the stages that feed it return, in their order: a
        tuple or list as so many arguments (an ``nn.Sequential`` as one), anything else as one. It returns tensors,
        None, numbers or texts, alone or in tuples, lists, dicts by texts, and dataclasses such as those of
        transformers. Copies, and tied stages, begin with equal weights. Or a function that returns them for the
        admitted plan.
    loss
        ``loss(output, target)``, the mean over the rows of a micro-batch; needed where a last stage stands. A mapping
        by stage of one copy where last stages differ.
    group
        The process group of the pipeline; rank ``r`` of it is rank ``r`` of the plan. All processes by default.
    unverified
        Whether a plan runs that was not proved.
    timeout
        Seconds that a rank waits for another.
    hooks
        Called with each :class:`~schedverify.runner.Crossing` of a boundary; they raise to stop the run.
    forbid_nan
        Whether a NaN in what crosses a boundary stops the run.
    checksums
        Whether what reaches a stage is compared with a checksum of what left the other; the same on every rank.
    optimizer
        Called at the end of each step of training, when the gradients are whole: ``optimizer.step``, say.
    data_parallel
        A process group over which gradients are averaged: at a stage's ``REDUCE_GRAD`` where the plan has it, else at
        the end of the step.
    device
        The device of buffers; that of the first weight by default.

    Raises
    ------
    RefusedError
        On every rank, if any rank refuses the plan; says why.
    TimedOutError
        If a rank does not come.
    InputError
        If the modules are not those of this rank's stages; the others are refused with it.
    """

    def __init__(  # noqa: PLR0913 - each is a keyword of its own
        self,
        plan: Plan | str | Path,
        stages: Stages | Callable[[Plan], Stages],
        loss: Any = None,
        *,
        group: Any = None,
        unverified: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        hooks: Sequence[Hook] = (),
        forbid_nan: bool = False,
        checksums: bool = False,
        optimizer: Callable[[], Any] | None = None,
        data_parallel: Any = None,
        device: Any = None,
    ) -> None:
        self._group = dist.group.WORLD if group is None else group
        self._timeout, self._loss, self._optimizer = timeout, loss, optimizer
        self._data_parallel = data_parallel
        self.rank = dist.get_rank(self._group)
        self.plan, self._tagged, self._control = _admitted(plan, self._group, unverified, timeout)
        self.program, problem = program_of(self.plan, self.rank), self.plan.problem
        options = "checksums" if checksums else ""
        self.modules = make_on_every_rank(
            lambda: self._made(stages), options, lambda made: weights_shared(problem, made), self._control, timeout
        )
        self._notices = failure_notices_of(self._group, timeout)
        device, tagged = device_of(self.modules) if device is None else device, self._tagged
        self._boundaries = Boundaries(
            problem, self.rank, known=not tagged, hooks=hooks, forbid_nan=forbid_nan, sealed=checksums
        )
        transport = Transport(
            self._boundaries,
            problem,
            self.rank,
            self._group,
            tagged=tagged,
            timeout=timeout,
            device=device,
            awaited=self.program.awaited_sends,
        )
        training, recompute, feeders = problem.form != "inference", problem.recompute, problem.predecessors
        made = {
            number: Stage(number, module, recompute=recompute[number], training=training, is_first=not feeders[number])
            for number, module in self.modules.items()
        }
        self.execution = Execution(self.program, made, transport, reduce=self._reduce, boundaries=self._boundaries)
        """Runs the program of this rank; a test plants faults with its ``intercept``."""

    def _made(self, stages: Stages | Callable[[Plan], Stages]) -> dict[int, Any]:
        """Return the modules, once the other ranks of the data-parallel group have their own, with as many weights."""
        make = partial(modules_of, stages, self.plan, self.program)
        if self._data_parallel is None:
            return make()
        is_gloo = backend_of(self._data_parallel).name == "gloo"
        control = self._data_parallel if is_gloo else gloo_beside(self._data_parallel, self._timeout)
        among = "the data-parallel group"
        made: dict[int, Any] = make_on_every_rank(make, "", weights_of, control, self._timeout, among=among)
        return made

    @property
    def control(self) -> Any:
        """A gloo group of the pipeline's ranks, for control messages."""
        return self._control

    @property
    def problem(self) -> Problem:
        """The plan's problem."""
        return self.plan.problem

    def step(
        self, batch: Any = None, target: Any = None, *, side_inputs: Mapping[int, Any] | None = None
    ) -> StepResult:
        """Run the plan once.

        Gradients are added to the weights' ``grad`` and are those of the mean loss over the whole batch, as in one
        process; then the optimizer's hook is called. Where gradients stood before, a step holds twice their memory
        until it ends; where it fails they stand as before.

        Parameters
        ----------
        batch
            The inputs of a first stage that stands here, the whole batch: a tensor, a tuple, whose members are its
            arguments, or a dict of keyword arguments by name; or a list of the micro-batches; a mapping by stage of one
            copy where first stages differ. Tensors are cut into micro-batches along the first dimension, what has none
            goes to each micro-batch. The shapes may be others in each step. Ranks without a first stage need none.
        target
            Likewise the targets of a last stage.
        side_inputs
            By stage of one copy, keyword arguments that its module takes besides what other stages make: masks,
            positions, the tokens of a decoder. They are given where the stage stands and do not travel; those of
            other ranks' stages are left alone. Cut as a batch is: ``{3: {"mask": mask}}``; what each micro-batch reads
            whole goes into a list, as ``{3: [{"mask": mask}] * microbatches}``. No gradients are computed for them.

        Raises
        ------
        RunError
            If the step cannot go on; names rank, position and operation, and why others ended. With gloo the process
            group is closed then: no rank waits for another any more.
        InputError
            If the batch or target that this rank needs is missing, or cannot be cut; if there is no such stage, or its
            module takes no such argument.
        """
        return self._reporting(lambda: self._step(batch, target, side_inputs))

    def _reporting(self, act: Callable[[], Returned]) -> Returned:
        """Do something with the other ranks; where it fails, send them a notice and close the connections to them."""
        try:
            return act()
        except Exception as error:
            groups = [group for group in (self._group, self._data_parallel) if group is not None]
            failure = self._notices.report(error, [group for group in groups if dist.get_backend(group) == "gloo"])
            if failure is error:
                raise
            raise failure from error

    def _step(self, batch: Any, target: Any, side_inputs: Mapping[int, Any] | None) -> StepResult:
        feed = feed_of(self.problem, self.rank, batch, target, self._loss)
        feed = with_side_inputs(feed, self.problem, self.modules, side_inputs, batch)
        if self.problem.form == "inference":
            ran = self.execution.run(feed)
        else:
            with set_aside(self.modules.values()):
                ran = self.execution.run(feed)
                sum_shared(self.problem, self.rank, self.modules, self._group, self._timeout, self._tagged)
                for number in () if self.program.reduces else sorted(self.modules):
                    self._reduce(number)()
            self._update()
        done = self.execution
        return StepResult(done.loss, done.outputs, tuple(ran), done.peak_in_flight, tuple(self._boundaries.log))

    def _update(self) -> None:
        try:
            if self._optimizer is not None:
                self._optimizer()
        except Exception as error:
            raise RunError(f"rank {self.rank}, the optimizer's hook: {type(error).__name__}: {error}") from error

    def whole_loss(self, result: StepResult) -> float:
        """Return the mean loss over the whole batch: the sum of every rank's share; every rank calls it.

        Raises
        ------
        TimedOutError
            If a rank does not call it in time, or is gone; says why others ended, as :meth:`step` does.
        RunError
            If a rank sends what is no number.
        """
        share = 0.0 if result.loss is None else float(result.loss)
        part = "the loss of the step"
        shares = self._reporting(lambda: exchange(share.hex(), self._control, self._timeout, part=part))
        return sum(_share_of(rank, text) for rank, text in enumerate(shares))

    def relearn(self) -> None:
        """Do nothing, for callers from when it was needed: each step may have other shapes than the last one."""

    def _reduce(self, number: int) -> Callable[[], None]:
        """Begin to average a stage's gradients over the data-parallel group, and return what ends that."""
        if self._data_parallel is None:
            return lambda: None
        place = f"rank {self.rank}, stage {number}"
        return begin_average(self.modules[number].parameters(), self._data_parallel, place, self._timeout)


def _share_of(rank: int, text: str) -> float:
    try:
        return float.fromhex(text)
    except (ValueError, OverflowError) as error:
        raise RunError(f"rank {rank}, the loss of the step: what it sent is no number") from error


def _admitted(plan: Plan | str | Path, group: Any, unverified: bool, timeout: float) -> tuple[Plan, bool, Any]:
    """Return the plan, whether the backend matches messages by tags, and a gloo group of the ranks."""
    backend = backend_of(group)
    control = group if backend.name == "gloo" else gloo_beside(group, timeout)

    def objection(given: Plan) -> str:
        return transfer_objection(given.problem, tagged=backend.tagged)

    admitted = agree_on_plan(plan, backend, control, unverified=unverified, timeout=timeout, objection=objection)
    return admitted, backend.tagged, control
