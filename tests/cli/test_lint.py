"""The command ``lint``: schedules in files, each judged with what it is for; the worst verdict is the exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from schedverify.cli import main
from support.case_texts import BAD_TOML, GOOD_TOML


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_lint_judges_many_and_annotates_lines(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "good.schedule.toml").write_text(GOOD_TOML)
    (desk / "bad.schedule.toml").write_text(BAD_TOML)
    assert main(["lint", "good.schedule.toml"]) == 0
    assert main(["lint", "good.schedule.toml", "bad.schedule.toml"]) == 1
    assert "bad.schedule.toml: violated" in capsys.readouterr().out
    assert main(["lint", "bad.schedule.toml", "--format", "github"]) == 1
    assert capsys.readouterr().out.startswith("::error file=bad.schedule.toml,line=5,title=SV201::rank 0 waits")
    assert main(["lint", "absent.schedule.toml"]) == 2


def selecting(select: str) -> str:
    return f"select = [{select}]\n{GOOD_TOML}"


def test_what_nothing_applies_to_does_not_pass(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "good.schedule.toml").write_text(GOOD_TOML)
    (desk / "bad.schedule.toml").write_text(BAD_TOML)
    (desk / "nothing.schedule.toml").write_text(selecting('"SV304"'))
    (desk / "none.schedule.toml").write_text(selecting(""))
    good, bad, nothing, none = (f"{name}.schedule.toml" for name in ("good", "bad", "nothing", "none"))
    assert main(["lint", nothing]) == 3
    assert capsys.readouterr().out == (
        "nothing.schedule.toml: not applicable: SV304\n"
        "  SV304: no send and no receive stands in the schedule (schedverify lower adds them)\n"
    )
    assert main(["lint", none, "--format", "github"]) == 3
    assert capsys.readouterr().out == "::warning file=none.schedule.toml,title=schedverify::no property was selected\n"
    assert main(["lint", good, nothing, good]) == 3
    assert main(["lint", nothing, bad, good]) == 1
    assert main(["lint", bad, nothing]) == 1


def test_what_is_wrong_is_shown_with_its_place_and_every_property_on_request(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (desk / "bad.schedule.toml").write_text(BAD_TOML)
    assert main(["lint", "bad.schedule.toml"]) == 1
    short = capsys.readouterr().out.splitlines()
    assert short[0].startswith("bad.schedule.toml: violated: SV")
    assert any(set(line) == {" ", "^"} or "^ waits for" in line for line in short)
    assert main(["lint", "bad.schedule.toml", "-v"]) == 1
    long = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in long[: len(short)]] == [line.rstrip() for line in short]
    assert any(line.startswith("  SV101  well-formed steps") for line in long[len(short) :])
