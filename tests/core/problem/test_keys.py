"""The table of keys: what it says of each key, and where an unknown one belongs."""

from __future__ import annotations

from typing import Any

import pytest

from schedverify.core.errors import Fault
from schedverify.core.problem.keys import KEYS, names
from support.wrong_problems import BASE, faults


@pytest.mark.parametrize(
    ("data", "key", "hint"),
    [
        ({"latency": 1}, "latency", "it belongs in [links]"),
        ({"shape": [1]}, "shape", "it belongs in [[boundary]]"),
        ({"costs": BASE["costs"] | {"virtual": 2}}, "costs.virtual", "it belongs at the top, before every table"),
        ({"limits": {"capacity": 1}}, "limits.capacity", "it belongs in [memory]"),
        ({"rank": 4}, "rank", "did you mean 'ranks'?"),
        ({"link": {}}, "link", "did you mean 'links'?"),
        ({"links": {"latence": 1}}, "links.latence", "did you mean 'latency'?"),
        ({"objective": {"xyz": 1}}, "objective.xyz", "[objective] takes minimize, then"),
    ],
)
def test_an_unknown_key_is_told_with_where_it_belongs(data: dict[str, Any], key: str, hint: str) -> None:
    assert faults(BASE | data)[key] == Fault(key, "unknown key", hint)


def test_every_key_in_a_wrong_table_is_sent_home() -> None:
    for key in KEYS:
        for table in ("costs", "links", "memory", "limits", "objective"):
            if key.name not in names(table):
                hint = faults(BASE | {table: dict.fromkeys([key.name], 1)})[f"{table}.{key.name}"].hint
                assert (f"[{key.table}]" if key.table else "at the top") in hint or key.table == "boundary"
