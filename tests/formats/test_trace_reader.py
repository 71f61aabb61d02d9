"""Traces of runs as files: they read back, and everything that is wrong with one is told."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from schedverify import formats
from schedverify.core.errors import InputError
from schedverify.core.trace import RunTrace, StepSpan
from schedverify.formats.schema import schemas
from support.run_traces import a_plan, as_predicted


def put(*path: str | int, **keys: object) -> Callable[[dict], None]:
    """Return what puts keys into a part of the data of a trace, given by the way to it."""

    def change(data: dict) -> None:
        functools.reduce(lambda part, key: part[key], path, data).update(keys)

    return change


def take(*path: str | int) -> Callable[[dict], None]:
    """Return what takes a key or an event out of the data of a trace."""
    return lambda data: functools.reduce(lambda part, key: part[key], path[:-1], data).pop(path[-1])


TRACE = Draft202012Validator(json.loads(schemas()["trace.json"]))
LAST = ("traceEvents", -1)
WRONG = [
    (put("otherData", version=2), "otherData.version: expected 1, found 2 (a newer schedverify wrote it"),
    (put("otherData", version=0), "otherData.version: expected 1, found 0 (schedverify run --trace writes it)"),
    (put("otherData", version=True), "otherData.version: expected 1, found true (schedverify run --trace writes it)"),
    (put("otherData", format="x"), "otherData.format: expected 'schedverify run'"),
    (put("otherData", ranks=0), "otherData.ranks: expected a whole number from 1"),
    (put("otherData", steps="1"), "otherData.steps: expected a whole number from 0 to 1000000, found '1'"),
    (put("otherData", more=0), "otherData.more: unknown key (known: format, version,"),
    (put("otherData", plan="x" * 64), "otherData.plan: expected the digest of a plan, 64 hexadecimal digits"),
    (put("otherData", plan="A" * 64), "otherData.plan: expected the digest of a plan, 64 hexadecimal digits"),
    (put("otherData", errors=[0, 0, -1]), "otherData.errors[2]: expected a whole number from 0 to 2^62, found -1"),
    (take("otherData", "errors"), "otherData.errors: missing (schedverify run --trace writes it)"),
    (put(metadata={}), "metadata: unknown key (known: displayTimeUnit, otherData, traceEvents)"),
    (put(otherdata={}), "otherdata: unknown key (did you mean 'otherData'?)"),
    (take("displayTimeUnit"), "displayTimeUnit: missing"),
    (put(displayTimeUnit="ns"), "displayTimeUnit: expected 'ms', found 'ns'"),
    (put(traceEvents=3), "traceEvents: expected a list, found 3"),
    (lambda data: data["traceEvents"].append(3), "traceEvents[71]: expected a table, found 3 (a step that ran, or"),
    (lambda data: data["traceEvents"].append([]), "traceEvents[71]: expected a table, found a list of 0"),
    (put(*LAST, ph="B"), 'traceEvents[70].ph: expected "X", a step that ran, or "M", the name of a rank, found \'B\''),
    (take(*LAST, "ph"), "traceEvents[70].ph: expected"),
    (put(*LAST, cat="F"), "traceEvents[70].cat: unknown key"),
    (put(*LAST, colour=1), "traceEvents[70].colour: unknown key (known: name, ph, pid, tid, ts, dur, args)"),
    (take(*LAST, "dur"), "traceEvents[70].dur: missing"),
    (take(*LAST, "tid"), "traceEvents[70].tid: missing"),
    (take(*LAST, "args"), "traceEvents[70].args: missing"),
    (put(*LAST, args=[]), "traceEvents[70].args: expected a table, found a list of 0 (with step, position,"),
    (put(*LAST, "args", stop=1), "traceEvents[70].args.stop: unknown key (did you mean 'step'?)"),
    (take(*LAST, "args", "position"), "traceEvents[70].args.position: missing"),
    (put(*LAST, "args", position=True), ".args.position: expected a whole number from 0 to 2^62, found true"),
    (put(*LAST, "args", start=-1), "traceEvents[70].args.start: expected a whole number from 0 to 2^62, found -1"),
    (put(*LAST, tid=3), "traceEvents[70].tid: expected 0, found 3 (what computes is on 0"),
    (put("traceEvents", 0, name="thread_name"), "traceEvents[0].name: expected 'process_name', found 'thread_name'"),
    (put("traceEvents", 0, ts=0), "traceEvents[0].ts: unknown key (known: name, ph, pid, tid, args)"),
    (put("traceEvents", 1, tid=1), "traceEvents[1].tid: expected 0, found 1 (this event names the process of rank 1)"),
    (put("traceEvents", 1, "args", name="one"), "traceEvents[1].args.name: expected 'rank 1', found 'one'"),
    (put("traceEvents", 1, "args", more=1), "traceEvents[1].args.more: unknown key"),
]  # fmt: skip
BETWEEN = [
    (put("otherData", errors=[1]), "otherData.errors: expected one number for each of 3 ranks, found a list of 1"),
    (put(*LAST, name="2F0junk"), "traceEvents[70].name: expected a step such as 2F0 or 0SEND_F1, found '2F0junk'"),
    (put(*LAST, pid=3), "traceEvents[70].pid: expected a whole number from 0 to 2, found 3 (otherData.ranks is 3)"),
    (put(*LAST, "args", step=1), ".args.step: expected a whole number from 0 to 0, found 1 (otherData.steps is 1)"),
    (put(*LAST, "args", end=5), "traceEvents[70].args.end: expected a whole number from 243000 to 2^62, found 5"),
    (put(*LAST, ts=243.001), "traceEvents[70].ts: expected 243.0, found 243.001 (args.start in microseconds)"),
    (put(*LAST, dur=12), "traceEvents[70].dur: expected 11.0, found 12 (args.end - args.start in microseconds)"),
    (put(*LAST, tid=1), "traceEvents[70].tid: expected 0, found 1 (what computes is on 0"),
    (take("traceEvents", 1), "traceEvents: rank 1 has no name (expected an event \"process_name\" of each rank)"),
    (lambda data: data["traceEvents"].append(data["traceEvents"][0]), "traceEvents[71].pid: rank 0 is named twice"),
]  # fmt: skip
"""What is wrong with a trace: with a key alone, which the schema sees too, and between keys."""


class TestFiles:
    def test_a_trace_reads_back(self, tmp_path: Path) -> None:
        trace = as_predicted(a_plan(), 2)
        formats.save_run(trace, tmp_path / "run.json")
        assert formats.load_run(tmp_path / "run.json") == trace
        data = json.loads((tmp_path / "run.json").read_text())
        assert {event["ph"] for event in data["traceEvents"]} == {"M", "X"}
        TRACE.validate(data)

    def test_times_beyond_what_floats_hold_read_back(self, tmp_path: Path) -> None:
        ran = (StepSpan(0, 0, "0F0", 0, 1), StepSpan(0, 1, "0F1", 10**17 + 1, 2 * 10**17 + 3))
        trace = RunTrace("0" * 64, 1, (ran,), (0,))
        formats.save_run(trace, tmp_path / "run.json")
        assert formats.load_run(tmp_path / "run.json") == trace

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            *WRONG,
            *BETWEEN,
        ],
    )
    def test_what_is_wrong_with_a_file_is_told(self, tmp_path: Path, change: Callable, told: str) -> None:
        formats.save_run(as_predicted(a_plan()), tmp_path / "run.json")
        data = json.loads((tmp_path / "run.json").read_text())
        change(data)
        (tmp_path / "run.json").write_text(json.dumps(data))
        with pytest.raises(InputError) as caught:
            formats.load_run(tmp_path / "run.json")
        assert len(caught.value.faults) == 1
        assert told in str(caught.value)
        assert "run.json" in str(caught.value)
        assert all(fault.hint for fault in caught.value.faults)
        assert TRACE.is_valid(data) == ((change, told) in BETWEEN)

    def test_every_fault_is_told_at_once(self, tmp_path: Path) -> None:
        formats.save_run(as_predicted(a_plan()), tmp_path / "run.json")
        data = json.loads((tmp_path / "run.json").read_text())
        changes = (put(more=1), put("otherData", plan="x"), put("traceEvents", 5, tid=9), put(*LAST, "args", start="0"))
        for change in changes:
            change(data)
        (tmp_path / "run.json").write_text(json.dumps(data))
        with pytest.raises(InputError) as caught:
            formats.load_run(tmp_path / "run.json")
        keys = [fault.key for fault in caught.value.faults]
        assert keys == ["more", "otherData.plan", "traceEvents[5].tid", "traceEvents[70].args.start"]

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"otherData": 3}', '{"otherData": {}, "otherData": {}}', "nonsense"]
    )
    def test_other_files_are_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(InputError, match=r"run\.json"):
            formats.load_run(tmp_path / "run.json")

    def test_no_flip_of_a_character_is_more_than_an_error(self, tmp_path: Path) -> None:
        formats.save_run(as_predicted(a_plan(microbatches=1)), tmp_path / "run.json")
        text, rng = (tmp_path / "run.json").read_text(), random.Random(1)
        for _ in range(150):
            place = rng.randrange(len(text))
            flipped = text[:place] + rng.choice('0{}[]",x') + text[place + 1 :]
            (tmp_path / "run.json").write_text(flipped)
            try:
                formats.load_run(tmp_path / "run.json")
            except InputError:
                continue
            TRACE.validate(json.loads(flipped))
