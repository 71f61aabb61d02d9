"""Equal blocks get one figure, unequal ones never do, by a clock of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from schedverify.profiling import Figure, blocks  # noqa: E402
from schedverify.profiling.equal_blocks import apart, figures_of, groups_of, signature_of  # noqa: E402
from schedverify.profiling.figures import pooled  # noqa: E402
from schedverify.profiling.session import ProfileSettings, measure  # noqa: E402
from schedverify.runner.launch.source import Source  # noqa: E402

WIDTH = 4
KINDS = ("forward", "backward", "backward_input", "backward_weight")


class Layer(nn.Module):
    """A layer that knows its number, and how often it does what it does."""

    def __init__(self, layer_idx: int, times: int = 1) -> None:
        super().__init__()
        self.layer_idx, self.times = layer_idx, times
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x: Any) -> Any:
        for _ in range(self.times):
            x = self.norm(self.linear(x))
        return x


def frozen(module: Any) -> Any:
    return module.requires_grad_(False)


MADE: dict[str, Callable[[], Any]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "no bias": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    "frozen": lambda: frozen(nn.Linear(WIDTH, WIDTH)),
    "in double": lambda: nn.Linear(WIDTH, WIDTH).double(),
    "norm": lambda: nn.BatchNorm1d(WIDTH),
    "norm without means": lambda: nn.BatchNorm1d(WIDTH, track_running_stats=False),
    "still norm": lambda: nn.BatchNorm1d(WIDTH).eval(),
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "dropout": lambda: nn.Dropout(0.1),
    "much dropout": lambda: nn.Dropout(0.2),
    "one head": lambda: nn.MultiheadAttention(WIDTH, 1),
    "two heads": lambda: nn.MultiheadAttention(WIDTH, 2),
    "lstm": lambda: nn.LSTM(WIDTH, WIDTH),
    "lstm, both ways": lambda: nn.LSTM(WIDTH, WIDTH // 2, bidirectional=True),
    "once": lambda: Layer(0),
    "twice": lambda: Layer(0, 2),
    "linear, tanh": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()),
    "linear, relu": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()),
    "wide": lambda: nn.Linear(WIDTH, 2 * WIDTH),
}


def test_blocks_made_alike_are_equal_and_others_are_not() -> None:
    inputs = [torch.ones(2, WIDTH)]
    made = [signature_of(make(), inputs) for make in (*MADE.values(), *MADE.values())]
    assert groups_of(made) == [[i, i + len(MADE)] for i in range(len(MADE))]


def test_the_number_of_a_layer_is_no_difference_and_its_inputs_are() -> None:
    one, two = Layer(0), Layer(5)
    assert signature_of(one, [torch.ones(2, WIDTH)]) == signature_of(two, [torch.zeros(2, WIDTH)])
    for other in ([torch.ones(3, WIDTH)], [torch.ones(2, WIDTH).double()], [torch.ones(2, WIDTH)] * 2):
        assert signature_of(one, [torch.ones(2, WIDTH)]) != signature_of(two, other)


def test_settings_that_cannot_be_compared_are_a_difference() -> None:
    one, two = nn.Module(), Layer(0)
    one.own, two.own = object(), object()
    both = [Layer(0), Layer(0)]
    for module in both:
        module.own = one.own
    assert signature_of(both[0], []) == signature_of(both[1], []) != signature_of(two, [])


Samples = list[list[dict[str, list[int]]]]
TIMES = st.lists(st.integers(1, 1000), min_size=3, max_size=3)


def samples(count: int) -> st.SearchStrategy[Samples]:
    """Return samples of two ranks, of so many blocks and the loss."""
    block = st.fixed_dictionaries(dict.fromkeys(KINDS, TIMES))
    return st.lists(st.lists(block, min_size=count + 1, max_size=count + 1), min_size=2, max_size=2)


@settings(deadline=None)
@given(samples(6))
def test_equal_blocks_have_the_figure_of_all_their_samples(ranks: Samples) -> None:
    """Blocks 1, 2 and 4 are equal, 3 and the last one as well; 0 is like nothing."""
    groups = [[1, 2, 4], [3, 5]]
    found = figures_of(ranks, groups)
    alone = [pooled([rank[i] for rank in ranks]) for i in range(7)]
    assert found[0] == alone[0]
    assert found[1] == found[2] == found[4]
    for kind in KINDS:
        together = [each for rank in ranks for i in (1, 2, 4) for each in rank[i][kind]]
        assert found[1][kind] == Figure.of(together)
        assert min(together) == found[1][kind].least
        assert found[5][kind].median == found[3][kind].median + alone[6][kind].median
    for group, told in zip(groups, apart(ranks, groups, "abcdef"), strict=True):
        assert told.names == tuple("abcdef"[i] for i in group)
        for kind in KINDS:
            medians = [alone[i][kind].median for i in group]
            assert told.medians[kind] == (min(medians), max(medians))
        assert told.busy == any(2 * least < most for least, most in told.medians.values())


@settings(deadline=None)
@given(samples(3))
def test_the_first_block_has_a_backward_of_its_own_that_is_no_longer_than_that_of_its_equals(ranks: Samples) -> None:
    found, alone = figures_of(ranks, [[0, 1, 2]]), [pooled([rank[i] for rank in ranks]) for i in range(4)]
    assert found[0]["forward"] == found[1]["forward"]
    assert found[0]["backward_weight"] == found[1]["backward_weight"]
    for kind in ("backward", "backward_input"):
        assert found[1][kind] == pooled([{kind: rank[i][kind]} for rank in ranks for i in (1, 2)])[kind]
        assert found[0][kind].median == min(alone[0][kind].median, found[1][kind].median)


class Clock:
    """Goes on by what was told of the next readings, else stands still; every second reading ends a measurement."""

    def __init__(self) -> None:
        self.now, self.readings = 0, 0

    def __call__(self) -> int:
        self.readings += 1
        if self.readings % 2 == 0:
            self.now += 1968 + (self.readings * 7919) % 6367
        return self.now


def test_six_equal_layers_get_one_figure_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each measurement takes 1968 to 8335 ns by the clock, whatever is measured."""
    monkeypatch.setattr(blocks, "_now", Clock())
    named = [("in", nn.Linear(3, WIDTH)), *((f"h{i}", Layer(i)) for i in range(6)), ("out", nn.Linear(WIDTH, 3))]
    source = Source(tuple(named), lambda _: (torch.ones(4, 3), torch.zeros(4, 3)), nn.functional.mse_loss)
    found = measure(ProfileSettings("six layers", 2, rounds=3, warmup=1), source=source)
    assert found is not None
    first, *layers, last = found.blocks
    assert all(layer.times == layers[0].times for layer in layers)
    assert first.times != layers[0].times != last.times
    (equal,) = found.equal
    assert equal.names == tuple(f"h{i}" for i in range(6))
    assert all(1968 <= least < most <= 8335 for least, most in equal.medians.values())
    assert equal.busy
    assert found.busy
    assert len({(layer.forward, layer.backward) for layer in found.as_model("ns").layers[1:-1]}) == 1
    assert "equal blocks have one figure" in found.remarks("ns")["source"]


def test_a_quiet_machine_is_not_called_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]

    def clock() -> int:
        now[0] += 100
        return now[0]

    monkeypatch.setattr(blocks, "_now", clock)
    named = tuple((str(i), nn.Linear(WIDTH, WIDTH)) for i in range(3))
    source = Source(named, lambda _: (torch.ones(4, WIDTH), torch.zeros(4, WIDTH)), nn.functional.mse_loss)
    found = measure(ProfileSettings("three", 1, rounds=2, warmup=0), source=source)
    assert found is not None
    assert not found.busy
    assert found.equal[0].names == ("0", "1", "2")
    assert [block.times["forward"].median for block in found.blocks] == [100, 100, 200]  # the last one has the loss
