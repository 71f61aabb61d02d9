"""Loads at once what an example would else load: no example may meet hypothesis' deadline with an import."""

from __future__ import annotations

from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.drawing import draw
from schedverify.generators import generate
from schedverify.verifier.verification import verify


def warm_up() -> None:
    """Judge and draw a right schedule, one that waits in a circle, and one with communication."""
    problem = Problem.chain(ranks=2, microbatches=2)
    texts = ["0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1", "0F0 0B0 0F1 0B1\n1F1 1B1 1F0 1B0", "0F0 0SEND_F0\n1RECV_F0 1F0"]
    for schedule in (generate("1f1b", problem), *map(Schedule.parse, texts)):
        draw(schedule, problem, report=verify(schedule, problem)).text()
