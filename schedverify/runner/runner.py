"""The runner: executes a verified plan with torch.distributed, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.runner.agreement import admitted, make_on_every_rank
from schedverify.runner.backends import gloo_group
from schedverify.runner.compute.batches import Feed, feed_of
from schedverify.runner.compute.gradient_sums import sum_shared
from schedverify.runner.compute.gradients import scale, set_aside, weights_of
from schedverify.runner.compute.randoms import Randoms, devices_of, replica_of
from schedverify.runner.compute.replicas import Replicas, at_rest
from schedverify.runner.compute.shared_weights import Sharing, sharing_of
from schedverify.runner.compute.side_inputs import with_side_inputs
from schedverify.runner.compute.stages import stages_of_rank
from schedverify.runner.compute.wrapping import replicas_of
from schedverify.runner.control.failure_notices import failure_notices_of
from schedverify.runner.control.loss_totals import LossTotals
from schedverify.runner.execution import Execution
from schedverify.runner.failures import RunError
from schedverify.runner.p2p.boundaries import Boundaries, Hook
from schedverify.runner.p2p.transport import Transport
from schedverify.runner.p2p.waiting import DEFAULT_TIMEOUT
from schedverify.runner.program import Stages, device_of, modules_of, program_of
from schedverify.runner.sharing import agree_on_shared
from schedverify.runner.step_result import StepResult

Returned = TypeVar("Returned")


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
        transformers. Copies, and weights that are shared, begin with equal numbers. Or a function of the admitted plan.
    loss
        ``loss(output, target)``, needed where a last stage stands: the mean over a micro-batch, or a pair, in all
        steps and on all ranks the same. Of a pair (sum, count) the first is a scalar and the second the number that
        counts (of tokens, say; 0 or more). The loss of the whole batch is the mean of means, each counting for its
        rows or as ``step`` is told; or the sum of all sums over the sum of all counts, 0 where nothing counts. A
        mapping by stage of one copy where last stages differ: their losses add up.
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
        A process group of the ranks with the same stages in other pipelines, each with its part of the batch: at a
        stage's ``REDUCE_GRAD`` where the plan has it, else at the end of the step, gradients become those of the loss
        of all parts together, however many rows each has, or whatever counts in it. None where stages are wrapped for
        their replicas, in ``DistributedDataParallel`` or by ``fully_shard``: there it is the wrapper's own group.
    device
        The device of buffers; that of the first weight by default.
    shared
        The weights that stages share, whose gradients are summed: by the name of a weight the stages (of one copy)
        whose modules have a parameter of that name, ``{"weight": [0, 3]}``; or, where the names differ, by any word the
        parameter's name in each stage, ``{"table": {0: "weight", 3: "head.weight"}}``; or a function of the admitted
        plan. Names are those of ``named_parameters()`` without what DDP, ``torch.compile`` or a checkpoint wrapper
        adds. The same on every rank; other weights are not shared, whatever is tied. Without it, tied stages share all
        weights, which must have equal names and shapes in each; others are refused. Stages of one rank share a
        ``Parameter`` that both have, and copies of a stage all weights, without a word.
    seed
        Of the random numbers that stages and losses draw of torch's generators: each micro-batch of each step draws at
        each stage its own, whatever rank the stage stands on, in any order, and the same when a forward runs again;
        replicas of a stage draw different ones. Behind the step the generators are as they were before it.

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
        shared: Sharing | Callable[[Plan], Sharing] | None = None,
        seed: int = 0,
    ) -> None:
        self._group, self._optimizer = dist.group.WORLD if group is None else group, optimizer or (lambda: None)
        self._timeout, self._loss, self._data_parallel = timeout, loss, data_parallel
        self._replicas: dict[int, Replicas] = {}
        self.rank = dist.get_rank(self._group)
        self.plan, self._tagged, self._control = admitted(plan, self._group, unverified, timeout)
        self.program, problem = program_of(self.plan, self.rank), self.plan.problem
        options = " ".join(name for name, on in (("checksums", checksums), ("shared", shared is not None)) if on)
        make = partial(self._made, stages, shared)
        self.modules, named = make_on_every_rank(make, options, lambda _: {}, self._control, timeout)
        self._shared = agree_on_shared(problem, self.modules, named, self._control, timeout)
        self._totals = LossTotals(problem, self._control, self._pipelines(), timeout)
        self._notices = failure_notices_of(self._group, timeout)
        device, tagged = device_of(self.modules) if device is None else device, self._tagged
        boundaries = Boundaries(
            problem, self.rank, known=not tagged, hooks=hooks, forbid_nan=forbid_nan, sealed=checksums
        )
        transport = Transport(
            boundaries, problem, self.rank, self._group,
            tagged=tagged, timeout=timeout, device=device, awaited=self.program.awaited_sends,
        )  # fmt: skip
        first = replica_of(self._replicas.values()) * problem.microbatches
        self._randoms = Randoms(seed, first=first, devices=devices_of(self.modules, device))
        made = stages_of_rank(problem, {n: stage.module for n, stage in self._replicas.items()}, self._randoms)
        self.execution = Execution(self.program, made, transport, replicas=self._replicas, boundaries=boundaries)
        """Runs the program of this rank; a test plants faults with its ``intercept``."""

    def _made(self, stages: Stages | Callable[[Plan], Stages], shared: Any) -> tuple[dict[int, Any], Any]:
        """Return the modules, and what they share by name; None where that is not given.

        The other ranks of the data-parallel group have made their own by then, with as many weights.
        """

        def make() -> dict[int, Any]:
            given, group = modules_of(stages, self.plan, self.program), self._data_parallel
            self._replicas = replicas_of(given, group, self.program.sharded, self.rank, self._timeout)
            return given

        if self._data_parallel is None:
            made = make()
        else:
            control, among = gloo_group(self._data_parallel, self._timeout), "the data-parallel group"
            made = make_on_every_rank(make, "", weights_of, control, self._timeout, among=among)
        return made, None if shared is None else sharing_of(shared, self.plan, made)

    def _pipelines(self) -> list[Any]:
        """Return gloo groups over which a last stage's losses are averaged, as its gradients are; empty without one."""
        lasts = [number for number in sorted(self._replicas) if not self.problem.successors[number]]
        return [gloo_group(group, self._timeout) for group in (self._replicas[lasts[0]].groups if lasts else ())]

    @property
    def control(self) -> Any:
        """A gloo group of the pipeline's ranks, for control messages."""
        return self._control

    @property
    def problem(self) -> Problem:
        """The plan's problem."""
        return self.plan.problem

    @property
    def next_step(self) -> int:
        """The number of the next step, from 0, by which it draws random numbers; set it where training goes on."""
        return self._randoms.step

    @next_step.setter
    def next_step(self, number: int) -> None:
        self._randoms.step = number

    def step(
        self,
        batch: Any = None,
        target: Any = None,
        *,
        weights: Any = None,
        side_inputs: Mapping[int, Any] | None = None,
    ) -> StepResult:
        """Run the plan once.

        Gradients are added to the weights' ``grad`` and are those of the loss of the whole batch, as in one process;
        then the optimizer's hook is called. Where gradients stood before, a step holds twice their memory until it
        ends; where it fails they stand as before.

        Parameters
        ----------
        batch
            The inputs of a first stage that stands here, the whole batch: a tensor, a tuple, whose members are its
            arguments, or a dict of keyword arguments by name; or a list of the micro-batches; a mapping by stage of one
            copy where first stages differ. Tensors are cut into micro-batches along the first dimension, what has none
            goes to each micro-batch. The shapes may be others in each step. Ranks without a first stage need none.
        target
            Likewise the targets of a last stage.
        weights
            What the mean of each micro-batch counts for, a number for each, its rows by default: the number of its
            tokens, say. The loss is their weighted mean; a micro-batch of weight 0 is not handed to the loss. A mapping
            by stage of one copy where last stages differ. Ranks without a last stage need none.
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
        return self._reporting(lambda: self._step(batch, target, weights, side_inputs))

    def _reporting(self, act: Callable[[], Returned]) -> Returned:
        """Do something with the other ranks; where it fails, send them a notice and close the connections to them."""
        try:
            return act()
        except Exception as error:
            groups = [self._group, *(group for each in self._replicas.values() for group in each.groups)]
            own = list({id(group): group for group in groups if dist.get_backend(group) == "gloo"}.values())
            failure = self._notices.report(error, own)
            if failure is error:
                raise
            raise failure from error

    def _step(self, batch: Any, target: Any, weights: Any, side_inputs: Mapping[int, Any] | None) -> StepResult:
        feed = feed_of(self.problem, self.rank, batch, target, self._loss, weights)
        feed = with_side_inputs(feed, self.problem, self.modules, side_inputs, batch)
        training, loss = self.problem.form != "inference", None
        with at_rest(self._replicas.values()):
            if training:
                loss = self._trained(feed)
            else:
                self._run(feed)
        if training:
            self._update()
        self.next_step += 1
        return self.execution.result(loss)

    def _trained(self, feed: Feed) -> Any:
        """Run the plan, and make the gradients whole; return the rank's share of the loss."""
        feed = self._totals.weigh(feed)
        with set_aside(self.modules.values()) as weights:
            self._run(feed)
            for number in () if self.program.reduces else sorted(self.modules):
                self._replicas[number].reduce()()
            sum_shared(self._shared, self.rank, self._group, self._timeout, self._tagged)
            share, factor = self._totals.settle(feed, self.execution.losses)
            if factor is not None:
                scale(weights, factor)
        return share

    def _run(self, feed: Feed) -> None:
        for _, stage in sorted(self._replicas.items()):
            stage.begin()
        with self._randoms.within_step():
            self.execution.run(feed)

    def _update(self) -> None:
        try:
            self._optimizer()
        except Exception as error:
            raise RunError(f"rank {self.rank}, the optimizer's hook: {type(error).__name__}: {error}") from error

    def whole_loss(self, result: StepResult) -> float:
        """Return the loss of the whole batch, that of all pipelines of the data-parallel group; every rank calls it.

        Where it is NaN, the log tells the micro-batches whose loss is.

        Raises
        ------
        TimedOutError
            If a rank does not call it in time, or is gone; says why others ended, as :meth:`step` does.
        RunError
            If a rank sends what is no number.
        """
        return self._reporting(lambda: self._totals.whole(result))

    def relearn(self) -> None:
        """Do nothing, for callers from when it was needed: each step may have other shapes than the last one."""
