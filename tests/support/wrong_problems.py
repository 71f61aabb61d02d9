"""A small problem's data, with changes, and what is wrong with them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem

BASE: dict[str, Any] = {"ranks": 4, "microbatches": 8, "costs": {"forward": 1, "backward": 2}}


def made(**changes: Any) -> Problem:
    """Make a problem of BASE, with tables merged."""
    data = copy.deepcopy(BASE)
    for name, value in changes.items():
        data[name] = data[name] | value if name == "costs" and isinstance(value, dict) else value
    return Problem.of(data)


def faults(data: Any) -> dict[str, Fault]:
    with pytest.raises(InputError) as caught:
        Problem.of(data)
    return {fault.key: fault for fault in caught.value.faults}


def told(**changes: Any) -> dict[str, Fault]:
    with pytest.raises(InputError) as caught:
        made(**changes)
    return {fault.key: fault for fault in caught.value.faults}
