"""Processes that work for this one: they leave Ctrl-C to it, and end when it does, in whatever way it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread, current_thread, main_thread


@contextmanager
def worker_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield an executor of processes that are started afresh; on leaving they are gone, whatever is left to do.

    A pipe that only this process can write to tells them when to end: it closes where this process closes it, and
    where this process is killed.
    """
    context = get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_end_with, initargs=(reader,))
    try:
        yield pool
        pool.shutdown()
    finally:
        writer.close()
        pool.shutdown(cancel_futures=True)
        reader.close()


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Put Ctrl-C off until the end; processes that are started within never see it, from their first line on.

    They have it blocked, as this thread has. That does not put it off here: it reaches a thread of some library
    instead, and Python answers it in the main thread all the same. So it is noted, and answered at the end.
    """
    came: list[int] = []
    mask = getattr(signal, "pthread_sigmask", None)  # not on Windows
    handler = signal.getsignal(signal.SIGINT)
    answers = current_thread() is main_thread() and handler is not None
    if answers:
        signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    before = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask else None
    try:
        yield
    finally:
        if mask:
            mask(signal.SIG_SETMASK, before)
        if answers:
            signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def _end_with(reader: Connection) -> None:
    """Begin a worker: Ctrl-C is its parent's to answer, and the end of the pipe is its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_wait_for_the_end, args=(reader,), daemon=True).start()


def _wait_for_the_end(reader: Connection) -> None:
    reader.poll(None)
    os._exit(1)
