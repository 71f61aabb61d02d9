"""Admission: each rank verifies the plan for itself, and all ranks agree on it before any tensor moves."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from schedverify.core.discipline import Discipline
from schedverify.core.result import Plan, Report
from schedverify.formats.loading import load_judged
from schedverify.formats.plan_files import digest, plan_data
from schedverify.runner.backends import Backend, backend_of, gloo_group
from schedverify.runner.control.exchange import exchange
from schedverify.runner.failures import RefusedError, error_text, ranks_by_text
from schedverify.runner.p2p.messages import transfer_objection
from schedverify.verifier.verification import verify

log = logging.getLogger("schedverify")
_MOST_OBJECTIONS: Final = 3
_NO_PLAN: Final = "-"
_ROOM: Final = 1 << 16
"""Bytes of what a rank tells of its stages."""
_UNLOWERED: Final = "the plan holds no schedule with communication"


Objection = Callable[[Plan], str]
"""Returns why a rank refuses a plan for a reason of its own; an empty text where it does not."""


def admitted(plan: Plan | str | Path, group: Any, unverified: bool, timeout: float) -> tuple[Plan, bool, Any]:
    """Return the plan that all ranks agree on, whether messages are matched by tags, and a gloo group of the ranks."""
    backend, control = backend_of(group), gloo_group(group, timeout)

    def objection(given: Plan) -> str:
        return transfer_objection(given.problem, tagged=backend.tagged)

    agreed = agree_on_plan(plan, backend, control, unverified=unverified, timeout=timeout, objection=objection)
    return agreed, backend.tagged, control


def agree_on_plan(
    plan: Plan | str | Path,
    backend: Backend,
    group: Any,
    *,
    unverified: bool,
    timeout: float,
    objection: Objection | None = None,
) -> Plan:
    """Return the plan, once every rank of the pipeline has passed it and all have the same.

    Parameters
    ----------
    group
        A gloo group of the pipeline's ranks, over which they agree.
    unverified
        Whether the plan runs without being verified. It must be whole and the same on all ranks even so.
    objection
        Called with the plan if everything else is right.

    Raises
    ------
    RefusedError
        On every rank, with the reasons of all, if any rank refuses or has another plan.
    TimedOutError
        If a rank does not come within ``timeout`` seconds.
    """
    import torch.distributed as dist

    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    loaded, own_digest, reason = _judged(plan, backend, ranks, unverified, objection)
    answers = exchange(f"{own_digest} {reason}".strip(), group, timeout)
    digests, reasons = zip(*(answer.partition(" ")[::2] for answer in answers), strict=True)
    refusals = [f"rank {other}: {text}" for other, text in enumerate(reasons) if text] + _other_plans(digests)
    if refusals or loaded is None:
        raise _refused("", refusals)
    if unverified:
        log.warning("rank %d: runs a plan that was NOT verified: it may hang, or train on wrong data", rank)
    log.info("rank %d: admits plan %s", rank, own_digest)
    return loaded


def make_on_every_rank(
    make: Callable[[], Any],
    options: str,
    shared: Callable[[Any], Mapping[str, str]],
    group: Any,
    timeout: float,
    *,
    among: str = "",
) -> Any:
    """Return what ``make`` returns on this rank, once it has returned on every rank, and all ranks agree.

    Parameters
    ----------
    options
        Names of what this rank was asked for that all ranks must be asked for.
    shared
        Takes what was made and returns, by stages, texts without spaces that must be equal on all ranks which have
        these stages.
    among
        The name of the group, where it is not that of the pipeline.

    Raises
    ------
    RefusedError
        If another rank cannot make its own; on every rank, if they were asked for different things or have different
        ones.
    TimedOutError
        If a rank does not come within ``timeout`` seconds.
    """
    where = among and f", in {among}"
    made, error, own = None, None, dict[str, str]()
    try:
        made = make()
        own |= shared(made)
    except Exception as caught:
        error = caught
    failure = "" if error is None else f"{type(error).__name__}: {error}"
    values = " ".join(f"{name}={value}" for name, value in own.items())
    if len(values) > _ROOM // 2:
        values, failure = "", f"its stages' weights take {len(values)} letters to tell, at most {_ROOM // 2} are told"
    answers = exchange(f"{options}\n{values}\n{failure}", group, timeout, part=f"making the stages{where}", size=_ROOM)
    if error is not None:
        raise error
    by_rank, shared_values, failures = zip(*map(_answer, answers), strict=True)
    refusals = [f"rank {rank}: {reason}" for rank, reason in enumerate(failures) if reason]
    if len(set(by_rank)) > 1:
        asked = [(rank, name) for rank, name in enumerate(by_rank) if name]
        refusals += [f"rank {rank}: it was asked for {name}, others were not" for rank, name in asked]
    refusals += _differences(shared_values)
    if refusals:
        raise _refused(where, refusals)
    return made


def _answer(text: str) -> tuple[str, str, str]:
    """Return the options, the values and the failure that a rank told."""
    options, *rest = text.split("\n", 2)
    return (options, rest[0], rest[1]) if len(rest) == 2 else ("", "", "what it answered is no answer")


def _differences(shared_values: Sequence[str]) -> list[str]:
    """Return by rank the values that are not the same on all ranks which have them, from texts ``name=value ...``."""
    pairs = [(rank, *each.partition("=")[::2]) for rank, text in enumerate(shared_values) for each in text.split()]
    values: dict[str, set[str]] = {}
    for _, name, value in pairs:
        values.setdefault(name, set()).add(value)
    return [
        f"rank {rank}: stages {name.replace('+', ', ')} have the same weights, here they are {value.replace('/', ' ')}"
        for rank, name, value in pairs
        if len(values[name]) > 1
    ]


def _judged(
    plan: Plan | str | Path, backend: Backend, ranks: int, unverified: bool, objection: Objection | None
) -> tuple[Plan | None, str, str]:
    """Return the plan, its digest, and why this rank refuses it; an empty reason where it does not."""
    try:
        loaded = plan if isinstance(plan, Plan) else load_judged(plan)
        if not isinstance(loaded, Plan):
            return None, _NO_PLAN, "a schedule, where a plan is expected; schedverify convert makes one of it"
        own_digest = digest(plan_data(loaded))
        reason = _unfit(loaded, ranks) or ("" if unverified else unproved(loaded, backend))
        reason = reason or (objection(loaded) if objection else "")
    except Exception as error:  # whatever it is, the other ranks are to know
        return None, _NO_PLAN, error_text(error)
    return loaded, own_digest, reason


def _unfit(plan: Plan, ranks: int) -> str:
    """Return why the runner cannot run a plan, verified or not; empty where it can."""
    problem = plan.problem
    if problem.ranks != ranks:
        text = f"the plan is for {problem.ranks} ranks, the process group has {ranks}"
        return f"{text}; start {problem.ranks} processes, or make a plan for {ranks} ranks"
    if plan.lowered is None:
        return _UNLOWERED
    if any(len(members) > 1 for members in problem.placement):
        return "a stage stands on several ranks, which the runner does not do"
    if problem.slices > 1:
        return "sequences are sliced, which the runner does not do"
    return ""


def unproved(plan: Plan, backend: Backend) -> str:
    """Return why the plan is not proved for a backend; empty where it is."""
    lowered, known = plan.lowered, tuple(Discipline)
    if lowered is None:
        return _UNLOWERED
    demanded = backend.demands(lowered.schedule)
    if known.index(lowered.discipline) < known.index(demanded):
        text = f"the plan is proved for the discipline {lowered.discipline}, {backend.name} demands {demanded}"
        return f"{text}; lower it again with --discipline {demanded}"
    if lowered.eager_bytes and not backend.tagged:
        text = f"the plan counts on eager messages of {lowered.eager_bytes} bytes"
        return f"{text}, {backend.name} has none; lower it again without"
    reason = _objections(verify(plan))
    if reason or (lowered.discipline, lowered.eager_bytes) == (demanded, 0):
        return reason  # the plan's own discipline is the one demanded: it has been judged by that
    return _objections(verify(lowered.schedule, plan.problem, select=("SV1", "SV2", "SV3"), discipline=demanded))


def _objections(report: Report) -> str:
    """Return the violations of a report, and what stays open in it but claims of cost (SV5); empty without."""
    reasons = [line for line in report.unsettled if not line.startswith("SV5")]
    told = [*map(str, report.violations), *reasons][:_MOST_OBJECTIONS]
    rest = report.violation_count + len(reasons) - len(told)
    return "; ".join([*told, f"and {rest} more"] if rest else told)


def _other_plans(digests: tuple[str, ...]) -> list[str]:
    """Return the ranks whose plan is not the most common one (the lowest rank's, where several are as common)."""
    counted = Counter(each for each in digests if each != _NO_PLAN)
    if len(counted) < 2:
        return []
    common = max(counted, key=lambda each: counted[each])
    than = f"than rank {digests.index(common)} (digest {common[:12]})"
    others = [(rank, each) for rank, each in enumerate(digests) if each not in (common, _NO_PLAN)]
    return [f"rank {rank}: it has another plan (digest {each[:12]}) {than}" for rank, each in others]


def _refused(where: str, refusals: list[str]) -> RefusedError:
    """Return the error with refusals ``rank N: text``, equal texts in one line, such as ``ranks 0, 1: text``."""
    parts = (refusal.removeprefix("rank ").partition(": ") for refusal in refusals)
    found = ranks_by_text((rank, text) for rank, _, text in parts)
    lines = [f"rank{'s' if len(ranks) > 1 else ''} {', '.join(ranks)}: {text}" for text, ranks in found.items()]
    return RefusedError("\n".join([f"the plan is not run{where}:", *lines]))
