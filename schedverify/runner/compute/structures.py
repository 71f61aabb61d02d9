"""How tensors stand in a value that a stage takes or returns: what is left of the value when they are taken out.

A structure is nested tuples, each of which begins with its kind, to be compared, hashed and written as JSON::

    ("tensor",)                                     the next tensor
    ("none",)  ("bool", 1)  ("int", 7)  ("str", "a")  ("float", "0x1.8p+0")
    ("tuple", child, ...)  ("list", child, ...)
    ("dict", key, child, ...)  ("ordered", key, child, ...)
    ("class", "module:name", key, child, ...)       a dataclass, a ModelOutput of transformers, or a named tuple
    ("object", Opaque)                              anything else: of what a step is fed, never of what crosses

A class is found by its name in modules that are imported already; nothing is imported, and nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import torch

from schedverify.core.errors import Fault, InputError

Structure = tuple[Any, ...]
"""Nested tuples that begin with their kind."""
TENSOR: Final[Structure] = ("tensor",)
MOST_TEXT: Final = 1 << 16
"""The most bytes of a structure as text."""
_HINT: Final = "tensors, None, numbers, texts, and tuples, lists, dicts and dataclasses of those"


class Opaque:
    """Holds a value of any kind; equal to itself only."""

    def __init__(self, value: Any) -> None:
        self.value = value


def taken_apart(value: Any, tensors: list[Any], place: str, *, opaque: bool = False) -> Structure:
    """Take the tensors out of a value and return its structure.

    Parameters
    ----------
    tensors
        Gets the tensors, in their order.
    place
        The name of the value, for messages of errors.
    opaque
        Whether values of other kinds are kept as they are; else they are refused.

    Raises
    ------
    InputError
        If it holds something that is neither of these kinds nor may be kept.
    """
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return TENSOR
    if value is None or type(value) in (bool, int, float, str):
        return _constant(value)
    kind, children = _members(value)
    if kind:
        found: list[Any] = list(kind)
        for key, child in children:
            if key is not None:
                found.append(key)
            inner = f"{place}[{len(found) - 1}]" if key is None else f"{place}[{key!r}]"
            found.append(taken_apart(child, tensors, inner, opaque=opaque))
        return tuple(found)
    if opaque:
        return ("object", Opaque(value))
    raise InputError(Fault(place, f"expected a tensor, found {_told(value)}", _HINT))


def put_together(structure: Structure, tensors: Iterator[Any]) -> Any:
    """Return the value of a structure, which takes its tensors from an iterator."""
    kind, *rest = structure
    if kind == "tensor":
        return next(tensors)
    if kind in ("tuple", "list"):
        children = [put_together(child, tensors) for child in rest]
        return tuple(children) if kind == "tuple" else children
    if kind in ("dict", "ordered"):
        pairs = {key: put_together(child, tensors) for key, child in _pairs(rest)}
        return pairs if kind == "dict" else OrderedDict(pairs)
    if kind == "class":
        return _made(class_named(rest[0]), {key: put_together(child, tensors) for key, child in _pairs(rest[1:])})
    return rest[0].value if kind == "object" else _value(kind, *rest)


def text_of(structure: Structure) -> str:
    """Return a structure as JSON, as it crosses between ranks."""
    return json.dumps(structure, separators=(",", ":"))


def structure_of(text: str) -> Structure:
    """Return the structure that a text holds.

    Raises
    ------
    ValueError
        If it holds none, or one with a class that is not there.
    """
    try:
        return _checked(json.loads(text))
    except (ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"its structure is none that may cross: {str(error)[:300]}") from error


def tensors_in(structure: Structure) -> int:
    """Return how many tensors stand in a structure."""
    return 1 if structure == TENSOR else sum(tensors_in(child) for child in structure if isinstance(child, tuple))


@lru_cache(maxsize=256)
def class_named(name: str) -> Any:
    """Return the dataclass or named tuple of a name such as ``my.module:Outputs``.

    Raises
    ------
    ValueError
        If there is none in the modules that are imported.
    """
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and (dataclasses.is_dataclass(found) or _is_named_tuple(found))):
        raise ValueError(f"{name[:200]!r} is no dataclass of a module that is imported here, on its top level")
    return found


def _constant(value: Any) -> Structure:
    if value is None:
        return ("none",)
    if type(value) is float:
        return ("float", value.hex())
    return (type(value).__name__, int(value) if type(value) is bool else value)


def _value(kind: str, *rest: Any) -> Any:
    match (kind, *rest):
        case ("none",):
            return None
        case ("bool", int(number)) if number in (0, 1):
            return bool(number)
        case ("int", int(number)):
            return number
        case ("float", str(number)):
            return float.fromhex(number)
        case ("str", str(text)):
            return text
    raise ValueError(f"{kind!r} has other members")


def _members(value: Any) -> tuple[Structure, list[tuple[str | None, Any]]]:
    """Return the beginning of a container's structure, and its members with their keys; nothing of what is none."""
    cls = type(value)
    if dataclasses.is_dataclass(cls):
        names = [field.name for field in dataclasses.fields(cls)]
        extra = isinstance(value, dict) and set(value) - set(names)
        return ((), []) if extra or not _is_found(cls) else (_of_class(cls), [(n, getattr(value, n)) for n in names])
    if _is_named_tuple(cls):
        pairs = zip(cls._fields, value, strict=True)
        return (_of_class(cls), list(pairs)) if _is_found(cls) else (("tuple",), [(None, each) for each in value])
    if isinstance(value, tuple | list):
        return ("tuple" if isinstance(value, tuple) else "list",), [(None, each) for each in value]
    if cls in (dict, OrderedDict) and all(isinstance(key, str) for key in value):
        return ("dict" if cls is dict else "ordered",), list(value.items())
    return (), []


def _of_class(cls: Any) -> Structure:
    return ("class", f"{cls.__module__}:{cls.__qualname__}")


def _is_found(cls: Any) -> bool:
    """Whether a class is what its name stands for, on every rank that imports its module."""
    try:
        return class_named(_of_class(cls)[1]) is cls
    except ValueError:
        return False


def _is_named_tuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _made(cls: Any, members: dict[str, Any]) -> Any:
    """Make a dataclass or named tuple; fields that its constructor does not take are set behind it."""
    late = [field.name for field in dataclasses.fields(cls) if not field.init] if dataclasses.is_dataclass(cls) else []
    made = cls(**{name: value for name, value in members.items() if name not in late})
    for name in late:
        object.__setattr__(made, name, members[name])
    return made


def _pairs(rest: list[Any]) -> Iterator[tuple[str, Structure]]:
    return zip(rest[::2], rest[1::2], strict=True)


def _checked(data: Any) -> Structure:
    """Return what a text held as a structure, if it is one."""
    if not isinstance(data, list) or not data:
        raise ValueError(f"{type(data).__name__}, where the kind of a value with its members is expected")
    kind, *rest = data
    if kind == "tensor" and not rest:
        return TENSOR
    if kind in ("tuple", "list"):
        return (kind, *map(_checked, rest))
    if kind not in ("dict", "ordered", "class"):
        _value(kind, *rest)
        return (kind, *rest)
    first = 1 if kind == "class" else 0
    keys, children = rest[first::2], rest[first + 1 :: 2]
    if len(keys) != len(children) or not all(isinstance(key, str) for key in [*rest[:first], *keys]):
        raise ValueError("a member without a name")
    if kind == "class":
        _check_fields(class_named(rest[0]), keys)
    members = [each for pair in zip(keys, map(_checked, children), strict=True) for each in pair]
    return (kind, *rest[:first], *members)


def _check_fields(cls: Any, keys: list[str]) -> None:
    own = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else list(cls._fields)
    if own != keys:
        raise ValueError(f"the fields of {cls.__name__} are others there: {', '.join(keys)[:200]}")


def _told(value: Any) -> str:
    name = type(value).__name__
    if dataclasses.is_dataclass(type(value)):
        return f"{name}, a dataclass that its module does not name on its top level, or with entries besides its fields"
    return f"{name} with keys that are no texts" if type(value) is dict else name
