"""The contract of each boundary: the dtypes and shapes that may cross it are declared, or learned from the first step.

All tensors that go from one stage to another pass here at both ends, whether a message moves them or both stages stand
on one rank: they are compared with the contract, shown to the hooks, which may forbid them, and noted in the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from typing import Final
from zlib import crc32

import torch

from schedverify.core.problem import Problem
from schedverify.core.trace import BoundaryTransfer
from schedverify.runner.compute.batches import Tensors
from schedverify.runner.failures import RunError
from schedverify.runner.p2p import messages
from schedverify.runner.p2p.messages import Crossing, Name, Signature, contiguous, signature, signature_text

Hook = Callable[[Crossing], None]
"""Called with the tensors of a boundary before they leave and after they have come; raises to stop the run."""
Seal = tuple[int, ...]
"""A checksum (CRC-32) of the bytes of each tensor."""
_RELEARN: Final = "before steps of other shapes call relearn() on every rank"


class Boundaries:
    """The boundaries of one rank's stages.

    Parameters
    ----------
    known
        Whether both ends take the shapes of a boundary from its declaration; else they learn them from what crosses.
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
        self._declared = messages.declared_signatures(problem) if known else {}
        self._learned: dict[tuple[int, int, int], Signature] = {}
        self._due = Counter(_due(problem, rank))
        self._seals: dict[Name, Seal] = {}
        """Checksums of tensors that wait on this rank to be read or sent, by the name of their message."""
        self.log: list[BoundaryTransfer] = []

    def begin(self) -> None:
        """Begin a step of training, with an empty log."""
        self.log = []
        self._seals.clear()

    def forget(self) -> None:
        """Forget the shapes that were learned."""
        self._learned.clear()

    @property
    def shapes_known(self) -> bool:
        """Whether a step that begins now knows all signatures: by declaration or from an earlier step."""
        return bool(self._learned or self._declared)

    def expected(self, name: Name) -> Signature | None:
        """Return the signature of a message, where it is declared or learned; else None."""
        found = self._learned.get(name.forward, self._declared.get(name.forward[:2]))
        return messages.gradients_of(found) if found is not None and name.backward else found

    def learn(self, name: Name, members: Signature) -> None:
        """Note the signature of a message, which both ends know from now on."""
        self._learned[name.forward] = members

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
            crossing = self._crossing(name, tensors, outgoing=True)
            raise RunError(f"{place}: {crossing}: it was changed after it was made, by its checksums {now} and {noted}")
        crossing, form = self._passed(name, tensors, place, outgoing=True)
        if crossing.local and not name.backward:
            self.learn(name, form)
        seal = _seal(tensors) if self.sealed else None
        if crossing.local and seal is not None:
            self._seals[name] = seal
        self._note(crossing, form, seal)
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
            crossing = self._crossing(name, tensors, outgoing=False)
            raise RunError(f"{place}: {crossing}: what arrived is not what left, by its checksums {own} and {seal}")
        self._note(*self._passed(name, tensors, place, outgoing=False), own)

    def _crossing(self, name: Name, tensors: Tensors, *, outgoing: bool) -> Crossing:
        return Crossing(*name, outgoing, self._owner_rank[name.source] == self._owner_rank[name.target], tensors)

    def _passed(self, name: Name, tensors: Tensors, place: str, *, outgoing: bool) -> tuple[Crossing, Signature]:
        """Return the tensors as hooks see them, and their signature, after all checks but checksums."""
        crossing, form = self._crossing(name, tensors, outgoing=outgoing), signature(tensors)
        if reason := self.objection(name, form) or (self.forbid_nan and _nan(tensors)):
            raise RunError(f"{place}: {crossing}: {reason}")
        for hook in self._hooks:
            try:
                hook(crossing)
            except Exception as error:
                raise RunError(f"{place}: {crossing}: a hook forbids it: {type(error).__name__}: {error}") from error
        if self._hooks and signature(tensors) != form:
            made = signature_text(signature(tensors))
            raise RunError(f"{place}: {crossing}: a hook made {made} of {signature_text(form)}")
        return crossing, form

    def _note(self, crossing: Crossing, form: Signature, seal: Seal | None) -> None:
        members = tuple((str(dtype)[6:], shape) for dtype, shape in form)
        size = sum(tensor.nbytes for tensor in crossing.tensors)
        self.log.append(BoundaryTransfer(*crossing[:6], members, size, seal or ()))

    def close(self) -> None:
        """End a step.

        Raises
        ------
        RunError
            If anything crossed that the plan does not have, or did not cross that it has.
        """
        crossed = Counter((Name(*each[:4]), each.outgoing) for each in self.log)
        if crossed == self._due:
            return
        missing, further = self._due - crossed, crossed - self._due
        name, outgoing = next(iter(missing or further))
        what = Crossing(*name, outgoing, False, ())
        raise RunError(f"rank {self._rank}: {what}: {'did not cross' if missing else 'crossed, where no more may'}")

    def objection(self, name: Name, own: Signature) -> str:
        """Return why tensors of a signature may not cross under a name; empty where they may."""
        source, target, _ = name.forward
        rows = self._rows.get((source % self._copy, target % self._copy))
        if rows and not name.backward and (wanted := messages.broken_declaration(rows, own)):
            return f"{signature_text(own)}, where {wanted} is declared"
        expected = self.expected(name)
        if expected is None or own == expected:
            return ""
        if name.backward:
            return f"{signature_text(own)}, where the gradient is of {signature_text(expected)}"
        return f"{signature_text(own)}, where {signature_text(expected)} crosses ({_RELEARN})"


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


def _nan(tensors: Tensors) -> str:
    """Return where a NaN stands; empty where none does."""
    for i, tensor in enumerate(tensors):
        if messages.is_differentiable(tensor.dtype) and bool(tensor.isnan().any()):
            return f"tensor {i} has a NaN"
    return ""


def _seal(tensors: Tensors) -> Seal:
    return tuple(crc32(contiguous(tensor).cpu().reshape(-1).view(torch.uint8).numpy().data) for tensor in tensors)
