"""Verdicts by their code: a mapping that cannot be changed."""

from __future__ import annotations

import pytest

from schedverify.core.verdict import Verdict, Verdicts


def test_verdicts_equal_mappings_and_cannot_be_changed() -> None:
    verdicts = Verdicts([("SV201", Verdict.HOLDS), ("SV101", Verdict.VIOLATED)])
    assert verdicts == {"SV101": "violated", "SV201": "holds"}
    assert hash(verdicts) == hash(Verdicts({"SV101": Verdict.VIOLATED, "SV201": Verdict.HOLDS}))
    assert list(verdicts) == ["SV201", "SV101"]
    assert repr(verdicts) == "Verdicts({'SV201': 'holds', 'SV101': 'violated'})"
    with pytest.raises(TypeError, match="does not support item assignment"):
        verdicts["SV101"] = Verdict.HOLDS
