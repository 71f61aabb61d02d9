"""The automatic zero-bubble families: their papers' tables, their memory on every rank, and what they never lose to."""

import dataclasses
import random
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.formats import load_problem
from schedverify.generators import family, generate
from schedverify.generators.dispatch import DispatchPolicy, MemoryBudget, dispatch
from schedverify.simulator.engine import simulate
from schedverify.verifier.verification import verify

PROBLEMS = Path(__file__).parents[2] / "specs" / "problems"
FAMILIES = ("zb-1p", "zb-2p", "zb-v")
HALVES = {"activation": 2, "weight_stash": 1}


def memory(name: str, problem: Problem) -> list[int]:
    """Return by rank what a family may hold: P, 2P or P times what its stages keep."""
    times = problem.stages // family(name).virtual * (2 if name == "zb-2p" else 1)
    return [times * sum(problem.activation[stage] for stage in stages) for stages in problem.stages_of]


def span_of(name: str, problem: Problem) -> int:
    """Return the span of a family's schedule, once it has been verified in the family's memory."""
    limited = dataclasses.replace(problem, capacity=tuple(memory(name, problem)))
    schedule = generate(name, limited)
    report = verify(schedule, limited, select=("SV1", "SV2", "SV402"))
    assert report.ok, report.violations
    return simulate(schedule, problem).span


def random_problem(name: str, seed: int) -> Problem:
    """Return a problem that a family takes: few or many micro-batches, equal stages or not, with or without latency."""
    rng = random.Random(f"{name} {seed}")
    ranks, virtual = rng.randint(1, 6), family(name).virtual
    spread, pairs = rng.choice([0, 0.15, 0.6]), [(2, 1), (3, 1), (5, 5), (4, 0)]

    def costs(mean: int) -> list[int]:
        return [round(mean * rng.uniform(1 - spread, 1 + spread)) for _ in range(ranks * virtual)]

    one = rng.choice(pairs)
    sizes = [rng.choice(pairs) if spread else one for _ in range(ranks * virtual)]
    return family(name).problem(
        ranks,
        rng.choice([rng.randint(1, ranks), rng.randint(ranks, 4 * ranks)]),
        forward=costs(18),
        backward_input=costs(rng.choice([18, 22])),
        backward_weight=costs(rng.choice([0, 9, 13, 18])),
        latency=rng.choice([0, 0, 1, 6]),
        activation=[activation for activation, _ in sizes],
        weight_stash=[stash for _, stash in sizes],
    )


class TestPublishedTables:
    # Qi et al., arXiv 2401.10241, tables 5, 8 and 9; the spans are those of the authors' scheduler on these costs.
    @pytest.mark.parametrize(
        ("file", "name"),
        [
            *((f"{model}{end}", f"zb-{end[1:] or '1p'}")
              for model in ("zb-1.5b-p8-m24", "zb-1.5b-p8-m32", "zb-6.2b-p8-m24", "zb-14.6b-p16-m48")
              for end in ("", "-2p")),
            ("zb-v-p16-m48", "zb-v"),
            ("zb-v-p24-m72", "zb-v"),
        ],
    )  # fmt: skip
    def test_at_least_as_good(self, file: str, name: str) -> None:
        path = PROBLEMS / f"{file}.toml"
        expected = tomllib.loads(path.read_text(encoding="utf-8"))["expected"]
        problem = load_problem(str(path))
        assert list(problem.capacity or ()) == memory(name, problem)
        schedule = generate(name, problem)
        assert verify(schedule, problem, select=("SV1", "SV2", "SV402")).ok
        measures = simulate(schedule, problem).measures
        assert round(float(measures.span_bubble), 4) <= expected["bubble"][name]
        assert name == "zb-v" or measures.span <= expected["span"][name]


class TestEveryShape:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_a_spread_of_ranks_and_microbatches(self, name: str) -> None:
        for ranks in (1, 2, 3, 4, 7, 12, 19):
            for microbatches in sorted({1, ranks - 1 or 1, ranks + 1, 29 - ranks}):
                costs = {"forward": 18, "backward_input": 18, "backward_weight": 10}
                span_of(name, family(name).problem(ranks, microbatches, latency=ranks % 3, **costs, **HALVES))

    @pytest.mark.parametrize("name", FAMILIES)
    def test_the_largest(self, name: str) -> None:
        span_of(name, family(name).problem(32, 100, forward=2, backward_input=2, backward_weight=1, **HALVES))

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    @pytest.mark.parametrize("name", FAMILIES)
    def test_every_number_of_ranks(self, name: str) -> None:
        for ranks in range(1, 33):
            for microbatches in sorted({1, ranks // 2 or 1, ranks, ranks + 1, 40, 100}):
                span_of(name, family(name).problem(ranks, microbatches, latency=ranks % 2, **HALVES))

    @pytest.mark.parametrize("name", FAMILIES)
    @pytest.mark.parametrize("seed", range(25))
    def test_random_costs_and_memory(self, name: str, seed: int) -> None:
        problem = random_problem(name, seed)
        span = span_of(name, problem)
        assert generate(name, problem) == generate(name, problem)
        if name == "zb-v":
            return
        assert span <= simulate(generate("zb-h1", problem), problem).span
        if name == "zb-2p":
            assert span <= simulate(generate("zb-1p", problem), problem).span
            assert span <= simulate(generate("zb-h2", problem), problem).span

    def test_stages_on_several_ranks_and_ranks_without_one(self) -> None:
        problem = Problem.chain(ranks=5, microbatches=6, stages=3, placement=[2, [0, 3], 1], form="split", **HALVES)
        for name in ("zb-1p", "zb-2p"):
            span_of(name, problem)
            rows = str(generate(name, problem)).splitlines()
            assert (rows[0], rows[4]) == (rows[3], "-")

    def test_a_large_problem_takes_fewer_passes(self) -> None:
        problem = family("zb-1p").problem(4, 12_000)
        assert len(generate("zb-1p", problem)) == 3 * 4 * 12_000


class TestClosedForms:
    @pytest.mark.parametrize(("name", "weights"), [("zb-1p", 1), ("zb-2p", 2)])
    def test_equal_stages(self, name: str, weights: int) -> None:
        for ranks in (1, 2, 5, 8):
            for costs in ((1, 1, 1), (3, 4, 2), (4, 3, 3)):
                microbatches = 2 * ranks + 3
                cost = dict(zip(("forward", "backward_input", "backward_weight"), costs, strict=True))
                span = span_of(name, family(name).problem(ranks, microbatches, **cost, **HALVES))
                bubble = (ranks - 1) * (costs[0] + costs[1] - weights * costs[2])
                assert microbatches * sum(costs) <= span <= microbatches * sum(costs) + bubble

    def test_no_rank_waits_in_a_v_of_equal_costs(self) -> None:
        for ranks in range(1, 11):
            for microbatches in (2 * ranks, 3 * ranks + 1):
                assert span_of("zb-v", family("zb-v").problem(ranks, microbatches, **HALVES)) == 6 * microbatches


class TestMemory:
    def test_more_memory_is_used(self) -> None:
        for name, times in (("zb-1p", 1), ("zb-2p", 2), ("zb-v", 2)):
            problem = family(name).problem(6, 30, forward=3, backward_input=3, backward_weight=2, **HALVES)
            assert max(simulate(generate(name, problem), problem).peak_memory) == 2 * times * 6

    def test_stages_of_a_v_that_keep_unlike_much(self) -> None:
        problem = family("zb-v").problem(3, 9, activation=[2, 2, 2, 7, 5, 1], weight_stash=[1, 0, 2, 7, 0, 1])
        span_of("zb-v", problem)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_ranks_that_keep_nothing_count_microbatches(self, name: str) -> None:
        problem = family(name).problem(4, 20, activation=0)
        timeline = simulate(generate(name, problem), problem)
        assert timeline.peak_memory == (0,) * 4
        assert max(timeline.peak_in_flight) <= {"zb-1p": 4}.get(name, 8)
        assert generate(name, problem) == generate(name, family(name).problem(4, 20, **HALVES))

    @pytest.mark.parametrize("name", FAMILIES)
    @pytest.mark.parametrize(("boundary", "stash"), [(0, 0), (1, 1), (1, 3), (0, 4), (4, 2)])
    def test_stages_that_recompute(self, name: str, boundary: int, stash: int) -> None:
        memory = {"activation": 4, "boundary": boundary, "weight_stash": stash, "recompute": True, "static": 9}
        problem = family(name).problem(4, 11, **memory)
        kept, virtual = max(boundary, stash), family(name).virtual
        most = 9 + {"zb-2p": 8}.get(name, 4) * kept * virtual + max(0, 4 - kept)
        schedule = generate(name, problem)
        limited = dataclasses.replace(problem, capacity=(most,) * 4)
        assert verify(schedule, limited, select=("SV1", "SV2", "SV402")).ok

    def test_limits_of_the_problem_change_nothing(self) -> None:
        free = family("zb-1p").problem(4, 9, **HALVES)
        tight = dataclasses.replace(free, capacity=(4,) * 4, in_flight=(2,) * 4)
        assert generate("zb-1p", tight) == generate("zb-1p", free)


class TestPolicy:
    """Each knob on a case that can be followed by hand."""

    ONE = Problem.chain(ranks=1, microbatches=4, forward=1, backward_input=1, backward_weight=1)

    @staticmethod
    def room(stages: int, *, limit: int = 99, ahead: int = 99) -> MemoryBudget:
        return MemoryBudget([limit] * stages, [2] * stages, [1] * stages, [0] * stages, [ahead] * stages)

    def text(self, problem: Problem, policy: DispatchPolicy, **room: int) -> str:
        schedule = dispatch(problem, self.room(problem.stages, **room), policy)
        return str(schedule).splitlines()[0].replace(" 0", " ").removeprefix("0")

    def test_forward_and_gradient_in_turn(self) -> None:
        assert self.text(self.ONE, DispatchPolicy(None, 0, 0)) == "F0 I0 F1 I1 F2 I2 F3 I3 W0 W1 W2 W3"

    def test_the_longest_way_first(self) -> None:
        assert self.text(self.ONE, DispatchPolicy(0, 0, 0)) == "F0 F1 F2 F3 I0 I1 I2 I3 W0 W1 W2 W3"

    def test_the_oldest_first(self) -> None:
        assert self.text(self.ONE, DispatchPolicy(10, 0, 0)) == "F0 I0 F1 I1 F2 I2 F3 I3 W0 W1 W2 W3"

    def test_weights_run_where_memory_is_full(self) -> None:
        assert self.text(self.ONE, DispatchPolicy(None, 0, 0), limit=2) == "F0 I0 W0 F1 I1 W1 F2 I2 W2 F3 I3 W3"
        assert self.text(self.ONE, DispatchPolicy(None, 0, 0), limit=3) == "F0 I0 F1 I1 W0 F2 I2 W1 F3 I3 W2 W3"

    def test_weights_before_gradients_where_memory_is_full(self) -> None:
        assert self.text(self.ONE, DispatchPolicy(0, 0, 0), limit=4) == "F0 F1 I0 I1 F2 I2 W0 F3 I3 W1 W2 W3"
        # Once no F waits for memory any more, I goes first again.
        first = DispatchPolicy(0, 0, 0, weights_first=True)
        assert self.text(self.ONE, first, limit=4) == "F0 F1 I0 W0 F2 I1 W1 F3 I2 I3 W2 W3"

    def test_no_more_ahead_than_allowed(self) -> None:
        assert self.text(self.ONE, DispatchPolicy(0, 0, 0), ahead=2) == "F0 F1 I0 F2 I1 F3 I2 I3 W0 W1 W2 W3"

    def test_a_forward_waits_for_a_gradient_that_is_coming(self) -> None:
        # Rank 0 is free at 10, 1I0 ends at 11, 0F2 would end at 15: four of its five ticks would stand in the way.
        costs = {"forward": [5, 4], "backward_input": 2, "backward_weight": 1}
        problem = Problem.chain(ranks=2, microbatches=3, **costs)
        assert self.text(problem, DispatchPolicy(None, 3, 0)).startswith("F0 F1 I0 F2")
        assert self.text(problem, DispatchPolicy(None, 4, 0)).startswith("F0 F1 F2 I0")

    def test_how_much_of_a_weight_part_may_stand_in_the_way(self) -> None:
        # Rank 0 is free at 14 and 1I1 ends at 17: three of the ten ticks of 0W0 fit in between.
        costs = {"forward": [1, 4], "backward_input": [5, 4], "backward_weight": [10, 1]}
        problem = Problem.chain(ranks=2, microbatches=2, **costs)
        assert self.text(problem, DispatchPolicy(None, 0, 2)) == "F0 F1 I0 I1 W0 W1"
        assert self.text(problem, DispatchPolicy(None, 0, 3)) == "F0 F1 I0 W0 I1 W1"
        assert self.text(problem, DispatchPolicy(None, 0, None)) == "F0 F1 I0 W0 I1 W1"

    def test_a_rank_that_has_waited_less_than_another_waits(self) -> None:
        # As above, with a rank in front that has been idle for longer: from 2 to 15, and rank 1 from 3 to 10.
        costs = {"forward": [1, 1, 4], "backward_input": [1, 5, 4], "backward_weight": [1, 10, 1]}
        problem = Problem.chain(ranks=3, microbatches=2, **costs)
        for filling, row in ((None, "1F0 1F1 1I0 1I1 1W0 1W1"), (3, "1F0 1F1 1I0 1W0 1I1 1W1")):
            assert str(dispatch(problem, self.room(3), DispatchPolicy(None, 0, filling))).splitlines()[1] == row

    def test_the_oldest_weight_part_first(self) -> None:
        problem = Problem.chain(ranks=1, microbatches=2, virtual=2, form="split")
        row = str(dispatch(problem, self.room(2), DispatchPolicy(0, 0, 0))).split()
        weights = [step for step in row if "W" in step]
        assert weights == ["0W0", "1W0", "0W1", "1W1"]

    def test_every_policy_ends_within_its_room(self) -> None:
        rng = random.Random(0)
        for seed in range(40):
            problem = random_problem("zb-v", seed)
            kept, stash = list(problem.activation), list(problem.weight_stash)
            limits = [sum(kept[stage] for stage in stages) for stages in problem.stages_of]
            room = MemoryBudget(limits, kept, stash, [0] * problem.stages, [problem.microbatches] * problem.stages)
            age = rng.choice([None, 0, 3, 20])
            policy = DispatchPolicy(
                age, rng.randint(0, 4), rng.choice([None, 0, 2, 4]), weights_first=rng.random() < 0.5
            )
            limited = dataclasses.replace(problem, capacity=tuple(limits))
            assert verify(dispatch(problem, room, policy), limited, select=("SV1", "SV2", "SV402")).ok

    def test_each_stage_runs_its_microbatches_in_order(self) -> None:
        problem = random_problem("zb-v", 3)
        for row in Schedule.parse(str(generate("zb-v", problem))).rows:
            ops = [divmod(word, 1 << 24) for word in row.tolist()]
            for stream in {stream for stream, _ in ops}:
                order = [m for other, m in ops if other == stream]
                assert all(b == a + 1 for a, b in pairwise(order))
