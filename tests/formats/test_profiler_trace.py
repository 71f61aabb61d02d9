"""Files of torch.profiler: what is wrong with one is told with its place, packed or not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from schedverify.conformance.run_files import load_runs
from schedverify.core.errors import InputError
from schedverify.formats.json_toml import parse_json
from schedverify.formats.packed_text import read_packed_text
from schedverify.formats.profiler_trace import kept_of, profiler_trace_from
from support.profiler_files import event, recorded


def read(data: Any) -> Any:
    return profiler_trace_from(parse_json(json.dumps(data), kept=kept_of), "rank0.json")


def test_times_are_exact_whatever_the_base() -> None:
    base = 1_790_857_026_000_000_000
    data = {
        "baseTimeNanoseconds": base,
        "traceEvents": [event("PP:0F0", 1, 2) | {"ts": 5230278180094.675, "dur": 0.001}],
    }
    found = read(data).events[0]
    assert (found.start, found.end) == (base + 5230278180094675, base + 5230278180094676)


def test_what_counts_for_nothing_is_passed_over() -> None:
    other = [{"ph": "s", "cat": "fwdbwd", "id": 1}, {"ph": "X", "cat": "python_function", "name": 3}, {"ph": "M"}]
    trace = read({"traceEvents": [*other, event("PP:0F0", 1, 2)], "host_name": 3, "unknown": {"ts": None}})
    assert [each.number for each in trace.events] == [3]
    assert (trace.host, trace.rank, trace.groups) == ("", None, ())


WRONG = [
    ([], "expected a trace of torch.profiler"),
    ({}, "traceEvents: missing"),
    ({"traceEvents": 3}, "traceEvents: expected a list, found 3"),
    ({"traceEvents": [], "distributedInfo": 1}, "distributedInfo: expected a table, found 1"),
    ({"traceEvents": [], "distributedInfo": {"rank": -1}}, "distributedInfo.rank: expected a whole number from 0"),
    ({"traceEvents": [], "distributedInfo": {"rank": "0"}}, "distributedInfo.rank: expected a whole number"),
    ({"traceEvents": [], "baseTimeNanoseconds": 0.5}, "baseTimeNanoseconds: expected a whole number"),
    ({"traceEvents": [event("PP:0F0", 1, 2) | {"ts": "1"}]}, "traceEvents[0].ts: expected microseconds, found '1'"),
    ({"traceEvents": [event("PP:0F0", 1, 2) | {"ts": None}]}, "traceEvents[0].ts: expected microseconds"),
    ({"traceEvents": [event("PP:0F0", 1, 2) | {"ts": float("nan")}]}, "traceEvents[0].ts: expected microseconds"),
    ({"traceEvents": [event("PP:0F0", 1, 2) | {"ts": 10**30}]}, "traceEvents[0].ts: expected microseconds"),
    ({"traceEvents": [event("PP:0F0", 1, 2) | {"dur": -1}]}, "traceEvents[0].dur: expected 0 or more, found -1"),
    ({"traceEvents": [event("PP:0F0", 1, 2) | {"name": None}]}, "traceEvents[0].name: expected a text"),
]


@pytest.mark.parametrize(("data", "words"), WRONG)
def test_what_is_wrong_is_told_with_its_place(data: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        read(data)
    assert words in str(error.value)


def test_a_key_that_stands_twice_is_told() -> None:
    text = '{"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "a", "ts": 1, "dur": 1, "ts": 2}]}'
    with pytest.raises(InputError, match=r"traceEvents\[0\]\.ts: the key stands twice"):
        profiler_trace_from(parse_json(text, kept=kept_of), "rank0.json")


CONTENT = Path(recorded("gpipe")[0]).read_bytes()
FILES = {
    "cut.json.gz": (CONTENT[:900], "what gzip packed ends too soon"),
    "damaged.json.gz": (CONTENT[:400] + b"\0\0\0\0\0\0" + CONTENT[406:], "what gzip packed is damaged"),
    "cut.json": (gzip.decompress(CONTENT)[:9000], "no JSON"),
    "other.json": (b'{"costs": {}, "microbatches": 1}', "a problem, where the trace of a run (JSON) is expected"),
    "text.json": (b"0F0 0B0\n", "no JSON"),
    "empty.json": (b"", "empty"),
    "binary.json": (b"\x7fELF\0\0", "a binary file"),
    "list.json": (b"[]", "expected a trace of torch.profiler"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_none_is_told_with_its_name(tmp_path: Path, name: str) -> None:
    content, words = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        load_runs([tmp_path / name])
    assert f"{tmp_path / name}: " in str(error.value)
    assert words in str(error.value)


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b" " * 100_000))
    with pytest.raises(InputError, match="1001 bytes or more, where a trace has at most 1000"):
        read_packed_text(tmp_path / "bomb.gz", "a trace", 1000)
    with pytest.raises(InputError, match="no such file"):
        read_packed_text(tmp_path / "absent.gz", "a trace", 1000)
    with pytest.raises(InputError, match="a folder"):
        read_packed_text(tmp_path, "a trace", 1000)
