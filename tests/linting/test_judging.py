"""``lint`` judges every file, names file and key of what is wrong with one, and reads nothing that it should not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from schedverify.cli import main
from schedverify.core.errors import InputError
from schedverify.linting import configured_cases, lint, load_case
from schedverify.linting.cases import lines_within
from support.case_texts import GOOD_TOML, NESTED, PROBLEM, RIGHT, STUCK

ROOT = Path(__file__).parents[2]
BAD = f'schedule = """\n{STUCK}"""\n{NESTED}'
SECRET = "TOKEN-ab12 0F0 x"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a repository that has a secret beside it."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret.toml").write_text(f'{SECRET} = "{SECRET}"')
    (tmp_path / "secret.json").write_text(f'{{"{SECRET}": 1}}')
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    (tmp_path / "repository" / ".git" / "config").write_text(SECRET)
    monkeypatch.chdir(tmp_path / "repository")
    (tmp_path / "repository" / "s.txt").write_text(RIGHT)
    (tmp_path / "repository" / "p.toml").write_text(PROBLEM)
    return tmp_path / "repository"


def refusals(*names: str) -> list[str]:
    found = list(lint(names))
    assert all((each.error is None) == (each.report is not None) for each in found)
    return [str(each.error or "") for each in found]


OUTSIDE = ["/etc/passwd", "../secret", "../secret.toml", "../secret.json", ".git/config", "link", "link.toml", "pipe"]
OUTSIDE += ["/dev/zero", "/dev/stdin", "/proc/self/environ", "../", "./-", "absent"]


@pytest.mark.parametrize("key", ["file", "problem"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_what_a_case_may_not_name_is_refused_by_file_and_key(
    desk: Path, capsys: pytest.CaptureFixture[str], name: str, key: str
) -> None:
    (desk / "link").symlink_to("../secret")
    (desk / "link.toml").symlink_to("../secret.toml")
    os.mkfifo(desk / "pipe")
    text = f'file = "{name}"\n{NESTED}' if key == "file" else f'problem = "{name}"\nschedule = """{RIGHT}"""\n'
    (desk / "a.schedule.toml").write_text(text)
    named = name.rstrip("/")
    assert main(["lint", "a.schedule.toml"]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"schedverify: a.schedule.toml: {key}: {named}: ")
    assert main(["lint", "a.schedule.toml", "--format", "github"]) == 2
    noted = capsys.readouterr()
    assert noted.out.startswith(f"::error file=a.schedule.toml,title=schedverify::{key}: {named}: ")
    assert not any("TOKEN" in each or "root:" in each for each in (*told, *noted))


@pytest.mark.parametrize("name", ["a.schedule.toml", "a.csv", "a.problem.toml", "a.json"])
@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "/dev/zero", ".git/config", "pipe"])
def test_a_case_that_is_itself_a_link_out_is_refused(
    desk: Path, capsys: pytest.CaptureFixture[str], name: str, target: str
) -> None:
    os.mkfifo(desk / "pipe")
    if name == "a.problem.toml":
        (desk / "a.csv").write_text("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n")
    if name == "a.csv":
        (desk / "a.problem.toml").write_text(PROBLEM)
    (desk / name).symlink_to(target)
    file = name.replace(".problem.toml", ".csv")
    assert main(["lint", file]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"schedverify: {name if (desk / target).is_file() else file}: ")
    assert not any("TOKEN" in each or "root:" in each for each in told)


def test_what_stands_elsewhere_in_the_repository_is_named(desk: Path) -> None:
    (desk / "deep" / "er").mkdir(parents=True)
    (desk / "deep" / "er" / "a.schedule.toml").write_text('file = "../../s.txt"\nproblem = "../../p.toml"\n')
    assert refusals("deep/er/a.schedule.toml") == [""]


def test_the_project_file_of_a_stranger_names_nothing_outside(desk: Path) -> None:
    entries = ["../secret", "s.txt", "/etc/passwd", "absent"]
    tables = "".join(f'[[tool.schedverify.schedules]]\nfile = "{name}"\n' for name in entries)
    (desk / "pyproject.toml").write_text(f'[tool.schedverify]\nproblem = "p.toml"\n{tables}')
    told = []
    for _, load in configured_cases(Path("pyproject.toml")):
        try:
            told.append(load().report().verdict.value)
        except InputError as error:
            told.append(str(error))
    assert told[1] == "holds"
    for number in (0, 2):
        assert told[number].startswith(
            f"pyproject.toml: tool.schedverify.schedules[{number}].file: {entries[number]}: "
        )
    assert "absent: no such file" in told[3]


# Every file is judged


def test_an_unreadable_file_hides_no_violation(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "bad.schedule.toml").write_text(BAD)
    (desk / "good.schedule.toml").write_text(GOOD_TOML)
    (desk / "wrong.schedule.toml").write_text("schedul = 3\nignor = 4\n")
    (desk / "deep.schedule.toml").write_text("a = " + "[" * 100_000)
    for names in (["wrong", "bad", "good"], ["bad", "deep", "wrong", "good"], ["wrong", "absent", "bad"]):
        files = [f"{name}.schedule.toml" for name in names]
        assert main(["lint", *files]) == 2
        told = capsys.readouterr()
        assert "bad.schedule.toml: violated" in told.out
        assert "SV201" in told.out
        for name in set(names) - {"bad", "good"}:
            assert f"schedverify: {name}.schedule.toml: " in told.err
        assert main(["lint", *files, "--format", "github"]) == 2
        noted = capsys.readouterr().out
        assert "::error file=bad.schedule.toml,line=2,title=SV201::" in noted
        assert all(f"file={name}.schedule.toml," in noted for name in set(names) - {"good"})
    assert "schedul: unknown key" in told.err
    assert "ignor: unknown key" in told.err


def test_files_are_judged_as_they_are_asked_for(desk: Path) -> None:
    (desk / "good.schedule.toml").write_text(GOOD_TOML)
    found = lint(iter(["good.schedule.toml", "absent.schedule.toml"]))
    assert next(found).report is not None
    (desk / "absent.schedule.toml").write_text(GOOD_TOML)
    assert next(found).error is None


WRONG: dict[str, tuple[str, str]] = {
    "discipline": ('discipline = "pear"\n' + GOOD_TOML, "discipline: unknown discipline 'pear' (did you mean 'pair'?)"),
    "profile": ('profile = "torsh"\n' + GOOD_TOML, "profile: unknown profile 'torsh' (did you mean 'torch'?)"),
    "select": ('select = ["SV1", "SV999"]\n' + GOOD_TOML, "select: unknown property 'SV999' (known: SV101, "),
    "ignore": ('ignore = ["XY"]\n' + GOOD_TOML, "ignore: unknown property 'XY' (known: SV101"),
    "an empty code": ('select = [""]\n' + GOOD_TOML, "select: unknown property ''"),
    "eager bytes": ("eager_bytes = -1\n" + GOOD_TOML, "eager_bytes: expected a whole number of bytes, found -1"),
    "a type": ('excerpt = "yes"\n' + GOOD_TOML, "excerpt: expected true or false, found 'yes'"),
    "two at once": ('discipline = "x"\nprofile = "y"\n' + GOOD_TOML, "a.schedule.toml: profile: unknown profile 'y'"),
    "a row too many": (
        GOOD_TOML.replace("1F0 1B0", "-\n1F0 1B0"),
        "schedule, row 3: the schedule has 3 rows, the problem 2",
    ),
    "a row too few": (
        GOOD_TOML.replace("1F0 1B0 1F1 1B1\n", ""),
        "schedule, row 2: the schedule has 1 rows, the problem 2",
    ),
    "a step": (GOOD_TOML.replace("0F1", "0X1"), "schedule, line 1, step 2: '0X1' is no operation"),
    "no step": (f'schedule = "# nothing"\n{NESTED}', "schedule: no rank in it"),
    "the problem's key": (GOOD_TOML.replace("ranks", "rank"), "problem.rank: unknown key (did you mean 'ranks'?)"),
    "the problem's type": (
        f'problem = 3\nschedule = """{RIGHT}"""\n',
        "problem: expected a problem, an object of keys",
    ),
    "no problem": (f'schedule = """{RIGHT}"""\n', "problem: missing"),
    "no schedule": (NESTED, "schedule: expected text, found ''"),
    "no TOML": ("schedule = = 3\n", "line 1, column 12: no TOML"),
    "a file of another shape": (f'file = "one.txt"\n{NESTED}', "one.txt: row 2: the schedule has 1 rows"),
    "a CSV of another shape": ('file = "one.csv"\n', "file, row 2: the schedule has 1 rows"),
    "a problem as schedule": (
        f'file = "p.toml"\n{NESTED}',
        "p.toml: a problem, where a schedule or a plan is expected",
    ),
    "a wrong problem file": (f'problem = "s.txt"\nschedule = """{RIGHT}"""\n', "s.txt: a schedule, where a problem is"),
    "a plan of another problem": (f'file = "plan.json"\n{NESTED}', "problem: the plan is of another problem"),
}


@pytest.mark.parametrize("case", WRONG)
def test_file_and_key_are_named(desk: Path, case: str) -> None:
    from schedverify import Problem, generate, plan_of, save

    (desk / "one.txt").write_text("0F0 0F1 0B0 0B1\n")
    (desk / "one.csv").write_text("0F0,0F1,0B0,0B1\n")
    (desk / "one.problem.toml").write_text(PROBLEM)
    other = Problem.chain(ranks=2, microbatches=3)
    save(plan_of(generate("1f1b", other), other), desk / "plan.json")
    text, told = WRONG[case]
    (desk / "a.schedule.toml").write_text(text)
    ((refusal),) = refusals("a.schedule.toml")
    assert told in refusal
    named = [line.partition(": ")[0] for line in refusal.splitlines()]
    assert set(named) <= {"a.schedule.toml", "one.txt", "p.toml", "s.txt"}


# Lines of annotations

BEFORE: dict[str, str] = {
    "nothing": "",
    "a byte order mark": "\ufeff",
    "a comment": "# one\n",
    "a form feed": "# \f\n",
    "a vertical tab": "# \v\n",
    "line separators": "# \u2028 \u2029 \x85 \x1c \x1d \x1e\n",
    "empty lines": "\n\n\n",
    "the order in a comment": "# 0F0 0B0 0F1 0B1\n",
}
ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}


def line_of(text: str, row: str) -> int:
    """Return the line that a row begins, by the ends of lines that files have: LF, CR and CRLF."""
    before = text[: text.index("\n" + row) + 1] if not text.startswith(row) else ""
    return before.count("\n") + 1


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("before", BEFORE)
def test_violations_stand_at_the_lines_of_their_ranks(
    desk: Path, capsys: pytest.CaptureFixture[str], before: str, end: str
) -> None:
    order = f"{BEFORE[before]}{STUCK.replace('1F0', '# between' + chr(10) + '1F0')}"
    lines = [line_of(order.lstrip("\ufeff"), row) for row in ("0F0 0B0", "1F0 1F1")]
    (desk / "a.txt").write_bytes(order.replace("\n", ENDS[end]).encode())
    (desk / "b.schedule.toml").write_text('file = "a.txt"\nproblem = "p.toml"\n')
    report = next(lint(["b.schedule.toml"]))
    assert report.case is not None
    assert list(report.case.lines) == lines
    assert main(["verify", "a.txt", "-p", "p.toml", "--format", "github"]) == 1
    assert capsys.readouterr().out.startswith(f"::error file=a.txt,line={lines[0]},title=SV201::")


@pytest.mark.parametrize("end", ["LF", "CRLF"])
@pytest.mark.parametrize("before", ["nothing", "a byte order mark", "a comment", "line separators", "empty lines"])
@pytest.mark.parametrize("quotes", ['"""', "'''"])
def test_lines_of_an_order_within_toml(desk: Path, before: str, end: str, quotes: str) -> None:
    about = f"about = {quotes}\nschedule = \n{STUCK}{quotes}\n"
    text = f"{BEFORE[before]}{about}schedule = {quotes}\n# 0F0\n{STUCK}{quotes}\n{NESTED}".replace("\v", "")
    text = "".join(
        letter for letter in text if letter == "\n" or letter.isprintable() or letter in "\ufeff\u2028\u2029\x85"
    )
    (desk / "b.schedule.toml").write_bytes(text.replace("\n", ENDS[end]).encode())
    (found,) = lint(["b.schedule.toml"])
    assert found.error is None
    assert found.case is not None
    first = text[: text.rindex("0F0 0B0")].count("\n") + 1
    assert list(found.case.lines) == [first, first + 1]


def test_an_order_that_does_not_stand_there_as_it_is_has_no_lines() -> None:
    assert lines_within('schedule = "0F0\\n1F0"\n', "0F0\n1F0") == ()
    assert lines_within('about = "0F0"\nschedule = "0F0"\n', "0F0") == (2,)
    assert lines_within("'schedule' = '0F0'\n", "0F0") == (1,)
    assert lines_within("schedules = '0F0'\n", "0F0") == ()


def test_rows_of_a_csv_have_lines(desk: Path) -> None:
    for end in ENDS.values():
        (desk / "a.csv").write_bytes(f"\ufeff0F0,0B0,0F1,0B1{end}1F0,1F1,1B0,1B1{end}".encode())
        (desk / "a.problem.toml").write_text(PROBLEM)
        assert load_case(Path("a.csv")).lines == (1, 2)


@pytest.mark.parametrize("where", ["schedule", "problem"])
def test_github_reads_a_pipe_once(desk: Path, where: str) -> None:
    os.mkfifo(desk / "pipe.txt")
    os.mkfifo(desk / "pipe.toml")
    (desk / "s.txt").write_text(STUCK)
    pipe, text = ("pipe.txt", STUCK) if where == "schedule" else ("pipe.toml", PROBLEM)
    threading.Thread(target=lambda: (desk / pipe).write_text(text), daemon=True).start()
    files = ["pipe.txt", "-p", "p.toml"] if where == "schedule" else ["s.txt", "-p", "pipe.toml"]
    line = [sys.executable, "-m", "schedverify", "verify", *files, "--format", "github"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, capture_output=True, text=True, timeout=90, check=False, env=environment)
    assert done.returncode == 1
    assert f"::error file={files[0]},line=1,title=SV201::" in done.stdout
