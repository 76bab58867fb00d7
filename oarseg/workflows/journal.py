"""What a worker and its supervisor tell each other: cases begun, ended, and left by a GPU.

The supervisor imports this, so it imports nothing large.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from typing import NoReturn

# After so many failures of the GPU in one run, it is not tried again.
MOST_GPU_FAILURES = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """The outcome of a case, as far as a later worker needs it.

    Attributes:
        label_file: the label file, if the case was written.
        messages: why it was not.
    """

    label_file: str | None = None
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Journal:
    """The link between a worker and its supervisor.

    Attributes:
        finished: outcomes of the cases, by name, that need no more work.
        pipe: descriptor that the supervisor reads; None without a supervisor.
        over: the outcome of every other case when no time is left for any; else None.
        gpu_failures: why the GPU failed, by case.
        no_gpu: why the GPU is not tried in any case; empty if it is.
        crashes: how a worker has died, by the case in work, which is begun once more.
    """

    finished: dict[str, Finished] = field(default_factory=dict)
    pipe: int | None = None
    over: Finished | None = None
    gpu_failures: dict[str, str] = field(default_factory=dict)
    no_gpu: str = ""
    crashes: dict[str, str] = field(default_factory=dict)

    def outcome(self, case: str) -> Finished | None:
        """Return the outcome of a case; None if it is still to be segmented."""
        return self.finished.get(case, self.over)

    def tries_gpu(self) -> None:
        """Report that a GPU may be opened next, which another worker could do without."""
        self._send({"tries": "gpu"})

    def begins(self, case: str, *, on_gpu: bool = False) -> None:
        """Report that a case is begun, and whether another device could take it over."""
        self._send({"begins": case, "on_gpu": on_gpu})

    def leaves_gpu(self, case: str, reason: str) -> NoReturn:
        """Report that the GPU failed in a case, and leave the work to another worker.

        Raises:
            LeftGpuError: always; it ends this worker.
        """
        self._send({"leaves": case, "reason": reason})
        raise LeftGpuError(reason)

    def ends_worker(self) -> NoReturn:
        """Leave the other cases to another worker, as the GPU failed in this one.

        Raises:
            LeftGpuError: always.
        """
        self._send({"leaves": None})
        raise LeftGpuError

    def ends(self, case: str, finished: Finished) -> None:
        """Report the outcome of a case."""
        self._send({"ends": case, "file": finished.label_file, "messages": finished.messages})

    def _send(self, line: dict[str, object]) -> None:
        if self.pipe is not None:
            os.write(self.pipe, json.dumps(line).encode() + b"\n")


class LeftGpuError(Exception):
    """The GPU failed, and another worker goes on; caught where workers are started."""


@dataclass
class Ledger:
    """The supervisor's view: outcomes of finished cases, and the case in work.

    Attributes:
        on_gpu: what is in work, a case or the opening of networks, could be done on the CPU.
        left: this worker has asked for another.
    """

    finished: dict[str, Finished] = field(default_factory=dict)
    current: str | None = None
    on_gpu: bool = False
    left: bool = False
    gpu_failures: dict[str, str] = field(default_factory=dict)
    no_gpu: str = ""
    crashes: dict[str, str] = field(default_factory=dict)
    rest: bytes = b""

    def read(self, pipe: int) -> bool:
        """Read some of a worker's reports; return False when it has ended."""
        part = os.read(pipe, 1 << 16)
        *lines, self.rest = (self.rest + part).split(b"\n") if part else [b""]
        for line in lines:
            self._note(line)
        return bool(part)

    def _note(self, line: bytes) -> None:
        report = json.loads(line)
        if "begins" in report:
            self.current, self.on_gpu = report["begins"], report["on_gpu"]
        elif "tries" in report:
            self.on_gpu = True
        elif "leaves" in report:
            self.left = True
            if report["leaves"] is not None:
                self.note_gpu_failure(report["reason"])
        else:
            outcome = Finished(report["file"], tuple(report["messages"]))
            self.finished[report["ends"]] = outcome
            self.current, self.on_gpu = None, False

    def note_crash(self, reason: str) -> bool:
        """Let another worker begin the case in work again; False if it has crashed before."""
        if self.current is None or self.current in self.crashes:
            return False
        self.crashes[self.current] = reason
        log.warning("%s: %s; begun again", self.current, reason)
        self.current = None
        return True

    def note_gpu_failure(self, reason: str) -> None:
        """Give the case in work to the CPU; without one, or after too many, all of them."""
        if self.current is None:
            self.no_gpu = reason
        else:
            self.gpu_failures[self.current] = reason
        if len(self.gpu_failures) == MOST_GPU_FAILURES:
            self.no_gpu = f"it failed in {MOST_GPU_FAILURES} cases before"
            log.warning("the GPU is not tried again: %s", self.no_gpu)
        self.current, self.on_gpu = None, False
