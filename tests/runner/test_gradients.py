"""Gradients that stood before a step are out of its way, and what it adds is added to them."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from schedverify.runner.compute.gradients import begin_average, scale, set_aside, weights_of


def weight(*numbers: float) -> torch.nn.Linear:
    module = torch.nn.Linear(len(numbers), 1, bias=False)
    module.weight.grad = torch.tensor([numbers])
    return module


def test_only_what_a_step_adds_is_seen_within_it() -> None:
    old, fresh = weight(1.0, 2.0), torch.nn.Linear(2, 1, bias=False)
    kept = old.weight.grad
    with set_aside([old, fresh, old]):
        assert old.weight.grad is None
        old.weight.grad, fresh.weight.grad = torch.ones(1, 2), torch.ones(1, 2)
    assert old.weight.grad is kept
    assert old.weight.grad.tolist() == [[2.0, 3.0]]
    assert fresh.weight.grad.tolist() == [[1.0, 1.0]]


def test_a_weight_without_a_new_gradient_keeps_its_own() -> None:
    module = weight(1.0)
    with set_aside([module]):
        pass
    assert module.weight.grad.tolist() == [[1.0]]


def test_after_a_failure_gradients_are_those_before() -> None:
    module = weight(1.0)

    def step() -> None:
        with set_aside([module]):
            module.weight.grad = torch.ones(1, 1)
            raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        step()
    assert module.weight.grad.tolist() == [[1.0]]


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
def test_sparse_gradients_are_added(first: bool, second: bool) -> None:
    def gradient(sparse: bool) -> torch.Tensor:
        made = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
        return made.to_sparse() if sparse else made

    table = torch.nn.Embedding(2, 2)
    table.weight.grad = gradient(first)
    with set_aside([table]):
        table.weight.grad = gradient(second)
    found = table.weight.grad
    assert (found.to_dense() if found.is_sparse else found).tolist() == [[0.0, 2.0], [0.0, 0.0]]


def test_gradients_are_multiplied_and_nothing_makes_zeros_even_of_a_nan() -> None:
    some, none, lost = weight(1.0, 2.0), torch.nn.Linear(2, 1), weight(float("nan"))
    scale([some.weight, *none.parameters()], 0.5)
    assert some.weight.grad.tolist() == [[0.5, 1.0]]
    assert [each.grad for each in none.parameters()] == [None, None]
    scale([some.weight, lost.weight], 0.0)
    assert (some.weight.grad.tolist(), lost.weight.grad.tolist()) == ([[0.0, 0.0]], [[0.0]])


def test_weights_are_told_by_their_numbers_and_dtypes() -> None:
    frozen = torch.nn.Linear(2, 3).requires_grad_(False)
    mixed = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1).double())
    assert weights_of({0: frozen, 1: mixed}) == {"0": "0", "1": "9/float32/float64"}


def test_frozen_weights_have_no_mean_to_wait_for() -> None:
    frozen = torch.nn.Linear(2, 3).requires_grad_(False)
    assert begin_average(frozen.parameters(), None, "rank 0, stage 0", 1.0)() is None  # type: ignore[func-returns-value]
