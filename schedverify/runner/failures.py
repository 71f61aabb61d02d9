"""What ends a run: a plan that is not admitted, or a step that cannot go on."""

from __future__ import annotations

from schedverify.core.errors import ScheduleError, SchedverifyError


class RefusedError(ScheduleError):
    """A plan that is not run, raised on every rank with every rank's reason before any tensor moves."""


class RunError(ScheduleError):
    """A step that cannot go on; the message names rank, position, operation and, where there is one, the peer."""


class TimedOutError(RunError):
    """A wait that reached its timeout, or whose peer is gone."""


def in_words(error: Exception) -> str:
    """Return what an error says, with its type where it is not one of ours."""
    return str(error) if isinstance(error, SchedverifyError) else f"{type(error).__name__}: {error}"
