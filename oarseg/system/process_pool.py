"""Run jobs in processes of their own, which Ctrl-C and a killed process end in good order."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

Given = TypeVar("Given")
Returned = TypeVar("Returned")


def run_in_processes(
    work: Callable[[Given], Returned],
    jobs: Sequence[Given],
    workers: int,
    *,
    keep_killed: bool = False,
) -> Iterator[tuple[Given, Future[Returned]]]:
    """Run jobs in processes of their own; yield each as it finishes.

    The processes end when the iteration does, also by an exception.

    Args:
        work: what is done with a job; found by its name in a new interpreter.
        jobs: what is worked on.
        workers: processes at a time.
        keep_killed: also yield the jobs whose process was killed. A killed process breaks the
            pool, and with it the jobs that waited.
    """
    with _held_interrupts() as held:
        # Not forked: a copy of a process that has threads, such as those of open networks, may
        # wait for ever for one that it has not.
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_let_interrupts_kill,
        )
        futures = {_submit(pool, work, job): job for job in jobs}
    try:
        if held:
            raise KeyboardInterrupt
        for future in as_completed(futures):
            if keep_killed or not isinstance(future.exception(), BrokenProcessPool):
                yield futures[future], future
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(
    pool: ProcessPoolExecutor, work: Callable[[Given], Returned], job: Given
) -> Future[Returned]:
    """Submit a job; to a pool that a killed process broke already, as one of its broken jobs.

    A terminal's Ctrl-C kills the first process while the others are being started.
    """
    try:
        return pool.submit(work, job)
    except BrokenProcessPool as error:
        broken: Future[Returned] = Future()
        broken.set_exception(error)
        return broken


@contextmanager
def _held_interrupts() -> Iterator[list[int]]:
    """Put off SIGINT; yield a list that is filled with what came.

    While a pool is built, an exception would lose semaphores or a process that was started. What
    runs in the background of a script ignores SIGINT from its start, and goes on doing so.
    """
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread() or _ignores_interrupts():
        yield held
        return
    before = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, before)


def _let_interrupts_kill() -> None:
    # A terminal sends SIGINT to every process; only the first one reports it.
    if not _ignores_interrupts():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _ignores_interrupts() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN
