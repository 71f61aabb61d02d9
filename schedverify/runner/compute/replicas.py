"""A stage and its replicas in other pipelines: who averages its gradients, and what a step asks of modules for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch.distributed as dist

from schedverify.runner.compute.gradients import begin_average
from schedverify.runner.p2p.waiting import begin, wait


class Replicas:
    """A stage whose module does nothing for its replicas: the runner averages over a group that it was given, or none.

    Within a step the calls come in this order: ``begin``, then ``unshard``, ``settle`` and ``reshard`` as the rank's
    order goes, then ``reduce`` behind the stage's last backward, then ``rest``.

    Parameters
    ----------
    place
        The rank and the stage, for messages of errors.
    timeout
        Seconds that the rank waits for a replica.

    Attributes
    ----------
    module
        What a forward of the stage runs.
    groups
        The process groups that its gradients are averaged over, one after the other.
    others
        The other stages of the rank. A weight that the stage shares with one of them waits for the last of them: while
        a reduction of it is on its way, another stage would add to what the reduction then replaces.
    """

    def __init__(self, module: Any, groups: Sequence[Any], place: str, timeout: float) -> None:
        self.module, self.groups = module, tuple(groups)
        self._place, self._timeout = place, timeout
        self.others: Sequence[Replicas] = ()
        self._reduced = False

    def begin(self) -> None:
        """Begin a step: nothing is reduced from now on, until ``reduce``."""
        self._reduced = False

    def unshard(self) -> None:
        """Gather the weights from the replicas, at the stage's ``UNSHARD``."""
        self.module.unshard()

    def reshard(self) -> None:
        """Free what was gathered, at the stage's ``RESHARD``."""
        self.module.reshard()

    def settle(self) -> None:
        """Take note of the gradients that a W has added."""

    def reduce(self) -> Callable[[], None]:
        """Begin to average the gradients that the step has added, and return what ends that."""
        self._reduced = True
        if not self.groups:
            return lambda: None
        later = {id(weight) for other in self.others if not other._reduced for weight in other._weights()}
        whole = [weight for weight in self._weights() if id(weight) not in later]
        return begin_average(whole, self.groups[0], self._place, self._timeout)

    def rest(self) -> None:
        """Leave the module as it is between steps; may be called at any time."""

    def _weights(self) -> list[Any]:
        return list(self.module.parameters())


class WrappedReplicas(Replicas):
    """A stage wrapped in ``DistributedDataParallel``: what is inside runs, and the runner averages in its place.

    So its reducer never sees that there was a forward, and keeps still whatever order the backwards come in, be they
    whole or in two parts. Its buffers are those of the group's first rank when a step begins, as they are in its own
    forward.
    """

    def __init__(self, wrapper: Any, place: str, timeout: float) -> None:
        super().__init__(wrapper.module, [wrapper.process_group], place, timeout)
        self._wrapper = wrapper
        self._synchronizes: bool | None = None
        """Between ``begin`` and ``rest``, whether the wrapper reduces in backwards outside of steps."""

    def begin(self) -> None:
        """Begin a step: its reducer is told to keep still, and buffers are made equal."""
        super().begin()
        self._synchronizes = self._wrapper.require_backward_grad_sync
        self._wrapper.require_backward_grad_sync = False
        what = f"{self._place}, buffers of its DistributedDataParallel"
        buffers = self._known(self.module.named_buffers()) if self._wrapper.broadcast_buffers else []
        for buffer in buffers:
            send = partial(dist.broadcast, buffer, group=self.groups[0], group_src=0, async_op=True)
            wait(begin(send, what), what, self._timeout)

    def rest(self) -> None:
        """Let it reduce again, where it did before the step."""
        if self._synchronizes is not None:
            self._wrapper.require_backward_grad_sync, self._synchronizes = self._synchronizes, None

    def _weights(self) -> list[Any]:
        return self._known(self.module.named_parameters())

    def _known(self, named: Iterable[tuple[str, Any]]) -> list[Any]:
        """Return the tensors that the wrapper was not told to ignore."""
        return [tensor for name, tensor in named if name not in self._wrapper.parameters_to_ignore]


@contextmanager
def at_rest(every: Iterable[Replicas]) -> Iterator[None]:
    """Have modules be as they are between steps when this context begins and when it ends, whatever happens within."""
    stages = list(every)
    for stage in stages:
        stage.rest()
    try:
        yield
    finally:
        for stage in stages:
            stage.rest()
