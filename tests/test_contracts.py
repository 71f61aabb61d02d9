"""The import contracts bite: what they forbid is planted in a copy of the package, and each is seen to refuse it."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "schedverify"

# What is planted: a file, the import that is added to it, and the contract that must refuse it.
PLANTED = {
    "optimizer -> verifier": ("optimizer/tasks.py", "import schedverify.verifier.verification", "what makes schedules"),
    "lowering -> verifier": ("lowering/ordering.py", "import schedverify.verifier.graph", "what makes schedules"),
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
