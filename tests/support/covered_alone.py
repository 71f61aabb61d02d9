"""Run one test file under coverage until it has run enough of some modules: the process of ``module_coverage.py``.

``python -m support.covered_alone PERCENT FILE MODULE...``, with ``tests`` in reach, prints as its last line how many
percent of the lines of each module ran, as JSON. The exit code is pytest's, but 0 where the run ended early because it
had seen enough.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import coverage
import pytest

FAST = "not slow and not timed and not long"


class EnoughCovered:
    """A plugin of pytest that ends the run after the test at which each module is covered, children included."""

    def __init__(self, counting: coverage.Coverage, least: float, modules: Sequence[str]) -> None:
        self._counting, self._least = counting, least
        self._missing = {module: set(counting.analysis2(module)[1]) for module in modules}
        self._lines = {module: len(lines) for module, lines in self._missing.items()}
        self._read: set[Path] = set()
        self.reached = False

    def percentages(self) -> dict[str, float]:
        """Return how many percent of the lines of each module ran until now, here and in processes that ended."""
        for data in self._new_data():
            for module, lines in self._missing.items():
                lines.difference_update(data.lines(module) or ())
        return {
            module: 100 - 100 * len(self._missing[module]) / lines if lines else 100.0
            for module, lines in self._lines.items()
        }

    def _new_data(self) -> Iterator[coverage.CoverageData]:
        own = self._counting.get_data()
        yield own
        for path in Path(own.base_filename()).parent.iterdir():
            if path in self._read or path == Path(own.data_filename()) or path.suffix.endswith("-journal"):
                continue
            data = coverage.CoverageData(str(path))
            try:
                data.read()
            except coverage.CoverageException:  # still being written: the next look reads it
                continue
            self._read.add(path)
            yield data

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Look after each test."""
        done = yield
        if not item.session.testsfailed and min(self.percentages().values()) >= self._least:
            self.reached, item.session.shouldstop = True, "each module is covered"
        return done


def main(least: str, file: str, *modules: str) -> int:
    """Run the tests of a file, print the percentages, and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        counting = coverage.Coverage(data_file=f"{folder}/data", include=modules)
        counting.set_option("run:disable_warnings", ["no-data-collected"])  # the first tests may run none of a module
        plugin = EnoughCovered(counting, float(least), modules)
        counting.start()
        options = ("-o", "addopts=", "--import-mode", "importlib", "-q", "-m", FAST)
        code = pytest.main([*options, file], plugins=[plugin])
        counting.stop()
        print(json.dumps(plugin.percentages()))
    return 0 if plugin.reached else code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
