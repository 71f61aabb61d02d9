"""Head-of-line blocking: what the place of receives costs where each rank has one queue.

``python benchmarks/head_of_line.py`` takes interleaved 1F1B with 8 ranks, 2 stages a rank and 16 micro-batches, where
latency and transfer take a tenth of a forward each, and times three orders of the same communication. The peer is the
order that PyTorch's pipeline runtime gives (pytorch/pytorch#188833): its receives stand where their senders come in a
walk that knows no times, far in front of what the rank has to send meanwhile.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from printing import publish, table, where

from schedverify import Problem, Schedule, generate, lower, simulate, verify
from schedverify.core.discipline import Discipline
from schedverify.lowering import add_communication
from schedverify.lowering.insertion import TotalOrder
from schedverify.simulator.delay_reasons import delays
from schedverify.verifier.graph import dependency_graph

SHOWN = (Discipline.PAIR, Discipline.RANK, Discipline.BLOCK)
MOST_DELAYS = 5


def main() -> None:
    """Time the three orders under the disciplines in which transfers wait for each other, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="put what is printed into docs/benchmarks.md")
    update = parser.parse_args().update
    problem = the_problem()
    alone = simulate(generate("interleaved-1f1b", problem), problem).makespan
    rows = list(lines(problem))
    late = simulate(lowerings(problem, Discipline.RANK)["receives in front"], problem, discipline=Discipline.RANK)
    held = sorted((delay for delay in delays(late) if delay.held_up), key=lambda delay: -delay.ticks)
    told = "\n".join(f"{delay.ticks:>6}  {delay.text}" for delay in held[:MOST_DELAYS])
    text = f"""{where("numpy")}; no seed, nothing is drawn.

Makespans in ticks; a forward takes 100. The order of the compute steps alone takes {alone}, and no communication can
take less. `shorter` is by how much of the makespan of the peer, receives in front, the others are below it.

{table(("order", *(f"{d}, shorter" for d in SHOWN)), rows)}

Under `rank`, receives in front hold up {len(held)} steps. The longest:

```text
{told}
```"""
    publish("head-of-line", text, update=update)


def the_problem() -> Problem:
    """Return the problem: a transfer takes 10 ticks of lag and 10 in its queue, a forward 100."""
    return Problem.chain(
        ranks=8, microbatches=16, virtual=2, forward=100, backward=200, latency=10, bytes=10, bandwidth=1
    )


def lowerings(problem: Problem, discipline: Discipline) -> dict[str, Schedule]:
    """Return the three orders by name; the best is chosen for a discipline."""
    order = generate("interleaved-1f1b", problem)
    return {
        "receives in front": in_front(order, problem),
        "default": lower(order, problem),
        "best safe order": lower(order, problem, discipline=discipline),
    }


def in_front(order: Schedule, problem: Problem) -> Schedule:
    """Lower by a walk without times: in each round every rank, from 0 up, takes its next step if its inputs are made.

    Within one round a micro-batch goes through all the ranks, so that each receive stands right behind what its rank
    did in the round of the sender.
    """
    graph = dependency_graph(problem)
    rows = [list(order.steps(rank)) for rank in range(order.ranks)]
    first = np.cumsum([0, *map(len, rows)]).tolist()
    turn, at, made, count = np.zeros(first[-1], dtype=np.int64), [0] * len(rows), set(), 0
    while count < first[-1]:
        for rank, row in enumerate(rows):
            step = row[at[rank]] if at[rank] < len(row) else None
            if step and all(needed in made for op in step.ops for needed in graph.pred[op]):
                turn[first[rank] + at[rank]] = count
                made.update(step.ops)
                at[rank] += 1
                count += 1
    same = np.zeros_like(turn)
    return add_communication(order, problem, TotalOrder(turn, turn, same, same))


def lines(problem: Problem) -> Iterator[tuple[str, ...]]:
    """Yield a line for each order: makespan and gain under each discipline, all of them proved free of deadlock."""
    columns: dict[str, list[str]] = {}
    for discipline in SHOWN:
        peer = None
        for name, lowered in lowerings(problem, discipline).items():
            verify(lowered, problem, select=["SV3"], discipline=discipline).raise_for_violations()
            makespan = simulate(lowered, problem, discipline=discipline).makespan
            peer = peer or makespan
            columns.setdefault(name, []).append(f"{makespan}, {1 - makespan / peer:.1%}")
    yield from ((name, *figures) for name, figures in columns.items())


if __name__ == "__main__":
    main()
