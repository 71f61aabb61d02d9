"""The gallery is current, its optimal plans are what they claim, and its check notices what is not."""

from __future__ import annotations

import re
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

from schedverify.core.schedule import Schedule
from schedverify.generators import families, generate
from schedverify.simulator.engine import simulate
from schedverify.verifier.verification import verify
from support.scripts import module_at

FOLDER = Path(__file__).parents[1] / "docs" / "gallery"


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module_at(FOLDER / "make.py", "gallery_make", monkeypatch)


def test_it_is_current(make: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert make.main(["--check"]) == 0, capsys.readouterr().err


def test_what_is_not_current_is_named_and_then_written(
    make: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make, "HERE", tmp_path)
    (tmp_path / "of-old.svg").write_text("<svg/>")
    assert make.main(["--check"]) == 1
    errors = capsys.readouterr().err
    assert "gpipe.svg is not current" in errors
    assert "of-old.svg is not current" in errors
    assert make.main([]) == 0
    assert make.main(["--check"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.glob("*.svg")} | {"gallery.md"}


def test_the_optimal_plans_keep_their_limits_and_their_word(make: ModuleType) -> None:
    best = tomllib.loads((FOLDER / "optimal.toml").read_text(encoding="utf-8"))
    for duel in make.DUELS:
        schedule = Schedule.parse(best[duel.name]["schedule"])
        assert verify(schedule, duel.limited).ok
        makespan = simulate(schedule, duel.limited).makespan
        assert makespan == best[duel.name]["makespan"]
        assert makespan < simulate(generate(duel.family, duel.problem), duel.problem).makespan


def test_every_family_is_shown_and_nothing_is_shorter_than_the_optimum(make: ModuleType) -> None:
    best = tomllib.loads((FOLDER / "optimal.toml").read_text(encoding="utf-8"))
    page = (FOLDER / "gallery.md").read_text(encoding="utf-8")
    for family in families():
        assert f"![{family.name} as a timeline]({family.name}.svg)" in page
        problem = make.shown_problem(family)
        assert simulate(generate(family.name, problem), problem).makespan >= best["families"][family.name]


def test_every_picture_of_the_page_is_there_and_is_an_svg() -> None:
    page = (FOLDER / "gallery.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page)
    assert len(pictures) == len(list(FOLDER.glob("*.svg")))
    for name in pictures:
        assert ET.fromstring((FOLDER / name).read_text(encoding="utf-8")).tag.endswith("svg")
