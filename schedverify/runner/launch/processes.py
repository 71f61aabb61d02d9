"""Starts a process for each rank on this machine, over gloo, and ends them all on a failure or signal.

Under torchrun, which starts the processes, a process joins the others instead.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Final, NoReturn

from schedverify.core.errors import Fault, InputError, ScheduleError
from schedverify.runner.failures import RunError, merged, without_repeats

FAILED: Final = 1
WRONG_INPUT: Final = 2
GRACE: Final = 3.0
"""Seconds that the other processes have to end by themselves, and to say why, when one has failed."""
SENT, RETURNED, FAILED_BY = range(3)
"""The kinds of messages of a process: sent by its job, returned by it, or the text of its error."""
Job = Callable[[Callable[[Any], None]], Any]
"""What each process does in its process group. It is given a function that sends a value to whoever listens."""


def launch(job: Job, ranks: int, listen: Callable[[Any], None]) -> list[Any]:
    """Run ``ranks`` processes until all have ended, and return what the job returned in each, by rank.

    Parameters
    ----------
    job
        Called in each process, when it has joined the default process group; it is pickled on its way there, and what
        it sends and returns is pickled on its way back.
    listen
        Called in this process with each value that a job sends.

    Raises
    ------
    RunError
        If any of them fails: the error of each, equal ones once.
    InputError
        If each one that fails does so by an InputError.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        store, pipes = str(Path(folder) / "store"), [context.Pipe(duplex=False) for _ in range(ranks)]
        processes = [
            context.Process(target=_serve, args=(job, rank, ranks, store, theirs), name=f"rank {rank}")
            for rank, (_, theirs) in enumerate(pipes)
        ]
        with _ended(processes):
            for process, (_, theirs) in zip(processes, pipes, strict=True):
                process.start()
                theirs.close()
            inbox = Inbox((ours for ours, _ in pipes), listen)
            _watch(processes, inbox)
        inbox.drain()
    failed = [rank for rank, process in enumerate(processes) if process.exitcode]
    failures = {rank: inbox.errors.get(rank) or _how_it_ended(processes[rank].exitcode) for rank in failed}
    if failures:
        wrong = all(process.exitcode in (0, WRONG_INPUT) for process in processes)
        told = "\n".join(merged(without_repeats(failures)))
        raise InputError(Fault("", line) for line in told.splitlines()) if wrong else RunError(told)
    return [inbox.returned[rank] for rank in range(ranks)]


def join_torchrun(backend: str, job: Job, listen: Callable[[Any], None], timeout: float | None = None) -> Any:
    """Join the process group that torchrun's environment describes, do a job in it, and return what that returns.

    The group is gone at the end, with its threads: a thread of gloo that frees the tensor of a collective while the
    interpreter ends wants the interpreter's lock, is ended instead, and takes the process with it ("terminate called
    without an active exception", pytorch issues 179291 and 190489).

    Parameters
    ----------
    listen
        Called with each value that the job sends.
    timeout
        Seconds of the group's own waits; those of torch by default.
    """
    import torch
    import torch.distributed as dist

    # It has functions with the default group as a default of theirs, so it would hold the group for ever if something
    # (a dispatch mode does) loaded it later, when there is one.
    importlib.import_module("torch.distributed.nn.functional")
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend, timeout=None if timeout is None else timedelta(seconds=timeout))
    try:
        return job(listen)
    finally:
        dist.destroy_process_group()
        gc.collect()  # a runner refers to itself, and to its groups


class Inbox:
    """Reads the messages of processes as they come: a full pipe holds up the process at its other end.

    Attributes
    ----------
    returned
        What the jobs returned, by rank.
    errors
        The texts of their errors, by rank.
    """

    def __init__(self, pipes: Iterable[Any], listen: Callable[[Any], None]) -> None:
        self._ranks = {pipe: rank for rank, pipe in enumerate(pipes)}
        self._listen = listen
        self.returned: dict[int, Any] = {}
        self.errors: dict[int, str] = {}

    @property
    def pipes(self) -> list[Any]:
        """Those that are not at their end."""
        return list(self._ranks)

    def read(self, pipe: Any) -> None:
        """Read one message, or see that no more will come."""
        try:
            kind, value = pipe.recv()
        except (EOFError, OSError):  # it ended, or was ended within a message
            del self._ranks[pipe]
            return
        if kind == SENT:
            self._listen(value)
        elif kind == RETURNED:
            self.returned[self._ranks[pipe]] = value
        else:
            self.errors[self._ranks[pipe]] = value

    def drain(self) -> None:
        """Read what is still in the pipes of processes that have ended."""
        for pipe in self.pipes:
            while pipe in self._ranks and pipe.poll():
                self.read(pipe)


def _watch(processes: Sequence[Any], inbox: Inbox) -> None:
    """Wait until all processes have ended, or ``GRACE`` seconds have passed since the first of them failed."""
    deadline: float | None = None
    while running := [process for process in processes if process.exitcode is None]:
        if deadline is None and any(
            process.exitcode for process in processes
        ):  # one may have ended since the last wait
            deadline = time.monotonic() + GRACE
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return
        pipes = inbox.pipes
        for ready in wait([*(process.sentinel for process in running), *pipes], left):
            if ready in pipes:
                inbox.read(ready)


@contextmanager
def _ended(processes: Sequence[Any]) -> Iterator[None]:
    """On leaving, for whatever reason, end every process and wait for it.

    Where a signal ends this process without a word, they see its end and end themselves.
    """
    try:
        yield
    finally:
        for process in processes:
            if process.pid is not None and process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join(1)
                if process.is_alive():
                    process.kill()
                    process.join()


def _serve(job: Job, rank: int, ranks: int, store: str, pipe: Any) -> None:
    """Be one rank: do the job, and send what it returns, or its error, to the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        _join(rank, ranks, store)
        pipe.send((RETURNED, job(lambda value: pipe.send((SENT, value)))))
    except (InputError, ScheduleError) as error:
        _leave(pipe, str(error), WRONG_INPUT if isinstance(error, InputError) else FAILED)
    except Exception as error:
        _leave(pipe, f"rank {rank}: {type(error).__name__}: {error}", FAILED)
    _leave(pipe, "", 0)


def _leave(pipe: Any, error: str, code: int) -> NoReturn:
    """End the process at once; what gloo's threads still wait for would hold up an ordinary end."""
    if error:
        pipe.send((FAILED_BY, error))
    pipe.close()
    sys.stdout.flush()
    os._exit(code)


def _join(rank: int, ranks: int, store: str) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    dist.init_process_group("gloo", store=dist.FileStore(store, ranks), rank=rank, world_size=ranks)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with code {code}"
