"""Reads dumps of torch.distributed's flight recorder, in JSON, one for each rank.

``torch._C._distributed_c10d._dump_nccl_trace_json()`` gives them. An entry names its transfer ``nccl:send 0->1`` or
``nccl:recv 0<-1``: first the rank's own number in its process group, then the peer's. Pickled dumps are not read: a
pickle can run anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, Final

from schedverify.core.errors import Fault, Faults, InputError, shown
from schedverify.core.problem.numbers import LARGEST
from schedverify.core.trace import RecordedTransfer, Recording
from schedverify.formats.file_kinds import RECORDER, check_kind
from schedverify.formats.json_toml import parse_json, unfit
from schedverify.formats.text_files import PathLike, naming, read_text, source_name

MAX_BYTES: Final = 1 << 28
_TRANSFER: Final = re.compile(r"[a-z0-9_]{1,20}:(?:send ([0-9]{1,9})->([0-9]{1,9})|recv ([0-9]{1,9})<-([0-9]{1,9}))")
_BATCH: Final = ":coalesced"
_RANK_AT_END: Final = re.compile(r"([0-9]{1,9})(?:\.json)?$")
_STATES: Final = ("scheduled", "started", "completed")
_WRITER: Final = "torch._C._distributed_c10d._dump_nccl_trace_json() writes it"


def is_recording(path: PathLike) -> bool:
    """Return whether a file looks like a dump of a flight recorder; what cannot be read is none."""
    try:
        text = read_text(path, "a trace", MAX_BYTES)
    except InputError:
        return False
    return all(f'"{mark}"' in text for mark in RECORDER.marks) and '"traceEvents"' not in text


def load_recordings(paths: Iterable[PathLike]) -> list[Recording]:
    """Return what flight recorders kept, a dump for each rank.

    Raises
    ------
    InputError
        If a file holds no dump, or two are of one rank; with every fault of a file (the first 50) and its place.
    """
    found: list[Recording] = []
    for path in paths:
        text = read_text(path, "a dump of the flight recorder (JSON)", MAX_BYTES)
        with naming(path):
            data = parse_json(text)
            check_kind(data, "a dump of the flight recorder", RECORDER)
            recording = recording_from(data, source_name(path))
            same = [each.source for each in found if recording.rank is not None and each.rank == recording.rank]
            if same:
                raise InputError(
                    Fault("", f"a dump of rank {recording.rank}, as is {same[0]}", "give one for each rank")
                )
            found.append(recording)
    return found


def recording_from(data: Any, source: str = "") -> Recording:
    """Return what parsed JSON of a dump tells; ``source`` is the file's name, which may end in the rank.

    Raises
    ------
    InputError
        With every fault (the first 50).
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("pg_config"), Mapping):
        raise InputError(Fault("pg_config", "expected the ranks of each process group", _WRITER))
    reader = _DumpReader(data)
    for fault in unfit(data):
        reader.fault(*fault)
    transfers = tuple(reader.transfers())
    reader.raise_faults()
    named = _RANK_AT_END.search(PurePath(source).name)
    rank = transfers[0].rank if transfers else int(named[1]) if named else None
    return Recording(source, rank, transfers, reader.first_record > 0)


class _DumpReader(Faults):
    """The entries of a dump and the faults found in them so far."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__()
        self.groups = {name: self._ranks(name, about) for name, about in data["pg_config"].items()}
        self.entries = [self._checked(i, entry) for i, entry in enumerate(self._listed(data.get("entries", [])))]
        self.first_record = self.entries[0]["record_id"] if self.entries and not self.found else 0

    def transfers(self) -> Iterator[RecordedTransfer]:
        """Yield the sends and receives, in the order in which they were recorded."""
        if self.found:
            return
        batches = self._batches()
        for i, entry in enumerate(self.entries):
            match = _TRANSFER.fullmatch(entry["profiling_name"])
            if match is None:
                continue
            group = entry["process_group"][0]
            own, peer = (self._rank(group, int(number)) for number in match.groups() if number is not None)
            is_send, state = match[1] is not None, batches.get(i, entry)
            done = state["state"] == "completed"  # "retired" is also set where a transfer failed
            sizes = entry.get("input_sizes" if is_send else "output_sizes") or [[]]
            queue = (group, None if i in batches else peer)
            yield RecordedTransfer(own, peer, is_send, done, queue, tuple(sizes[0]))

    def _batches(self) -> dict[int, Mapping[str, Any]]:
        """Return by batched entry the one that ended its batch: only that has a state.

        A batch is a run of entries of one process group with one number, and ends with an entry of its own.
        """
        ends: dict[int, Mapping[str, Any]] = {}
        open_batches: dict[tuple[str, int], list[int]] = {}
        for i, entry in enumerate(self.entries):
            key = entry["process_group"][0], entry["p2p_seq_id"]
            if entry["profiling_name"].endswith(_BATCH):
                ends |= dict.fromkeys(open_batches.pop(key, ()), entry)
            elif _TRANSFER.fullmatch(entry["profiling_name"]):
                open_batches.setdefault(key, []).append(i)
        return ends

    def _rank(self, group: str, number: int) -> int:
        """Return the rank in the job of a number in a process group; that of the default group is the same."""
        ranks = self.groups.get(group, ())
        return ranks[number] if number < len(ranks) else number

    def _ranks(self, name: str, about: Any) -> list[int]:
        text = about.get("ranks") if isinstance(about, Mapping) else None
        try:
            ranks = parse_json(text) if isinstance(text, str) else text
        except InputError:
            ranks = None
        if not isinstance(ranks, list) or not all(type(rank) is int and 0 <= rank <= LARGEST for rank in ranks):
            self.fault(f"pg_config.{name}.ranks", f"expected the ranks of the group, found {shown(text)}", _WRITER)
            return []
        return ranks

    def _listed(self, entries: Any) -> list[Any]:
        if isinstance(entries, list):
            return entries
        self.fault("entries", f"expected a list, found {shown(entries)}", _WRITER)
        return []

    def _checked(self, number: int, entry: Any) -> Mapping[str, Any]:
        """Return an entry after a look at the keys that are read."""
        key = f"entries[{number}]"
        if not isinstance(entry, Mapping):
            self.fault(key, f"expected a table, found {shown(entry)}", _WRITER)
            return {}
        for name in ("record_id", "p2p_seq_id"):
            if type(entry.get(name)) is not int or not 0 <= entry[name] <= LARGEST:
                self.fault(f"{key}.{name}", f"expected a whole number, found {shown(entry.get(name))}", _WRITER)
        if not isinstance(entry.get("profiling_name"), str):
            self.fault(f"{key}.profiling_name", f"expected text, found {shown(entry.get('profiling_name'))}", _WRITER)
        if entry.get("state") not in _STATES:
            self.fault(f"{key}.state", f"expected {', '.join(_STATES)}, found {shown(entry.get('state'))}", _WRITER)
        group = entry.get("process_group")
        if not isinstance(group, list) or not group or not isinstance(group[0], str):
            self.fault(f"{key}.process_group", f"expected a name and a description, found {shown(group)}", _WRITER)
        for name in ("input_sizes", "output_sizes"):
            if not _is_sizes(entry.get(name, [])):
                self.fault(f"{key}.{name}", "expected lists of whole numbers", _WRITER)
        return entry


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(sizes, list) and all(type(size) is int and 0 <= size <= LARGEST for size in sizes) for sizes in value
    )
