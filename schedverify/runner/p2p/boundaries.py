"""The contract of each boundary: what may cross it is declared, or learned when it first crosses, and nothing else may.

Everything that goes from one stage to another passes here, at both ends, whether a message moves it or it lies ready on
the same rank: it is held against the contract, shown to the hooks, which may forbid it, and noted in the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final
from zlib import crc32

import torch

from schedverify.core.problem import Problem
from schedverify.core.trace import BoundaryTransfer
from schedverify.runner.compute.batches import Tensors
from schedverify.runner.failures import RunError
from schedverify.runner.p2p.messages import (
    Crossing,
    Name,
    Signature,
    declared,
    gradients_of,
    is_differentiable,
    plain,
    refuted,
    rows_of,
    shown,
    signature,
)

Hook = Callable[[Crossing], None]
"""Is shown what crosses a boundary, when it leaves and when it has come; raises to stop the run."""
Seal = tuple[int, ...]
"""A checksum (CRC-32) of the bytes of each tensor."""
_RELEARN: Final = "before steps of other shapes call relearn() on every rank"


class Boundaries:
    """The boundaries of one rank's stages.

    Parameters
    ----------
    known
        Whether declared boundaries tell both ends the shapes in advance; else they are learned.
    hooks
        Called with everything that crosses, in their order.
    forbid_nan
        Whether a NaN in what crosses stops the run.
    sealed
        Whether checksums are made of what leaves and held against what arrives.
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
        self._forbid_nan, self.sealed = forbid_nan, sealed
        self._copy, self._owner_rank = problem.stages, problem.owner_rank
        self._rows = rows_of(problem)
        self._declared = declared(problem) if known else {}
        self._learned: dict[tuple[int, int, int], Signature] = {}
        self._due = Counter(_due(problem, rank))
        self._seals: dict[Name, Seal] = {}
        """Of what lies ready on this rank, to be read or to be sent."""
        self.log: list[BoundaryTransfer] = []

    def begin(self) -> None:
        """Begin a step: nothing has crossed."""
        self.log = []
        self._seals.clear()

    def forget(self) -> None:
        """Forget what was learned."""
        self._learned.clear()

    def expected(self, name: Name) -> Signature | None:
        """Return what will cross under a name; None where neither end can know."""
        found = self._learned.get(name.forward, self._declared.get(name.forward[:2]))
        return gradients_of(found) if found is not None and name.backward else found

    def learn(self, name: Name, members: Signature) -> None:
        """Note what crosses under a name, which both ends know from now on."""
        self._learned[name.forward] = members

    def keep(self, name: Name, tensors: Tensors) -> None:
        """Have tensors lie ready until they leave for another rank: with checksums, they must not change until then."""
        if self.sealed:
            self._seals[name] = _seal(tensors)

    def leave(self, name: Name, tensors: Tensors, place: str) -> Seal | None:
        """Let tensors leave a stage, and return their seal, if seals are made.

        Raises
        ------
        RunError
            If they may not; names the place and the boundary.
        """
        kept = self._seals.pop(name, None)
        if kept is not None and kept != (now := _seal(tensors)):
            crossing = self._crossing(name, tensors, outgoing=True)
            raise RunError(f"{place}: {crossing}: it was changed after it was made, by its checksums {now} and {kept}")
        crossing, form = self._passed(name, tensors, place, outgoing=True)
        if crossing.local and not name.backward:
            self.learn(name, form)
        seal = _seal(tensors) if self.sealed else None
        if crossing.local and seal is not None:
            self._seals[name] = seal
        self._note(crossing, form, seal)
        return seal

    def reach(self, name: Name, tensors: Tensors, seal: Seal | None, place: str) -> None:
        """Let tensors reach a stage, with the seal that came with them; what lay ready here has its own.

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
        """Return what crosses with its form, once it is known that it may."""
        crossing, form = self._crossing(name, tensors, outgoing=outgoing), signature(tensors)
        if reason := self._objection(name, form) or (self._forbid_nan and _nan(tensors)):
            raise RunError(f"{place}: {crossing}: {reason}")
        for hook in self._hooks:
            try:
                hook(crossing)
            except Exception as error:
                raise RunError(f"{place}: {crossing}: a hook forbids it: {type(error).__name__}: {error}") from error
        if self._hooks and signature(tensors) != form:
            raise RunError(f"{place}: {crossing}: a hook made {shown(signature(tensors))} of {shown(form)}")
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

    def _objection(self, name: Name, own: Signature) -> str:
        """Return why what is there may not cross; empty where it may."""
        source, target, _ = name.forward
        edge = source % self._copy, target % self._copy
        rows = self._rows.get(edge)
        if rows and not name.backward and (wanted := refuted(rows, own)):
            return f"{shown(own)}, where {wanted} is declared"
        expected = self.expected(name)
        if expected is None or own == expected:
            return ""
        if name.backward:
            return f"{shown(own)}, where the gradient is of {shown(expected)}"
        return f"{shown(own)}, where {shown(expected)} crosses ({_RELEARN})"


def _due(problem: Problem, rank: int) -> list[tuple[Name, bool]]:
    """Return by name what leaves (True) and reaches (False) the stages of a rank in one step."""
    found = []
    for source, targets in enumerate(problem.successors):
        for target in targets:
            for m, copy in enumerate(problem.replica_of):
                if copy != source // problem.stages:
                    continue
                names = [Name(source, target, m, False)]
                names += [] if problem.form == "inference" else [Name(target, source, m, True)]
                for name in names:
                    found += [(name, True)] if problem.owner_rank[name.source] == rank else []
                    found += [(name, False)] if problem.owner_rank[name.target] == rank else []
    return found


def _nan(tensors: Tensors) -> str:
    """Return where a NaN stands; empty where none does."""
    for i, tensor in enumerate(tensors):
        if is_differentiable(tensor.dtype) and bool(tensor.isnan().any()):
            return f"tensor {i} has a NaN"
    return ""


def _seal(tensors: Tensors) -> Seal:
    return tuple(crc32(plain(tensor).cpu().reshape(-1).view(torch.uint8).numpy().data) for tensor in tensors)
