"""Dumps of flight recorders: what is read of them, and what is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schedverify.core.errors import InputError
from schedverify.core.trace import RecordedTransfer
from schedverify.formats.flight_recorder import is_recording, load_recordings, recording_from
from support.recorder_dumps import Run, entry

ROWS = [["0F0", "0SEND_F0", "0RECV_B0", "0B0"], ["1RECV_F0", "1F0", "1B0", "1SEND_B0"]]

OF_TORCH = (
    '{"comm_lib_version":"","entries":[{"collective_seq_id":1,"input_dtypes":["Float"],"input_sizes":[[3]],"is_p2p":'
    'false,"op_id":1,"output_dtypes":["Float"],"output_sizes":[[3]],"p2p_seq_id":0,"pg_id":0,"process_group":["0",'
    '"default_pg"],"profiling_name":"gloo:all_reduce","record_id":0,"retired":true,"state":"scheduled","thread_id":'
    '"139869049498496","thread_name":"python","time_created_ns":1796087505056841821,"time_discovered_completed_ns":0,'
    '"time_discovered_started_ns":0,"timeout_ms":1800000}],"nccl_comm_state":{},"pg_config":{"":{"desc":"","name":"",'
    '"ranks":"[0, 1]"}},"pg_status":{"0":{"last_completed_collective":"1","last_enqueued_collective":"1",'
    '"last_started_collective":"-1"}},"version":"2.10"}'
)
"""What torch 2.13 and 2.15 wrote of an all_reduce over gloo; a recorder keeps no transfers there."""


def dump(rank: int = 0, discipline: str = "pair") -> dict[str, Any]:
    return Run(ROWS, [0, 1], discipline).dumps()[rank]


def test_what_torch_itself_wrote_is_read() -> None:
    found = recording_from(json.loads(OF_TORCH), "dump_of_rank_12.json")
    assert (found.rank, found.transfers, found.lost) == (12, (), False)


def test_transfers_are_read_with_their_ranks_in_the_job() -> None:
    (sends, receives) = recording_from(Run(ROWS, [0, 1]).dumps(global_ranks=[2, 5])[0]).transfers
    assert sends == RecordedTransfer(2, 5, is_send=True, done=True, queue=("7", 5), sizes=(2, 1))
    assert receives == RecordedTransfer(2, 5, is_send=False, done=True, queue=("7", 5), sizes=(2, 1))


def test_a_group_for_each_direction_is_a_queue_for_each() -> None:
    found = recording_from(Run(ROWS, [0, 1], "edge").dumps(global_ranks=[2, 5])[1]).transfers
    assert [(each.rank, each.peer, each.queue) for each in found] == [(5, 2, ("0to1", 2)), (5, 2, ("1to0", 2))]


def test_a_batch_has_one_queue_and_the_state_of_its_end() -> None:
    found = recording_from(dump(discipline="rank")).transfers
    assert [(each.done, each.queue) for each in found] == [(True, ("7", None))] * 2
    open_batch = dump(discipline="rank")
    open_batch["entries"][-1]["state"] = "started"
    assert [each.done for each in recording_from(open_batch).transfers] == [True, False]


def test_a_failed_transfer_is_not_complete() -> None:
    failed = dump()
    failed["entries"][1] |= {"state": "started", "retired": True}
    assert [each.done for each in recording_from(failed).transfers] == [True, False]


def test_the_oldest_may_be_dropped() -> None:
    lost = dump()
    del lost["entries"][0]
    assert recording_from(lost).lost


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"entries": 3}, "entries: expected a list"),
        ({"entries": [3]}, r"entries\[0\]: expected a table"),
        ({"pg_config": {"7": {"ranks": "some"}}}, "pg_config.7.ranks: expected the ranks"),
        ({"pg_config": {"7": {"ranks": "[0, -1]"}}}, "pg_config.7.ranks: expected the ranks"),
        ({"pg_config": 1}, "pg_config: expected the ranks"),
        ({"entries": [entry(0, "7", "nccl:send 0->1", "over", 1)]}, r"entries\[0\].state: expected scheduled"),
        ({"entries": [{"record_id": -1}]}, r"entries\[0\].record_id: expected a whole number, found -1"),
        ({"entries": [entry(0, "7", "x", "started", 1) | {"profiling_name": 3}]}, r"entries\[0\].profiling_name"),
        ({"entries": [entry(0, "7", "x", "started", 1) | {"process_group": []}]}, r"entries\[0\].process_group"),
        ({"entries": [entry(0, "7", "x", "started", 1) | {"input_sizes": [["a"]]}]}, r"entries\[0\].input_sizes"),
        ({"entries": [entry(0, "7", "x", "started", 1) | {"p2p_seq_id": True}]}, r"entries\[0\].p2p_seq_id"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(InputError, match=place):
        recording_from(dump() | change)


def test_files(tmp_path: Path) -> None:
    names = ["rank0.json", "rank1.json", "again.json", "trace.json"]
    files = [tmp_path / name for name in names]
    for file, held in zip(files, [dump(0), dump(1), dump(0), {"traceEvents": []}], strict=True):
        file.write_text(json.dumps(held))
    assert [each.rank for each in load_recordings(files[:2])] == [0, 1]
    with pytest.raises(InputError, match=r"again.json: a dump of rank 0, as is .*rank0.json"):
        load_recordings(files[:3])
    with pytest.raises(InputError, match="a trace, where a dump of the flight recorder is expected"):
        load_recordings(files[3:])
    pickled = tmp_path / "pickled"
    pickled.write_bytes(b"\x80\x04\x95\x00\x00")
    assert [is_recording(file) for file in (*files, pickled)] == [True, True, True, False, False]
