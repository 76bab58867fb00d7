"""How many cases are in work at once in a process: measured, chosen, and kept within memory."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

# Cases that are computed one after the other before feeders are chosen.
MEASURED_CASES: Final = 2
# A network that leaves less than this of a core idle has no use for feeders.
LEAST_IDLE_CORES: Final = 0.5
MOST_CHOSEN: Final = 8


@dataclass(frozen=True)
class MeasuredCase:
    """What one case took while it was alone in its process.

    Attributes:
        network_s: seconds in the network.
        beside_s: all others: reading, registration, preprocessing, writing.
        idle_cores: of those that the process may use, on average while the network ran.
        memory_bytes: forecast, of its images and of its computation together.
        room_bytes: memory that the process could have taken beside what it held.
    """

    network_s: float
    beside_s: float
    idle_cores: float
    memory_bytes: int
    room_bytes: int


def choose_feeders(cases: Sequence[MeasuredCase], *, workers: int) -> int:
    """Choose how many cases are read, registered or written beside the one in the network.

    Enough that the network never waits for the next one, and one more because cases differ; not
    more than there are idle cores, nor than fit into memory. Where the network itself keeps all
    cores busy, as on a CPU, none: the same cores would only share the same work.

    Args:
        cases: those measured.
        workers: of this machine, which share its memory.
    """
    idle = min(case.idle_cores for case in cases)
    if idle < LEAST_IDLE_CORES:
        return 0
    share = statistics.fmean(c.beside_s for c in cases) / max(
        1e-3, statistics.fmean(c.network_s for c in cases)
    )
    wanted = math.ceil(round(share, 2)) + 1
    need = max(1, *(case.memory_bytes for case in cases))
    room = min(case.room_bytes for case in cases) // workers
    return max(0, min(wanted, math.ceil(idle), room // need - 1, MOST_CHOSEN))


@dataclass
class NetworkTurn:
    """One case's turn at the network, measured.

    Attributes:
        gate: held meanwhile.
        waited_s: seconds until it was free.
        held_s: seconds that it was held.
        cpu_s: seconds of CPU that this process took meanwhile.
    """

    gate: threading.Lock
    waited_s: float = 0.0
    held_s: float = 0.0
    cpu_s: float = 0.0
    _start_s: float = field(default=0.0, repr=False)
    _start_cpu_s: float = field(default=0.0, repr=False)

    def __enter__(self) -> Self:
        asked_s = time.monotonic()
        self.gate.acquire()
        self._start_s, self._start_cpu_s = time.monotonic(), time.process_time()
        self.waited_s += self._start_s - asked_s
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.held_s += time.monotonic() - self._start_s
        self.cpu_s += time.process_time() - self._start_cpu_s
        self.gate.release()


class Company:
    """Cases that are in work together, and one that has to be alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @property
    def is_shared(self) -> bool:
        """Whether several cases are in work now."""
        return self._inside > 1

    @contextmanager
    def among_others(self) -> Iterator[None]:
        """Be in work beside others; wait while one is alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until all others have ended, and keep new ones out."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = True
            self._changed.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()
