"""Real processes over gloo for tests: a pool that persists, and is ended and made anew where a run hangs.

A job is a function of a module that can be imported, called on every rank as ``job(rank, *arguments)`` inside a process
group of gloo over loopback. What hangs is killed with its whole pool; the next run begins with fresh processes. They
are forks of a server that has imported torch and used nothing of it, since importing is most of what a process costs.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

STARTING = 120
"""Seconds that processes may take to import torch and meet."""


IMPORTED = ("torch.distributed.fsdp", "torch.distributed.pipelining", "schedverify.runner", "schedverify.profiling")
"""What processes have imported when they begin; what is not installed is passed over."""


class Outcome(NamedTuple):
    """What a rank did with a job: its value, or the traceback of its error, or neither where it hung."""

    value: Any = None
    error: str | None = None
    hung: bool = False


class GlooPool:
    """Processes of one process group; use it as a context, so that they are all ended."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(IMPORTED))
        self._processes: list[Any] = []
        self._pipes: list[Any] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def processes(self) -> list[Any]:
        """The processes that run now."""
        return list(self._processes)

    def __enter__(self) -> GlooPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def run(self, job: Callable[..., Any], *arguments: Any, timeout: float = 60) -> list[Outcome]:
        """Run a job on every rank and return what each did; ranks without an answer in time hung.

        Where a rank fails, the others wait for it in vain: they are given two more seconds, and count as hung.
        """
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((job, arguments))
        outcomes = self._collect(timeout)
        if any(outcome is None or outcome.error for outcome in outcomes):
            self.end()
        return [outcome or Outcome(hung=True) for outcome in outcomes]

    def end(self) -> None:
        """End every process and wait for it; one that is late to heed SIGTERM, since torch holds it up, is killed."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(1)
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        store = str(Path(self._folder.name) / "store")
        for rank in range(self.ranks):
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs, rank, self.ranks, store), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        ready = self._collect(STARTING)
        if any(outcome is None or outcome.error for outcome in ready):
            self.end()
            raise RuntimeError(f"no process group of {self.ranks} came up: {ready}")

    def _collect(self, timeout: float) -> list[Outcome | None]:
        outcomes: list[Outcome | None] = [None] * self.ranks
        deadline = time.monotonic() + timeout
        while None in outcomes and (left := deadline - time.monotonic()) > 0:
            waiting = {pipe: rank for rank, pipe in enumerate(self._pipes) if outcomes[rank] is None}
            for pipe in multiprocessing.connection.wait(list(waiting), left):
                rank = waiting[pipe]
                try:
                    outcomes[rank] = pipe.recv()
                except EOFError:
                    outcomes[rank] = Outcome(error="the process died")
                if outcomes[rank].error:
                    deadline = min(deadline, time.monotonic() + 2)
        return outcomes


def _serve(pipe: Any, rank: int, ranks: int, store: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, ranks), rank=rank, world_size=ranks)
    pipe.send(Outcome())
    while True:
        try:
            job, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(Outcome(job(rank, *arguments)))
        except BaseException:
            pipe.send(Outcome(error=traceback.format_exc()))
