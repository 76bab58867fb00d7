"""Measure seconds and peak memory of each step of a case.

The kernel's own mark (VmHWM) is never reset: ``/usr/bin/time`` and ``wait4`` give what is left of
it when the process ends, and would give the peak since the last reset.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

STATUS = Path("/proc/self/status")
SAMPLES_EVERY_S = 0.01


@dataclass(frozen=True)
class Step:
    """One step's cost.

    Attributes:
        peak_mib: the process's largest resident size during the step, see ``PeakWatch``.
    """

    name: str
    seconds: float
    peak_mib: float


@dataclass
class Steps:
    """Collects the steps of one case in their order."""

    done: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the body of a ``with`` block that finishes without an exception."""
        start = time.perf_counter()
        with PeakWatch() as watch:
            yield
        self.done.append(Step(name, time.perf_counter() - start, watch.mib))

    @property
    def peak_mib(self) -> float:
        """Return the largest peak of all steps."""
        return max((step.peak_mib for step in self.done), default=0.0)


class PeakWatch:
    """Finds the largest resident size of this process while a block runs.

    Exact where the process becomes larger than ever before, by the kernel's mark; otherwise the
    largest of samples.

    Args:
        every_s: time between samples.

    Attributes:
        mib: the peak, once the block is over.
    """

    def __init__(self, *, every_s: float = SAMPLES_EVERY_S) -> None:
        self.mib = 0.0
        self._every_s = every_s
        self._mark = peak_mib()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._note()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._note()
        highest = peak_mib()
        if highest > self._mark:
            self.mib = highest

    def _watch(self) -> None:
        while not self._over.wait(self._every_s):
            self._note()

    def _note(self) -> None:
        self.mib = max(self.mib, resident_mib())


def peak_mib() -> float:
    """Return the largest resident size of this process since its start, in MiB."""
    found = _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if found is None else found


def resident_mib(process: int | None = None) -> float:
    """Return the resident size of a process in MiB.

    Args:
        process: its number; None for this one.

    Returns:
        This process's peak, and 0 for another one, where the kernel does not tell.
    """
    found = _status("VmRSS", STATUS if process is None else Path(f"/proc/{process}/status"))
    if found is None:
        return peak_mib() if process is None else 0.0
    return found


def _status(name: str, status: Path = STATUS) -> float | None:
    try:
        text = status.read_text(encoding="ascii", errors="replace")
    except OSError:
        # No such file system, or the process is gone.
        return None
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return None


def process_age_s(stat: Path = Path("/proc/self/stat")) -> float:
    """Return the seconds since the process started, imports included."""
    if not stat.is_file():
        return 0.0
    # The name, in parentheses, may contain spaces; the start time is the 22nd field.
    fields = stat.read_text(errors="replace").rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
