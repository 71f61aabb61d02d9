"""The README and the docs say what is so: code runs, commands print what stands there, made pages are current.

In a ``console`` block a shell runs each ``$`` line, in a folder of its own for each document (with ``specs`` in it).
What follows is compared with what it prints, standard error included; ``...`` stands for anything. The block behind
``<!-- file: NAME -->`` is written to that file first.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

import schedverify
from schedverify.cli import main
from schedverify.verifier.rule_pages import all_pages
from schedverify.verifier.rules import REGISTRY

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = (
    "reference/commands.md",
    "reference/problem-keys.md",
    "reference/model-keys.md",
    "reference/families.md",
    "gallery/gallery.md",
)
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(path for path in sorted(DOCS.rglob("*.md")) if str(path.relative_to(DOCS)) not in MADE),
]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run_console(example: Example) -> None:
    """Run the commands of a console block, one after another, and compare what each prints."""
    code = 0
    for part in re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        script = f"(exit {code}); {command}"
        done = subprocess.run(
            ["bash", "-c", script],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
        )  # fmt: skip
        code = done.returncode
        found = "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()) + "\n"
        wanted = "\n".join(line.rstrip() for line in expected.strip("\n").splitlines()) + "\n"
        if not doctest.OutputChecker().check_output(wanted, found, doctest.ELLIPSIS):
            raise AssertionError(f"{example.path}:{example.line}: $ {command}\nexpected:\n{wanted}\nfound:\n{found}")


def files(document: Document) -> Iterator[Region]:
    """Yield the blocks that stand behind ``<!-- file: NAME -->``: they are written to that file."""
    for match in re.finditer(r"<!-- file: (\S+) -->\n```\w*\n(.*?)```", document.text, re.DOTALL):
        yield Region(match.start(), match.start() + 5, match.groups(), write_file)


def write_file(example: Example) -> None:
    """Write the file of a block, in the folder of its document."""
    name, content = example.parsed
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(content, encoding="utf-8")


EXAMPLES = Sybil(
    parsers=[
        files,
        CodeBlockParser("console", run_console),
        PythonCodeBlockParser(doctest_optionflags=FLAGS),
        SkipParser(),
    ],
    path=str(ROOT),
)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the problems beside it and the command on the path."""
    commands = tmp_path / "bin"
    commands.mkdir()
    installed = any(entry.name == "schedverify" for entry in entry_points(group="pytest11"))
    plugin = "" if installed else " -p schedverify.pytest_plugin"
    called = {"schedverify": "-m schedverify", "torchrun": "-m torch.distributed.run", "python": ""}
    called["pytest"] = f"-m pytest -p no:xdist -p no:cacheprovider{plugin}"
    for name, words in called.items():
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -u {words} "$@"\n')
        command.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    (work / "specs").symlink_to(ROOT / "specs")
    monkeypatch.chdir(work)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    return work


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.usefixtures("desk")
def test_what_a_document_shows_is_so(path: Path) -> None:
    if "import torch" in (text := path.read_text(encoding="utf-8")) or "torch_bridge import" in text:
        pytest.importorskip("torch", reason="torch is not installed")
    for example in EXAMPLES.parse(path).examples():
        example.evaluate()


def test_an_example_that_is_wrong_is_noticed(desk: Path) -> None:
    page = desk / "page.md"
    page.write_text("```console\n$ echo right\nright\n$ (exit 3)\n$ echo $?\n3\n$ echo one\ntwo\n```\n")
    with pytest.raises(AssertionError, match=r"expected:\ntwo\n\nfound:\none"):
        next(iter(EXAMPLES.parse(page).examples())).evaluate()


@pytest.mark.parametrize("name", ["Schedule", "generate", "draw"])
def test_what_a_docstring_shows_is_so(name: str) -> None:
    names = {public: getattr(schedverify, public) for public in schedverify.__all__}
    finder = doctest.DocTestFinder(recurse=False)
    (found,) = finder.find(getattr(schedverify, name), name, module=False, globs=names)
    assert found.examples
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    assert runner.run(found).failed == 0


def test_the_pages_that_are_made_of_the_code_are_current() -> None:
    command = [sys.executable, str(DOCS / "reference" / "make.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment())
    assert done.returncode == 0, done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_the_formal_definitions_are_those_of_the_code() -> None:
    assert (ROOT / "specs" / "properties.md").read_text(encoding="utf-8") == all_pages()


def blocks(marker: str) -> list[str]:
    """Return the commands of the README's block that stands behind an HTML comment."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(rf"<!-- {marker} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    assert len(found) == 1, marker
    return [line for line in found[0].splitlines() if line]


def test_the_readme_has_two_commands_for_a_fresh_machine() -> None:
    (run,) = blocks("install-and-run")
    (test,) = blocks("install-and-test")
    assert run.startswith("python3 -m venv .venv && ")
    assert " optimize specs/problems/" in run
    assert (ROOT / re.search(r"specs/problems/\S+", run)[0]).is_file()
    assert test.startswith("python3 -m venv .venv && ")
    assert test.endswith(".venv/bin/python -m pytest")


def test_the_readme_shows_what_its_first_command_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = blocks("install-and-run")
    words = command.partition(" .venv/bin/schedverify ")[2].replace("specs/", f"{ROOT}/specs/")
    assert main(words.replace("plan.json", str(tmp_path / "plan.json")).split()) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    shown = (ROOT / "README.md").read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    assert [line for line in shown.splitlines() if line not in printed] == []


def test_the_ways_in_are_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    bodies = re.findall(r"```(?:python|console)\n(.*?)```", text, re.DOTALL)
    assert len(bodies) >= 2
    assert all(body.count("\n") < 10 for body in bodies)


def test_the_readme_names_every_code() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"SV\d{3}", text)) == set(REGISTRY)


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if not re.match(r"[a-z]+:", target):
                assert (path.parent / target).exists(), f"{path}: {target}"


def test_constraints_pin_what_the_project_asks_for() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(r for group in project["optional-dependencies"].values() for r in group)]
    names = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in wanted} - {"schedverify"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if line and not line.startswith("#")}
    assert pinned == names
