"""How good are our own tests: mutants of the properties and the bounds by mutmut, and how many of them the tests kill.

``python benchmarks/mutation_score.py`` draws mutants of the files that ``tool.mutmut`` in pyproject.toml names, has
mutmut run them against the fast tests named there, and prints the score of each part; ``build/mutation/survivors.txt``
tells the mutants that lived. mutmut leaves decorated functions alone, and most properties are decorated, so it is given
a copy in which a decorator is spelled as the call that it is.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import gc
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from tomllib import loads

from printing import publish, table, where

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "mutation"
COPIED = ("schedverify", "tests", "specs", "benchmarks", "README.md", "pyproject.toml")
PARTS = {
    "evidence of bounds": "schedverify.verifier.certificates.",
    "other properties": "schedverify.verifier.rules.",
    "bounds by formula": "schedverify.optimizer.bounds.",
    "count relaxation": "schedverify.optimizer.counts.",
}
"""By part, how the names of its modules begin; the first that fits counts."""
SPELLED_OUT = ("rule", "property", "cached_property")
SURVIVED, TIMED_OUT = "survived", "timed out"
FATES = {0: SURVIVED, 5: SURVIVED, 33: SURVIVED, 36: TIMED_OUT, -24: TIMED_OUT, -9: TIMED_OUT}
"""By what a mutant's tests end with; all else is killed. 5 and 33: no test runs it, -24 and -9: its time was over."""


def undecorated(source: str) -> str:
    """Return a module with ``@decorator`` before a function spelled as ``name = decorator(name)`` behind it."""
    lines = source.splitlines(keepends=True)
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    for node in sorted(functions, key=lambda node: -node.lineno):
        texts = [ast.get_source_segment(source, decorator) or "" for decorator in node.decorator_list]
        if texts and all(text.partition("(")[0] in SPELLED_OUT for text in texts):
            calls = [f"{' ' * node.col_offset}{node.name} = {text}({node.name})\n" for text in reversed(texts)]
            lines[node.end_lineno or 0 : node.end_lineno] = calls
            del lines[node.decorator_list[0].lineno - 1 : node.lineno - 1]
    return "".join(lines)


def wilson(killed: int, drawn: int) -> tuple[float, float]:
    """Return the 95% interval of a share by Wilson (1927), (0, 1) where nothing was drawn."""
    if not drawn:
        return 0.0, 1.0
    z, share = 1.96, killed / drawn
    middle, around = share + z * z / (2 * drawn), z * math.sqrt(share * (1 - share) / drawn + (z / (2 * drawn)) ** 2)
    return (middle - around) / (1 + z * z / drawn), (middle + around) / (1 + z * z / drawn)


def prepare() -> None:
    """Make the copy that is mutated."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, WORK / name)
    for path in mutated():
        path.write_text(undecorated(path.read_text(encoding="utf-8")), encoding="utf-8")


def mutated() -> Iterator[Path]:
    """Yield the files of the copy that are mutated."""
    patterns = loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]["only_mutate"]
    for path in sorted((WORK / "schedverify").rglob("*.py")):
        if any(fnmatch(str(path.relative_to(WORK)), pattern) for pattern in patterns):
            yield path


def names() -> list[str]:
    """Return the names of all mutants."""
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    found = []
    with contextlib.chdir(WORK):
        for path in mutated():
            inside = path.relative_to(WORK)
            made = mutate_file_contents(str(inside), path.read_text(encoding="utf-8"))
            found += [get_mutant_name(inside, name) for name in made.mutant_names]
    return found


def fates(asked: list[str], children: int) -> dict[str, str]:
    """Have mutmut run mutants; return what became of each."""
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(children), *asked]
    environment = os.environ | {"PYTHONPATH": str(WORK / "benchmarks")}
    done = subprocess.run(command, cwd=WORK, env=environment, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(done.stdout[-5000:])
    codes: dict[str, int] = {}
    for path in (WORK / "mutants").rglob("*.meta"):
        codes |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return {name: FATES.get(codes[name], "killed") for name in asked}


def tell_survivors(found: dict[str, str]) -> None:
    """Write what the mutants that lived change."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    with contextlib.chdir(WORK), Path("survivors.txt").open("w", encoding="utf-8") as file:
        lived = sorted(name for name, fate in found.items() if fate == SURVIVED)
        file.writelines(f"# {name}\n{get_diff_for_mutant(name)}\n" for name in lived)


def rows(found: dict[str, str]) -> Iterator[list[object]]:
    """Yield the lines of the table: each part, and all."""
    parts: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
    for name, fate in found.items():
        part = next(part for part, beginning in PARTS.items() if f"{name}.".startswith(beginning))
        parts[part][fate] += 1
    for part, count in [*parts.items(), ("all", sum(parts.values(), Counter[str]()))]:
        drawn, dead = count.total(), count["killed"] + count[TIMED_OUT]
        low, high = wilson(dead, drawn)
        shares = f"{100 * dead / drawn:.1f}%" if drawn else "", f"{100 * low:.1f}% to {100 * high:.1f}%"
        yield [part, drawn, count["killed"], count[TIMED_OUT], count[SURVIVED], *shares]


def pytest_sessionfinish() -> None:
    """Forget what tests computed before the mutants are forked off; mutmut's runs load this file as a plugin."""
    for one in gc.get_objects():
        if isinstance(one, functools._lru_cache_wrapper):
            one.cache_clear()


def main() -> None:
    """Draw mutants, run them, and print how many were killed."""
    parser = argparse.ArgumentParser(description="mutants of the properties and bounds that the fast tests kill")
    parser.add_argument("mutants", nargs="*", help="patterns of mutants to run instead of a sample")
    parser.add_argument("--count", type=int, default=600, help="how many to draw; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--children", type=int, default=1, help="how many run at once")
    parser.add_argument("--update", action="store_true", help="put what is printed into docs/benchmarks.md")
    options = parser.parse_args()
    prepare()
    known = names()
    asked = [name for name in known if any(fnmatch(name, pattern) for pattern in options.mutants)]
    if not options.mutants:
        asked = random.Random(options.seed).sample(known, min(options.count or len(known), len(known)))
    found = fates(asked, options.children)
    tell_survivors(found)
    head = ["part", "drawn", "killed", "timed out", "survived", "score", "95% interval"]
    about = f"{len(asked)} of {len(known)} mutants, seed {options.seed}, {where('mutmut')}"
    publish("mutation-score", f"{about}\n\n{table(head, rows(found))}", update=options.update)


if __name__ == "__main__":
    sys.path.insert(0, str(WORK))
    main()
