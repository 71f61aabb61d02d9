"""Pumpkin beside CP-SAT on one question: whether there is a schedule of one unit less than the best known.

``python benchmarks/second_solver.py`` (needs the extra ``pumpkin``). Both get the same model with the same horizon, one
thread and the same seconds; the right answer is no each time. Pumpkin's seconds count its process as well, imports of
ours for neither. ``ratio`` is CP-SAT's seconds over Pumpkin's; it is a bound where only one of the two has the answer.
"""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Any

from printing import arguments, progress, publish, ratio, table, where

from schedverify import Problem
from schedverify.formats import load_problem
from schedverify.optimizer.model.rules import add_constraints
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.solvers.cp_sat import SolverSettings, search
from schedverify.optimizer.solvers.pumpkin import prove
from schedverify.optimizer.tasks import Tasks

PROBLEMS = Path(__file__).parents[1] / "specs" / "problems"
NAMES = (
    "uni-p4-m8-c1-cap8",
    "uni-p8-m16-c0-cap12",
    "uni-p8-m32-fused-c1-cap16",
    "uni-p8-m32-c1-cap16",
    "zb-p8-m16-c1-cap16",
)
UNIT: dict[str, Any] = {"form": "split", "latency": 1, "activation": 2, "weight_stash": 1}
LONG = (
    ("uni-p4-m64-c1-cap8", Problem.chain(ranks=4, microbatches=64, capacity=8, **UNIT), 251),
    ("uni-p8-m64-c1-cap16", Problem.chain(ranks=8, microbatches=64, capacity=16, **UNIT), 275),
)
SEED = 0


def main() -> None:
    """Ask both about every problem and print the table."""
    from ortools.sat.python import cp_model  # noqa: F401  # before the clock runs

    options = arguments(__doc__ or "", seconds=20, workers=1).parse_args()
    head = ("problem", "best known", "CP-SAT: one unit less?", "seconds", "Pumpkin: one unit less?", "seconds", "ratio")
    rows = []
    with progress() as bar:
        for name, problem, best in bar.track([*map(_known, NAMES), *LONG], description="one unit less"):
            tasks = Tasks(problem)
            settings = SolverSettings(SEED, options.workers, lambda: False, lambda _starts: None, lambda _bound: None)
            answers = [ask(tasks, best // tasks.unit, options.seconds, settings) for ask in (_by_cp_sat, _by_pumpkin)]
            shown = [part for answer, seconds in answers for part in ("no" if answer else "open", f"{seconds:.2f}")]
            rows.append((name, best, *shown, ratio(answers[1], answers[0])))
    text = f"""{where("ortools", "pumpkin-solver")}; seed {SEED}.

{options.seconds:g} s for each; {options.workers} thread for CP-SAT, Pumpkin has one.

{table(head, rows)}"""
    publish("second-solver", text, update=options.update)


def _known(name: str) -> tuple[str, Problem, int]:
    """Return a problem of ``specs/problems`` with its known optimum."""
    path = PROBLEMS / f"{name}.toml"
    expected = tomllib.loads(path.read_text(encoding="utf-8"))["expected"]
    return name, load_problem(str(path)), expected["makespan"]


def _by_cp_sat(tasks: Tasks, best: int, seconds: float, settings: SolverSettings) -> tuple[bool, float]:
    """Return whether CP-SAT proves that nothing is below ``best`` units, and its seconds."""
    began = time.perf_counter()
    model = OrderModel(tasks, horizon=best * tasks.subticks - 1)
    add_constraints(model)
    model.cp.add(model.value < best)
    outcome = search(model, seconds, settings)
    return outcome.closed and not outcome.found, time.perf_counter() - began


def _by_pumpkin(tasks: Tasks, best: int, seconds: float, settings: SolverSettings) -> tuple[bool, float]:
    """Return whether Pumpkin proves it, and its seconds."""
    began = time.perf_counter()
    outcome = prove(tasks, lambda: (best, best - 1), seconds, settings)
    if outcome is None:
        raise SystemExit("this needs the extra pumpkin")
    return outcome.closed and not outcome.found, time.perf_counter() - began


if __name__ == "__main__":
    main()
