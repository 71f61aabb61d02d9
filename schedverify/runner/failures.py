"""The errors that end a run, and how the texts of several ranks become one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from schedverify.core.errors import ScheduleError, SchedverifyError


class RefusedError(ScheduleError):
    """A plan that is not run, raised on every rank with every rank's reason before any tensor moves."""


class RunError(ScheduleError):
    """A step that cannot go on; the message names rank, position, operation and, where there is one, the peer."""


class TimedOutError(RunError):
    """A wait that reached its timeout, or whose peer is gone."""


def error_text(error: Exception) -> str:
    """Return the message of an error, behind its type where it is not an error of this package."""
    return str(error) if isinstance(error, SchedverifyError) else f"{type(error).__name__}: {error}"


def ranks_by_text(texts: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the ranks that gave each text, texts in the order in which they came first.

    Parameters
    ----------
    texts
        Pairs of a rank, as text, and its text.
    """
    ranks: dict[str, list[str]] = {}
    for rank, text in texts:
        ranks.setdefault(text, []).append(rank)
    return ranks


def without_repeats(failures: Mapping[int, str]) -> dict[int, str]:
    """Return the failures of ranks without the lines that repeat another rank's; those that others name come first.

    Parameters
    ----------
    failures
        By rank: a line with its own failure, then lines ``ended by ...`` with the failures of others that ended it.
    """
    own = {text.partition("\n")[0] for text in failures.values()}
    causes = {line.removeprefix("ended by ") for text in failures.values() for line in text.splitlines()[1:]}
    shortened = {
        rank: "\n".join(line for line in text.splitlines() if line.removeprefix("ended by ") not in own - {line})
        for rank, text in failures.items()
    }
    return dict(sorted(shortened.items(), key=lambda item: failures[item[0]] not in causes))


def merged(failures: Mapping[int, str]) -> list[str]:
    """Return the failures of ranks, each text once, behind its ranks where it does not name a rank itself."""
    return [
        text if text.startswith("rank") or len(ranks) == len(failures) > 1 else f"rank {', '.join(ranks)}: {text}"
        for text, ranks in ranks_by_text((str(rank), text) for rank, text in failures.items()).items()
    ]
