"""The losses of a step on one rank: what a loss function may return, and what each micro-batch's loss counts for.

A mean counts for its micro-batch's share of the batch, which is known before: the backward begins with that. A pair of
a sum and the number that counts (of tokens, say) is a part of a sum over the whole batch, by whose count it is divided
when the step ends and all counts are known: until then gradients are those of the sums, times one power of two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from enum import StrEnum
from numbers import Real
from typing import Any, Final

import torch

from schedverify.core.errors import Fault, InputError

EMPTY_MEAN: Final = "a mean over nothing is NaN: where a micro-batch may hold nothing that counts, return (sum, count)"
_EITHER: Final = "return a scalar, the mean over the rows, or a pair: a scalar, the sum, and the number that counts"
_LEAST_EXPONENT: Final = -14
"""Of the least power of two that float16 holds in full precision."""


class Form(StrEnum):
    """What a loss function returns."""

    MEAN = "a mean"
    PAIR = "a pair"


class KnownForm:
    """The form of a run's losses: the first loss says it, and all others keep to it."""

    def __init__(self) -> None:
        self.form: Form | None = None
        self.agreed = False
        """Whether all ranks have it."""

    @property
    def settled(self) -> bool:
        """Whether all ranks have it and it is that of means, of which nobody needs to tell another more."""
        return self.agreed and self.form is Form.MEAN

    def keep(self, form: Form, stage: int) -> None:
        """Note the form of a loss.

        Raises
        ------
        InputError
            If earlier losses had the other.
        """
        if self.form not in (None, form):
            raise InputError(Fault("loss", f"of stage {stage} it is {form} now, {self.form} before", "always the same"))
        self.form = form


class Loss:
    """A last stage's loss of one micro-batch.

    Parameters
    ----------
    function
        Takes the stage's outputs and returns a scalar, the mean over the micro-batch, or a pair of a scalar, the sum
        over what counts, and the number that counts.
    weight
        What a mean counts for: the micro-batch's share of the batch. Where it is 0 the function is not called, and
        nothing of the micro-batch counts; where it is None, means are refused.
    seed
        The gradient with which the backward of a sum begins; a power of two.
    weighted
        Whether the user gave the weight, so that a pair is refused.
    known
        The form of the losses before.

    Attributes
    ----------
    count
        What a pair counts; 0 of a mean.
    value
        The scalar, once the stage has run.
    """

    __slots__ = "_function", "_known", "_seed", "_stage", "_weight", "_weighted", "count", "form", "value"

    def __init__(
        self,
        function: Callable[[tuple[Any, ...]], Any],
        stage: int,
        weight: float | None,
        *,
        seed: float = 1.0,
        weighted: bool = False,
        known: KnownForm | None = None,
    ) -> None:
        self._function, self._stage, self._weight = function, stage, weight
        self._seed, self._weighted = seed, weighted
        self._known = known or KnownForm()
        self.form: Form | None = None
        self.count = 0.0
        self.value: Any = None

    @property
    def seed(self) -> float:
        """The gradient with which the backward begins, once the function was called."""
        return self._seed if self.form is Form.PAIR else self._weight or 0.0

    def of(self, outputs: tuple[Any, ...]) -> Any:
        """Return the scalar of the stage's outputs, and note what it is.

        Raises
        ------
        InputError
            If the function returns something else than a mean or a pair, or the other form than before.
        """
        if self._weight == 0:
            return _nothing(outputs)
        found = self._function(outputs)
        self.form = Form.PAIR if isinstance(found, tuple) and len(found) == 2 else Form.MEAN
        self._known.keep(self.form, self._stage)
        if self.form is Form.PAIR:
            return self._sum(found, outputs)
        if self._weight is None:
            raise InputError(Fault("target", f"of stage {self._stage} it has no rows", "at least one, or a pair"))
        return _scalar(found, self._stage)

    def _sum(self, found: Any, outputs: tuple[Any, ...]) -> Any:
        if self._weighted:
            hint = "weights are for means; a pair has its count"
            raise InputError(Fault("weights", f"given, while the loss of stage {self._stage} is {Form.PAIR}", hint))
        total, self.count = _scalar(found[0], self._stage), _counted(found[1], self._stage)
        return _nothing(outputs) if self.count == 0 and bool(total.isnan()) else total


def share_of_means(losses: Iterable[Loss]) -> Any:
    """Return the sum of means, each times what it counts for; None without any."""
    share = None
    for loss in losses:
        share = loss.value * loss.seed if share is None else share.add(loss.value, alpha=loss.seed)
    return share


def share_of_sums(losses: Iterable[Loss], factor: float) -> Any:
    """Return the sum of sums times a factor, in float32 at least; None without any. It is 0 where the factor is."""
    values = [loss.value if loss.value.element_size() > 2 else loss.value.float() for loss in losses]
    if not values:
        return None
    return sum(values[1:], values[0]) * factor if factor else torch.zeros_like(values[0])


def power_below(share: float) -> float:
    """Return the largest power of two that is at most a share of 1, and at least 2**-14; 1 of a share of 0."""
    return 2.0 ** max(math.frexp(share)[1] - 1, _LEAST_EXPONENT) if 0 < share < 1 else 1.0


def _nothing(outputs: tuple[Any, ...]) -> Any:
    """Return 0, with a gradient of 0 to each output."""
    parts = [each.reshape(-1)[:0].sum() for each in outputs if each.is_floating_point()]
    return sum(parts[1:], parts[0]) if parts else torch.zeros(())


def _scalar(loss: Any, stage: int) -> Any:
    if isinstance(loss, torch.Tensor) and loss.numel() == 1:
        return loss
    found = f"a tensor of {loss.numel()} numbers" if isinstance(loss, torch.Tensor) else type(loss).__name__
    raise InputError(Fault("loss", f"of stage {stage} it is {found}", _EITHER))


def _counted(count: Any, stage: int) -> float:
    """Return what a pair counts."""
    of_torch = isinstance(count, torch.Tensor)
    if of_torch and count.requires_grad:
        hint = "the whole loss is divided by it as a number: count.detach()"
        raise InputError(Fault("loss", f"the count of stage {stage} has a gradient", hint))
    number = count.item() if of_torch and count.numel() == 1 else count
    if (counted := amount_of(number)) is None:
        found = f"a tensor of {number.numel()} numbers" if isinstance(number, torch.Tensor) else f"{number!r:.80}"
        raise InputError(Fault("loss", f"the count of stage {stage} is {found}", "a number, 0 or more"))
    return counted


def amount_of(number: Any) -> float | None:
    """Return a number that is 0 or more as a float; None of anything else."""
    if isinstance(number, bool) or not isinstance(number, Real):
        return None
    amount = float(number)
    return amount if 0 <= amount < math.inf else None
