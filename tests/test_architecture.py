"""The habits of the house: light imports, short modules, one-way imports, public names that are told."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import schedverify
from module_coverage import file_for, modules, table

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "schedverify"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("ortools", "pumpkin_solver", "networkx", "numba", "torch", "matplotlib", "rich", "cyclopts")
SHORTEST_MODULE, LONGEST_MODULE, LONGEST_FUNCTION = 30, 300, 60
MOST_MODULES = 329


def run(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def quickest(code: str, times: int = 3) -> float:
    """Return the seconds of a processor that an interpreter takes for ``code``, the least of several runs."""
    seconds = []
    for _ in range(times):
        before = os.times()
        run("-c", code)
        after = os.times()
        seconds.append(after.children_user - before.children_user + after.children_system - before.children_system)
    return min(seconds)


def test_the_import_is_light() -> None:
    loaded = run("-c", "import sys, schedverify; print(*{name.partition('.')[0] for name in sys.modules})").split()
    assert "schedverify" in loaded
    assert not set(loaded) & {*HEAVY, "numpy"}


def test_no_public_name_loads_what_is_heavy() -> None:
    code = "import sys, schedverify as sv; [getattr(sv, name) for name in sv.__all__]; print(*sys.modules)"
    assert not {module.partition(".")[0] for module in run("-c", code).split()} & set(HEAVY)


def test_the_import_loads_nothing_of_ours_but_names() -> None:
    loaded = run("-c", "import sys, schedverify; print(*sys.modules)").split()
    assert {name for name in loaded if name.startswith("schedverify")} == {"schedverify", "schedverify.core"}


@pytest.mark.timed
def test_help_and_version_are_quick() -> None:
    for option in ("--help", "--version"):
        code = f"from schedverify.cli import main; main(['{option}'])"
        assert quickest(code, times=9) - quickest("pass", times=9) < 0.15


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    assert len(text.splitlines()) >= SHORTEST_MODULE or path.name in ("__init__.py", "__main__.py")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert {node.name: length(node) for node in functions if length(node) > LONGEST_FUNCTION} == {}


def test_there_are_few_modules() -> None:
    assert len(MODULES) <= MOST_MODULES


def test_every_module_is_covered_by_a_test_file_of_its_room() -> None:
    assert [f"{room}.{module}" for room, module in modules() if file_for(room, module) is None] == []


def test_the_tables_of_the_rooms_name_modules_and_files_that_are_there() -> None:
    there = set(modules())
    for room in {room for room, _ in there}:
        assert set(table(room)) <= {module for where, module in there if where == room}, room
        assert all((ROOT / "tests" / room / file).is_file() for file in table(room).values()), room


def length(node: ast.FunctionDef) -> int:
    """Return the lines of a function's signature and code; what its docstring takes does not count."""
    docstring = node.body[0] if ast.get_docstring(node) else None
    told = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
    return (node.end_lineno or 0) - node.lineno + 1 - told


def test_imports_go_one_way() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    assert "0 broken" in run("-c", code)


def test_the_bridge_alone_knows_torch_s_pipelines() -> None:
    imports = re.compile(r"from torch\.distributed.*pipelining|import_module\(.torch\.distributed\.pipelining")
    naming = {path for path in MODULES if imports.search(path.read_text(encoding="utf-8"))}
    assert naming
    assert {path.parent.name for path in naming} == {"torch_bridge"}


def test_every_module_says_what_it_is_for() -> None:
    assert [path.name for path in MODULES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def test_no_module_has_the_name_of_a_public_function() -> None:
    modules = {name for _, name, _ in pkgutil.walk_packages([str(PACKAGE)])}
    functions = {name for name in schedverify.__all__ if inspect.isfunction(getattr(schedverify, name))}
    assert functions
    assert not modules & functions


def public() -> Iterator[tuple[str, object]]:
    """Yield every public name and, of a public class of ours, every public member that it defines."""
    for name in schedverify.__all__:
        value = getattr(schedverify, name)
        yield name, value
        for member, item in vars(value).items() if inspect.isclass(value) else ():
            if not member.startswith("_") and (inspect.isfunction(item) or isinstance(item, (property, classmethod))):
                yield f"{name}.{member}", item.__func__ if isinstance(item, classmethod) else item


def test_every_public_name_is_told() -> None:
    assert schedverify.__all__ == sorted(schedverify.__all__, key=lambda name: (not name[0].isupper(), name))
    assert [name for name, value in public() if not (inspect.getdoc(value) or "").strip()] == []


def test_every_public_function_is_annotated() -> None:
    functions = [(name, value) for name, value in public() if inspect.isfunction(value)]
    for name, function in functions:
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
        assert all(p.annotation is not p.empty for p in parameters), name
        assert signature.return_annotation is not signature.empty, name


def test_the_lists_of_public_names_agree() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    rooms, imported = set(), set()
    for statement in guarded.body:
        assert isinstance(statement, ast.ImportFrom)
        if statement.module == "schedverify":
            rooms |= {alias.asname or alias.name for alias in statement.names}
            continue
        home = importlib.import_module(str(statement.module))
        for alias in statement.names:
            assert getattr(home, alias.name) is getattr(schedverify, alias.name)
        imported |= {alias.name for alias in statement.names}
    assert imported == set(schedverify.__all__)
    assert dir(schedverify) == sorted(imported | rooms | {"__version__"})


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'schedule_optimally'"):
        _ = schedverify.schedule_optimally
