"""Which test file covers which module, and whether that file alone runs enough of it.

A module has a test file in the room of its name. Of ``verifier/rules/memory.py`` it is ``rules/test_memory.py``,
``test_rules_memory.py`` or ``test_memory.py`` in ``tests/verifier``, unless the table of the room (``modules.toml``)
names another file of the room: ``"rules.memory" = "test_limits.py"``. The modules at the top of the package have their
table in ``tests/modules.toml``.

``python tests/module_coverage.py [ROOM ...]`` runs each of these files alone until it has run enough of its modules,
also in processes that it starts, and fails where that is under 60% of a module's lines. Compiled functions cannot be
seen and do not count; see ``tool.coverage`` in ``pyproject.toml``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PACKAGE = ROOT / "schedverify"
LEAST = 60


def modules() -> Iterator[tuple[str, str]]:
    """Yield the room of each module, "" at the top of the package, and its dotted name inside of that room."""
    for path in sorted(PACKAGE.rglob("*.py")):
        room, *inside = (*path.relative_to(PACKAGE).with_suffix("").parts,)
        if path.name not in ("__init__.py", "__main__.py"):
            yield (room, ".".join(inside)) if inside else ("", room)


@cache
def table(room: str) -> Mapping[str, str]:
    """Return what ``modules.toml`` of a room says: the test file of each module that has none of its own name."""
    path = TESTS / room / "modules.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def file_for(room: str, module: str) -> Path | None:
    """Return the test file that covers a module, or None where there is none."""
    folder, (*packages, name) = TESTS / room, module.split(".")
    own = (Path(*packages, f"test_{name}.py"), f"test_{'_'.join([*packages, name])}.py", f"test_{name}.py")
    possible = [table(room)[module]] if module in table(room) else own
    return next((folder / path for path in possible if (folder / path).is_file()), None)


def covered_by() -> dict[Path, list[Path]]:
    """Return the modules that each test file covers, as files."""
    found = defaultdict(list)
    for room, module in modules():
        if (path := file_for(room, module)) is not None:
            found[path].append(PACKAGE.joinpath(room, *module.split(".")).with_suffix(".py"))
    return found


def percentages(file: Path, of: list[Path]) -> dict[Path, float]:
    """Run one test file alone, and return how many percent of the lines of each module it runs; 0 where it fails.

    It is run no further than to the test at which each module has enough: the rest of the tests run elsewhere.
    """
    command = [sys.executable, "-m", "support.covered_alone", str(LEAST), str(file), *map(str, of)]
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, TESTS)))}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **paths}, capture_output=True, text=True)
    if done.returncode:
        print(f"{file.relative_to(ROOT)} fails alone:\n{(done.stdout + done.stderr)[-8000:]}", flush=True)
        return dict.fromkeys(of, 0.0)
    return {Path(module): percent for module, percent in json.loads(done.stdout.splitlines()[-1]).items()}


def main(rooms: list[str]) -> int:
    """Print what is under the limit, and return the exit code."""
    wanted = {file: of for file, of in covered_by().items() if not rooms or file.relative_to(TESTS).parts[0] in rooms}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(pair for result in pool.map(percentages, wanted, wanted.values()) for pair in result.items())
    low = {path: percent for path, percent in found.items() if percent < LEAST}
    for path, percent in sorted(low.items()):
        print(f"{path.relative_to(PACKAGE)}: {percent:.0f}% of its lines, at least {LEAST}% are wanted")
    print(f"{len(found)} modules, {len(wanted)} test files alone: {len(low)} modules under {LEAST}%")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
