"""The demonstration trains, and what it says of itself is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from schedverify import load, verify
from schedverify.core.result import Plan

ROOT = Path(__file__).parents[1]
PLANS = ("1f1b", "zb-h1", "optimized")


@pytest.mark.slow
def test_a_small_gpt_trains_alike_with_three_plans(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "gpt" / "train.py"), "--steps", "3", "--pause", "0.5"]
    command += ["--seconds", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    curves = [list(map(float, line.split()[1:])) for line in done.stdout.splitlines() if re.match(r" +[0-9] ", line)]
    assert len(curves) == 3
    for losses in curves:
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    assert curves[-1][0] < curves[0][0]
    for name in PLANS:
        assert re.search(
            rf"^{name} +[0-9.]+ +[0-9.]+ +[0-9.]+ +0\.[0-9]+ +[1-4]( [1-4]){{3}}$", done.stdout, re.MULTILINE
        )
        plan = load(tmp_path / f"{name}.plan.json")
        assert isinstance(plan, Plan)
        assert plan.schedule is not None
        assert plan.problem.tick == "us"
        assert len(set(plan.problem.forward)) > 1, "costs were measured"
        verify(plan.schedule, plan.problem).raise_for_violations()
    assert (tmp_path / "what-ran.svg").read_text(encoding="utf-8").startswith("<svg")
    assert "every run followed its plan" in done.stdout
