"""Seconds and peak memory of each step of a case."""

from __future__ import annotations

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
        _reset_peak()
        start = time.perf_counter()
        yield
        self.done.append(Step(name, time.perf_counter() - start, peak_mib()))

    @property
    def peak_mib(self) -> float:
        """The largest peak of all steps."""
        return max((step.peak_mib for step in self.done), default=0.0)


def peak_mib() -> float:
    """Peak resident size of this process in MiB, since the last reset if there was one."""
    if STATUS.is_file():
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _reset_peak() -> None:
    """Ask the kernel to start a new peak; some sandboxes forbid it, see ``Step``."""
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return
