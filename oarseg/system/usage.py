"""Measure seconds and peak memory of each step of a case."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Step:
    """One step's cost.

    Attributes:
        peak_mib: the process's largest resident size during the step, or, where the
            kernel does not let a process reset its own peak, since its start.
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
        reset_peak()
        start = time.perf_counter()
        yield
        self.done.append(Step(name, time.perf_counter() - start, peak_mib()))

    @property
    def peak_mib(self) -> float:
        """Return the largest peak of all steps."""
        return max((step.peak_mib for step in self.done), default=0.0)


def peak_mib() -> float:
    """Return the peak resident size of this process in MiB, since the last reset if any."""
    found = _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if found is None else found


def resident_mib() -> float:
    """Return the resident size of this process in MiB; its peak if the kernel does not tell."""
    found = _status("VmRSS")
    return peak_mib() if found is None else found


def _status(name: str) -> float | None:
    if STATUS.is_file():
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return None


def reset_peak() -> None:
    """Ask the kernel to reset the peak; some sandboxes forbid that, see ``Step``."""
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return


def process_age_s(stat: Path = Path("/proc/self/stat")) -> float:
    """Return the seconds since the process started, imports included."""
    if not stat.is_file():
        return 0.0
    # The name, in parentheses, may contain spaces; the start time is the 22nd field.
    fields = stat.read_text(errors="replace").rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
