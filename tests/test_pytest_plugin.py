"""Schedules collected as tests, in runs of pytest of their own; ``lint``, the hook and the action that use the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schedverify.core.errors import InputError
from schedverify.linting import configured_cases, load_case
from support.case_texts import BAD_TOML, GOOD_TOML, NESTED, PROBLEM, RIGHT, STUCK

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    """Run pytest with the plugin in a process of its own."""
    line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *loaded(), *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def loaded() -> list[str]:
    """Return what loads the plugin where schedverify is on the path but not installed."""
    from importlib.metadata import entry_points

    installed = any(entry.value == "schedverify.pytest_plugin" for entry in entry_points(group="pytest11"))
    return [] if installed else ["-p", "schedverify.pytest_plugin"]


def test_files_are_collected_and_failures_are_readable(desk: Path) -> None:
    (desk / "good.schedule.toml").write_text(GOOD_TOML)
    (desk / "bad.schedule.toml").write_text(BAD_TOML)
    (desk / "mine.csv").write_text("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n")
    (desk / "mine.problem.toml").write_text(PROBLEM)
    (desk / "other.csv").write_text("a,b\n1,2\n")
    (desk / "nothing.schedule.toml").write_text(f'select = ["SV304"]\n{GOOD_TOML}')
    code, text = run("-v")
    assert code == 1
    assert "2 passed, 2 failed" in text or "2 failed, 2 passed" in text
    assert "SV304 not applicable: no send and no receive stands in the schedule (schedverify lower adds them)" in text
    assert "bad.schedule.toml:5: SV201 rank 0 waits at position 1 (0B0) for 1B0" in text
    assert "rank 0     F0 B0 F1 B1" in text
    assert "Traceback" not in text
    assert "other.csv" not in text


def test_entries_of_the_project_file_are_collected(desk: Path) -> None:
    (desk / "tests").mkdir()
    (desk / "tests" / "test_own.py").write_text("def test_own():\n    pass\n")
    (desk / "right.txt").write_text(RIGHT)
    (desk / "stuck.txt").write_text(STUCK)
    (desk / "p.toml").write_text(PROBLEM)
    (desk / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\ntestpaths = ["tests"]\n'
        '[tool.schedverify]\nproblem = "p.toml"\nselect = ["SV1", "SV2"]\n'
        '[[tool.schedverify.schedules]]\nfile = "right.txt"\n[[tool.schedverify.schedules]]\nfile = "stuck.txt"\n'
    )
    code, text = run()
    assert code == 1
    assert "1 failed, 2 passed" in text
    assert "stuck.txt:1: SV201" in text
    code, text = run("tests")
    assert code == 0
    assert "1 passed" in text


def test_a_file_that_is_wrong_is_told_without_a_traceback(desk: Path) -> None:
    (desk / "wrong.schedule.toml").write_text(GOOD_TOML.replace("0F1", "0X1"))
    (desk / "keys.schedule.toml").write_text('schedul = "0F0"\n')
    code, text = run()
    assert code == 1
    assert "line 1, step 2: '0X1' is no operation" in text
    assert "keys.schedule.toml: schedul: unknown key (did you mean 'schedule'?)" in text
    assert "Traceback" not in text


def test_what_a_case_may_not_name_is_refused_and_every_other_judged(desk: Path) -> None:
    (desk / "secret").write_text("TOKEN-ab12")
    project = desk / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[tool.schedverify]\nproblem = "p.toml"\n'
        '[[tool.schedverify.schedules]]\nfile = "/etc/passwd"\n[[tool.schedverify.schedules]]\nfile = "right.txt"\n'
    )
    (project / "p.toml").write_text(PROBLEM)
    (project / "right.txt").write_text(RIGHT)
    (project / "link").symlink_to("../secret")
    os.mkfifo(project / "pipe")
    for name in ("../secret", "link", "pipe", "/dev/zero", "link/x"):
        (project / f"{name.replace('/', '_')}.schedule.toml").write_text(f'file = "{name}"\n{NESTED}')
    (project / "itself.schedule.toml").symlink_to("../secret")
    code, text = run(str(project))
    assert code == 1
    assert "7 failed, 1 passed" in text
    assert "tool.schedverify.schedules[0].file: /etc/passwd: it leads out of" in text
    assert "link.schedule.toml: file: " in text
    assert not any(word in text for word in ("TOKEN", "root:", "Traceback"))


EVIL = [
    "e\x1b[31m",
    "n\n::error::pwned",
    "r\r::error::pwned",
    "::error::pwned",
    "b\u202e",
    "c\x9b",
    "\udcff",
    "l\u2028::error::w",
]


@pytest.mark.parametrize("options", [[], ["-v"], ["-vv", "-rA"]], ids=str)
def test_names_of_files_and_entries_steer_no_terminal(desk: Path, options: list[str]) -> None:
    (desk / "d\x1b[31m\n::error::pwned").mkdir()
    for name in [*EVIL, "d\x1b[31m\n::error::pwned/x"]:
        (desk / f"{name}.schedule.toml").write_text(BAD_TOML)
    (desk / "pyproject.toml").write_text('[[tool.schedverify.schedules]]\nfile = "a\\u001b[31m\\n::error::pwned"\n')
    code, text = run(*options)
    assert code == 1
    assert f"{len(EVIL) + 2} failed" in text
    assert not set(text) & set("\x1b\r\u202e\x9b\u2028")
    assert not [line for line in text.splitlines() if line.startswith("::")]


def test_it_is_light_to_load() -> None:
    code = "import sys, schedverify.pytest_plugin; print('numpy' in sys.modules, 'networkx' in sys.modules)"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"]


class TestCases:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "a.schedule.toml: empty"),
            ("schedule = 3\n" + NESTED, "schedule: expected text, found 3"),
            (f'schedule = """{RIGHT}"""\n', "problem: missing"),
            (f'schedule = """{RIGHT}"""\nproblem = "absent.toml"\n', "absent.toml: no such file"),
            (f'schedule = """{RIGHT}"""\nselect = "SV1"\n' + NESTED, "select: expected a list of codes"),
            (f'schedule = """{RIGHT}"""\n' + NESTED.replace("ranks", "rank"), "problem.rank: unknown key"),
            (f'file = "absent.txt"\n{NESTED}', "absent.txt: no such file"),
        ],
    )
    def test_what_is_wrong_is_told(self, desk: Path, text: str, told: str) -> None:
        (desk / "a.schedule.toml").write_text(text)
        with pytest.raises(InputError) as caught:
            load_case(Path("a.schedule.toml")).report()
        assert told in str(caught.value)

    def test_a_schedule_without_its_problem_is_told(self, desk: Path) -> None:
        (desk / "a.txt").write_text(RIGHT)
        with pytest.raises(InputError, match=r"a\.txt: nothing says which problem"):
            load_case(Path("a.txt"))

    def test_options_of_an_entry_go_before_those_of_all(self, desk: Path) -> None:
        (desk / "s.txt").write_text(RIGHT)
        (desk / "p.toml").write_text(PROBLEM)
        (desk / "pyproject.toml").write_text(
            '[tool.schedverify]\nselect = ["SV1"]\ndiscipline = "rank"\n'
            '[[tool.schedverify.schedules]]\nfile = "s.txt"\nproblem = "p.toml"\nselect = ["SV2"]\n'
        )
        ((name, load),) = configured_cases(Path("pyproject.toml"))
        assert name == "s.txt"
        assert load().options == {"select": ["SV2"], "discipline": "rank"}


def steps_of_action() -> list[dict[str, Any]]:
    return list(yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"])


def test_hook_and_action_call_what_there_is() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert (hook["entry"], hook["args"]) == ("schedverify lint", ["--"])
    install, judge = steps_of_action()
    assert 'pip install --quiet -- "$CHECKOUT"' in install["run"]
    assert install["env"] == {"CHECKOUT": "${{ github.action_path }}"}
    assert judge["env"] == {"FILES": "${{ inputs.files }}"}
    assert 'schedverify lint --format github -- "${files[@]}"' in judge["run"]
    for step in (install, judge):
        assert "${{" not in step["run"]
        subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True, timeout=20)


@pytest.fixture
def runner(desk: Path) -> Callable[..., tuple[int, str]]:
    """Return what runs the script of the action in a folder as a runner of GitHub does, on a pattern of files."""
    (desk / "bin").mkdir()
    command = desk / "bin" / "schedverify"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m schedverify "$@"\n')
    command.chmod(0o755)
    (desk / "work").mkdir()
    script = steps_of_action()[1]["run"]

    def act(files: str) -> tuple[int, str]:
        given = os.environ | {"FILES": files, "PATH": f"{desk / 'bin'}:{os.environ['PATH']}"}
        line = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        done = subprocess.run(line, env=given, capture_output=True, timeout=120, check=False, cwd=desk / "work")
        return done.returncode, (done.stdout + done.stderr).decode()

    return act


def test_the_script_of_the_action_annotates(desk: Path, runner: Callable[..., tuple[int, str]]) -> None:
    (desk / "work" / "sub").mkdir()
    (desk / "work" / "sub" / "bad.schedule.toml").write_text(BAD_TOML)
    code, text = runner("**/*.schedule.toml")
    assert code == 1
    assert "::error file=sub/bad.schedule.toml,line=5,title=SV201::" in text
    assert runner("*.csv nothing/*.schedule.toml") == (2, "no file matches \\*.csv\\ nothing/\\*.schedule.toml\n")


@pytest.mark.parametrize(
    "files",
    ["$(touch pwned)", "`touch pwned`", "; touch pwned", "x; touch pwned #", "\"; touch pwned; \"", "'; touch pwned; '",
     "x\ntouch pwned", "&& touch pwned", "| touch pwned", "${FILES:=$(touch pwned)}", "$((x[$(touch pwned)]))",
     "a) ; touch pwned; (",
     "x\n::error::pwned", "::error::pwned*", "--help", "~root/*", "<(touch pwned)", "[$(touch pwned)]*"],
)  # fmt: skip
def test_the_input_of_the_action_is_no_code(desk: Path, runner: Callable[..., tuple[int, str]], files: str) -> None:
    code, text = runner(files)
    assert code == 2
    assert list((desk / "work").iterdir()) == []
    assert not any(line.startswith("::error::pwned") for line in text.splitlines())


def test_names_of_files_are_neither_code_nor_options_nor_commands(
    desk: Path, runner: Callable[..., tuple[int, str]]
) -> None:
    names = ["$(touch pwned)", "a b", "; touch pwned", "--help", "-x", "*"]
    names += ["::error::pwned", "n\n::error::pwned", "%0A::error::pwned"]
    for name in names:
        (desk / "work" / f"{name}.schedule.toml").write_text(BAD_TOML)
    code, text = runner("*.schedule.toml")
    assert code == 1
    assert not (desk / "work" / "pwned").exists()
    lines = text.splitlines()
    assert len(lines) == len(names)
    assert all(line.startswith("::error file=") and ",line=5,title=SV201::rank 0 waits" in line for line in lines)
    assert sum("%250A" in line for line in lines) == 1
