"""The options by which ``generate`` and ``verify`` name a shape, and what is asked of one of PyTorch's classes.

``torch:CLASS`` stands for the schedule that a class of ``torch.distributed.pipelining`` runs on that shape.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from schedverify.cli.options import flag, number
from schedverify.core.errors import Fault, InputError

if TYPE_CHECKING:
    from schedverify.core.problem import Problem
    from schedverify.core.schedule import Schedule

PREFIX: Final = "torch:"
"""What stands before the name of a class."""
CLASSES: Final = (
    "1F1B", "DualPipeV", "ForwardOnly", "GPipe", "Interleaved1F1B", "InterleavedZeroBubble", "LoopedBFS",
    "ZBVZeroBubble",
)  # fmt: skip
"""The classes that completion offers, which does not load torch."""
_SIZES: Final = ("ranks", "microbatches", "virtual")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ShapeOptions:
    """Sizes and costs, where no problem file has them."""

    ranks: Annotated[int | None, number("Devices of the pipeline.", least=None)] = None
    microbatches: Annotated[int | None, number("Micro-batches of a step.", least=None)] = None
    virtual: Annotated[int | None, number("Stages per rank.", least=None)] = None
    forward: Annotated[int | None, number("Ticks of F.", least=None)] = None
    backward: Annotated[int | None, number("Ticks of B.", least=None)] = None
    backward_input: Annotated[int | None, number("Ticks of I.", least=None)] = None
    backward_weight: Annotated[int | None, number("Ticks of W.", least=None)] = None

    @property
    def given(self) -> dict[str, int]:
        """Return what was given, by the names that :meth:`schedverify.Problem.chain` takes."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TorchOptions:
    """What is asked of one of PyTorch's classes."""

    lowered: Annotated[bool, flag("Of torch:CLASS, with the communication that it runs.")] = False
    defer_receives: Annotated[bool, flag("Of torch:CLASS --lowered, with receives deferred (defer_pp_recv).")] = False
    max_outstanding_sends: Annotated[
        int | None, number("Of torch:CLASS --lowered, its budget of sends, since torch 2.15.", least=0)
    ] = None
    published: Annotated[
        bool, flag("Of torch:CLASS, the order that it publishes, where it runs a loop written by hand.")
    ] = False

    @property
    def given(self) -> dict[str, Any]:
        """Return what was given, by the names that :func:`schedverify.torch_bridge.torch_order` takes."""
        return {name: value for name, value in asdict(self).items() if value not in (None, False)}


def refuse_beside(what: str, *options: ShapeOptions | TorchOptions | None) -> None:
    """Raise an InputError where one of the options was given, beside ``what`` that has no use for it."""
    for name in (name for each in options if each for name in each.given):
        raise InputError(Fault(f"--{name.replace('_', '-')}", f"stands beside {what}", "leave it away"))


def making_words(name: str, problem: str | None, shape: ShapeOptions | None, options: TorchOptions | None) -> list[str]:
    """Return the words of the command that prints what a class runs."""
    given = {"problem": problem} | (shape.given if shape else {}) | (options.given if options else {})
    words = ["schedverify", "generate", name]
    for key, value in given.items():
        words += [] if value is None else [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


def of_class(
    name: str, given: Problem | None, shape: ShapeOptions | None, options: TorchOptions | None, command: str
) -> tuple[Schedule, Problem]:
    """Return what the class behind ``torch:`` runs, and the problem that it is for.

    Parameters
    ----------
    given
        The problem in a file; None where the shape says the sizes.

    Raises
    ------
    InputError
        If the sizes are missing or said twice, or the class does not take them; with torch's own words.
    """
    from schedverify.torch_bridge import torch_order, torch_problem

    wanted = shape.given if shape else {}
    if given is not None:
        refuse_beside("--problem", shape)
        sizes: Any = {
            "ranks": given.ranks,
            "microbatches": given.microbatches,
            "virtual": -(-given.stages // given.ranks),
        }
    else:
        sizes = {key: wanted.pop(key) for key in _SIZES if key in wanted}
    if not {"ranks", "microbatches"} <= set(sizes):
        raise InputError(f"{command} takes --problem FILE, or --ranks P and --microbatches M")
    made = torch_order(name.removeprefix(PREFIX), **sizes, **(options.given if options else {}))
    own = torch_problem(name.removeprefix(PREFIX), **sizes, **wanted)
    if given is not None and given.placement != own.placement:
        message = f"{name} has its stages on ranks {own.owner_rank}, the problem on {given.owner_rank}"
        raise InputError(Fault("placement", message, "give the problem that placement, or --ranks and --microbatches"))
    return made, given or own
