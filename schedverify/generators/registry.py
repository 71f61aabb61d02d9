"""The generators by name: where each comes from, and which shapes it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from schedverify.core.argument_types import check_types
from schedverify.core.ending import Check, go_on
from schedverify.core.errors import Fault, InputError, look_up
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.generators import classic, interleaved, shapes, zero_bubble
from schedverify.generators.shapes import Need


@dataclass(frozen=True)
class Family:
    """A family of schedules: one order for every problem of the shapes that it takes.

    Attributes
    ----------
    name
        The name on the command line and in :func:`generate`.
    source
        The paper, with its section or figure, that the order comes from.
    placement
        Where the stages must stand: ``"any"``, ``"one stage a rank"``, ``"loop"`` or ``"v"``.
    shapes
        Which problems the family takes, in a sentence. All families take every number of ranks and of micro-batches.
    exclusions
        Which problems it refuses, each with the reason.
    splits_backward
        Whether it runs I and W; the others run B, in split problems too.
    virtual
        The stages a rank of the problem that :meth:`problem` makes where nothing else is said.
    needs
        The checks of a problem's shape, each of which returns a fault or None.
    make
        The function from a problem of that shape to the schedule; where the order follows the costs, with a check.
    room
        Of a family whose order follows the costs, for how many times the micro-batches of 1F1B a rank has room; 0 where
        the order follows from the shape alone.
    """

    name: str
    source: str
    placement: str
    shapes: str
    exclusions: tuple[str, ...]
    splits_backward: bool
    virtual: int
    needs: tuple[Need, ...]
    make: Callable[..., Schedule]
    room: int = 0

    def most_in_flight(self, problem: Problem) -> int:
        """Return how many micro-batches a rank has room for, of each of its stages, where the order follows costs."""
        return min(problem.microbatches, self.room * problem.stages // max(map(len, problem.stages_of)))

    def faults(self, problem: Problem) -> list[Fault]:
        """Return why the family does not suit a problem, each with the nearest shape that it takes."""
        most = MOST_DISPATCHED if self.room else MOST_GENERATED
        fits = shapes.at_most(most, 3 if self.splits_backward else 2)
        found = [fault for need in (*self.needs, fits) if (fault := need(problem))]
        return [fault._replace(message=f"{self.name} {fault.message}") for fault in found]

    def suits(self, problem: Problem) -> bool:
        """Whether the family has a schedule for a problem. Limits on memory and in flight are not looked at."""
        return not self.faults(problem)

    def problem(self, ranks: int, microbatches: int, virtual: int | None = None, **keys: Any) -> Problem:
        """Make a problem with the family's own placement and form, as ``Problem.chain`` does with ``keys``.

        Raises
        ------
        InputError
            If an argument has a fault, or the family does not take so many stages a rank.
        """
        own = {"form": "split"} if self.splits_backward else {}
        own |= {"placement": "v"} if self.placement == "v" else {}
        stages = self.virtual if virtual is None else virtual
        made = Problem.chain(ranks=ranks, microbatches=microbatches, virtual=stages, **own | keys)
        if faults := self.faults(made):
            raise InputError(faults)
        return made

    def generate(self, problem: Problem, check: Check = go_on) -> Schedule:
        """Return the family's schedule for a problem; see :func:`generate`.

        ``check`` is called now and then by the families whose order follows the costs, which alone take long.
        """
        if faults := self.faults(problem):
            raise InputError(faults)
        return self.make(problem, check) if self.room else self.make(problem)


def generate(  # noqa: PLR0913 - each is an option of the command line
    family: str,
    problem: Problem | None = None,
    *,
    ranks: int | None = None,
    microbatches: int | None = None,
    virtual: int | None = None,
    forward: int | None = None,
    backward: int | None = None,
    backward_input: int | None = None,
    backward_weight: int | None = None,
) -> Schedule:
    """Return the schedule of a family for a problem, or for a number of ranks and micro-batches.

    The order follows from ranks, micro-batches and placement alone, but for the automatic families (``zb-1p``,
    ``zb-2p``, ``zb-v``): theirs follows from costs, latencies and what stages keep as well. Limits change nothing.

    Parameters
    ----------
    family
        Its name; :func:`families` lists them.
    problem
        The problem; without it, ``ranks`` and ``microbatches`` are needed.
    ranks, microbatches
        The shape, instead of a problem: devices of the pipeline, and micro-batches of a step.
    virtual
        Stages on each rank of that shape; the family's own number by default.
    forward, backward, backward_input, backward_weight
        Ticks of F, B, I and W of each stage of that shape; those of ``Problem.chain`` by default.

    Raises
    ------
    UnknownNameError
        If there is no such family; says the nearest.
    InputError
        If the family does not suit the problem; says what it wants and the nearest shape that works. If a problem and
        a shape are given, or neither.

    Examples
    --------
    >>> print(generate("1f1b", Problem.chain(ranks=2, microbatches=3)))
    0F0 0F1 0B0 0F2 0B1 0B2
    1F0 1B0 1F1 1B1 1F2 1B2
    >>> generate("1f1b", ranks=2, microbatches=3) == generate("1f1b", Problem.chain(ranks=2, microbatches=3))
    True
    """
    costs = {"forward": forward, "backward": backward, "backward_input": backward_input,
             "backward_weight": backward_weight}  # fmt: skip
    shape = {"ranks": ranks, "microbatches": microbatches, "virtual": virtual}
    given = {name: value for name, value in (shape | costs).items() if value is not None}
    if problem is None and given:
        check_types("generate", family=(family, str))
        if lacking := [name for name in ("ranks", "microbatches") if name not in given]:
            raise InputError([Fault(name, "missing", "generate takes a problem, or both numbers") for name in lacking])
        return _named(family).generate(_named(family).problem(**given))
    check_types("generate", family=(family, str), problem=(problem, Problem))
    if given:
        raise InputError([Fault(name, "stands beside a problem", "give one of them") for name in given])
    return _named(family).generate(cast("Problem", problem))


def families() -> tuple[Family, ...]:
    """Return all families, the simplest first."""
    return _FAMILIES


def family(name: str) -> Family:
    """Return the family of that name.

    Raises
    ------
    UnknownNameError
        If there is none; says the nearest.
    """
    return look_up("family", name, {each.name: each for each in _FAMILIES})


def usual_family(problem: Problem) -> Family | None:
    """Return the family that most would run on a problem of that shape; its limits are not looked at.

    1F1B, interleaved or in a V where a rank has several stages; without a backward to alternate with, on a graph, on
    copies or with slices, all forwards before all backwards. None where the problem is too large for all of them.
    """
    several = shapes.several_looped(problem) is None
    names = ("1f1b", "interleaved-1f1b", "zb-v", "looped-bfs" if several else "gpipe", "gpipe")
    return next((known for known in map(family, names) if known.suits(problem)), None)


MOST_GENERATED: Final = 1 << 24
"""The most operations of a schedule whose order follows from the shape: what is made in seconds, in 500 MB."""
MOST_DISPATCHED: Final = 1 << 19
"""The same where the order follows the costs, operation by operation: some ten microseconds each."""
_named = family
"""For :func:`generate`, where ``family`` is a name."""

_INFERENCE: Final = "inference: there is no backward to alternate with"
_SLICES: Final = "sliced sequences: the gradient of a sequence begins at its last part"
_CHAIN: Final = "several copies of the model, or a stage graph that is no chain"
_SEVERAL: Final = "several stages on a rank"
_LOOP: Final = 'any placement but "loop": the order follows from it'
_V: Final = 'any placement but "v" with two stages a rank'
_SPLIT: Final = "fused problems: there is no W to move"
_COSTS: Final = "the order follows its costs and latencies too"

_GPIPE: Final = "Huang et al. 2019 (GPipe, arXiv 1811.06965)"
_MEGATRON: Final = "Narayanan et al. 2021 (Megatron-LM, arXiv 2104.04473)"
_EAGER: Final = "Zhuang et al. 2023 (arXiv 2211.05322), eager-1F1B; Alpa's 1f1b_overlap_friendly"
_BREADTH_FIRST: Final = "Lamy-Poirier 2023 (Breadth-First Pipeline Parallelism, arXiv 2211.05953)"
_ZERO_BUBBLE: Final = "Qi et al. 2024 (Zero Bubble, arXiv 2401.10241)"
_ZB_1P: Final = f"{_ZERO_BUBBLE}, section 3.1 and table 5"

# What families take, each row as the fields of Family from its placement to its needs:
# placement, shapes, exclusions, splits_backward, virtual, needs
_ALL: Final = ("any", "every problem, inference too", (), False, 1, ())
_ALL_IN_TURN: Final = ("any", f"{_ALL[1]}; several stages on a rank run one after another", *_ALL[2:])
_FUSED: Final = (
    "one stage a rank", "a chain in training, at most one stage on a rank", (_INFERENCE, _SEVERAL, _CHAIN, _SLICES),
    False, 1, (shapes.backward, shapes.chain, shapes.whole_sequences, shapes.one_stage_a_rank),
)  # fmt: skip
_FUSED_IN_A_LOOP: Final = (
    "loop", "a chain in training, 2 or more stages a rank in a loop; M need be no multiple of P",
    (_INFERENCE, "one stage a rank: that is 1f1b", _LOOP, _CHAIN, _SLICES),
    False, 2, (shapes.backward, shapes.chain, shapes.several_looped, shapes.whole_sequences),
)  # fmt: skip
_ANY_IN_A_LOOP: Final = (
    "loop", "a chain, any number of stages a rank in a loop, inference too", (_LOOP, _CHAIN),
    False, 2, (shapes.chain, shapes.looped),
)  # fmt: skip
_SPLIT_IN_TWO: Final = (
    "one stage a rank", "a chain with a split backward, at most one stage on a rank",
    (_SPLIT, _SEVERAL, _CHAIN, _SLICES),
    True, 1, (shapes.split_backward, shapes.chain, shapes.whole_sequences, shapes.one_stage_a_rank),
)  # fmt: skip
_SPLIT_BY_COSTS: Final = ("one stage a rank", f"{_SPLIT_IN_TWO[1]}; {_COSTS}", *_SPLIT_IN_TWO[2:])
_SPLIT_IN_A_V: Final = (
    "v", f"a chain with a split backward, two stages a rank in a V; {_COSTS}", (_SPLIT, _V, _CHAIN, _SLICES),
    True, 2, (shapes.split_backward, shapes.chain, shapes.whole_sequences, shapes.two_in_a_v),
)  # fmt: skip

_FAMILIES: Final = (
    Family("naive", f"{_GPIPE}, figure 2b", *_ALL, classic.naive),
    Family("gpipe", f"{_GPIPE}, section 2.2 and figure 2c", *_ALL_IN_TURN, classic.gpipe),
    Family("1f1b", f"{_MEGATRON}, section 2.2.1: PipeDream-Flush", *_FUSED, classic.one_f_one_b),
    Family("eager-1f1b", _EAGER, *_FUSED, classic.eager_1f1b),
    Family("interleaved-1f1b", f"{_MEGATRON}, section 2.2.2", *_FUSED_IN_A_LOOP, interleaved.interleaved_1f1b),
    Family("looped-bfs", f"{_BREADTH_FIRST}, figure 4", *_ANY_IN_A_LOOP, interleaved.looped_bfs),
    Family("zb-h1", f"{_ZERO_BUBBLE}, section 2.1 and figure 3, top", *_SPLIT_IN_TWO, zero_bubble.zb_h1),
    Family("zb-h2", f"{_ZERO_BUBBLE}, section 2.2 and figure 3, bottom", *_SPLIT_IN_TWO, zero_bubble.zb_h2),
    Family("zb-1p", f"{_ZB_1P}: the memory of 1F1B", *_SPLIT_BY_COSTS, zero_bubble.zb_1p, 1),
    Family("zb-2p", f"{_ZB_1P}: twice the memory of 1F1B", *_SPLIT_BY_COSTS, zero_bubble.zb_2p, 2),
    Family("zb-v", f"{_ZERO_BUBBLE}, section 6 and table 8: the memory of 1F1B", *_SPLIT_IN_A_V, zero_bubble.zb_v, 1),
)
