"""The boundary log of a run as a file: everything that crossed between two stages, once, and nothing else did."""

from __future__ import annotations

import json
from typing import Any, Final

from schedverify.core.trace import BoundaryLog, BoundaryTransfer
from schedverify.formats.schema_parts import TEXT, Schema, closed, listed, titled, whole
from schedverify.formats.text_files import PathLike
from schedverify.formats.writing import write_text

VERSION: Final = 1
FORMAT: Final = "schedverify boundaries"


def save_boundaries(log: BoundaryLog, path: PathLike) -> None:
    """Write what crossed as JSON, a line for each crossing; an existing file is replaced as a whole, or not at all.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    about = json.dumps({"format": FORMAT, "version": VERSION, "plan": log.plan, "ranks": log.ranks})[1:-1]
    steps = ["[\n" + ",\n".join(json.dumps(_data(each)) for each in step) + "]" for step in log.steps]
    write_text(path, f'{{{about}, "steps": [\n' + ",\n".join(steps) + "\n]}\n")


def _data(crossed: BoundaryTransfer) -> dict[str, Any]:
    data = crossed._asdict() | {"tensors": [{"dtype": dtype, "shape": list(shape)} for dtype, shape in crossed.tensors]}
    del data["outgoing"]
    return data


def boundaries_schema() -> Schema:
    """Return the schema of the file."""
    tensor = closed({"dtype": TEXT, "shape": listed(whole(0))})
    crossed = closed({
        "source": whole(0), "target": whole(0), "microbatch": whole(0), "backward": {"type": "boolean"},
        "local": {"type": "boolean"}, "tensors": listed(tensor), "bytes": whole(0), "checksums": listed(whole(0)),
    })  # fmt: skip
    top = {"format": {"const": FORMAT}, "version": {"const": VERSION}, "plan": TEXT, "ranks": whole(1)}
    return titled("schedverify boundary log", closed(top | {"steps": listed(listed(crossed))}))
