"""Jobs in processes of their own: fresh ones, which Ctrl-C ends whenever it comes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from oarseg.system import process_pool
from oarseg.system.process_pool import run_in_processes

ROOT = Path(__file__).resolve().parents[2]

# An interrupt between a semaphore and what will remove it.
INTERRUPTED_WHILE_BUILT = """
import os, signal
from multiprocessing import resource_tracker
from oarseg.system.process_pool import run_in_processes
real = resource_tracker.register
def register(name, kind):
    real(name, kind)
    os.kill(os.getpid(), signal.SIGINT)
resource_tracker.register = register
try:
    list(run_in_processes(abs, [-1, -2], 2))
except KeyboardInterrupt:
    print("interrupted")
"""


def holds_what_is_open(_: object) -> bool:
    return hasattr(process_pool, "opened_here")


def die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_are_no_copies_of_this_process(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """What is open here, networks with threads of their own for one, is not there."""
    monkeypatch.setattr(process_pool, "opened_here", object(), raising=False)
    ((job, future),) = run_in_processes(holds_what_is_open, ["job"], workers)
    assert job == "job"
    assert future.result() is False


@pytest.mark.parametrize(("kept", "expected"), [(False, 0), (True, 1)])
def test_a_killed_process_is_told_of_where_asked(kept: bool, expected: int) -> None:
    found = list(run_in_processes(die, ["job"], 1, keep_killed=kept))
    assert len(found) == expected
    assert all(isinstance(future.exception(), BrokenProcessPool) for _, future in found)


def test_an_interrupt_while_the_pool_is_built_loses_nothing() -> None:
    """No semaphore is left for Python to warn of, no process either."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_BUILT],
        capture_output=True, text=True, timeout=100, check=False, start_new_session=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_what_ends_the_iteration_ends_the_processes() -> None:
    for _ in run_in_processes(abs, [-1, -2, -3], 1):
        break
    assert multiprocessing.active_children() == []


# A terminal's Ctrl-C kills the first process while the pool still takes jobs.
BROKEN_WHILE_BUILT = """
import concurrent.futures.process as futures, os, signal
from oarseg.system.process_pool import run_in_processes
def submit(self, *given):
    os.kill(os.getpid(), signal.SIGINT)
    raise futures.BrokenProcessPool("a child process terminated abruptly")
futures.ProcessPoolExecutor.submit = submit
try:
    list(run_in_processes(abs, [-1, -2], 2))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_that_breaks_the_pool_while_it_takes_jobs_is_an_interrupt() -> None:
    line = [sys.executable, "-c", BROKEN_WHILE_BUILT]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_jobs_that_a_broken_pool_does_not_take_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(*_: object) -> None:
        raise BrokenProcessPool("a child process terminated abruptly")

    monkeypatch.setattr(process_pool.ProcessPoolExecutor, "submit", submit)
    assert list(run_in_processes(abs, [-1, -2], 2)) == []
    found = list(run_in_processes(abs, [-1, -2], 2, keep_killed=True))
    assert sorted(job for job, _ in found) == [-2, -1]
    assert all(isinstance(future.exception(), BrokenProcessPool) for _, future in found)


# All processes of a script's background, to which a terminal sends its Ctrl-C too.
IGNORED = """
import functools, os, signal
from oarseg.system.process_pool import run_in_processes
work = functools.partial(os.killpg, 0)
((_, future),) = run_in_processes(work, [signal.SIGINT], 1, keep_killed=True)
print(future.result())
"""


def test_what_ignores_interrupts_from_its_start_goes_on() -> None:
    shell = "trap '' INT; exec \"$@\""
    done = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-c", IGNORED],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")
