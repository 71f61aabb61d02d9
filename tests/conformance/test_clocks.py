"""Offsets of clocks: against what they were made of, and against trying all of them."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from schedverify.conformance.clocks import offsets

BOUNDS = st.dictionaries(
    st.tuples(st.integers(0, 2), st.integers(0, 2)).filter(lambda pair: pair[0] != pair[1]), st.integers(-3, 3)
)


def reached(least: dict[tuple[int, int], int]) -> bool:
    """Whether ways lead from rank 0 to both others."""
    return ((0, 1) in least and ((0, 2) in least or (1, 2) in least)) or ((0, 2) in least and (2, 1) in least)


@given(BOUNDS)
def test_they_keep_all_bounds_and_tell_how_far_they_may_be_wrong(least: dict[tuple[int, int], int]) -> None:
    possible = [
        (0, one, two) for one, two in product(range(-15, 16), repeat=2)
        if all((0, one, two)[b] - (0, one, two)[a] >= by for (a, b), by in least.items())
    ]  # fmt: skip
    found = offsets(least, ["", "", ""])
    assert (found is None) == (not possible)
    if found is None:
        return
    assert found.added[0] == 0
    for rank in (1, 2):
        low, high = (bound(each[rank] for each in possible) for bound in (min, max))
        error = found.errors[rank]
        assert (error is None) == (low < -6 or high > 6), "no two bounds together are more"
        if error is not None:
            assert error == max(high - found.added[rank], found.added[rank] - low)
    if reached(least) or reached(
        {(b, a): by for (a, b), by in least.items()}
    ):  # the middle, rounded down on both ends, keeps them to one
        assert all(found.added[b] - found.added[a] >= by - 1 for (a, b), by in least.items())
    if all(by <= 0 for by in least.values()):
        assert found.added == (0, 0, 0), "clocks that contradict nothing stay"


def test_ranks_of_one_host_have_one_clock() -> None:
    both_ways = {(0, 1): -50, (1, 0): -10, (1, 2): 40, (2, 1): -60}
    found = offsets(both_ways, ["one", "one", "two"])
    assert found is not None
    assert found.added == (0, 0, 50)
    assert found.errors == (0, 0, 10)
    apart = offsets(both_ways, ["", "", ""])
    assert apart is not None
    assert apart.errors[1] == 30


def test_a_host_whose_clocks_contradict_its_messages_is_no_host() -> None:
    found = offsets({(0, 1): 20, (1, 0): -40}, ["one", "one"])
    assert found is not None
    assert found.added == (0, 30)
    assert found.errors == (0, 10)


def test_messages_that_contradict_each_other_have_no_clocks() -> None:
    assert offsets({(0, 1): 5, (1, 0): -4}, ["", ""]) is None
    assert offsets({(1, 2): 0, (2, 1): 1}, ["", "", ""]) is None, "also between ranks that rank 0 has no message with"


def test_messages_one_way_bound_one_side() -> None:
    found = offsets({(0, 1): 7}, ["", ""])
    assert found is not None
    assert found.added == (0, 7)
    assert found.errors == (0, None)
