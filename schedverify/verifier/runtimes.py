"""Runtimes that others built, as far as a schedule must know them: what they need, and how their messages meet."""

from __future__ import annotations

from typing import Final, NamedTuple

from schedverify.core.discipline import Discipline
from schedverify.core.errors import look_up


class RuntimeProfile(NamedTuple):
    """A runtime.

    Attributes
    ----------
    codes
        Beginnings of the codes of what it needs beyond the properties that every schedule is judged by.
    disciplines
        By backend of ``torch.distributed``, what its sends and receives amount to.
    """

    name: str
    codes: tuple[str, ...]
    disciplines: dict[str, Discipline]

    @property
    def strictest(self) -> Discipline:
        """What its sends and receives amount to, whichever backend is below."""
        return max(self.disciplines.values(), key=list(Discipline).index)


_BY_PAIR: Final = {"nccl": Discipline.PAIR, "gloo": Discipline.EDGE}
"""Since torch 2.13, ``_batch_p2p`` launches what only sends, or only receives, as single ``isend`` and ``irecv``: with
NCCL on a communicator for each pair of ranks, with gloo in order on each directed pair, as all have tag 0."""
_BY_DIRECTION: Final = {"nccl": Discipline.EDGE, "gloo": Discipline.EDGE}
"""Since torch 2.15, with NCCL on a communicator for each directed pair of ranks whose stages follow one another."""
_SINCE_WAITS: Final = ("SV701", "SV702", "SV703", "SV705", "SV72")
PROFILES: Final = {
    profile.name: profile
    for profile in (
        RuntimeProfile("torch", ("SV70",), _BY_PAIR),
        RuntimeProfile("torch-2.15", _SINCE_WAITS, _BY_DIRECTION),
        RuntimeProfile("torchtitan", ("SV70", "SV71"), _BY_PAIR),
    )
}
ON_REQUEST: Final = ("SV7",)
"""Beginnings of codes that are judged only where a profile or a selection names them."""


def profile_of(name: str) -> RuntimeProfile:
    """Return the profile of a name.

    Raises
    ------
    UnknownNameError
        If there is none; says the nearest.
    """
    return look_up("profile", name, PROFILES)
