"""What a loss function may return, and what becomes of it on one rank."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from hypothesis import given  # noqa: E402 - after torch is known to be there
from hypothesis import strategies as st  # noqa: E402

from schedverify import Problem  # noqa: E402
from schedverify.core.errors import InputError  # noqa: E402
from schedverify.runner.compute.batches import feed_of  # noqa: E402
from schedverify.runner.compute.losses import (  # noqa: E402
    Form,
    KnownForm,
    Loss,
    power_below,
    share_of_means,
    share_of_sums,
)
from schedverify.runner.compute.stages import Stage  # noqa: E402


def outputs() -> Any:
    return (torch.tensor([[1.0, math.nan], [2.0, 3.0]], requires_grad=True),)


def value(*numbers: float) -> Any:
    return torch.tensor([float(number) for number in numbers], requires_grad=True).sum()


@pytest.mark.parametrize("count", [3, 3.0, torch.tensor(3), torch.tensor([3.0])], ids=str)
def test_a_pair_is_a_sum_and_a_count(count: Any) -> None:
    loss = Loss(lambda _: (value(1, 2), count), 0, 0.25, seed=0.5)
    assert loss.of(outputs()).item() == 3
    assert (loss.form, loss.count, loss.seed) == (Form.PAIR, 3.0, 0.5)


def test_a_mean_counts_for_its_weight() -> None:
    loss = Loss(lambda _: value(1, 2), 0, 0.25, seed=0.5)
    assert loss.of(outputs()).item() == 3
    assert (loss.form, loss.count, loss.seed) == (Form.MEAN, 0.0, 0.25)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda: (value(1), -1), r"loss: the count of stage 2 is -1 \(a number, 0 or more\)"),
        (lambda: (value(1), math.nan), "the count of stage 2 is nan"),
        (lambda: (value(1), torch.tensor(math.inf)), "the count of stage 2 is inf"),
        (lambda: (value(1), True), "the count of stage 2 is True"),
        (lambda: (value(1), torch.tensor(True)), "the count of stage 2 is True"),
        (lambda: (value(1), "3"), "the count of stage 2 is '3'"),
        (lambda: (value(1), torch.ones(2)), "the count of stage 2 is a tensor of 2 numbers"),
        (lambda: (value(1), value(3)), r"the count of stage 2 has a gradient \(.*count.detach\(\)\)"),
        (lambda: (3.0, 1), "loss: of stage 2 it is float"),
        (lambda: (value(1), 1, 1), r"loss: of stage 2 it is tuple \(return a scalar, .*, or a pair"),
        (lambda: torch.ones(2), "loss: of stage 2 it is a tensor of 2 numbers"),
    ],
)
def test_what_is_no_loss_is_told(returned: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Loss(lambda _: returned(), 2, 0.25).of(outputs())


@pytest.mark.parametrize("forms", [(Form.MEAN, Form.PAIR), (Form.PAIR, Form.MEAN)], ids=str)
def test_losses_keep_to_one_form(forms: tuple[Form, Form]) -> None:
    known = KnownForm()
    made = [Loss(lambda _, form=form: value(1) if form is Form.MEAN else (value(1), 1), 0, 1.0, known=known)
            for form in forms]  # fmt: skip
    made[0].of(outputs())
    made[0].of(outputs())
    with pytest.raises(InputError, match=f"loss: of stage 0 it is {forms[1]} now, {forms[0]} before"):
        made[1].of(outputs())


def gradient_of(loss: Loss) -> Any:
    given = outputs()
    loss.of(given).backward()
    return given[0].grad


def test_a_micro_batch_of_weight_zero_is_not_handed_to_the_loss() -> None:
    loss = Loss(lambda _: pytest.fail("called"), 0, 0.0)
    assert gradient_of(loss).tolist() == [[0, 0], [0, 0]]
    assert (loss.of(outputs()).item(), loss.of((torch.ones(2, dtype=torch.int64),)).item()) == (0, 0)
    assert (loss.form, loss.seed) == (None, 0.0)


def test_a_nan_that_counts_nothing_is_nothing() -> None:
    assert gradient_of(Loss(lambda out: (out[0].sum() * math.nan, 0), 0, 1.0)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("total", "count"), [(5.0, 0), (math.nan, 1)])
def test_other_sums_count_what_they_are(total: float, count: int) -> None:
    loss = Loss(lambda out: (out[0][1].sum() * total, count), 0, 1.0)
    assert str(gradient_of(loss)[1].tolist()) == str([total, total])


def test_weights_are_for_means() -> None:
    with pytest.raises(InputError, match=r"weights: given, while the loss of stage 1 is a pair \(.*has its count\)"):
        Loss(lambda _: (value(1), 1), 1, 0.5, weighted=True).of(outputs())


def test_a_mean_needs_rows_and_a_pair_none() -> None:
    problem, empty = Problem.chain(ranks=1, microbatches=2), [torch.ones(0, 3)] * 2
    batch = torch.ones(4, 3)
    for returned in (value(1), (value(1), 1)):
        made = feed_of(problem, 0, batch, empty, lambda *_, found=returned: found).loss(0, 0)
        assert made is not None
        if isinstance(returned, tuple):
            assert made.of((batch,)).item() == 1
        else:
            with pytest.raises(InputError, match="target: of stage 0 it has no rows"):
                made.of((batch,))


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ([1, 2], r"weights: 2 of them, where the plan has 3 micro-batches"),
        (3, "weights: int, where the plan has 3"),
        ([1, -2, math.nan], r"weights\[1\]: it is -2 .*\n.*weights\[2\]: it is nan"),
        ([1, "2", True], r"weights\[1\]: it is '2' .*\n.*weights\[2\]: it is True"),
        ({1: [1, 2, 3]}, "weights: rank 0 holds stage 0 and is given none for it"),
    ],
)
def test_wrong_weights_are_told(weights: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        feed_of(Problem.chain(ranks=1, microbatches=3), 0, torch.ones(3), torch.ones(3), print, weights)


@pytest.mark.parametrize("weights", [[1, 0, 3], (1.0, 0.0, 3.0), torch.tensor([1, 0, 3]), {0: [1, 0, 3]}], ids=str)
def test_weights_are_shares_of_their_sum(weights: Any) -> None:
    problem, batch = Problem.chain(ranks=1, microbatches=3), torch.ones(3, 1)
    feed = feed_of(problem, 0, batch, batch, lambda *_: value(1), weights)
    found = [feed.loss(0, m) for m in range(3)]
    for loss in found:
        assert loss is not None
        loss.of((batch,))
    assert [loss and loss.seed for loss in found] == [0.25, 0, 0.75]


def test_weights_of_nothing_are_a_loss_of_nothing() -> None:
    problem, batch = Problem.chain(ranks=1, microbatches=2), torch.ones(2, 1)
    made = feed_of(problem, 0, batch, batch, lambda *_: pytest.fail("called"), [0, 0]).loss(0, 1)
    assert made is not None
    assert made.of((batch,)).item() == made.seed == 0


def with_values(*pairs: tuple[float, float], dtype: Any = torch.float64) -> list[Loss]:
    made = [Loss(lambda _: value(1), 0, weight) for _, weight in pairs]
    for loss, (number, _) in zip(made, pairs, strict=True):
        loss.of(outputs())
        loss.value = torch.tensor(number, dtype=dtype)
    return made


def test_shares() -> None:
    assert (share_of_means([]), share_of_sums([], 0.5)) == (None, None)
    assert float(share_of_means(with_values((3, 0.5), (4, 0.25)))) == 2.5
    assert float(share_of_sums(with_values((3, 0.5), (4, 0.25)), 0.5)) == 3.5
    assert float(share_of_sums(with_values((math.nan, 1)), 0.0)) == 0


def test_large_sums_of_small_numbers_do_not_overflow() -> None:
    total = share_of_sums(with_values((40000, 1), (40000, 1), dtype=torch.float16), 1 / 80000)
    assert (total.dtype, float(total)) == (torch.float32, 1)


@given(st.floats(1e-9, 1e9))
def test_a_power_of_two_below(share: float) -> None:
    power = power_below(share)
    assert math.log2(power).is_integer()
    assert 2**-14 <= power <= 1
    assert power <= share < 2 * power or (power == 1 <= share) or (power == 2**-14 > share)
    assert float(torch.tensor(power, dtype=torch.float16)) == power


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_a_stage_begins_its_backward_with_the_seed(recompute: bool, split: bool) -> None:
    module = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(module.weight)
    stage = Stage(0, module, recompute=recompute, training=True, is_first=True)
    loss = Loss(lambda out: (out[0].sum(), 5), 0, 0.5, seed=0.25)
    found = stage.forward(0, (torch.tensor([[1.0, 2.0], [3.0, 4.0]]),), loss, split=split)
    stage.backward(0, (), split=split)
    if split:
        stage.run_weights(0)
    assert module.weight.grad.tolist() == [[1.0, 1.5]]
    assert (found[-1].item(), loss.count) == (10, 5)
