"""A second judge of SV7, on rows of text and a problem's plain data; it shares no code with the verifier."""

from __future__ import annotations

import re
from typing import Any

Rows = list[list[str]]
_MESSAGE = re.compile(r"[0-9]+(?:SEND|RECV)_[FB][0-9]+")


def profile_verdicts(rows: Rows, problem: dict[str, Any]) -> dict[str, bool]:
    """Return by code of SV7 whether it is violated."""
    words = [[part for cell in row for part in re.split(r"[\[\]();]", cell) if part] for row in rows]
    bare = all(re.fullmatch(r"[0-9]+[FBIW][0-9]+|OVERLAP_F_B", word) for row in words for word in row)
    return {
        "SV701": not _held(problem),
        "SV702": not _in_order(words, problem["stages"] - 1),
        "SV703": not bare and not _reduced(words, problem),
        "SV704": any(
            cell.startswith("[") or ">" in cell or "<" in cell or "WAIT" in cell for row in rows for cell in row
        ),
        "SV705": not bare and _crosses(problem) and not any(_MESSAGE.match(word) for row in words for word in row),
        "SV721": not bare and not all(map(_each_awaited, words)),
        "SV722": not bare and not all(map(_one_pending, words)),
        "SV723": any(cell.startswith("[") or ">" in cell or "<" in cell for row in rows for cell in row),
        "SV711": not _placed(problem),
        "SV712": not bare,
    }


def _each_awaited(row: list[str]) -> bool:
    """Whether a send and then its wait, both once, are all that stands of each tensor that is sent or waited for."""
    seen: dict[str, str] = {}
    for word in row:
        found = re.match(r"([0-9]+)(WAIT_)?SEND_([FB][0-9]+)", word)
        if found:
            tensor = f"{found[1]} {found[3]}"
            seen[tensor] = seen.get(tensor, "") + ("w" if found[2] else "s")
    return set(seen.values()) <= {"sw"}


def _one_pending(row: list[str]) -> bool:
    reductions = [word for word in row if word.endswith("REDUCE_GRAD")]
    begun, waits = reductions[::2], reductions[1::2]
    return [word.replace("REDUCE", "WAIT_REDUCE") for word in begun] == waits


def _ranks(entry: Any) -> list[int]:
    return entry if isinstance(entry, list) else [entry]


def _held(problem: dict[str, Any]) -> bool:
    if problem["form"] == "inference" or problem["replicas"] != 1 or problem["slices"] != 1 or problem["tied"]:
        return False
    owner_rank = [_ranks(entry) for entry in problem["placement"]]
    chain = [[stage, stage + 1] for stage in range(problem["stages"] - 1)]
    used = {rank for ranks in owner_rank for rank in ranks}
    single = all(len(ranks) == 1 for ranks in owner_rank)
    return sorted(problem["edges"]) == chain and single and used == set(range(problem["ranks"]))


def _in_order(words: Rows, last: int) -> bool:
    for row in words:
        seen = [int(word.removeprefix(f"{last}F")) for word in row if re.fullmatch(rf"{last}F[0-9]+", word)]
        if seen != sorted(set(seen)):
            return False
    return True


def _reduced(words: Rows, problem: dict[str, Any]) -> bool:
    for stage, entry in enumerate(problem["placement"]):
        for rank in _ranks(entry):
            row = words[rank]
            places = [i for i, word in enumerate(row) if word == f"{stage}REDUCE_GRAD"]
            backwards = [i for i, word in enumerate(row) if re.fullmatch(rf"{stage}[BW][0-9]+", word)]
            if len(places) != 1 or (backwards and places[0] < backwards[-1]):
                return False
    return True


def _crosses(problem: dict[str, Any]) -> bool:
    owner_rank = [_ranks(entry)[0] for entry in problem["placement"]]
    return any(owner_rank[a] != owner_rank[b] for a, b in problem["edges"])


def _placed(problem: dict[str, Any]) -> bool:
    ranks, stages = problem["ranks"], problem["stages"]
    owner_rank = [entry if isinstance(entry, int) else -1 for entry in problem["placement"]]
    loop = owner_rank == list(range(ranks)) * (stages // ranks)
    return loop or owner_rank == [*range(ranks), *reversed(range(ranks))]
