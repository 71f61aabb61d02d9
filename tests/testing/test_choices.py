"""DrawnChoices stay in their places while an example shrinks, and end where none is needed any more."""

from __future__ import annotations

from hypothesis import find, given, settings
from hypothesis import strategies as st

from schedverify.testing.choices import DrawnChoices, number_for


@st.composite
def chosen(draw: st.DrawFn, counts: list[int]) -> list[int]:
    choices = DrawnChoices(draw)
    return [choices.among(count) for count in counts]


@given(st.data(), st.lists(st.integers(1, 300), max_size=20))
def test_each_choice_is_among_so_many(data: st.DataObject, counts: list[int]) -> None:
    assert all(0 <= number < count for number, count in zip(data.draw(chosen(counts)), counts, strict=True))


def test_every_choice_can_come_and_nothing_is_chosen_behind_the_last_that_matters() -> None:
    quick = settings(database=None, deadline=None, max_examples=2000)
    assert find(chosen([3] * 6), lambda found: found[2] == 2, settings=quick) == [0, 0, 2, 0, 0, 0]
    assert find(chosen([300]), lambda found: found[0] > 270, settings=quick) == [271]
    assert find(chosen([4, 1, 4]), lambda _: True, settings=quick) == [0, 0, 0]


def test_an_example_of_fewer_ranks_keeps_what_is_drawn_behind_its_choices() -> None:
    @st.composite
    def example(draw: st.DrawFn) -> tuple[int, list[int], int]:
        ranks = draw(st.integers(1, 4))
        return ranks, draw(chosen([2] * (5 * ranks))), draw(st.integers(0, 1 << 32))

    def fails(found: tuple[int, list[int], int]) -> bool:
        return found[0] > 1 and found[1][1] == 1 and number_for(found[2], "fault") % 5 == 3

    ranks, choices, _ = find(example(), fails, settings=settings(database=None, deadline=None, max_examples=2000))
    assert ranks == 2
    assert choices == [0, 1] + [0] * 8
