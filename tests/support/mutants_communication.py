"""Faults put into lowered schedules by name. ``lowered_mutant(seed)`` gives the same case each time.

Many of them keep every send and receive and change only where they stand or how they are grouped: those decide what
deadlocks under which discipline. The others lose, double, rename or misplace something. As in :mod:`mutants`, and
unlike the test kit's mutations, a schedule may come out right.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import NamedTuple

from oracle.messages import Wires
from schedverify.core.problem import Problem
from support.mutants import another, put, spot, spots
from support.random_lowered import lowered_base
from support.random_schedules import Rows

MUTANTS_OF_A_LOWERED_BASE = 16

Fault = Callable[[random.Random, Rows, Wires], None]
"""Takes a generator of random numbers, rows that it may change, and the law."""


class LoweredMutant(NamedTuple):
    problem: Problem
    rows: Rows
    name: str


def members(text: str) -> list[str]:
    return text.removesuffix("OVERLAP_F_B").strip("()[]").split(";")


def group(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"[{';'.join(parts)}]"


def is_transfer(text: str) -> bool:
    """Whether a step sends, receives or waits for a send, alone or in a group."""
    return "SEND" in text or "RECV" in text


def can_merge(rng: random.Random, *texts: str) -> bool:
    """Whether steps are sends and receives, which may be in a group; rarely a wait is taken for one."""
    return all(map(is_transfer, texts)) and (rng.random() < 0.02 or not any("WAIT" in text for text in texts))


def transfers(rows: Rows) -> list[tuple[int, int]]:
    return [(rank, position) for rank, position in spots(rows) if is_transfer(rows[rank][position])]


def transfer(rng: random.Random, rows: Rows) -> tuple[int, int]:
    """Choose a step that sends or receives; where none is left, any."""
    return rng.choice(transfers(rows) or spots(rows))


# Faults that lose nothing


def swap_neighbours(rng: random.Random, rows: Rows, law: Wires) -> None:
    rank, first = transfer(rng, rows)
    row = rows[rank]
    second = max(first - 1, 0) if rng.random() < 0.5 else min(first + 1, len(row) - 1)
    row[first], row[second] = row[second], row[first]


def move_a_little(rng: random.Random, rows: Rows, law: Wires) -> None:
    rank, position = transfer(rng, rows)
    row = rows[rank]
    text = row.pop(position)
    row.insert(max(0, position + rng.choice([-3, -2, 2, 3])), text)


def move_anywhere(rng: random.Random, rows: Rows, law: Wires) -> None:
    rank, position = transfer(rng, rows)
    put(rng, rows[rank], rows[rank].pop(position))


def shift_all(rng: random.Random, rows: Rows, sign: int, word: str) -> None:
    """Move every send, or every receive, of some ranks by one to three places."""
    steps = rng.randint(1, 3)
    for row in rows:
        if rng.random() < 0.6:
            positions = [position for position, text in enumerate(row) if word in text]
            for position in positions if sign < 0 else reversed(positions):
                text = row.pop(position)
                row.insert(max(0, position + sign * steps), text)


def receives_early(rng: random.Random, rows: Rows, law: Wires) -> None:
    shift_all(rng, rows, -1, "RECV")


def sends_late(rng: random.Random, rows: Rows, law: Wires) -> None:
    shift_all(rng, rows, 1, "SEND")


def receives_late(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Put receives right before the step that follows, be it the one that reads them or not."""
    shift_all(rng, rows, 1, "RECV")


def merge(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Merge a send or receive with a neighbour that is one too, or rarely with any neighbour."""
    pairs = [
        (rank, position)
        for rank, position in transfers(rows)
        if position + 1 < len(rows[rank]) and can_merge(rng, *rows[rank][position : position + 2])
    ]
    rank, first = rng.choice(pairs) if pairs and rng.random() < 0.97 else transfer(rng, rows)
    row = rows[rank]
    if first + 1 < len(row):
        row[first : first + 2] = [group(members(row[first]) + members(row[first + 1]))]


def merge_all(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Merge every stretch of sends and receives of a rank, or of every rank, into groups."""
    chosen = [rng.choice(rows)] if rng.random() < 0.5 else rows
    for row in chosen:
        found: list[str] = []
        for text in row:
            if found and can_merge(rng, text, found[-1]):
                found[-1] = group(members(found[-1]) + members(text))
            else:
                found.append(text)
        row[:] = found


def groups(rows: Rows) -> list[tuple[int, int]]:
    return [(rank, position) for rank, position in spots(rows) if rows[rank][position].startswith("[")]


def split(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Take a group apart; without one, merge."""
    if not groups(rows):
        merge(rng, rows, law)
        return
    rank, position = rng.choice(groups(rows))
    parts = members(rows[rank][position])
    cut = rng.randint(1, len(parts) - 1)
    rows[rank][position : position + 1] = [group(parts[:cut]), group(parts[cut:])]


def reverse_a_group(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Reverse a group; without one, merge neighbours in the wrong order."""
    if not groups(rows):
        merge(rng, rows, law)
    for rank, position in rng.sample(groups(rows), min(1, len(groups(rows)))):
        rows[rank][position] = group(members(rows[rank][position])[::-1])


def swap_both_ends(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Exchange two steps of each of two ranks."""
    for rank in rng.sample(range(len(rows)), min(2, len(rows))):
        own = [position for on, position in transfers(rows) if on == rank]
        if len(own) > 1:
            first, second = rng.sample(own, 2)
            rows[rank][first], rows[rank][second] = rows[rank][second], rows[rank][first]


def shuffle_transfers(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Shuffle a rank's sends and receives among the places where they stand."""
    rank = rng.randrange(len(rows))
    own = [position for on, position in transfers(rows) if on == rank]
    texts = [rows[rank][position] for position in own]
    rng.shuffle(texts)
    for position, text in zip(own, texts, strict=True):
        rows[rank][position] = text


def move_mark(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Move an UNSHARD, RESHARD, REDUCE_GRAD or the wait for one; without one, put one anywhere."""
    marks = [(rank, p) for rank, p in spots(rows) if re.fullmatch(r"[0-9]+[A-Z_]+", rows[rank][p])]
    if marks:
        rank, position = rng.choice(marks)
        put(rng, rows[rank], rows[rank].pop(position))
    else:
        kind = rng.choice(["UNSHARD", "RESHARD", "REDUCE_GRAD", "WAIT_REDUCE_GRAD"])
        put(rng, rng.choice(rows), f"{rng.randint(0, law.stages)}{kind}")


# Faults that lose, double or change something


def drop(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Drop a step, or a member of a group."""
    rank, position = transfer(rng, rows) if rng.random() < 0.7 else spot(rng, rows)
    parts = members(rows[rank][position])
    if len(parts) > 1 and rows[rank][position].startswith("["):
        parts.pop(rng.randrange(len(parts)))
        rows[rank][position] = group(parts)
    else:
        del rows[rank][position]


def drop_both_ends(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Drop a send and its receive, where both stand alone."""
    sends = [(rank, p) for rank, p in transfers(rows) if re.match("[0-9]+SEND", rows[rank][p])]
    if sends:
        rank, position = rng.choice(sends)
        match = re.fullmatch(r"([0-9]+)SEND_([FB])([0-9]+)(?:>([0-9]+))?", rows[rank].pop(position))
        peers = law.feeds if match[2] == "F" else law.fed_by
        targets = [int(match[4])] if match[4] else peers[int(match[1])] if int(match[1]) < law.stages else []
        for row in rows:
            row[:] = [
                text
                for text in row
                if not any(re.fullmatch(rf"{to}RECV_{match[2]}{match[3]}(<{match[1]})?", text) for to in targets)
            ]


def double(rng: random.Random, rows: Rows, law: Wires) -> None:
    rank, position = transfer(rng, rows) if rng.random() < 0.7 else spot(rng, rows)
    put(rng, rows[rank], rng.choice([rows[rank][position], *members(rows[rank][position])]))


def to_another_rank(rng: random.Random, rows: Rows, law: Wires) -> None:
    rank, position = transfer(rng, rows) if rng.random() < 0.7 else spot(rng, rows)
    put(rng, rng.choice(rows), rows[rank].pop(position))


def change(rng: random.Random, rows: Rows, make: Callable[[re.Match[str]], str]) -> None:
    """Change one send or receive: its stage, its word and letter, its micro-batch, or its peer."""
    rank, position = transfer(rng, rows)
    parts = members(rows[rank][position])
    chosen = rng.randrange(len(parts))
    match = re.fullmatch(r"([0-9]+)(SEND|RECV)_([FB])([0-9]+)(?:[<>]([0-9]+))?", parts[chosen])
    if match:
        parts[chosen] = make(match)
        rows[rank][position] = group(parts)


def spelled(match: re.Match[str], **changes: object) -> str:
    """Write a send or receive again with some of its parts changed."""
    names = ("stage", "word", "letter", "microbatch", "peer")
    found = dict(zip(names, match.groups(), strict=True)) | changes
    arrow = ">" if found["word"] == "SEND" else "<"
    tail = "" if found["peer"] is None else f"{arrow}{found['peer']}"
    return f"{found['stage']}{found['word']}_{found['letter']}{found['microbatch']}{tail}"


def another_stage(rng: random.Random, rows: Rows, law: Wires) -> None:
    change(rng, rows, lambda found: spelled(found, stage=another(rng, int(found[1]), law.stages)))


def another_microbatch(rng: random.Random, rows: Rows, law: Wires) -> None:
    change(rng, rows, lambda found: spelled(found, microbatch=another(rng, int(found[4]), law.microbatches)))


def another_peer(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Name another peer, a wrong one or none."""
    peer = rng.choice([None, rng.randrange(law.stages), law.stages, law.stages + 3])
    change(rng, rows, lambda found: spelled(found, peer=peer))


def turn_direction(rng: random.Random, rows: Rows, law: Wires) -> None:
    change(rng, rows, lambda found: spelled(found, word="RECV" if found[2] == "SEND" else "SEND"))


def another_letter(rng: random.Random, rows: Rows, law: Wires) -> None:
    change(rng, rows, lambda found: spelled(found, letter="B" if found[3] == "F" else "F"))


def swap_microbatches(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Exchange the micro-batches of two sends, or of two receives, of one kind on one rank."""
    rank = rng.randrange(len(rows))
    kind = rng.choice(["SEND_F", "RECV_F", "SEND_B", "RECV_B"])
    own = [p for p, text in enumerate(rows[rank]) if re.fullmatch(rf"[0-9]+{kind}[0-9]+([<>][0-9]+)?", text)]
    if len(own) > 1:
        first, second = rng.sample(own, 2)
        rows[rank][first], rows[rank][second] = rows[rank][second], rows[rank][first]


def gather_early(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Put every UNSHARD of a rank to its front; where one stage is unsharded again, all but the first are dropped."""
    row = rng.choice(rows)
    marks = [text for text in row if text.endswith("UNSHARD")]
    row[:] = [*dict.fromkeys(marks), *(text for text in row if text not in marks)]


def wait_anywhere(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Put a wait for some send anywhere on its rank."""
    sends = [(rank, p) for rank, p in transfers(rows) if re.match(r"\[?[0-9]+SEND", rows[rank][p])]
    if sends:
        rank, position = rng.choice(sends)
        put(rng, rows[rank], members(rows[rank][position])[0].replace("SEND", "WAIT_SEND"))


def wait_for_all(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Wait for every send of some ranks right behind it, or a little later."""
    later = rng.randint(0, 2)
    for row in rows:
        if rng.random() < 0.7:
            for position in reversed(range(len(row))):
                for part in members(row[position]) if "SEND" in row[position] and "WAIT" not in row[position] else ():
                    if "SEND" in part:
                        row.insert(min(position + 1 + later, len(row)), part.replace("SEND", "WAIT_SEND"))


def swap_steps(rng: random.Random, rows: Rows, law: Wires) -> None:
    """Exchange any two steps of a rank, computing or not."""
    rank, first = spot(rng, rows)
    second = rng.randrange(len(rows[rank]))
    row = rows[rank]
    row[first], row[second] = row[second], row[first]


REORDERINGS: dict[str, Fault] = {
    "swap neighbours": swap_neighbours,
    "move a little": move_a_little,
    "move anywhere": move_anywhere,
    "receives early": receives_early,
    "sends late": sends_late,
    "receives late": receives_late,
    "merge": merge,
    "merge all": merge_all,
    "split a group": split,
    "reverse a group": reverse_a_group,
    "swap both ends": swap_both_ends,
    "shuffle sends and receives": shuffle_transfers,
    "swap micro-batches": swap_microbatches,
    "swap steps": swap_steps,
    "move a mark": move_mark,
    "gather early": gather_early,
    "wait anywhere": wait_anywhere,
    "wait for all": wait_for_all,
}
"""Faults that keep every operation that computes, sends or receives."""

GENTLE = (
    "swap neighbours", "receives early", "sends late", "merge", "merge all", "split a group", "reverse a group",
    "wait for all",
)  # fmt: skip
"""Those that seldom put a receive behind the step that reads it, or a send before the step that makes its tensor."""

LOSSES: dict[str, Fault] = {
    "drop": drop,
    "drop both ends": drop_both_ends,
    "double": double,
    "to another rank": to_another_rank,
    "another stage": another_stage,
    "another micro-batch": another_microbatch,
    "another peer": another_peer,
    "turn direction": turn_direction,
    "another letter": another_letter,
}

LOWERED_FAULTS = REORDERINGS | LOSSES


def faulty_lowered(rng: random.Random, rows: Rows, law: Wires) -> tuple[Rows, str]:
    """Return a copy of rows with one to four faults in it, and their names; two thirds keep every operation."""
    mutated = [list(row) for row in rows]
    faults, counts = rng.choice([(GENTLE, [1, 2, 3, 4]), (REORDERINGS, [1, 2, 3]), (LOSSES, [1, 1, 1, 2])])
    chosen = rng.choices(list(faults), k=rng.choice(counts))
    if faults is LOSSES and rng.random() < 0.3:
        chosen += rng.choices(list(REORDERINGS))
    for name in chosen:
        if any(mutated):
            LOWERED_FAULTS[name](rng, mutated, law)
    return mutated, " + ".join(chosen)


def lowered_mutant(seed: int) -> LoweredMutant:
    """Return the mutant of a seed: its problem, its rows, and the names of the faults."""
    found = lowered_base(seed // MUTANTS_OF_A_LOWERED_BASE)
    rng = random.Random(f"lowered mutant {seed}")
    rows, name = faulty_lowered(rng, found.rows, Wires(found.data))
    return LoweredMutant(found.problem, rows, name)
