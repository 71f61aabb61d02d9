"""What the commands share that run torch, in processes of theirs or of torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from schedverify.core.errors import Fault, InputError

_TORCHRUN: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def in_torchrun() -> bool:
    """Whether this process is one of many that torchrun started."""
    return all(name in os.environ for name in _TORCHRUN)


@contextmanager
def needs_torch() -> Iterator[None]:
    """Turn a failing import of torch into an InputError that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(Fault("torch", "it is not installed", "pip install 'schedverify[torch]'")) from None
