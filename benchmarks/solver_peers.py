"""Our optimizer beside other solvers, on one machine in one run: PyJobShop on what it can express, z3 as in Tessel.

``python benchmarks/solver_peers.py`` (needs the extra ``bench``). Each line is one problem; both get the same seconds
and, where they can use them, the same threads. ``ratio`` is the peer's seconds over ours, both to a proof or to their
limit. Ours count everything from problem to verified plan, the families and the verifier too; the peers' count what
their solver takes, theirs alone. Imports count for none.
"""

from __future__ import annotations

from pathlib import Path

import peer_pyjobshop
import peer_z3
from peer_pyjobshop import Answer
from printing import arguments, progress, publish, ratio, table, where

from schedverify import Problem, optimize
from schedverify.formats import load_problem

PROBLEMS = Path(__file__).parents[1] / "specs" / "problems"
SHOP = (
    "uni-p4-m8-fused-c0-flight4",
    "uni-p4-m8-c0-cap8",
    "uni-p4-m8-c1-cap8",
    "uni-p4-m8-v2-c0-cap16",
    "uni-p8-m16-c0-cap12",
    "uni-p8-m32-fused-c1-cap16",
    "uni-p8-m32-c1-cap16",
    "zb-p8-m16-c1-cap16",
    "zb-1.5b-p8-m24",
    "zb-1.5b-p8-m24-2p",
)
SEARCH = "uni-p4-m8-fused-c0-flight4"
SEED = 0


def main() -> None:
    """Run both tables and print them."""
    parser = arguments(__doc__ or "", seconds=20)
    parser.add_argument("--z3-seconds", type=float, default=60, help="time limit of z3")
    parser.add_argument("--problems", nargs="*", default=SHOP, help="names in specs/problems, for PyJobShop")
    options = parser.parse_args()
    _warm_up()
    rows, head = [], ("problem", "ours", "seconds", "PyJobShop", "seconds", "ratio")
    with progress() as bar:
        for name in bar.track(options.problems, description="PyJobShop"):
            problem = load_problem(str(PROBLEMS / f"{name}.toml"))
            ours = _ours(problem, options.seconds, options.workers)
            theirs = peer_pyjobshop.solve(problem, options.seconds, options.workers)
            rows.append((name, *_line(ours, theirs)))
        bar.add_task(f"z3, {options.z3_seconds:g} s", total=None)
        problem = load_problem(str(PROBLEMS / f"{SEARCH}.toml"))
        pair = _ours(problem, options.seconds, options.workers), peer_z3.solve(problem, options.z3_seconds)
    text = f"""{where("ortools", "pyjobshop", "z3-solver")}; seed {SEED}.

{options.workers} threads and {options.seconds:g} s for each search; "open" is a value without a proof.

{table(head, rows)}

z3 with {options.z3_seconds:g} s; it is known to need 521 s for the optimum, 44, in the search that Tessel makes.

{table(("problem", "ours", "seconds", "z3", "seconds", "ratio"), [(SEARCH, *_line(*pair))])}"""
    publish("solver-peers", text, update=options.update)


def _warm_up() -> None:
    """Import every solver before the clock runs."""
    import pyjobshop  # noqa: F401
    import z3  # noqa: F401
    from ortools.sat.python import cp_model  # noqa: F401

    optimize(Problem.chain(ranks=2, microbatches=2))


def _ours(problem: Problem, seconds: float, workers: int) -> Answer:
    plan = optimize(problem, time_limit=seconds, workers=workers, seed=SEED)
    return Answer(plan.value, plan.status.value == "optimal", plan.seconds)


def _line(ours: Answer, theirs: Answer) -> tuple[str, str, str, str, str]:
    """Return both answers and the ratio of their seconds."""
    shown = ratio((ours.proved, ours.seconds), (theirs.proved, theirs.seconds))
    return _told(ours), f"{ours.seconds:.3f}", _told(theirs), f"{theirs.seconds:.3f}", shown


def _told(answer: Answer) -> str:
    return "none" if answer.value is None else f"{answer.value}{'' if answer.proved else ', open'}"


if __name__ == "__main__":
    main()
