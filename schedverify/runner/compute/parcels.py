"""Tensors that go together, with the structure in which they stand and whether each needs a gradient.

A stage that several stages feed takes the value of each, in their order. A value that is a tuple or a list is spread:
each member is an argument. An ``nn.Sequential`` takes one argument, so what feeds it alone is not spread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import torch
from torch import nn

from schedverify.runner.compute.structures import TENSOR, Structure, class_named, put_together, taken_apart

NO_KEYWORDS: Final[Structure] = ("dict",)
_LONE_CALL: Final[Structure] = ("tuple", ("tuple", TENSOR), NO_KEYWORDS)


class Parcel(tuple[Any, ...]):
    """A tuple of tensors that knows in which value they stand.

    Attributes
    ----------
    structure
        That of the value; of a call, a tuple of a tuple of arguments and a dict of keyword arguments.
    needs
        Whether each tensor needs a gradient: only then one goes back for it.
    """

    structure: Structure
    needs: tuple[bool, ...]

    @classmethod
    def of(cls, tensors: Iterable[Any], structure: Structure, needs: Iterable[bool]) -> Parcel:
        """Return a parcel of some tensors."""
        made = cls(tensors)
        made.structure, made.needs = structure, tuple(needs)
        return made

    def holding(self, tensors: Iterable[Any], needs: Iterable[bool] | None = None) -> Parcel:
        """Return a parcel of other tensors that stand in the same structure, with equal needs unless they are given."""
        return Parcel.of(tensors, self.structure, self.needs if needs is None else needs)

    def value(self) -> Any:
        """Return the value in which the tensors stand."""
        return self[0] if self.structure == TENSOR else put_together(self.structure, iter(self))


def parcel_of(value: Any, place: str, *, opaque: bool = False) -> Parcel:
    """Return the tensors of a value, which need a gradient where they require one.

    Raises
    ------
    InputError
        If it holds what is neither a tensor nor may cross between stages; ``opaque`` admits values of any kind.
    """
    if isinstance(value, torch.Tensor):
        return Parcel.of((value,), TENSOR, (value.requires_grad,))
    tensors: list[Any] = []
    structure = taken_apart(value, tensors, place, opaque=opaque)
    return Parcel.of(tensors, structure, [tensor.requires_grad for tensor in tensors])


def needs_of(tensors: tuple[Any, ...]) -> tuple[bool, ...]:
    """Return whether each tensor needs a gradient: of those in no parcel, all that can have one."""
    if isinstance(tensors, Parcel):
        return tensors.needs
    return tuple(tensor.dtype.is_floating_point or tensor.dtype.is_complex for tensor in tensors)


def call_of(module: Any, parts: Sequence[Parcel], keywords: Parcel | None = None) -> Parcel:
    """Return the arguments of a module: the values of what feeds it, in their order, and keyword arguments.

    Parameters
    ----------
    keywords
        Of a dict; None where there are none.
    """
    if keywords is None and len(parts) == 1 and parts[0].structure == TENSOR:
        return Parcel.of(parts[0], _LONE_CALL, parts[0].needs)
    whole = len(parts) == 1 and takes_one(module)
    named = NO_KEYWORDS if keywords is None else keywords.structure
    structure = _call(tuple([part.structure for part in parts]), named, whole)
    given = parts if keywords is None else [*parts, keywords]
    if len(given) == 1:
        return Parcel.of(given[0], structure, given[0].needs)
    return Parcel.of([each for part in given for each in part], structure, [n for part in given for n in part.needs])


def first_call_of(module: Any, inputs: Parcel, keywords: Parcel | None) -> Parcel:
    """Return the arguments of a first stage: a dict in the batch is one of keyword arguments."""
    if inputs.structure[0] != "dict" or takes_one(module):
        return call_of(module, [inputs], keywords)
    if keywords is None:
        return call_of(module, [], inputs)
    merged = Parcel.of(
        (*inputs, *keywords), (*inputs.structure, *keywords.structure[1:]), inputs.needs + keywords.needs
    )
    return call_of(module, [], merged)


def structure_of(tensors: tuple[Any, ...]) -> Structure | None:
    """Return the structure of a parcel; None of a tuple that is none."""
    return tensors.structure if isinstance(tensors, Parcel) else None


def called(module: Any, call: Structure | None, tensors: Sequence[Any]) -> Any:
    """Call a module with tensors that stand in the structure of a call; with the tensors alone where that is None."""
    if call is None or call is _LONE_CALL or _is_plain(call):
        return module(*tensors)
    arguments, keywords = put_together(call, iter(tensors))
    return module(*arguments, **keywords)


def takes_one(module: Any) -> bool:
    """Whether a module is an ``nn.Sequential`` or ``nn.Identity``, itself or in a wrapper, which takes one argument."""
    inner = getattr(module, "_orig_mod", module)  # of torch.compile
    inner = inner if isinstance(inner, nn.Sequential) else getattr(inner, "module", inner)  # of DDP
    return type(inner).forward in (nn.Sequential.forward, nn.Identity.forward)


@lru_cache(maxsize=256)
def _call(parts: tuple[Structure, ...], keywords: Structure, whole: bool) -> Structure:
    arguments = [child for part in parts for child in ([part] if whole else _spread(part))]
    return ("tuple", ("tuple", *arguments), keywords)


@lru_cache(maxsize=256)
def _is_plain(call: Structure) -> bool:
    """Whether a call has tensors as arguments, and nothing else."""
    _, arguments, keywords = call
    return keywords == NO_KEYWORDS and all(child == TENSOR for child in arguments[1:])


def _spread(part: Structure) -> Sequence[Structure]:
    """Return the structures of the arguments that a value makes."""
    kind = part[0]
    if kind in ("tuple", "list"):
        return part[1:]
    return part[3::2] if kind == "class" and issubclass(class_named(part[1]), tuple) else [part]
