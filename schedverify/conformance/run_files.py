"""Loads what ran: a trace of our own, or those that torch.profiler wrote of each rank."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from schedverify.conformance.observed_run import ObservedRun, observe
from schedverify.conformance.torch_runs import TorchRun, torch_run
from schedverify.core.errors import Fault, InputError
from schedverify.formats.file_kinds import RUN, check_kind
from schedverify.formats.json_toml import parse_json
from schedverify.formats.packed_text import read_packed_text
from schedverify.formats.profiler_marks import MarkedRank, marked_rank
from schedverify.formats.profiler_trace import kept_of, profiler_trace_from
from schedverify.formats.text_files import PathLike, naming, source_name
from schedverify.formats.trace_reader import run_from

MAX_BYTES: Final = 1 << 29
"""The most bytes of a trace, unpacked."""
MAX_EVENTS: Final = 1 << 24
"""The most lists and tables in one."""
_EXPECTED: Final = "the trace of a run (JSON)"


def load_runs(paths: Sequence[PathLike]) -> TorchRun:
    """Return the run that a trace of ours tells, or those of torch.profiler, one of each rank; gzip may have packed it.

    Raises
    ------
    InputError
        If a file holds no such trace, or the traces are not those of one run; it names the file and the place in it.
    """
    if not paths:
        raise InputError(Fault("trace", "missing", "the trace of a run, or that of each rank"))
    ranks: list[MarkedRank] = []
    for path in paths:
        with naming(path):
            data: Any = parse_json(read_packed_text(path, _EXPECTED, MAX_BYTES), most=MAX_EVENTS, kept=kept_of)
            check_kind(data, _EXPECTED, RUN)
            if not (isinstance(data, Mapping) and "otherData" in data):
                ranks.append(marked_rank(profiler_trace_from(data, source_name(path))))
            elif len(paths) > 1:
                raise InputError(Fault("otherData", f"one of {len(paths)} traces", "a trace of ours holds all ranks"))
            else:
                return TorchRun(run_from(data), ())
    return torch_run(ranks)


def trace(traces: Sequence[PathLike]) -> ObservedRun:
    """Return what a run shows of itself, without a plan: the order, what each operation took, why each rank waited.

    Parameters
    ----------
    traces
        The files of torch.profiler, one of each rank, or the trace of a run of ours; gzip may have packed them.

    Raises
    ------
    InputError
        If a file holds no such trace, or the traces are not those of one run; it names the file and the place in it.
    ScheduleError
        If the order that ran cannot run.
    """
    if isinstance(traces, str | os.PathLike):
        raise TypeError(f"trace needs files, found a {type(traces).__name__}: put it into a list")
    ran = load_runs(traces)
    return observe(ran.trace, ran.remarks)
