"""Runs one rank's program for one step of training: its actions in order, each when its inputs are there.

The span of an action is as its rank sees it, in nanoseconds: a compute step begins when its inputs are there; a send
ends when its message has left or, while sends are few and nothing waits for it, when it was begun; a receive begins
when it is posted and ends when its tensors are read, or have come, whichever is later; a group spans its members.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from schedverify.core.op import Kind, Op
from schedverify.core.trace import StepSpan
from schedverify.runner.compute.batches import Feed, Tensors
from schedverify.runner.compute.losses import EMPTY_MEAN, Loss
from schedverify.runner.compute.parcels import Parcel, call_of, first_call_of
from schedverify.runner.compute.replicas import Replicas
from schedverify.runner.compute.stages import Stage
from schedverify.runner.failures import RunError, TimedOutError
from schedverify.runner.p2p.boundaries import Boundaries, transfers
from schedverify.runner.p2p.messages import Name, is_differentiable
from schedverify.runner.p2p.transport import Transport
from schedverify.runner.program import Action, RankProgram
from schedverify.runner.step_result import StepResult


class Execution:
    """A program that is run on one rank, once in each step of training.

    Parameters
    ----------
    stages
        By number, the stages of the rank.
    transport
        Moves tensors to and from other ranks.
    replicas
        By stage, who averages its gradients at its ``REDUCE_GRAD``; what that returns is called at the stage's
        ``WAIT_REDUCE_GRAD``, or at once where the rank's order has none.
    boundaries
        The contracts that are applied to all tensors which go from one stage to another.
    """

    def __init__(
        self,
        program: RankProgram,
        stages: Mapping[int, Stage],
        transport: Transport,
        *,
        replicas: Mapping[int, Replicas],
        boundaries: Boundaries,
    ) -> None:
        self._problem, self._program, self._rank = program.problem, program, program.rank
        self._places = [f"rank {program.rank}, position {a.position} ({a.text})" for a in program.actions]
        self._stages, self.transport, self._replicas = stages, transport, replicas
        self._boundaries = boundaries
        self._perform: Callable[[Action], None] = self._act
        self._training = program.problem.form != "inference"
        self._begin(Feed({}, {}, {}, {}))

    def _begin(self, feed: Feed) -> None:
        self._feed = feed
        self._ready: dict[Name, Tensors] = {}
        """Tensors of this rank's stages that were not yet read or sent, by the name of their message."""
        self._sources: dict[tuple[int, int], list[tuple[int, int]]] = {}
        """By stage and micro-batch, pairs of a stage that feeds it and the number of its tensors with gradients."""
        self._spans: list[tuple[int, int, int]] = []
        """Position, beginning and end of what ran, added by this rank and by the thread that waits for its sends."""
        self._reductions: dict[int, Callable[[], None]] = {}
        """By stage, what ends a reduction that was begun."""
        self.losses: dict[tuple[int, int], Loss] = {}
        """By last stage (of all copies) and micro-batch, in the order in which they were made."""
        self.outputs: dict[tuple[int, int], Tensors] = {}
        self._in_flight = self._peak_in_flight = 0
        self.transport.begin()
        self._boundaries.begin()
        for stage in self._stages.values():
            stage.begin()

    def run(self, feed: Feed) -> None:
        """Run the program once.

        Raises
        ------
        RunError
            If the step cannot go on; names rank, position and operation.
        """
        self._begin(feed)
        try:
            self._perform_all()
            self.transport.sends.finish()
            self._boundaries.close()
        except BaseException as error:
            self.transport.sends.abandon()
            cause = self.transport.sends.cause(error) if isinstance(error, TimedOutError) else error
            if cause is error:
                raise
            raise cause from error

    def result(self, loss: Any) -> StepResult:
        """Return what the step that has run comes to, with this rank's share of the loss."""
        losses = {place: each.value for place, each in self.losses.items()}
        ran, crossed = partial(self._ran, self._spans), partial(transfers, self._boundaries.log)
        return StepResult(loss, self.outputs, self._peak_in_flight, losses, ran, crossed)

    def intercept(self, around: Callable[[Action, Callable[[Action], None]], None]) -> None:
        """Put a function around every action of later steps: the seam where tests plant faults.

        Parameters
        ----------
        around
            Called with an action and the function that performs it, which it may leave out.
        """
        perform = self._perform
        self._perform = lambda action: around(action, perform)

    def _perform_all(self) -> None:
        try:
            for action in self._program.actions:
                self._perform(action)
        except RunError:
            raise
        except Exception as error:
            raise RunError(f"{self._places[action.position]}: {type(error).__name__}: {error}") from error

    def _act(self, action: Action) -> None:
        if not action.is_transfer:
            self._compute(action)
        elif len(action.ops) == 1:
            self._transfer(action.ops[0], action.position)
        else:
            with self.transport.together():
                for op in action.ops:
                    self._transfer(op, action.position)

    # Transfers

    def _transfer(self, op: Op, position: int) -> None:
        began = time.perf_counter_ns()
        if not op.kind.is_send:
            self.transport.post(op, position)
            return
        name = self.transport.planned(op, position).name
        if name not in self._ready:
            raise RunError(f"{self._places[position]}: what it sends is not made yet")
        tensors = self._ready.pop(name)
        seal = self._boundaries.leave(name, tensors, self._places[position])
        self.transport.send(op, position, tensors, seal, lambda end: self._spans.append((position, began, end)))

    def _read(self, name: Name, position: int) -> Tensors:
        """Return the tensors of a message from another stage, on this rank or another."""
        tensors, seal = self._ready.pop(name, None), None
        if tensors is None:
            taken = self.transport.take(name)
            if taken is None:
                made = f"{name.source}{'B or I' if name.backward else 'F'} of micro-batch {name.microbatch}"
                raise RunError(f"{self._places[position]}: nothing received or made of {made}")
            tensors, seal = taken.tensors, taken.seal
            self._spans.append((taken.position, taken.began, time.perf_counter_ns()))
        self._boundaries.reach(name, tensors, seal, self._places[position])
        return tensors

    def _hand_over(self, name: Name, tensors: Tensors, position: int) -> None:
        """Keep tensors of a stage until another stage of this rank reads them, or they are sent.

        A stage of this rank gets copies of its inputs, as if they were received: it may change them in place.
        """
        if self._problem.owner_rank[name.source] == self._problem.owner_rank[name.target]:
            tensors = tensors if name.backward else _copied(tensors)
            self._boundaries.leave(name, tensors, self._places[position])
        else:
            self._boundaries.seal(name, tensors)
        self._ready[name] = tensors

    # Computing

    def _compute(self, action: Action) -> None:
        position = action.position
        inputs = [self._inputs(op, position) for op in action.ops]
        self._in_flight += action.forwards
        self._peak_in_flight = max(self._peak_in_flight, self._in_flight)
        began = time.perf_counter_ns()
        for op, read in zip(action.ops, inputs):  # noqa: B905 - as many; said, it takes as long as the calls
            self._do(op, read, position)
        self._spans.append((position, began, time.perf_counter_ns()))
        if not self._training:
            self._in_flight -= action.forwards

    def _inputs(self, op: Op, position: int) -> Any:
        """Return what an operation reads from other stages: an F its inputs, a B or I the gradients of its outputs."""
        kind, stage, m = op.kind, op.stage, op.microbatch or 0
        if kind is Kind.F:
            return self._forward_inputs(stage, m, position)
        if not (kind is Kind.B or kind is Kind.I) or not self._problem.successors[stage]:
            return ()
        names = [Name(target, stage, m, True) for target in self._problem.successors[stage]]
        parts = [self._in_place(name, self._read(name, position)) for name in names]
        return parts[0] if len(parts) == 1 else tuple(_sum(each) for each in zip(*parts, strict=True))

    def _in_place(self, name: Name, gradients: Tensors) -> Tensors:
        """Return the gradients in a message, one for each differentiable tensor that went; None where none came."""
        form, came = self._boundaries.form(name), iter(gradients)
        if form is None or all(form.needs):
            return gradients
        both = zip(form.members, form.needs, strict=True)
        return tuple([next(came) if needed else None for (dtype, _), needed in both if is_differentiable(dtype)])

    def _forward_inputs(self, stage: int, m: int, position: int) -> Parcel:
        sources, within = self._problem.predecessors[stage], stage % self._problem.stages
        module, sides = self._stages[stage].module, self._feed.sides.get(within)
        keywords = None if sides is None else _copied(sides[m])  # a module may change its inputs in place
        if not sources:
            return first_call_of(module, self._feed.inputs[within][m], keywords)
        parts: list[Any] = [self._read(Name(source, stage, m, False), position) for source in sources]
        counts = [sum(is_differentiable(each.dtype) for each in part) for part in parts]
        self._sources[stage, m] = list(zip(sources, counts, strict=True))
        return call_of(module, parts, keywords)

    def _end_reduction(self, number: int, position: int) -> None:
        end = self._reductions.pop(number, None)
        if end is None:
            raise RunError(f"{self._places[position]}: the reduction that it waits for was not begun")
        end()

    def _do(self, op: Op, read: Any, position: int) -> None:
        kind, stage, m = op.kind, self._stages[op.stage], op.microbatch or 0
        if kind is Kind.F:
            self._forward(op, read, position)
        elif kind is Kind.B or kind is Kind.I:
            gradients = stage.backward(m, read, split=kind is Kind.I)
            self._give_back(op.stage, m, gradients, position)
            self._in_flight -= 1
        elif kind is Kind.W:
            stage.run_weights(m)
            self._replicas[op.stage].settle()
        elif kind.is_send_wait:
            self.transport.wait_sent(op, position)
        elif kind is Kind.REDUCE_GRAD:
            self._reductions[op.stage] = self._replicas[op.stage].reduce()
            if op.stage not in self._program.awaited_reductions:
                self._reductions.pop(op.stage)()
        elif kind is Kind.WAIT_REDUCE_GRAD:
            self._end_reduction(op.stage, position)
        elif kind is Kind.UNSHARD:
            self._replicas[op.stage].unshard()
            stage.look_up_weights()
        else:  # RESHARD
            self._replicas[op.stage].reshard()

    def _forward(self, op: Op, inputs: Tensors, position: int) -> None:
        number, m = op.stage, op.microbatch or 0
        within = number % self._problem.stages
        loss = self._feed.loss(within, m)
        outputs = self._stages[number].forward(m, inputs, loss, split=(number, m) in self._program.split)
        for target in self._problem.successors[number]:
            self._hand_over(Name(number, target, m, False), outputs, position)
        if loss is not None:
            loss.value = outputs[-1]
            self.losses[number, m] = loss
            if self._boundaries.forbid_nan and bool(loss.value.isnan()):
                raise RunError(f"{self._places[position]}: the loss of micro-batch {m} is NaN ({EMPTY_MEAN})")
        elif not self._problem.successors[number]:
            self.outputs[number, m] = outputs

    def _give_back(self, number: int, m: int, gradients: Tensors, position: int) -> None:
        """Hand the gradients of a stage's inputs over to the stages that made the inputs."""
        first = 0
        for source, count in self._sources.pop((number, m), ()):
            needed = tuple([each for each in gradients[first : first + count] if each is not None])
            self._hand_over(Name(number, source, m, True), needed, position)
            first += count

    def _ran(self, noted: list[tuple[int, int, int]]) -> tuple[StepSpan, ...]:
        """Return the spans of the actions that ran, in the order of the positions."""
        spans: dict[int, tuple[int, int]] = {}
        for position, began, ended in noted:
            first, last = spans.get(position, (began, ended))
            spans[position] = min(first, began), max(last, ended)
        ran = [action for action in self._program.actions if action.position in spans]
        return tuple(StepSpan(self._rank, action.position, action.text, *spans[action.position]) for action in ran)


def _copied(tensors: Tensors) -> Any:
    """Return copies of tensors, in the structure in which they stand."""
    copies = (each.clone() for each in tensors)
    return tensors.holding(copies) if isinstance(tensors, Parcel) else tuple(copies)


def _sum(gradients: tuple[Any, ...]) -> Any:
    """Return the sum of the gradients of one tensor that went to several stages; None where none came back."""
    came = [each for each in gradients if each is not None]
    return sum(came[1:], came[0]) if came else None
