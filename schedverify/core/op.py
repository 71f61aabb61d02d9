"""Operations and steps: the letters of a schedule, their text, and their packed form.

An operation packs into one non-negative int64: micro-batch in bits 0 to 23, stage in 24 to 39, peer stage + 1 in
40 to 55 (0 where unnamed), kind in 56 to 60, and in 61 to 62 how it joins the operation before it (:class:`Join`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple, cast, overload

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError

STAGE_SHIFT: Final = 24
PEER_SHIFT: Final = 40
KIND_SHIFT: Final = 56
JOIN_SHIFT: Final = 61
MICROBATCH_MASK: Final = (1 << 24) - 1
INDEX_MASK: Final = (1 << 16) - 1
KIND_MASK: Final = 31
MAX_MICROBATCHES: Final = 1 << 24
MAX_STAGES: Final = (1 << 16) - 1
"""One below 2^16, so that every stage fits as a peer."""


class Kind(IntEnum):
    """What an operation does; the names are those of PyTorch's pipeline runtime.

    Those from ``UNSHARD`` on are of a whole stage and take no micro-batch.
    """

    F = 0
    B = 1
    I = 2
    W = 3
    SEND_F = 4
    RECV_F = 5
    SEND_B = 6
    RECV_B = 7
    WAIT_SEND_F = 8
    WAIT_SEND_B = 9
    UNSHARD = 10
    RESHARD = 11
    REDUCE_GRAD = 12
    WAIT_REDUCE_GRAD = 13

    @property
    def is_compute(self) -> bool:
        """Whether it is F, B, I or W."""
        return self <= Kind.W

    @property
    def is_transfer(self) -> bool:
        """Whether it sends or receives."""
        return Kind.SEND_F <= self <= Kind.RECV_B

    @property
    def is_send(self) -> bool:
        """Whether it sends."""
        return self in (Kind.SEND_F, Kind.SEND_B)

    @property
    def is_send_wait(self) -> bool:
        """Whether it waits until a send is complete."""
        return self in (Kind.WAIT_SEND_F, Kind.WAIT_SEND_B)

    @property
    def is_communication(self) -> bool:
        """Whether it sends, receives or waits for a send: it may name its peer."""
        return Kind.SEND_F <= self <= Kind.WAIT_SEND_B


class Join(IntEnum):
    """How an operation stands to the one before it in its rank's order."""

    BEGIN = 0
    """It begins a step."""
    OVERLAP = 1
    """It belongs to the overlapped step that the operation before it began."""
    GROUP = 2
    """It belongs to the group of communications that the operation before it began."""


class _OpFields(NamedTuple):
    """The fields of an operation, apart from its class so that that may be made of text too."""

    kind: Kind
    stage: int
    microbatch: int | None
    peer: int | None


class Op(_OpFields):
    """One operation.

    ``microbatch`` is None for UNSHARD, RESHARD, REDUCE_GRAD and WAIT_REDUCE_GRAD, ``peer`` where it is not named.

    It is made of its fields, or of its text: ``Op("2F0")`` is ``Op(Kind.F, 2, 0)``, and prints as ``2F0``.
    """

    __slots__ = ()

    @overload
    def __new__(cls, kind: str) -> Op: ...
    @overload
    def __new__(cls, kind: Kind, stage: int, microbatch: int | None = None, peer: int | None = None) -> Op: ...
    def __new__(
        cls, kind: Kind | str, stage: int | None = None, microbatch: int | None = None, peer: int | None = None
    ) -> Op:
        """Make an operation of its fields, or read it as :meth:`parse` does."""
        if stage is None:
            return cls.parse(cast("str", kind))
        if not isinstance(kind, Kind):
            check_types("Op", kind=(kind, Kind))
        return tuple.__new__(cls, (kind, stage, microbatch, peer))

    def __repr__(self) -> str:
        return f"Op('{self}')"

    def __str__(self) -> str:
        text = f"{self.stage}{self.kind.name}"
        if self.microbatch is not None:
            text += str(self.microbatch)
        if self.peer is not None:
            text += f"{_arrow(self.kind)}{self.peer}"
        return text

    @classmethod
    def parse(cls, text: str) -> Op:
        """Read one operation such as ``2F0``, ``0SEND_F1>3`` or ``2UNSHARD``.

        Raises
        ------
        InputError
            If the text is no operation, in full, or a number in it does not fit.
        """
        check_types("Op.parse", text=(text, str))
        return unpack(pack_text(text))

    def pack(self, join: Join = Join.BEGIN) -> int:
        """Return the packed form.

        Raises
        ------
        InputError
            If a number does not fit its bits, or a micro-batch or peer stands where none may.
        """
        return _pack(self.kind, self.stage, self.microbatch, self.peer, join)


class Step(NamedTuple):
    """What a rank launches as one: an operation, an overlapped step, or a group of communications."""

    ops: tuple[Op, ...]
    join: Join = Join.BEGIN
    """How the operations after the first are joined; ``BEGIN`` for a single operation."""

    def __str__(self) -> str:
        inner = ";".join(map(str, self.ops))
        if self.join is Join.BEGIN:
            return inner
        return f"({inner})OVERLAP_F_B" if self.join is Join.OVERLAP else f"[{inner}]"


def unpack(word: int) -> Op:
    """Return the operation that a packed word stands for."""
    kind = Kind(word >> KIND_SHIFT & KIND_MASK)
    peer = word >> PEER_SHIFT & INDEX_MASK
    microbatch = None if kind >= Kind.UNSHARD else word & MICROBATCH_MASK
    return Op(kind, word >> STAGE_SHIFT & INDEX_MASK, microbatch, peer - 1 if peer else None)


def texts_of(words: Iterable[int]) -> list[str]:
    """Return the texts of packed operations; what is not the micro-batch is put in words once."""
    around: dict[int, tuple[str, str]] = {}
    texts = []
    for word in words:
        microbatch = word & MICROBATCH_MASK
        if word - microbatch not in around:
            op = unpack(word)
            before = f"{op.stage}{op.kind.name}"
            if op.microbatch is None:
                texts.append(str(op))
                continue
            around[word - microbatch] = before, str(op)[len(f"{before}{microbatch}") :]
        before, after = around[word - microbatch]
        texts.append(f"{before}{microbatch}{after}")
    return texts


def pack_text(text: str, join: Join = Join.BEGIN) -> int:
    """Read one operation straight into its packed form; see :meth:`Op.parse`."""
    match = _OP.fullmatch(text)
    if match is None:
        raise InputError(Fault("", f"{text[:60]!r} is no operation", "such as 2F0, 0I3, 0SEND_F1 or 2UNSHARD"))
    stage, kind, microbatch, arrow, peer, bare_kind = match.groups()
    named = Kind[kind or bare_kind]
    if arrow and (not named.is_communication or arrow != _arrow(named)):
        expected = "a send or its wait names its peer after '>', a receive after '<', and nothing else names one"
        raise InputError(Fault("", f"{text[:60]!r} is no operation", expected))
    number = None if microbatch is None else int(microbatch)
    return _pack(named, int(stage), number, None if peer is None else int(peer), join)


def pack_step(text: str) -> list[int]:
    """Read one step (``2F0``, ``(0F5;7B1)OVERLAP_F_B``, ``[0SEND_F1;2RECV_F0]``) into packed words.

    Raises
    ------
    InputError
        If the text is no step; an overlapped step needs at least two operations.
    """
    if text.startswith("[") and text.endswith("]"):
        return _pack_members(text, text[1:-1], Join.GROUP)
    if text.startswith("(") and text.endswith(_OVERLAP):
        words = _pack_members(text, text[1 : -len(_OVERLAP)], Join.OVERLAP)
        if len(words) < 2:
            raise InputError(Fault("", f"{text[:60]!r} is no step", "an overlapped step joins one F and one B"))
        return words
    return [pack_text(text)]


_OVERLAP = ")OVERLAP_F_B"
_MOST_MEMBERS = 100_000
_OP = re.compile(
    r"([0-9]{1,8})(?:(F|B|I|W|SEND_F|RECV_F|SEND_B|RECV_B|WAIT_SEND_F|WAIT_SEND_B)([0-9]{1,9})(?:([<>])([0-9]{1,8}))?"
    r"|(UNSHARD|RESHARD|REDUCE_GRAD|WAIT_REDUCE_GRAD))"
)


def _arrow(kind: Kind) -> str:
    """Return what stands between an operation and its peer."""
    return "<" if kind in (Kind.RECV_F, Kind.RECV_B) else ">"


def _pack_members(text: str, inner: str, join: Join) -> list[int]:
    members = inner.split(";", _MOST_MEMBERS)
    if not all(members):
        raise InputError(Fault("", f"{text[:60]!r} is no step", "members are operations, joined by ';'"))
    return [pack_text(member, join if i else Join.BEGIN) for i, member in enumerate(members)]


def _pack(kind: Kind, stage: int, microbatch: int | None, peer: int | None, join: Join) -> int:
    if (microbatch is None) != (kind >= Kind.UNSHARD):
        raise InputError(f"{kind.name} takes {'no' if kind >= Kind.UNSHARD else 'a'} micro-batch")
    if peer is not None and not kind.is_communication:
        raise InputError(f"{kind.name} names no peer")
    _fits("stage", stage, MAX_STAGES)
    _fits("micro-batch", microbatch or 0, MAX_MICROBATCHES)
    _fits("peer stage", peer or 0, MAX_STAGES)
    word = (microbatch or 0) | stage << STAGE_SHIFT | int(kind) << KIND_SHIFT | int(join) << JOIN_SHIFT
    return word if peer is None else word | (peer + 1) << PEER_SHIFT


def _fits(what: str, value: int, limit: int) -> None:
    if not 0 <= value < limit:
        raise InputError(Fault("", f"{what} {value} is out of range", f"0 to {limit - 1}"))
