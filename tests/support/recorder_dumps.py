"""Dumps of flight recorders as torch.distributed writes them, of runs that are simulated here and may hang.

The run is modelled by itself, from the semantics, and knows nothing of what reads the dumps: each rank begins its
transfers in order and stops at a step that reads what has not come; a transfer is complete once both ends stand at the
head of their queues. The keys of a dump are those of torch 2.13 and 2.15 (version 2.10 of the format).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

OP = re.compile(r"(\d+)(SEND_F|SEND_B|RECV_F|RECV_B|WAIT_SEND_F|WAIT_SEND_B|F|B|I|W)(\d+)")
READS = {"F": "RECV_F", "B": "RECV_B", "I": "RECV_B", "WAIT_SEND_F": "SEND_F", "WAIT_SEND_B": "SEND_B"}


class Run:
    """A run of rows of text steps, over and over, until nothing moves.

    Parameters
    ----------
    rows
        For each rank the texts of its steps: no groups, no overlapped pairs.
    owner
        By stage its rank; the stages are a chain.
    discipline
        ``edge``, ``pair``, ``rank`` or ``block``.
    dies
        The rank that runs no further than a step of training and a position.
    """

    def __init__(
        self, rows: Sequence[Sequence[str]], owner: Sequence[int], discipline: str = "pair", steps: int = 1,
        dies: tuple[int, int, int] | None = None,
    ) -> None:  # fmt: skip
        self.rows, self.owner, self.discipline, self.steps, self.dies = rows, owner, discipline, steps, dies
        self.place = [(0, 0)] * len(rows)
        self.begun: list[list[dict[str, Any]]] = [[] for _ in rows]
        while sum(map(self._advance, range(len(rows)))) or self._complete():
            pass

    @property
    def hangs(self) -> bool:
        return any(place[0] < self.steps for place in self.place)

    def peer(self, stage: int, kind: str) -> int:
        onward = kind in ("SEND_F", "RECV_B")
        return self.owner[stage + 1 if onward else stage - 1]

    def _advance(self, rank: int) -> bool:
        """Run one rank as far as it goes; say whether it moved."""
        before = self.place[rank]
        while (place := self.place[rank])[0] < self.steps:
            step, position = place
            if position == len(self.rows[rank]):
                self.place[rank] = (step + 1, 0)
                continue
            if self.dies is not None and rank == self.dies[0] and place >= self.dies[1:]:
                break
            match = OP.fullmatch(self.rows[rank][position])
            assert match
            stage, kind, number = int(match[1]), match[2], int(match[3])
            if kind.startswith(("SEND", "RECV")):
                mine = [each for each in self.begun[rank] if each["at"] == place]
                if not mine:
                    self.begun[rank].append({
                        "at": place, "stage": stage, "kind": kind, "microbatch": number,
                        "peer": self.peer(stage, kind), "done": False,
                    })  # fmt: skip
                if self.discipline == "block" and not self.begun[rank][-1]["done"]:
                    break
            elif not all(each["done"] for each in self._read(rank, step, stage, READS.get(kind), number)):
                break
            self.place[rank] = (step, position + 1)
        return self.place[rank] != before

    def _read(self, rank: int, step: int, stage: int, kind: str | None, number: int) -> list[dict[str, Any]]:
        return [
            each for each in self.begun[rank]
            if (each["at"][0], each["stage"], each["kind"], each["microbatch"]) == (step, stage, kind, number)
        ]  # fmt: skip

    def _complete(self) -> bool:
        """Complete every transfer whose two ends stand at the heads of their queues; say whether there was one."""
        moved = False
        for rank in range(len(self.rows)):
            for other in range(len(self.rows)):
                sends = [each for each in self.begun[rank] if each["peer"] == other and each["kind"][0] == "S"]
                receives = [each for each in self.begun[other] if each["peer"] == rank and each["kind"][0] == "R"]
                for send, receive in zip(sends, receives, strict=False):
                    if not send["done"] and self._heads(rank, send) and self._heads(other, receive):
                        send["done"] = receive["done"] = moved = True
        return moved

    def _heads(self, rank: int, transfer: dict[str, Any]) -> bool:
        same: Callable[[dict[str, Any]], bool] = {
            "edge": lambda each: (each["peer"], each["kind"][0]) == (transfer["peer"], transfer["kind"][0]),
            "pair": lambda each: each["peer"] == transfer["peer"],
        }.get(self.discipline, lambda _: True)
        return next(each for each in self.begun[rank] if not each["done"] and same(each)) is transfer

    def dumps(self, *, global_ranks: Sequence[int] | None = None, keep: int | None = None) -> list[dict[str, Any]]:
        """Return the dump of each rank's recorder.

        Parameters
        ----------
        global_ranks
            The number of each rank in the job, by default its own.
        keep
            How many entries the recorder holds.
        """
        ranks = list(global_ranks or range(len(self.rows)))
        return [self._dump(rank, ranks, keep) for rank in range(len(self.rows))]

    def _dump(self, rank: int, ranks: list[int], keep: int | None) -> dict[str, Any]:
        config: dict[str, Any] = {"0": _group("0", "default_pg", list(range(max(ranks) + 1)))}
        entries: list[dict[str, Any]] = []
        for each in self.begun[rank]:
            ends = (rank, each["peer"]) if each["kind"][0] == "S" else (each["peer"], rank)
            if self.discipline == "edge":
                name, members = f"{ends[0]}to{ends[1]}", [ranks[end] for end in sorted(ends)]
                own, peer = (sorted(ends).index(end) for end in (rank, each["peer"]))
            else:
                name, members, own, peer = "7", ranks, rank, each["peer"]
            config[name] = _group(name, "mesh_pp", members)
            text = f"nccl:send {own}->{peer}" if each["kind"][0] == "S" else f"nccl:recv {own}<-{peer}"
            state = "completed" if each["done"] else "scheduled"
            if self.discipline == "rank":  # a batch of one: the recorder gives a state to what ends it
                entries.append(entry(len(entries), name, text, "scheduled", each["stage"]))
                entries.append(entry(len(entries), name, "nccl:coalesced", state, None, same_as=entries[-1]))
            else:
                entries.append(entry(len(entries), name, text, state, each["stage"]))
        kept = entries[-keep:] if keep is not None else entries
        dump = {"version": "2.10", "comm_lib_version": "2.27.5", "pg_config": config, "pg_status": {}}
        return dump | ({"entries": kept} if kept else {})  # an empty list is left out


def _group(name: str, description: str, ranks: list[int]) -> dict[str, str]:
    return {"name": name, "desc": description, "ranks": str(ranks)}


def entry(
    number: int, group: str, name: str, state: str, width: int | None, same_as: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return an entry of a recorder: of a transfer of 2 rows of ``width + 1``, or of what ends a batch."""
    sizes = [] if width is None else [[2, width + 1]]
    return {
        "record_id": number, "pg_id": 1, "process_group": [group, "mesh_pp"], "thread_name": "python",
        "thread_id": "1", "collective_seq_id": 0, "p2p_seq_id": same_as["p2p_seq_id"] if same_as else number + 1,
        "op_id": number + 1, "profiling_name": name, "time_created_ns": 1_700_000_000_000_000_000 + number,
        "input_sizes": sizes, "input_dtypes": ["Float"] * len(sizes), "output_sizes": sizes,
        "output_dtypes": ["Float"] * len(sizes), "state": state, "time_discovered_started_ns": 0,
        "time_discovered_completed_ns": 0, "retired": state == "completed", "timeout_ms": 600000, "is_p2p": True,
    }  # fmt: skip
