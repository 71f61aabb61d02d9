"""Pictures of places: the marked step is the one at the position, whatever stands around it; lines stay short."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from schedverify.core.schedule import Schedule
from schedverify.verifier.places import MOST_RANKS, picture_of_places
from verifier.test_broken import NAMES, example, report_of

STEPS = st.sampled_from(
    ["0F0", "12F3456", "(0F5;7B1)OVERLAP_F_B", "[0SEND_F1;2RECV_F0]", "[" + ";".join(["0SEND_F1"] * 40) + "]"]
)


def marked(lines: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """Return by pair of lines the rank, what stands above the mark, and the note."""
    found = []
    for above, below in zip(lines[::2], lines[1::2], strict=True):
        mark = re.search(r"\^+", below)
        rank = re.match(r"rank ([0-9]+) ", above)
        assert mark is not None
        assert rank is not None
        found.append((int(rank[1]), above[mark.start() : mark.end()], below[mark.end() :].strip()))
    return found


@given(st.lists(st.lists(STEPS, min_size=1, max_size=40), min_size=1, max_size=4), st.data())
def test_the_mark_is_below_the_step(rows: list[list[str]], data: st.DataObject) -> None:
    schedule = Schedule.of(rows)
    rank = data.draw(st.integers(0, len(rows) - 1))
    position = data.draw(st.integers(0, len(rows[rank]) - 1))
    lines = picture_of_places(schedule, [(rank, position, "here")])
    ((told, step, note),) = marked(lines)
    whole = rows[rank][position]
    assert (told, note) == (rank, "here")
    assert step == whole if len(whole) <= 32 else whole.startswith(step.removesuffix("..."))
    assert max(map(len, lines)) <= 120
    inside = re.sub(r"^rank [0-9]+ +", "", lines[0]).split(" ")
    assert (inside[0] == "...") + (inside[-1] == "...") + len(rows[rank]) >= len(inside)


def test_places_that_are_not_there_are_left_out_and_few_are_shown() -> None:
    schedule = Schedule.of([["0F0"]] * 20)
    assert picture_of_places(schedule, [(20, 0, ""), (0, 1, ""), (-1, 0, ""), (0, -1, "")]) == ()
    lines = picture_of_places(schedule, [(rank, 0, "") for rank in range(20)])
    assert len(lines) == 2 * MOST_RANKS + 1
    assert lines[-1] == "..."


def test_the_first_violation_of_a_property_with_a_place_has_a_picture() -> None:
    """It marks the operation that the violation names first; a cycle has a mark for each of its ranks."""
    count = 0
    for name in NAMES:
        for result in report_of(example(name)).properties:
            if result.violations and not result.violations[0].message.startswith("lowered"):
                first = result.violations[0]
                assert bool(first.picture) == (first.position is not None)
                marks = marked(first.picture)
                if first.code in ("SV201", "SV304"):
                    assert [step for _, step, _ in marks] == list(first.operations)[:MOST_RANKS]
                elif marks:
                    assert marks[0][0] == first.rank
                count += bool(marks)
            assert not any(each.picture for each in result.violations[1:] if not each.message.startswith("lowered"))
    assert count > 20
