"""The contract of each boundary: what a problem declares may cross it, and what goes is what comes back.

All tensors that go from one stage to another pass here at both ends, whether a message moves them or both stages stand
on one rank: they are compared with the contract, shown to the hooks, which may forbid them, and noted in the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import Final
from zlib import crc32

import torch

from schedverify.core.problem import Problem
from schedverify.core.trace import BoundaryTransfer
from schedverify.runner.compute.batches import Tensors
from schedverify.runner.failures import RunError
from schedverify.runner.p2p import messages
from schedverify.runner.p2p.headers import MessageForm, form_declared, form_of
from schedverify.runner.p2p.messages import Crossing, Name, Signature, contiguous, signature, signature_text

Hook = Callable[[Crossing], None]
"""Called with the tensors of a boundary before they leave and after they have come; raises to stop the run."""
Seal = tuple[int, ...]
"""A checksum (CRC-32) of the bytes of each tensor."""
Log = list[tuple[Name, bool, bool, Signature, Seal | None]]
"""Of all that crossed: its name, whether it left, whether both stages stand on one rank, signature and checksums."""
_NO_HEADER: Final = "the backend has no tags, so no header tells of another form: pad each micro-batch, or use gloo"

_NOT_PLAIN: Final = f"a value that is neither a tensor nor a tuple of tensors ({_NO_HEADER})"


class Boundaries:
    """The boundaries of one rank's stages.

    Parameters
    ----------
    known
        Whether both ends take the form of a message from its declaration; else a header tells it, where it is new.
    hooks
        Called in their order with everything that crosses.
    forbid_nan
        Whether a NaN in what crosses stops the run.
    sealed
        Whether checksums are made of what leaves, and compared with checksums of what arrives.
    """

    def __init__(
        self,
        problem: Problem,
        rank: int,
        *,
        known: bool,
        hooks: Sequence[Hook] = (),
        forbid_nan: bool = False,
        sealed: bool = False,
    ) -> None:
        self._rank, self._hooks = rank, tuple(hooks)
        self.forbid_nan, self.sealed = forbid_nan, sealed
        self._copy, self._owner_rank = problem.stages, problem.owner_rank
        self._rows = messages.boundary_rows(problem)
        self._declared: dict[tuple[int, int], MessageForm] = {}
        if known:
            rows = messages.declared_signatures(problem).items()
            self._declared = {edge: form_declared(members) for edge, members in rows}
        self._last: dict[tuple[int, int, int], MessageForm] = {}
        """By edge and micro-batch what crossed in an earlier step, the last time."""
        self._now: dict[tuple[int, int, int], MessageForm] = {}
        """By edge and micro-batch what has crossed in this step."""
        self._due = Counter(_due(problem, rank))
        self._seals: dict[Name, Seal] = {}
        """Checksums of tensors that wait on this rank to be read or sent, by the name of their message."""
        self.log: Log = []
        """What has crossed in this step."""

    def begin(self) -> None:
        """Begin a step of training, with an empty log."""
        self.log = []
        self._seals.clear()
        self._last |= self._now
        self._now.clear()

    def agreed(self, name: Name) -> MessageForm | None:
        """Return the form that both ends of a message expect before it is sent: declared, or that of the last step."""
        return self._declared.get(name.forward[:2], self._last.get(name.forward))

    def form(self, name: Name) -> MessageForm | None:
        """Return the form of a message that has crossed in this step, or of the one whose gradient it is."""
        return self._now.get(name.forward)

    def gradients(self, name: Name) -> Signature | None:
        """Return dtypes and shapes of the gradients in a message; None before what they are gradients of has crossed.

        Where that is declared they are known from the beginning.
        """
        found = self._now.get(name.forward, self._declared.get(name.forward[:2]))
        return found.gradients if found is not None else None

    def learn(self, name: Name, form: MessageForm) -> None:
        """Note the form of a message that has left or come in this step."""
        self._now[name.forward] = form

    def seal(self, name: Name, tensors: Tensors) -> None:
        """Note checksums of tensors that will be sent later, and must not be changed until then."""
        if self.sealed:
            self._seals[name] = _seal(tensors)

    def leave(self, name: Name, tensors: Tensors, place: str) -> Seal | None:
        """Let tensors leave a stage, and return their checksums, if checksums are made.

        Raises
        ------
        RunError
            If they may not; names the place and the boundary.
        """
        noted = self._seals.pop(name, None)
        if noted is not None and noted != (now := _seal(tensors)):
            raise RunError(f"{place}: {name}: it was changed after it was made, by its checksums {now} and {noted}")
        members, local = self._passed(name, tensors, place, outgoing=True), self._is_local(name)
        if not name.backward:
            form = form_of(tensors, members)
            if self._declared and not local:
                if not form.is_plain:
                    raise RunError(f"{place}: {name}: {_NOT_PLAIN}")
                form = self._declared.get(name[:2], form)
            self.learn(name, form)
        seal = _seal(tensors) if self.sealed else None
        if local and seal is not None:
            self._seals[name] = seal
        self.log.append((name, True, local, members, seal))
        return seal

    def reach(self, name: Name, tensors: Tensors, seal: Seal | None, place: str) -> None:
        """Let tensors reach a stage.

        Parameters
        ----------
        seal
            The checksums that came with them from another rank; of tensors made on this rank they were noted.

        Raises
        ------
        RunError
            If they may not; names the place and the boundary.
        """
        seal = self._seals.pop(name, seal)
        own = _seal(tensors) if self.sealed else None
        if own != seal:
            raise RunError(f"{place}: {name}: what arrived is not what left, by its checksums {own} and {seal}")
        members = self._passed(name, tensors, place, outgoing=False)
        self.log.append((name, False, self._is_local(name), members, own))

    def _passed(self, name: Name, tensors: Tensors, place: str, *, outgoing: bool) -> Signature:
        """Return the signature of tensors, after all checks but checksums."""
        members = signature(tensors)
        reason = self._gradient_objection(name, members) if name.backward else self.objection(name, members)
        if reason := reason or (_nan(tensors) if self.forbid_nan else ""):
            raise RunError(f"{place}: {name}: {reason}")
        if self._hooks:
            self._show(Crossing(*name, outgoing, self._is_local(name), tensors), members, f"{place}: {name}")
        return members

    def _show(self, crossing: Crossing, members: Signature, place: str) -> None:
        """Show the hooks what crosses."""
        for hook in self._hooks:
            try:
                hook(crossing)
            except Exception as error:
                raise RunError(f"{place}: a hook forbids it: {type(error).__name__}: {error}") from error
        if (made := signature(crossing.tensors)) != members:
            raise RunError(f"{place}: a hook made {signature_text(made)} of {signature_text(members)}")

    def close(self) -> None:
        """End a step.

        Raises
        ------
        RunError
            If anything crossed that the plan does not have, or did not cross that it has.
        """
        crossed = Counter([(name, outgoing) for name, outgoing, *_ in self.log])
        if crossed == self._due:
            return
        missing, further = self._due - crossed, crossed - self._due
        name, _ = next(iter(missing or further))
        raise RunError(f"rank {self._rank}: {name}: {'did not cross' if missing else 'crossed, where no more may'}")

    def objection(self, name: Name, members: Signature) -> str:
        """Return why tensors may not go to the next stage under a name; empty where they may."""
        rows = self._rows and self._rows.get((name.source % self._copy, name.target % self._copy))
        if rows and (wanted := messages.broken_declaration(rows, members)):
            hint = f" ({_NO_HEADER})" if self._declared and not self._is_local(name) else ""
            return f"{signature_text(members)}, where {wanted} is declared{hint}"
        return ""

    def _gradient_objection(self, name: Name, members: Signature) -> str:
        expected = self.gradients(name)
        if expected is None or members == expected:
            return ""
        return f"{signature_text(members)}, where the gradient is of {signature_text(expected)}"

    def _is_local(self, name: Name) -> bool:
        return self._owner_rank[name.source] == self._owner_rank[name.target]


def transfers(log: Log) -> tuple[BoundaryTransfer, ...]:
    """Return what has crossed in a step as its results have it."""
    return tuple(
        BoundaryTransfer(*name, outgoing, local, *_told(members), seal or ())
        for name, outgoing, local, members, seal in log
    )


def _due(problem: Problem, rank: int) -> list[tuple[Name, bool]]:
    """Return the messages of one step that leave (True) or reach (False) the stages of a rank."""
    found = []
    edges = ((source, target) for source, targets in enumerate(problem.successors) for target in targets)
    for (source, target), m in product(edges, range(problem.microbatches)):
        if problem.passes(source, m):
            names = [Name(source, target, m, False)]
            names += [] if problem.form == "inference" else [Name(target, source, m, True)]
            for name in names:
                ends = (name.source, True), (name.target, False)
                found += [(name, outgoing) for stage, outgoing in ends if problem.owner_rank[stage] == rank]
    return found


@lru_cache(maxsize=256)
def _told(members: Signature) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], int]:
    """Return dtypes by name and shapes, as the log has them, and the bytes of all tensors."""
    told = tuple((str(dtype)[6:], tuple(shape)) for dtype, shape in members)
    return told, sum(dtype.itemsize * prod(shape) for dtype, shape in members)


def _nan(tensors: Tensors) -> str:
    """Return where a NaN stands; empty where none does."""
    for i, tensor in enumerate(tensors):
        if messages.is_differentiable(tensor.dtype) and bool(tensor.isnan().any()):
            return f"tensor {i} has a NaN"
    return ""


def _seal(tensors: Tensors) -> Seal:
    return tuple(crc32(contiguous(tensor).cpu().reshape(-1).view(torch.uint8).numpy().data) for tensor in tensors)
