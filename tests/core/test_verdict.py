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


@pytest.mark.parametrize(
    ("found", "whole", "files"),
    [
        ("", "not applicable", "not applicable"),
        ("n", "not applicable", "not applicable"),
        ("hn", "holds", "not applicable"),
        ("h", "holds", "holds"),
        ("nhu", "undecided", "undecided"),
        ("nuvh", "violated", "violated"),
    ],
)
def test_one_verdict_of_many(found: str, whole: str, files: str) -> None:
    verdicts = [verdict for verdict in Verdict if verdict[0] in found]
    assert Verdict.of_properties(verdicts) == whole
    assert Verdict.of_files(verdicts) == files
