"""Whether reality agrees with the model of NCCL: reported deadlocks and ten changed orders, in processes that may hang.

``python benchmarks/nccl_reality.py`` wants two GPUs, each with a process of its own, and runs every order under the
disciplines ``pair`` (plain ``isend`` and ``irecv``), ``edge`` (a communicator for each direction), ``rank`` (batches on
one communicator) and ``block`` (each transfer is waited for). ``--backend gloo`` runs ``edge`` and ``block`` without a
GPU. Each run has two fresh processes, which are ended after ``--seconds``; what is received says whether tensors were
swapped. Exit code 1 where an outcome is another than the one predicted.

Messages are large by default: NCCL completes a small send before its receive is posted, which the model calls eager.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import socket
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from printing import progress, publish, table, where

from schedverify import Problem, Schedule, generate, verify
from schedverify.lowering import add_communication

CASES = Path(__file__).parents[1] / "specs" / "deadlocks.toml"
DISCIPLINES = {"nccl": ("pair", "edge", "rank", "block"), "gloo": ("edge", "block")}
ENDS, HANGS, SWAPS, FAILS = "ends", "hangs", "swaps tensors", "fails"
CHANGED = 10
READY = 120
"""Seconds in which two processes must have started and met."""
OP = re.compile(r"(\d+)(SEND|RECV)_([FB])(\d+)")
READ = {"F": "F", "B": "B", "I": "B"}


class Case(NamedTuple):
    """An order of two ranks, perhaps an excerpt; ``owner`` has the rank of each of its stages."""

    name: str
    rows: list[list[str]]
    owner: list[int]
    excerpt: bool = False


class Outcome(NamedTuple):
    """What was predicted of a case under a discipline, and what was seen."""

    case: str
    discipline: str
    predicted: str
    seen: str


def main() -> int:
    """Run every case under every discipline, print a table, and say whether all agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=DISCIPLINES, default="nccl")
    parser.add_argument("--seconds", type=float, default=20, help="after which a run counts as hung")
    parser.add_argument("--bytes", type=int, default=1 << 26, help="of each message")
    parser.add_argument("--seed", type=int, default=0, help="of the changed orders")
    parser.add_argument("--only", type=int, metavar="N", help="the first N cases alone")
    parser.add_argument("--json", type=Path, help="file for all outcomes")
    parser.add_argument("--update", action="store_true", help="put what is printed into docs/benchmarks.md")
    chosen = parser.parse_args()
    import torch

    if chosen.backend == "nccl" and torch.cuda.device_count() < 2:
        print("NCCL wants a GPU for each of two ranks; --backend gloo runs without one", file=sys.stderr)
        return 2
    cases = [*reported(), *changed(chosen.seed)][: chosen.only]
    found = list(outcomes(cases, chosen))
    if chosen.json:
        text = json.dumps({"backend": chosen.backend, "outcomes": [each._asdict() for each in found]})
        chosen.json.write_text(text + "\n", encoding="utf-8")
    publish("nccl-reality", told(found, chosen), update=chosen.update)
    return 0 if all(each.predicted == each.seen for each in found) else 1


def reported() -> Iterator[Case]:
    """Yield the orders that users have reported: stages in a loop over two ranks."""
    for case in tomllib.loads(CASES.read_text(encoding="utf-8"))["case"]:
        yield Case(case["source"], case["orders"], [0, 1, 0, 1], excerpt=True)


def changed(seed: int) -> Iterator[Case]:
    """Yield ten orders with a few transfers moved: of each outcome under ``pair`` at least three."""
    rng, left = random.Random(seed), {ENDS: 3, HANGS: 4, SWAPS: 3}
    while sum(left.values()):
        virtual = rng.choice((1, 2))
        family = "interleaved-1f1b" if virtual == 2 else rng.choice(("1f1b", "gpipe"))
        problem = Problem.chain(ranks=2, microbatches=rng.choice((2, 4)), virtual=virtual)
        rows = add_communication(generate(family, problem), problem).strings()
        for _ in range(rng.randint(1, 4)):
            row = rng.choice(rows)
            places = [i for i, step in enumerate(row) if OP.match(step)]
            row.insert(rng.randrange(len(row)), row.pop(rng.choice(places)))
        report = verify(Schedule.of(rows), problem, discipline="pair", select=["SV301", "SV303"])
        predicted = prediction(case := Case("", rows, list(problem.owner_rank)), "pair")
        if report.ok and left[predicted]:
            left[predicted] -= 1
            yield case._replace(name=f"{family}, {CHANGED - sum(left.values())} of {CHANGED}, {predicted} under pair")


def prediction(case: Case, discipline: str) -> str:
    """Return what the verifier says of a case."""
    microbatches = 1 + max(
        int(number) for row in case.rows for step in row for number in re.findall(r"[A-Z](\d+)", step)
    )
    problem = Problem.chain(ranks=2, microbatches=microbatches, placement=case.owner)
    report = verify(Schedule.of(case.rows), problem, discipline=discipline, excerpt=case.excerpt)
    return HANGS if report["SV304"].violations else SWAPS if report["SV302"].violations else ENDS


def outcomes(cases: Sequence[Case], chosen: argparse.Namespace) -> Iterator[Outcome]:
    """Run each case under each discipline of the backend."""
    runs = [(case, discipline) for case in cases for discipline in DISCIPLINES[chosen.backend]]
    with progress() as bar:
        for case, discipline in bar.track(runs, description="runs"):
            seen = run(case, discipline, chosen.backend, chosen.bytes, chosen.seconds)
            yield Outcome(case.name, discipline, prediction(case, discipline), seen)


def run(case: Case, discipline: str, backend: str, size: int, seconds: float) -> str:
    """Run a case once in two processes, and end them."""
    context = get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ends, processes = [], []
    try:
        for rank in range(2):
            here, there = context.Pipe()
            processes.append(context.Process(target=work, args=(there, rank, port, case, discipline, backend, size)))
            processes[-1].start()
            there.close()
            ends.append(here)
        if [answer(end, READY) for end in ends] != ["ready", "ready"]:
            return FAILS
        deadline = time.monotonic() + seconds
        received = [answer(end, deadline - time.monotonic()) for end in ends]
    finally:
        end_all(processes)
    if FAILS in received:
        return FAILS
    if None in received:
        return HANGS
    return ENDS if all(name == got for rows in received for name, got in rows) else SWAPS


def answer(end: Connection, seconds: float) -> Any:
    """Return what a process sends, None where it sends nothing in time, FAILS where it is gone."""
    try:
        return end.recv() if end.poll(max(seconds, 0)) else None
    except EOFError:
        return FAILS


def end_all(processes: Sequence[BaseProcess]) -> None:
    """End processes, whatever they wait for."""
    for process in processes:
        process.kill()
        process.join()


def work(end: Connection, rank: int, port: int, case: Case, discipline: str, backend: str, size: int) -> None:
    """Run one rank: say that it is ready, then what each receive should have brought and what it brought."""
    import torch
    import torch.distributed as dist

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, rank=rank, world_size=2)
    engine = Engine(rank, discipline, device, size)
    engine.meet()
    end.send("ready")
    end.send(engine.run(case.rows[rank], case.owner))
    time.sleep(READY)  # the other rank may still receive; the parent ends both


class Engine:
    """Sends and receives of one rank under a discipline: tensors filled with the number of what they are."""

    def __init__(self, rank: int, discipline: str, device: Any, size: int) -> None:
        import torch.distributed as dist

        self.rank, self.discipline, self.device, self.count = rank, discipline, device, max(size // 4, 1)
        directions = ((0, 1), (1, 0)) if discipline == "edge" and device.type == "cuda" else ()
        self.groups = {pair: dist.new_group([0, 1]) for pair in directions}
        self.works: dict[str, list[Any]] = {}
        self.received: list[tuple[int, Any]] = []
        self.ended: list[Any] = []

    def meet(self) -> None:
        """Let both ranks make every communicator, with a transfer in each direction."""
        for sender in (0, 1):
            name = f"{sender}SEND_F0" if sender == self.rank else f"{self.rank}RECV_F0"
            self.wait(self.begin([(name, 1 - self.rank)]))
        self.works, self.received = {}, []

    def run(self, row: Sequence[str], owner: Sequence[int]) -> list[tuple[int, int]]:
        """Run the steps of a row; return for each receive the number of its tensor and the number that came."""
        for step in row:
            transfers = [match[0] for match in OP.finditer(step)]
            if transfers:
                works = self.begin([(name, self.peer(name, owner)) for name in transfers])
                if self.discipline == "block":
                    self.wait(works)
            else:
                for stage, kind, number in re.findall(r"(\d+)([FBIW])(\d+)", step):
                    self.wait(self.works.get(f"{stage}RECV_{READ.get(kind)}{number}", []))
        self.wait([each for works in self.works.values() for each in works])
        return [(wanted, int(tensor[-1].item())) for wanted, tensor in self.received]

    def peer(self, name: str, owner: Sequence[int]) -> int:
        """Return the rank at the other end of a transfer, in a chain of stages."""
        stage, verb, letter, _ = OP.fullmatch(name).groups()  # type: ignore[union-attr]
        return owner[int(stage) + (1 if (verb == "SEND") == (letter == "F") else -1)]

    def begin(self, transfers: Sequence[tuple[str, int]]) -> list[Any]:
        """Begin transfers, those of a group together."""
        import torch
        import torch.distributed as dist

        ops = []
        for name, peer in transfers:
            stage, verb, letter, number = OP.fullmatch(name).groups()  # type: ignore[union-attr]
            source = int(stage) if verb == "SEND" else int(stage) + (-1 if letter == "F" else 1)
            tensor_number = 2 * (100 * source + int(number)) + (letter == "B")
            filling = tensor_number if verb == "SEND" else -1
            tensor = torch.full((self.count,), filling, dtype=torch.float32, device=self.device)
            if verb == "RECV":
                self.received.append((tensor_number, tensor))
            ends = (self.rank, peer) if verb == "SEND" else (peer, self.rank)
            ops.append(dist.P2POp(dist.isend if verb == "SEND" else dist.irecv, tensor, peer, self.groups.get(ends)))
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # the tensor is filled
        batched = len(ops) > 1 or self.discipline == "rank"
        works = dist.batch_isend_irecv(ops) if batched else [op.op(op.tensor, op.peer, group=op.group) for op in ops]
        for name, _ in transfers:
            self.works.setdefault(name, []).extend(works)
        return works

    def wait(self, works: Sequence[Any]) -> None:
        """Hold the program until transfers are complete; on a GPU ``wait`` would hold a stream alone."""
        for each in works:
            if self.device.type == "cpu" and each not in self.ended:
                each.wait()  # once: a second wait for a receive of gloo waits for another message
                self.ended.append(each)
            while self.device.type == "cuda" and not each.is_completed():
                time.sleep(0.001)


def told(found: Sequence[Outcome], chosen: argparse.Namespace) -> str:
    """Return the outcomes as they stand on the page."""
    names = list(dict.fromkeys(each.case for each in found))
    disciplines = DISCIPLINES[chosen.backend]
    cells = {(each.case, each.discipline): each for each in found}
    rows = [[name, *(_cell(cells[name, discipline]) for discipline in disciplines)] for name in names]
    agree = sum(each.predicted == each.seen for each in found)
    options = f"{chosen.backend}, messages of {chosen.bytes} bytes, seed {chosen.seed}, hung after {chosen.seconds:g} s"
    return f"""{where("torch")}; {options}.

{table(("order", *disciplines), rows)}

{agree} of {len(found)} runs did what was predicted."""


def _cell(each: Outcome) -> str:
    return each.seen if each.seen == each.predicted else f"{each.seen}, predicted: {each.predicted}"


if __name__ == "__main__":
    sys.exit(main())
