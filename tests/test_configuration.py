"""Names in configuration mean something: every pattern matches a file, every module that is called exists."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TOOL = PROJECT["tool"]
MUTMUT = TOOL["mutmut"]
CONTRACTS = TOOL["importlinter"]["contracts"]
SCRIPTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in (".ci/run", "CONTRIBUTING.md", "README.md")}

PATTERNS = {
    "mutmut only_mutate": MUTMUT["only_mutate"],
    "mutmut source_paths": MUTMUT["source_paths"],
    "mutmut also_copy": MUTMUT["also_copy"],
    "mutmut tests": MUTMUT["pytest_add_cli_args_test_selection"],
    "ruff per-file-ignores": list(TOOL["ruff"]["lint"]["per-file-ignores"]),
    "ruff src": TOOL["ruff"]["src"],
    "pytest": [*TOOL["pytest"]["ini_options"]["testpaths"], *TOOL["pytest"]["ini_options"]["pythonpath"]],
    "wheel": TOOL["hatch"]["build"]["targets"]["wheel"]["packages"],
    "sdist": TOOL["hatch"]["build"]["targets"]["sdist"]["include"],
}


@pytest.mark.parametrize(("where", "pattern"), [(where, each) for where, all_of in PATTERNS.items() for each in all_of])
def test_a_pattern_matches_a_file(where: str, pattern: str) -> None:
    assert pattern == "." or any(ROOT.glob(pattern)), f"{where}: {pattern}"


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_environment_of_another_torch_differs_in_torch_alone() -> None:
    first, second = pins("constraints.txt"), pins("constraints-torch-2.15.txt")
    assert {name for name, version in second.items() if first[name] != version} == {"torch"}
    assert {re.split(r"\W", each)[0] for each in PROJECT["project"]["dependencies"]} <= set(second)
    assert "-c constraints-torch-2.15.txt" in SCRIPTS[".ci/run"]


def test_import_linter_knows_every_room_that_it_names() -> None:
    named = set()
    for contract in CONTRACTS:
        rows = [name.strip() for row in contract.get("layers", ()) for name in re.split(r"[|:]", row)]
        named |= {f"{root}.{row}" for root in contract.get("containers", ()) for row in rows}
        names = [*contract.get("source_modules", ()), *contract.get("forbidden_modules", ())]
        arrows = [end for line in contract.get("ignore_imports", ()) for end in line.split(" -> ")]
        named |= {name.removesuffix(".**") for name in [*names, *arrows] if name.startswith("schedverify")}
    assert len(named) > 20
    assert [name for name in sorted(named) if importlib.util.find_spec(name) is None] == []


def test_every_room_stands_in_the_contracts_about_the_terminal_and_the_solver() -> None:
    tops = {
        path.stem
        for path in (ROOT / "schedverify").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    allowed = {"call the solver": {"optimizer", "partitioner"}, "know the terminal": {"cli", "drawing", "sweeping"}}
    for words, may in allowed.items():
        (contract,) = [each for each in CONTRACTS if words in each["name"]]
        named = {name.removeprefix("schedverify.") for name in contract["source_modules"]}
        assert tops - named - {"__init__", "__main__"} <= may, contract["name"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_calls_exists(name: str) -> None:
    called = set(re.findall(r"python3? -m ([\w.]+)", SCRIPTS[name])) - {"venv"}
    files = set(re.findall(r"python3? ((?:docs|benchmarks|tests)/[\w/]+\.py)", SCRIPTS[name]))
    assert called
    assert [module for module in sorted(called) if importlib.util.find_spec(module) is None] == []
    assert [file for file in sorted(files) if not (ROOT / file).is_file()] == []


def test_what_is_installed_can_be_called() -> None:
    project = PROJECT["project"]
    points = [*project["scripts"].values(), *project["entry-points"]["pytest11"].values()]
    for point in points:
        module, _, name = point.partition(":")
        loaded = importlib.import_module(module)
        assert not name or callable(getattr(loaded, name))
