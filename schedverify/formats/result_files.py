"""Files of results, a line of JSON each: a configuration, and the value that came of it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.formats.json_toml import parse_json, unfit
from schedverify.formats.plan_files import canonical
from schedverify.formats.text_files import read_text
from schedverify.formats.writing import write_text

MAX_BYTES: Final = 1 << 28
_FIELDS: Final = {"configuration", "value"}


class Results(NamedTuple):
    """A file and what stands in it: values by the canonical text of their configuration."""

    path: Path
    values: dict[str, Any]

    def key(self, configuration: Any) -> str:
        """Return the text that a configuration is known by; problems are written out.

        Raises
        ------
        InputError
            If JSON cannot hold it.
        """
        return _written(configuration.to_dict() if isinstance(configuration, Problem) else configuration)

    def add(self, configuration: Any, value: Any) -> None:
        """Add a line to the file; raises an InputError where JSON cannot hold the value."""
        line = f'{{"configuration":{self.key(configuration)},"value":{_written(value)}}}\n'
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line)


def open_results(path: Path) -> Results:
    """Return what a file holds; nothing where there is none. A last line that was cut off is taken away.

    Raises
    ------
    InputError
        With file and line, if a line is no result.
    """
    if not path.exists() or not path.stat().st_size:
        return Results(path, {})
    whole, end, rest = read_text(path, "results, a line of JSON each", MAX_BYTES).rpartition("\n")
    try:
        read = [_result(number, line) for number, line in enumerate(whole.split("\n"), 1)]
    except InputError as error:
        raise error.within(str(path)) from None
    if rest:
        write_text(path, whole + end)
    return Results(path, dict(read))


def _result(number: int, line: str) -> tuple[str, Any]:
    try:
        data = parse_json(line)
        if isinstance(data, dict) and set(data) == _FIELDS and not unfit(data):
            plain = _plain(data)
            _written(plain)
            return _written(plain["configuration"]), plain["value"]
        message = "no result"
    except InputError as error:
        message = error.faults[0].message
    raise InputError(Fault(f"line {number}", message, "a line holds configuration and value; name a new file"))


def _plain(value: Any) -> Any:
    """Return data with floats for decimals."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value


def _written(value: Any) -> str:
    try:
        return canonical(value)
    except (TypeError, ValueError) as error:
        message = f"a file cannot hold {type(value).__name__}: {error}"
        raise InputError(Fault("", message, "numbers, text, lists and tables of them")) from None
