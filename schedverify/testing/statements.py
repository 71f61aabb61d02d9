"""The statement that ``certify`` writes: canonical JSON with a digest, the same bytes for the same checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import product
from math import prod
from typing import Any, Final

from schedverify.core.errors import Fault, InputError, shown
from schedverify.formats.json_toml import parse_json, unfit
from schedverify.formats.plan_files import canonical, digest
from schedverify.formats.text_files import PathLike, naming, read_text, source_name

VERSION: Final = 1
MAX_BYTES: Final = 1 << 26
_EXPECTED: Final = "a statement of certify (JSON)"

Shape = tuple[int, int, int]
"""Ranks, stages a rank, micro-batches."""


@dataclass(frozen=True)
class Statement:
    """What was checked of a scheduler, and with what.

    Attributes
    ----------
    scheduler
        Its module and name.
    source
        SHA-256 of the file that defines it, None where there is none.
    bounds
        The most of ``ranks``, ``virtual`` (stages a rank) and ``microbatches``; the least of each is 1.
    options
        What was asked: keywords of ``Problem.chain`` under ``problem``, and those of ``check_scheduler``.
    versions
        Of Python and schedverify.
    shapes
        ``(ranks, virtual, microbatches, digest)`` in rising order; the digest is the SHA-256 of the schedule's text,
        None for a shape that the scheduler does not take.
    """

    scheduler: str
    source: str | None
    bounds: Mapping[str, int]
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    shapes: tuple[tuple[int, int, int, str | None], ...]

    @property
    def complete(self) -> bool:
        """Whether every shape within the bounds was checked or is not taken; False after an interruption."""
        return [shape[:3] for shape in self.shapes] == rising(self.bounds)

    @property
    def counts(self) -> dict[str, int]:
        """How many shapes were checked, and how many the scheduler does not take."""
        skipped = sum(shape[3] is None for shape in self.shapes)
        return {"checked": len(self.shapes) - skipped, "skipped": skipped}


def rising(bounds: Mapping[str, int]) -> list[Shape]:
    """Return every shape within the bounds, the fewest operations first, then the fewest ranks and stages."""
    ranks, virtual, microbatches = (range(1, bounds[name] + 1) for name in ("ranks", "virtual", "microbatches"))
    return sorted(product(ranks, virtual, microbatches), key=lambda shape: (prod(shape), shape))


def to_text(statement: Statement) -> str:
    """Return the text of a statement's file: one line of canonical JSON.

    Raises
    ------
    InputError
        If an option is nothing that JSON can hold.
    """
    data = {"version": VERSION, **asdict(statement), "counts": statement.counts}
    try:
        return canonical(data | {"digest": digest(parse_json(canonical(data)))}) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(Fault("options", str(error), "options are whole numbers, texts and lists of them")) from None


def load_statement(path: PathLike) -> Statement:
    """Return the statement in a file, once its digest is that of its content.

    Raises
    ------
    InputError
        If the file holds no statement, a newer version, another digest than its content has, or other shapes than its
        bounds say.
    """
    statement = load_part(path)
    if not statement.complete:
        fault = Fault("shapes", "expected every shape within the bounds in rising order", "run certify to its end")
        raise InputError(fault, source_name(path))
    return statement


def load_part(path: PathLike) -> Statement:
    """Return a statement that may lack shapes: what an interrupted ``certify`` left."""
    with naming(path):
        data = parse_json(read_text(path, _EXPECTED, MAX_BYTES))
        if faults := unfit(data) or list(_faults(data)):
            raise InputError(faults)
    shapes = tuple(tuple(shape) for shape in data["shapes"])
    return Statement(**{field.name: data[field.name] for field in fields(Statement)} | {"shapes": shapes})


def _faults(data: Any) -> Iterator[Fault]:
    names = {"version", "counts", "digest", *(field.name for field in fields(Statement))}
    if not isinstance(data, dict):
        yield Fault("", f"expected a statement, an object of keys, found {shown(data)}")
    elif data.get("version") != VERSION:
        yield Fault("version", f"expected {VERSION}, found {shown(data.get('version'))}", "update schedverify")
    elif data.keys() != names:
        yield Fault("", f"expected the keys {', '.join(sorted(names))}", "certify writes them all")
    elif data["digest"] != _digest(data):
        yield Fault("digest", "the content has another digest", "the file was changed; run certify again")
    else:
        yield from _misfits(data)


def _digest(data: Mapping[str, Any]) -> str | None:
    """Return the digest of a file's content; None for content that certify cannot have written."""
    try:
        return digest(data)
    except TypeError:
        return None


def _misfits(data: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults of a file whose digest is right, but which ``certify`` did not write."""
    bounds, shapes = data["bounds"], data["shapes"]
    names = {"ranks", "virtual", "microbatches"}
    if not (isinstance(bounds, dict) and bounds.keys() == names and all(map(_positive, bounds.values()))):
        yield Fault("bounds", f"expected ranks, virtual and microbatches, found {shown(bounds)}")
    if not (isinstance(shapes, list) and all(map(_is_shape, shapes))):
        yield Fault("shapes", "expected a list of ranks, virtual, microbatches and digest each")
        return
    skipped = sum(shape[3] is None for shape in shapes)
    if data["counts"] != {"checked": len(shapes) - skipped, "skipped": skipped}:
        yield Fault("counts", f"expected those of the shapes, found {shown(data['counts'])}")
    for name in ("options", "versions"):
        if not isinstance(data[name], dict):
            yield Fault(name, f"expected an object, found {shown(data[name])}")


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 4:
        return False
    return all(map(_positive, value[:3])) and isinstance(value[3], str | None)


def _positive(value: Any) -> bool:
    return type(value) is int and value > 0
