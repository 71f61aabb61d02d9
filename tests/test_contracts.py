"""The import contracts bite: what they forbid is planted in a copy of the package, and each is seen to refuse it."""

from __future__ import annotations

import ast
import io
import re
import shutil
import subprocess
import sys
import tokenize
from collections import defaultdict
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "schedverify"

# What is planted: a file, the import that is added to it, and the contract that must refuse it.
PLANTED = {
    "optimizer -> verifier": ("optimizer/tasks.py", "import schedverify.verifier.verification", "what makes schedules"),
    "lowering -> verifier": ("lowering/insertion.py", "import schedverify.verifier.graph", "what makes schedules"),
    "verifier -> generators": ("verifier/verification.py", "import schedverify.generators", "what judges schedules"),
    "core -> networkx": ("core/schedule.py", "import networkx", "Values are data"),
    "planner -> the solver": ("planner/plans.py", "import ortools", "call the solver"),
    "simulator -> formats": ("simulator/metrics.py", "import schedverify.formats", "imports go down only"),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    shutil.copytree(PACKAGE, folder / "schedverify", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def linted(folder: Path) -> str:
    """Return what import-linter says of the package in a folder, which it imports from there."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, ''); {code}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


def test_the_package_keeps_all_contracts(copy: Path) -> None:
    assert " 0 broken." in linted(copy)


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_refused(copy: Path, planted: str) -> None:
    name, line, contract = PLANTED[planted]
    file = copy / "schedverify" / name
    text = file.read_text(encoding="utf-8")
    file.write_text(f"{text}\n{line}\n", encoding="utf-8")
    try:
        found = linted(copy)
    finally:
        file.write_text(text, encoding="utf-8")
    broken = [row for row in found.splitlines() if " BROKEN" in row]
    assert any(contract in row for row in broken), found


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of the package that a file imports anywhere: at its top, in a function, for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in known else node.module for a in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(known)


def test_no_imports_go_round_in_a_circle() -> None:
    known = modules()
    graph = nx.DiGraph((name, other) for name, path in known.items() for other in imported(path, known) - {name})
    assert [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_a_class_has_a_name_of_its_own() -> None:
    places = defaultdict(list)
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def lines_of_code(path: Path) -> int:
    """Return the lines of a file that hold code: no blank line, no comment, no docstring."""
    text = path.read_text(encoding="utf-8")
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        found |= set(range(token.start[0], token.end[0] + 1)) if token.type not in blank else set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            found -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(found)


def test_as_much_must_be_trusted_as_the_page_says() -> None:
    known = modules()
    graph = nx.DiGraph((name, other) for name, path in known.items() for other in imported(path, known) - {name})
    start = "schedverify.verifier.verification"
    trusted = {start} | nx.descendants(graph, start)
    page = (ROOT / "docs" / "explanation" / "trust.md").read_text(encoding="utf-8")
    told = re.search(r"(\d+) modules with about ([\d,]+) lines of code", page)
    assert told
    assert int(told[1]) == len(trusted)
    assert told[2] == f"{round(sum(lines_of_code(known[name]) for name in trusted), -2):,}"
    assert {name.split(".")[1] for name in trusted} == {"core", "simulator", "verifier"}


@pytest.mark.parametrize(
    "page", ["CONTRIBUTING.md", "README.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*/*.md"))]
)
def test_a_path_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:schedverify|tests|specs|benchmarks|examples|docs)/[\w/.-]*)`", text))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
