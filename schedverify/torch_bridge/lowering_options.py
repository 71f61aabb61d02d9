"""What can be asked of torch's own lowering: a class is asked what it takes, not torch for its version."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final, TypedDict

from schedverify.core.errors import Fault, InputError
from schedverify.torch_bridge.versions import unsupported

_KEYWORDS: Final = {
    "defer_receives": "defer_pp_recv", "max_active_stages": "max_active_stages",
    "unshard_lookahead": "unshard_lookahead", "defer_reductions": "defer_reduce_grad_wait",
    "max_outstanding_sends": "max_outstanding_sends",
}  # fmt: skip
"""By our names, the keywords of torch's schedule classes."""
_DEFAULTS: Final = {
    "defer_receives": False, "max_active_stages": 3, "unshard_lookahead": "full", "defer_reductions": False,
    "max_outstanding_sends": None,
}  # fmt: skip
"""What torch does where nothing is asked, in versions that do not have the option as in those that have it."""


class LoweringOptions(TypedDict, total=False):
    """Options of torch's lowering; one left out is as torch has it.

    Attributes
    ----------
    defer_receives
        Whether receives are moved next to the steps that read them (``defer_pp_recv``).
    max_outstanding_sends
        Sends begun and not yet waited for on a rank, at most; None for no limit. Since torch 2.15.
    max_active_stages
        Stages of a rank whose sharded parameters are gathered at once, at most; 3 in torch. Since torch 2.15.
    unshard_lookahead
        Stages ahead for which gathering may be begun: ``full``, ``auto`` or a number for each rank. Since torch 2.15.
    defer_reductions
        Whether a reduction is waited for only before the next one (``defer_reduce_grad_wait``). Since torch 2.15.
    """

    defer_receives: bool
    max_outstanding_sends: int | None
    max_active_stages: int
    unshard_lookahead: str | tuple[int, ...]
    defer_reductions: bool


def keywords_for(kind: Any, options: LoweringOptions) -> dict[str, Any]:
    """Return the keywords of a schedule class of torch for some options; those that ask for nothing may be missing.

    Raises
    ------
    InputError
        If there is no such option.
    UnsupportedError
        If the class does not take one, as in earlier versions of torch.
    """
    unknown = [name for name in options if name not in _KEYWORDS]
    if unknown:
        hint = f"one of {', '.join(_KEYWORDS)}"
        raise InputError(Fault(name, "torch's lowering has no such option", hint) for name in unknown)
    taken = _taken(kind)
    given = {_KEYWORDS[name]: value for name, value in options.items() if _KEYWORDS[name] in taken}
    for name, value in options.items():
        if _KEYWORDS[name] not in given and value != _DEFAULTS[name]:
            hint = "leave it out" if name == "defer_receives" else "leave it out, or take torch 2.15 or a later one"
            raise unsupported(f"has no {_KEYWORDS[name]} for {kind.__name__}", key=name, hint=hint)
    return given


def refuse_keywords(keywords: Mapping[str, Any]) -> None:
    """Refuse keywords of torch's lowering where torch is given an order that is lowered: it would ignore or change it.

    Raises
    ------
    InputError
        If there are any.
    """
    message = "it is of PyTorch's own lowering, and a plan is loaded as it was proved"
    hint = "leave it out; limits.outstanding_sends and the like of the problem are for schedverify's lowering"
    faults = [Fault(keyword, message, hint) for keyword in keywords if keyword in _KEYWORDS.values()]
    if faults:
        raise InputError(faults)


def _taken(kind: Any) -> set[str]:
    """Return the keywords of torch's lowering that a class takes.

    The runtime's own constructor names none of its keywords, but takes those that its subclasses hand it.
    """
    own = set(inspect.signature(kind).parameters)
    if "kwargs" in own:
        own = {name for each in kind.__subclasses__() for name in inspect.signature(each).parameters}
    return own.intersection(_KEYWORDS.values())
