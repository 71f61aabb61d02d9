"""Writes the gallery: pictures of every family, of optimal plans beside them, and of broken schedules.

``python docs/gallery/make.py`` writes the pictures and the page; with ``--check`` it writes nothing and fails where one
is not current. What is optimal comes from ``optimal.toml``; with ``--search`` it is searched for anew first.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schedverify import (
    Drawing,
    Family,
    Problem,
    Schedule,
    Status,
    beside,
    draw,
    families,
    generate,
    optimize,
    simulate,
    verify,
)

HERE = Path(__file__).parent
BROKEN = HERE.parents[1] / "specs" / "broken"
OPTIMAL = HERE / "optimal.toml"
RANKS, MICROBATCHES = 4, 8
SECONDS = 20
NOTE = "<!-- made by docs/gallery/make.py; change it there -->\n\n"


@dataclass(frozen=True)
class Duel:
    """A family and the best schedule below it: for one problem, in the memory that the family needs."""

    name: str
    family: str
    about: str
    costs: dict[str, Any]
    limits: dict[str, Any] = field(default_factory=dict)

    @property
    def problem(self) -> Problem:
        """The problem that both schedules are for, without the limit."""
        return Problem.chain(ranks=RANKS, microbatches=MICROBATCHES, **self.costs)

    @property
    def limited(self) -> Problem:
        """The problem with its limits; where it names none, the family's peaks are the capacity."""
        limits = self.limits or {"capacity": simulate(generate(self.family, self.problem), self.problem).peak_memory}
        return Problem.chain(ranks=RANKS, microbatches=MICROBATCHES, **self.costs, **limits)


HALVES = {"activation": 2, "weight_stash": 1}
DUELS = (
    Duel(
        "readme",
        "1f1b",
        "Equal stages. 1F1B runs the backward as a whole; split into I and W, it leaves less idle time, in the memory "
        "that 1F1B needs on its first rank.",
        {"forward": 1, "backward_input": 1, "backward_weight": 1, **HALVES},
        {"capacity": 2 * RANKS},
    ),
    Duel(
        "optimal-uneven-stages",
        "zb-h2",
        "Uneven stages. A handcrafted order does not know which rank is the slow one.",
        {"forward": [2, 3, 2, 3], "backward_input": [1, 2, 1, 3], "backward_weight": [2, 2, 3, 1], **HALVES},
    ),
    Duel(
        "optimal-uneven-fused",
        "gpipe",
        "Uneven stages and a fused backward: the optimal plan keeps rank 0, the slow one, busy from beginning to end.",
        {"forward": [3, 2, 2, 2], "backward": [6, 4, 4, 4]},
    ),
    Duel(
        "optimal-little-memory",
        "naive",
        "Room for two micro-batches on each rank: of the families only naive fits, and it uses one.",
        {"forward": 1, "backward": 2},
        {"in_flight": 2},
    ),
)
LABELS = {"1f1b": "1F1B", "gpipe": "GPipe", "zb-h2": "ZB-H2"}
SHOWN = (
    "sv101-two-forwards-overlapped",
    "sv102-on-two-ranks",
    "sv103-no-forward-on-the-last-rank",
    "sv104-a-forward-twice",
    "sv201-two-ranks-wait-for-each-other",
    "sv202-two-steps-at-once",
    "sv401-gpipe-under-the-limit-of-1f1b",
    "sv402-weights-wait-too-long",
    "sv501-makespan-one-too-low",
)


def files() -> dict[Path, str]:
    """Return the text of every picture and of the page by its file."""
    best = tomllib.loads(OPTIMAL.read_text(encoding="utf-8"))
    pictures = [*family_pictures(best), *duel_pictures(best), *broken_pictures()]
    return {HERE / f"{name}.svg": drawing.svg() for name, drawing, _ in pictures} | {HERE / "gallery.md": page(best)}


def family_pictures(best: dict[str, Any]) -> Iterator[tuple[str, Drawing, str]]:
    """Yield for each family its name, its picture, and how near it comes to the best schedule in its memory."""
    for family in families():
        problem = shown_problem(family)
        timeline = simulate(generate(family.name, problem), problem)
        least = best["families"].get(family.name)
        sentence = "Whether a shorter one needs no more memory is open here."
        if least is not None and least < timeline.makespan:
            sentence = f"The best schedule that needs no more memory on any rank takes {least} ticks."
        elif least is not None:
            sentence = "No schedule that needs no more memory on any rank is shorter: proved for this problem."
        yield family.name, draw(timeline, title=f"{family.name}: {RANKS} ranks, {MICROBATCHES} micro-batches"), sentence


def duel_pictures(best: dict[str, Any]) -> Iterator[tuple[str, Drawing, str]]:
    """Yield for each duel its name, the family's picture above that of the best schedule, and what it shows."""
    for duel in DUELS:
        found = Schedule.parse(best[duel.name]["schedule"])
        verify(found, duel.limited).raise_for_violations()
        above = draw(generate(duel.family, duel.problem), duel.problem, title=LABELS.get(duel.family, duel.family))
        below = draw(found, duel.problem, title="what schedverify finds: optimal, proved")
        yield duel.name, beside(above, below), duel.about


def broken_pictures() -> Iterator[tuple[str, Drawing, str]]:
    """Yield for each broken example its name, its picture with the fault marked, and what is wrong."""
    for name in SHOWN:
        data = tomllib.loads((BROKEN / f"{name}.toml").read_text(encoding="utf-8"))
        schedule, problem = Schedule.parse(data["schedule"]), Problem.of(data["problem"])
        report = verify(schedule, problem, claims=data.get("claims"))
        yield (
            name,
            draw(schedule, problem, report=report, title=name.partition("-")[2].replace("-", " ")),
            data["about"],
        )


def shown_problem(family: Family, **keys: Any) -> Problem:
    """Return the problem on which a family is shown."""
    memory = {"activation": 2, "weight_stash": 1} if family.splits_backward else {}
    return family.problem(RANKS, MICROBATCHES, **memory, **keys)


def page(best: dict[str, Any]) -> str:
    """Return the page that shows all pictures."""
    sections = [
        "# Gallery",
        f"Every family on {RANKS} ranks and {MICROBATCHES} micro-batches: F takes 1 tick, B 2, or I and W 1 each. "
        "What is proved beside them was searched for with `schedverify optimize`.",
    ]
    for name, _, sentence in family_pictures(best):
        source = next(family.source for family in families() if family.name == name)
        sections.append(f"## {name}\n\n{source}. {sentence}\n\n![{name} as a timeline]({name}.svg)")
    sections.append("## Optimal plans beside them\n\nEach pair is for one problem, under one time axis.")
    for name, _, about in duel_pictures(best):
        sections.append(f"{about}\n\n![A family above the optimal plan]({name}.svg)")
    sections.append("## Broken schedules\n\nWhat `schedverify draw` shows where the verifier objects.")
    for name, _, about in broken_pictures():
        code, _, rest = name.partition("-")
        title = f"{code.upper()}: {rest.replace('-', ' ')}"
        sections.append(f"### {title}\n\n{about}\n\n![{title}]({name}.svg)")
    return NOTE + "\n\n".join(sections) + "\n"


def search() -> None:
    """Search for the best schedules anew, and keep those that are proved to be optimal."""
    problems = {duel.name: duel.limited for duel in DUELS}
    for family in families():
        problem = shown_problem(family)
        peaks = simulate(generate(family.name, problem), problem).peak_memory
        problems[family.name] = shown_problem(family, capacity=peaks)
    plans = {name: optimize(problem, time_limit=SECONDS, seed=0, workers=1) for name, problem in problems.items()}
    proved = {name: plan for name, plan in plans.items() if plan.status is Status.OPTIMAL}
    lines = ["# Made by docs/gallery/make.py --search: what is proved to be optimal.", "", "[families]"]
    lines += [f"{family.name} = {proved[family.name].value}" for family in families() if family.name in proved]
    for duel in DUELS:
        lines += [
            "",
            f"[{duel.name}]",
            f"makespan = {proved[duel.name].value}",
            f'schedule = """\n{proved[duel.name].schedule}\n"""',
        ]
    OPTIMAL.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def main(arguments: Sequence[str]) -> int:
    """Write the files, or with ``--check`` say which are not current."""
    if "--search" in arguments:
        search()
    wanted = files()
    old = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    strangers = [path for path in sorted(HERE.glob("*.svg")) if path not in wanted]
    if "--check" in arguments:
        for path in (*old, *strangers):
            sys.stderr.write(f"{path.name} is not current; run python docs/gallery/make.py\n")
        return 1 if old or strangers else 0
    for path in old:
        path.write_text(wanted[path], encoding="utf-8", newline="\n")
    for path in strangers:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
