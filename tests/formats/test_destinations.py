"""Files that will be written: what is wrong with them is said before the work, and nothing of the trial stays."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from schedverify.conversion import convert
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Timeline
from schedverify.drawing import picture_suffix
from schedverify.formats import Destination, check_destinations, form_of_file, plan_size, save
from schedverify.formats.models.model_files import check_model_suffix
from schedverify.generators import generate
from schedverify.planner.plans import plan_of


def refusal(*wanted: Destination, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        check_destinations(*wanted, **options)
    return str(caught.value)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("read.toml").write_text("what is read", encoding="utf-8")
    return tmp_path


class TestWhatIsRead:
    """No input is replaced by an output, whatever name or link leads to it."""

    @pytest.mark.parametrize("name", ["read.toml", "./read.toml", "in/../read.toml", "soft", "hard", "in/far", "soft2"])
    def test_by_every_name(self, desk: Path, name: str) -> None:
        Path("in").mkdir()
        Path("soft").symlink_to("read.toml")
        Path("soft2").symlink_to("soft")
        Path("in/far").symlink_to(desk / "read.toml")
        os.link("read.toml", "hard")
        assert "--output: the file is read by this command" in refusal(
            Destination("--output", name), inputs=(None, "other.txt", "read.toml")
        )
        assert "--output: the file is read" in refusal(Destination("--output", "read.toml"), inputs=[name])
        assert Path("read.toml").read_text(encoding="utf-8") == "what is read"

    def test_by_standard_input(self, desk: Path) -> None:
        code = (
            "from schedverify.formats import Destination as D, check_destinations as check\n"
            "check(D('--output', 'other'), inputs='-')\ncheck(D('--output', 'read.toml'), inputs='-')"
        )
        with Path("read.toml").open(encoding="utf-8") as file:
            ended = subprocess.run(
                [sys.executable, "-c", code], stdin=file, capture_output=True, text=True, check=False
            )
        assert "read.toml: --output: the file is read by this command" in ended.stderr

    def test_what_is_not_there_is_no_input(self, desk: Path) -> None:
        check_destinations(Destination("--output", "new.toml"), inputs=["new.toml", "gpt3-175b"])

    def test_devices_are_read_and_written(self, desk: Path) -> None:
        check_destinations(Destination("-o", os.devnull), Destination("--plan", os.devnull), inputs=[os.devnull])

    def test_a_conversion_in_python_is_refused_too(self, desk: Path) -> None:
        Path("s.txt").write_text("0F0 0B0\n", encoding="utf-8")
        Path("same.txt").symlink_to("s.txt")
        for target in ("s.txt", "same.txt"):
            with pytest.raises(InputError, match=f"^{target}: target: the file is read"):
                convert("s.txt", target)
        assert convert(Schedule.parse("0F0 0B0"), "s.txt") == Schedule.parse("0F0 0B0")


class TestEachForItself:
    @pytest.mark.parametrize("second", ["a.json", "./a.json", "soft.json"])
    def test_two_outputs_are_two_files(self, desk: Path, second: str) -> None:
        Path("soft.json").symlink_to("a.json")
        both = (Destination("--output", "a.json"), Destination("--plan", second))
        assert "--plan: --output writes the same file" in refusal(*both)
        Path("a.json").write_text("{}", encoding="utf-8")
        assert "--plan: --output writes the same file" in refusal(*both)

    def test_standard_output_holds_one_thing(self) -> None:
        assert refusal(Destination("--output", "-"), Destination("--plan", "-")) == (
            "--plan: --output has standard output (name a file)"
        )
        assert "--format json has standard output" in refusal(Destination("--output", "-"), printed="--format json")
        check_destinations(Destination("--output", "-"), Destination("--plan", None), inputs=["-"])

    def test_standard_output_may_be_a_file_too(self, desk: Path) -> None:
        code = (
            "from schedverify.formats import Destination as D, check_destinations as check\n"
            "check(D('--output', 'other'))\ncheck(D('--output', 'out'))"
        )
        with Path("out").open("w", encoding="utf-8") as file:
            ended = subprocess.run(
                [sys.executable, "-c", code], stdout=file, stderr=subprocess.PIPE, text=True, check=False
            )
        assert "out: --output: standard output writes the same file" in ended.stderr

    @pytest.mark.skipif(not Path("/dev/fd").exists(), reason="there are no such names")
    def test_a_pipe_by_the_name_of_its_number(self, desk: Path) -> None:
        """As a shell names the process of ``-o >(gzip > plan.gz)``."""
        reading, writing = os.pipe()
        check_destinations(Destination("--output", f"/dev/fd/{writing}"), inputs=[f"/dev/fd/{reading}"])
        save(Schedule.parse("0F0 0B0"), f"/dev/fd/{writing}", form="text")
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            assert pipe.read() == "0F0 0B0\n"


class TestForms:
    KINDS = (
        (partial(form_of_file, Plan), (".json", ".txt", ".csv", ""), (".toml",)),
        (partial(form_of_file, Timeline), (".json", ".txt", ".csv", ""), (".toml",)),
        (partial(form_of_file, Problem), (".json", ".toml", ""), (".txt", ".csv")),
        (partial(form_of_file, Schedule), (".txt", ".csv", ""), (".json", ".toml")),
        (picture_suffix, (".svg", ".html", ".txt", ".SVG"), (".png", "", ".pdf", ".json")),
        (check_model_suffix, (".json", ".toml", "", ".TOML"), (".csv", ".txt", ".py")),
    )

    @pytest.mark.parametrize(("check", "right", "wrong"), KINDS)
    def test_a_form_that_it_has(self, desk: Path, check: Any, right: Any, wrong: Any) -> None:
        for suffix in right:
            check_destinations(Destination("--output", f"f{suffix}", check))
        for suffix in wrong:
            assert f"f{suffix}: " in refusal(Destination("--output", f"f{suffix}", check))

    def test_what_the_check_lets_by_can_be_saved(self, desk: Path) -> None:
        problem = Problem.chain(ranks=2, microbatches=2)
        schedule = generate("1f1b", problem)
        for value in (problem, schedule, plan_of(schedule, problem)):
            for suffix in (".json", ".toml", ".txt", ".csv", "", ".other"):
                target = f"v{suffix}"
                try:
                    form_of_file(type(value), target)
                except InputError:
                    with pytest.raises(InputError):
                        save(value, target)
                else:
                    save(value, target)


class TestRoom:
    def test_a_folder_that_is_not_there(self, desk: Path) -> None:
        told = refusal(Destination("--output", "absent/plan.json"))
        assert told.startswith(f"absent/plan.json: cannot be written: there is no folder {desk / 'absent'} (make it")
        assert "there is no folder" in refusal(Destination("--output", "read.toml/plan.json"))
        Path("gone").symlink_to("absent/plan.json")
        assert f"there is no folder {desk / 'absent'}" in refusal(Destination("--output", "gone"))

    @pytest.mark.parametrize("name", ["", ".", "in", "in/", "new/"])
    def test_a_folder_is_no_file(self, desk: Path, name: str) -> None:
        Path("in").mkdir()
        assert "cannot be written: it is a folder (name a file in it)" in refusal(Destination("--output", name))

    @pytest.mark.parametrize("name", ["x" * 300, "a\0b", "loop"])
    def test_a_name_that_cannot_be(self, desk: Path, name: str) -> None:
        Path("loop").symlink_to("loop")
        assert "cannot be written: " in refusal(Destination("--output", name))

    def test_every_name_that_can_be_is_written(self, desk: Path) -> None:
        for name in ("x" * 255, "\u20ac" * 85, " ", "--output", "a\nb"):
            check_destinations(Destination("--output", name))
            save(Schedule.parse("0F0 0B0"), name, form="text")
            assert Path(name).read_text(encoding="utf-8") == "0F0 0B0\n"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_what_may_not_be_written(self, desk: Path) -> None:
        Path("mine.json").write_text("{}", encoding="utf-8")
        Path("mine.json").chmod(0o444)
        assert "Permission denied" in refusal(Destination("--output", "mine.json"))
        Path("shut").mkdir(0o555)
        assert "Permission denied" in refusal(Destination("--output", "shut/plan.json"))

    def test_a_file_that_is_there_stays_until_it_is_replaced(self, desk: Path) -> None:
        Path("plan.json").write_text("old", encoding="utf-8")
        check_destinations(Destination("--output", "plan.json", size=100_000))
        assert Path("plan.json").read_text(encoding="utf-8") == "old"
        assert sorted(path.name for path in Path().iterdir()) == ["plan.json", "read.toml"]

    def test_no_room_for_what_will_be_written(self, desk: Path) -> None:
        code = (
            "from schedverify.formats import Destination as D, check_destinations as check\n"
            "check(D('--output', 'small', size=4000))\ncheck(D('--output', 'large', size=40_000))"
        )
        ended = subprocess.run(
            [sys.executable, "-B", "-c", code], capture_output=True, text=True, check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
        )  # fmt: skip
        assert "large: cannot be written: File too large (make room" in ended.stderr
        assert [path.name for path in Path().iterdir()] == ["read.toml"]

    @pytest.mark.parametrize(("ranks", "microbatches", "form"), [(2, 2, "fused"), (8, 64, "split"), (4, 100, "fused")])
    def test_the_size_of_a_plan_is_near_the_truth(self, desk: Path, ranks: int, microbatches: int, form: str) -> None:
        problem = Problem.chain(ranks=ranks, microbatches=microbatches, form=form)
        save(plan_of(generate("1f1b", problem), problem), "plan.json")
        assert 0.5 < plan_size(problem) / Path("plan.json").stat().st_size < 1.6
