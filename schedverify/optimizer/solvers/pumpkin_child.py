"""The program that runs Pumpkin in a process of its own: reads a plain model, prints what the solver says of it.

It is started by path, imports nothing of ours, and speaks JSON: ``{"domains", "rows", "exclusive", "seconds",
"seed"}`` on standard input (see :class:`~schedverify.optimizer.solvers.plain_model.PlainModel`), ``{"verdict":
"Satisfiable" | "Unsatisfiable" | "Unknown", "values": [...]}`` on standard output.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
"""From <linux/prctl.h>: the signal that a process gets when its parent ends."""


def main() -> None:
    """Answer the one question that standard input asks."""
    _end_with_parent()
    question = json.load(sys.stdin)
    model, variables = _model(question)
    result = model.satisfy(timeout=question["seconds"])
    verdict = type(result).__name__.rpartition("_")[-1]
    found = variables if verdict == "Satisfiable" else []
    values = [int(result._0.int_value(_number(variable))) for variable in found]
    json.dump({"verdict": verdict, "values": values}, sys.stdout)


def _end_with_parent() -> None:
    """Have Linux end this process when the one that asked is gone; the solver does not let a thread watch for it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _model(question: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Return Pumpkin's model, and its variables in the order of the domains."""
    from pumpkin_solver import Model
    from pumpkin_solver.constraints import Cumulative, LessThanOrEquals

    model = Model(seed=question["seed"])
    literals = {max(premise, -1 - premise) for _, _, premise in question["rows"] if premise is not None}
    variables = [
        model.new_boolean_variable() if index in literals else model.new_integer_variable(least, most, str(index))
        for index, (least, most) in enumerate(question["domains"])
    ]
    for terms, most, premise in question["rows"]:
        scaled = [_number(variables[index]).scaled(coefficient) for index, coefficient in terms]
        row = LessThanOrEquals(scaled, most, model.new_constraint_tag())
        if premise is None:
            model.add_constraint(row)
        else:
            model.add_implication(row, variables[premise] if premise >= 0 else variables[-1 - premise].negate())
    for steps in question["exclusive"]:
        starts = [_number(variables[index]).offset(add) for index, add, _ in steps]
        durations = [duration for *_, duration in steps]
        model.add_constraint(Cumulative(starts, durations, [1] * len(steps), 1, model.new_constraint_tag()))
    return model, variables


def _number(variable: Any) -> Any:
    return variable.as_integer() if hasattr(variable, "as_integer") else variable


if __name__ == "__main__":
    main()
