"""Run the work in a worker process under a small supervisor.

Whatever kills the worker (the kernel when memory runs out, a crash in native code) costs the
case in work and no other: the supervisor starts a new worker, which continues with the next
case. After a crash it begins that case once more, with fewer shortcuts. A GPU that failed is left
in the same way, as its process cannot use it any more: the new worker computes that case on the
CPU, and tries the GPU again in the next one.

The supervisor also answers a signal at once, whatever library the worker is in: it kills the
worker and removes its unfinished files. It does the same some grace after the time limit; a last
worker then records which cases were finished and which were not.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from oarseg.errors import OutputError
from oarseg.results import staging
from oarseg.results.folder import explained_refusal
from oarseg.results.results_file import complete_results
from oarseg.system import memory
from oarseg.system.child import die_with_parent
from oarseg.workflows.journal import Finished, Journal, Ledger, LeftGpuError

CGROUP_ROOT = Path("/sys/fs/cgroup")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# What a run that chose its work by the time limit may be late: the larger of the two.
GRACE_SHARE, LEAST_GRACE_S = 0.1, 10.0
# For the last worker, which lists the cases and writes results.json; seconds as a rule.
CLOSING_S = 60.0
_TIME_IS_OVER = -1
# How native code dies in a defect, of a driver for instance; not by a user or for memory.
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TimeLimit:
    """The time that a run may take.

    Attributes:
        seconds: the limit.
        started_s: when the run began, by ``time.monotonic``.
    """

    seconds: float
    started_s: float

    @property
    def grace_s(self) -> float:
        """Seconds after the limit at which the worker is ended."""
        return max(LEAST_GRACE_S, GRACE_SHARE * self.seconds)

    @property
    def end_s(self) -> float:
        """When the worker is ended, by ``time.monotonic``."""
        return self.started_s + self.seconds + self.grace_s

    def passed(self, while_: str) -> str:
        """Compose the message for work that the limit has ended."""
        return (
            f"the time limit of {self.seconds:g} s passed {while_}; give more time, a GPU or more "
            "CPUs"
        )


def run_supervised(
    work: Callable[[Journal], int], *, output: Path, limit: TimeLimit | None = None
) -> int:
    """Run work in a child process, and again without the cases that killed it.

    A case in which a library crashed is begun once more before it fails.

    Call it before threads are started and before much memory is used.

    Args:
        work: takes the journal and returns the exit status.
        output: the output folder, locked by this process; unfinished files in it are removed.
        limit: when to kill the worker, whatever it is in; the cases it did not finish fail.

    Returns:
        In the worker, what ``work`` returns. In the supervisor, the worker's exit status, or
        128 plus the signal's number if a signal ended the run.
    """
    ledger = Ledger()
    bell = _install_signal_pipe()
    end_s, over = (limit.end_s if limit else None), None
    while True:
        kills = memory_kills()
        reading, writing = os.pipe()
        worker = _fork()
        if worker == 0:
            os.close(reading)
            journal = Journal(
                ledger.finished, writing, over, ledger.gpu_failures, ledger.no_gpu, ledger.crashes
            )
            return _run_worker(work, journal)
        os.close(writing)
        ledger.left = False
        number = _wait(reading, bell, ledger, end_s)
        if number > 0:
            _kill(worker, reading, ledger, output)
            log.error("stopped by signal %d; nothing of the unfinished case was written", number)
            return 128 + number
        if number == _TIME_IS_OVER and limit is not None:
            _kill(worker, reading, ledger, output)
            os.close(reading)
            _note_time_over(ledger, limit)
            if over is not None:
                return 1
            over = Finished(messages=(limit.passed("before this case was begun"),))
            end_s = time.monotonic() + CLOSING_S
            continue
        status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        os.close(reading)
        if ledger.left:
            continue
        if status >= 0:
            return status
        out_of_memory = memory_kills() > kills
        reason = explain_death(-status, out_of_memory=out_of_memory)
        if ledger.on_gpu and -status in _CRASHES:
            ledger.note_gpu_failure(reason)
            continue
        if -status in _CRASHES and not out_of_memory and ledger.note_crash(reason):
            continue
        if ledger.current is None:
            _tidy_output(output)
            log.error("before a case was begun: %s", reason)
            return 1
        _note_failure(ledger, reason)


def _run_worker(work: Callable[[Journal], int], journal: Journal) -> int:
    """Do the work; a worker whose GPU failed ends at once.

    A crash leaves the stacks of all threads in the log. What CuPy and ONNX Runtime do as Python
    ends may crash or hang on a GPU that has failed.
    """
    faulthandler.enable()
    try:
        return work(journal)
    except LeftGpuError:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _note_failure(ledger: Ledger, reason: str) -> None:
    """Record why the case in work failed, so that no later worker tries it again."""
    if ledger.current is not None:
        log.error("%s: %s", ledger.current, reason)
        ledger.finished[ledger.current] = Finished(messages=(reason,))
        ledger.current = None


def _note_time_over(ledger: Ledger, limit: TimeLimit) -> None:
    if ledger.current is None:
        log.error("%s", limit.passed("while no case was in work"))
    _note_failure(ledger, limit.passed("while this case was segmented"))


def _install_signal_pipe() -> int:
    """Return a descriptor from which the numbers of arriving signals can be read."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in SIGNALS:
        # A handler has to be there; one that raised could do so in the middle of anything.
        signal.signal(number, lambda *_: None)
    return reading


def _wait(pipe: int, bell: int, ledger: Ledger, end_s: float | None) -> int:
    """Follow a worker until it ends (0), a signal arrives (its number) or its time is over."""
    while True:
        left = None if end_s is None else max(0.0, end_s - time.monotonic())
        ready, _, _ = select.select([pipe, bell], [], [], left)
        if bell in ready:
            return os.read(bell, 1)[0]
        if not ready:
            return _TIME_IS_OVER
        if not ledger.read(pipe):
            return 0


def _fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    supervisor = os.getpid()
    worker = os.fork()
    if worker == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # A terminal sends it to both; the supervisor decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent(supervisor)
    return worker


def _kill(worker: int, pipe: int, ledger: Ledger, output: Path) -> None:
    """Kill the worker and remove its unfinished files."""
    os.kill(worker, signal.SIGKILL)
    while ledger.read(pipe):
        pass
    os.waitpid(worker, 0)
    _tidy_output(output)


def _tidy_output(output: Path) -> None:
    """Remove unfinished files, and list every recorded case in ``results.json``."""
    try:
        with explained_refusal(output):
            staging.recover_cases(output)
            complete_results(output)
    except OutputError as error:
        # The next run in this folder does it.
        log.error("%s", error)


def explain_death(number: int, *, out_of_memory: bool) -> str:
    """Say in one clause what killed a worker.

    Args:
        number: of the signal.
        out_of_memory: whether the kernel has killed for memory in this cgroup.
    """
    if out_of_memory:
        limit = _memory_limit_mib()
        limited = f", which is limited to {limit} MiB" if limit else ""
        return f"killed because memory ran out{limited}; give it more, or crop the images"
    name = signal.Signals(number).name
    if number == signal.SIGKILL:
        return f"killed by signal {number} ({name}), as happens where memory runs out; give it more"
    return f"a library crashed (signal {number}, {name}); please report it with these files"


def memory_kills() -> int:
    """Count the kernel's kills for memory in this cgroup; 0 where it keeps no count."""
    for name in ("memory.events", "memory/memory.oom_control"):
        if (CGROUP_ROOT / name).is_file():
            lines = (CGROUP_ROOT / name).read_text(encoding="ascii").splitlines()
            counts = dict(line.split() for line in lines)
            return int(counts.get("oom_kill", 0))
    return 0


def _memory_limit_mib() -> int | None:
    """Return the tightest limit of the cgroup, version 2 or 1."""
    limits = [limit for limit, _ in memory.container_limits(CGROUP_ROOT)]
    return min(limits) >> 20 if limits else None
