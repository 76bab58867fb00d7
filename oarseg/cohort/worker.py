"""Work on a cohort's cases, one lease at a time, whatever happens to the process that computes."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from oarseg.cohort.feeding import MEASURED_CASES, MeasuredCase, choose_feeders
from oarseg.cohort.ledger import Attempt, CohortLedger, Host, Outcome
from oarseg.cohort.manner import Manner
from oarseg.cohort.plan import Plan
from oarseg.errors import OutputError
from oarseg.results.folder import explained_refusal
from oarseg.system.child import AnsweringChild, ChildEndedError
from oarseg.workflows.supervisor import explain_death, memory_kills

# A lease is renewed this often while it lasts.
BEATS_A_LEASE: Final = 4
LOOKS_A_LEASE: Final = 12
POLL_S: Final = 0.5
MOST_DEATHS_UNREADY: Final = 3
# One after the other, without a case that was done in between.
GPU_FAILURES_ON_END: Final = 3

log = logging.getLogger(__name__)


class RunStoppedError(Exception):
    """The machine, not a case, is at fault: nothing more can be done here."""


@dataclass
class CohortWorker:
    """One worker.

    A case that is begun for the second time is alone in the process that computes: if it dies
    again, it is known of whom. Its first neighbours have lost one attempt to it, and no more.

    Attributes:
        ledger: the folder.
        plan: its plan.
        manner: see there.
        command: starts the process that computes.
        workers: of this machine, this one included.
    """

    ledger: CohortLedger
    plan: Plan
    manner: Manner
    command: Sequence[str]
    workers: int = 1
    _child: AnsweringChild | None = None
    _in_work: dict[str, Attempt] = field(default_factory=dict)
    _held: Attempt | None = None
    _started: dict[str, float] = field(default_factory=dict)
    _measured: list[MeasuredCase] = field(default_factory=list)
    _feeders: int = 0
    _queue: deque[str] = field(default_factory=deque)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _kills: int = 0
    _look_s: float = 0.0
    _gpu_failures: int = 0

    @property
    def _pause_s(self) -> float:
        """Seconds between two looks at a folder in which there is nothing to take now."""
        return max(POLL_S, self.manner.lease_s / LOOKS_A_LEASE)

    def run(self) -> None:
        """Work until every case has an outcome or belongs to another worker that lives.

        Raises:
            RunStoppedError: the machine is at fault; no case is charged for that.
        """
        self._feeders = self.manner.feeders or 0
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            while not self._stopping.is_set():
                self._fill()
                if self._in_work:
                    self._collect()
                elif not self._is_work_left():
                    return
                else:
                    self._stopping.wait(self._pause_s)
        except (OutputError, OSError) as error:
            raise RunStoppedError(str(error)) from error
        finally:
            self._stopping.set()
            self.give_back()
            self.ledger.close()

    def stop(self) -> None:
        """Let ``run`` return soon and give back what is in work; a signal's handler may call it."""
        self._stopping.set()
        child = self._child
        if child is not None:
            child.kill()

    def give_back(self) -> None:
        """End the process that computes, and leave its cases to others, uncharged."""
        if self._child is not None:
            self._child.end()
            self._child = None
        with self._lock:
            attempts = list(self._in_work.values())
            self._in_work.clear()
        self._held = None
        for attempt in attempts:
            self.ledger.give_back(attempt)

    # Leases

    def _fill(self) -> None:
        """Take cases until feeders and network are busy."""
        if self._held is not None:
            if len(self._in_work) > 1:
                return
            attempt, self._held = self._held, None
            self._begin(attempt)
        while self._has_room() and (taken := self._take()) is not None:
            with self._lock:
                self._in_work[taken.case] = taken
            if taken.number > 1 and len(self._in_work) > 1:
                self._held = taken
            else:
                self._begin(taken)

    def _has_room(self) -> bool:
        attempts = self._in_work.values()
        alone = any(attempt.number > 1 for attempt in attempts)
        return not alone and len(attempts) <= self._feeders and not self._stopping.is_set()

    def _take(self) -> Attempt | None:
        """Take the next case that nobody has; None if there is none now."""
        if not self._queue and time.monotonic() >= self._look_s:
            self._queue = self._candidates()
            self._look_s = time.monotonic() + self._pause_s
        while self._queue:
            attempt = self.ledger.take(self._queue.popleft(), most=self.manner.attempts)
            if attempt is not None:
                return attempt
        return None

    def _candidates(self) -> deque[str]:
        """Return the cases without an outcome, from a place of this worker's own on.

        Those that others seem to work on come last: their leases are watched so.
        """
        states = self.ledger.states(case.name for case in self.plan.cases)
        waiting = deque(name for name, found in states.items() if found.state == "waiting")
        waiting.rotate(random.randrange(len(waiting)) if waiting else 0)
        if not waiting:
            waiting.extend(
                name
                for name, found in states.items()
                if found.state == "running" and name not in self._in_work
            )
        return waiting

    def _is_work_left(self) -> bool:
        """Return whether a case may still become this worker's."""
        states = self.ledger.states(case.name for case in self.plan.cases)
        return any(found.state in ("waiting", "running") for found in states.values())

    def _beat(self) -> None:
        while not self._stopping.wait(self.manner.lease_s / BEATS_A_LEASE):
            with self._lock:
                attempts = list(self._in_work.values())
            for attempt in attempts:
                try:
                    self.ledger.beat(attempt)
                except OSError as error:
                    # Should it last, whoever asks next stops the run, or the lease is over.
                    log.warning("%s: its lease is not renewed: %s", attempt.case, error)

    # The process that computes

    def _begin(self, attempt: Attempt) -> None:
        self._started[attempt.case] = time.monotonic()
        # A stage of that name can only be this attempt's own.
        self.ledger.stages.discard(attempt.name)
        child = self._ready_child()
        if child is None:
            return
        stage = self.ledger.stages.folder(attempt.name)
        try:
            child.ask({"case": attempt.case, "stage": str(stage)})
        except ChildEndedError as error:
            self._bury(error.status)

    def _ready_child(self) -> AnsweringChild | None:
        """Return the process that computes, started if there is none; None once stopped.

        Raises:
            RunStoppedError: its networks cannot be opened.
        """
        deaths = 0
        while self._child is None and not self._stopping.is_set():
            self._kills = memory_kills()
            self._child = AnsweringChild(self.command)
            try:
                self._child.answer()
            except ChildEndedError as error:
                self._child = None
                deaths += 1
                if self._stopping.is_set():
                    return None
                if error.status >= 0 or deaths >= MOST_DEATHS_UNREADY:
                    raise RunStoppedError(
                        "the networks cannot be opened; see the log above"
                    ) from error
        return self._child

    def _collect(self) -> None:
        """Wait a moment for an answer, and record it."""
        if self._child is None:
            return
        try:
            answer = self._child.answer(until_s=time.monotonic() + POLL_S)
        except TimeoutError:
            return
        except ChildEndedError as error:
            self._bury(error.status)
            return
        self._record(answer)

    def _bury(self, status: int) -> None:
        """Count a death as an attempt at each case that was in work."""
        self._child = None
        if self._stopping.is_set():
            return
        killed = memory_kills() > self._kills
        reason = (
            explain_death(-status, out_of_memory=killed)
            if status < 0
            else f"the process that computes ended with status {status}"
        )
        with self._lock:
            attempts = [a for a in self._in_work.values() if a is not self._held]
            for attempt in attempts:
                del self._in_work[attempt.case]
        self._look_s = 0.0
        for attempt in attempts:
            log.error("%s, attempt %d: %s", attempt.case, attempt.number, reason)
            self.ledger.expire(attempt)

    def _record(self, answer: dict[str, Any]) -> None:
        """Record how an attempt ended; it is this worker's until its outputs are in place."""
        name = answer["case"]
        attempt, blame = self._in_work[name], answer.get("blame")
        if not self._is_mine(attempt):
            log.warning("%s: its lease was over, another worker has it; discarded", name)
            self.ledger.stages.discard(attempt.name)
        elif blame == "machine":
            raise RunStoppedError(answer["message"])
        elif blame == "gpu":
            self._leave_gpu(name, answer["message"])
            return
        else:
            self._commit(attempt, answer)
        with self._lock:
            del self._in_work[name]

    def _leave_gpu(self, name: str, message: str) -> None:
        """Leave a GPU that has failed by ending its process; what is in it is begun anew.

        Raises:
            RunStoppedError: it does nothing but fail.
        """
        log.warning("%s: %s", name, message)
        self._gpu_failures += 1
        if self._gpu_failures >= GPU_FAILURES_ON_END:
            raise RunStoppedError(f"{name}: {message}; pass --device cpu, or leave the case out")
        self.give_back()
        self._look_s = 0.0

    def _is_mine(self, attempt: Attempt) -> bool:
        with explained_refusal(self.ledger.output):
            return self.ledger.beat(attempt)

    def _commit(self, attempt: Attempt, answer: dict[str, Any]) -> None:
        outcome = Outcome(
            case=attempt.case,
            attempt=attempt.number,
            worker=Host.here(),
            seconds=round(time.monotonic() - self._started.pop(attempt.case), 2),
            message=answer.get("message", ""),
            label_file=answer.get("label_file", ""),
            digests=answer["digests"],
            outputs=tuple(answer.get("outputs", ())),
            again=answer.get("blame") == "memory",
        )
        if outcome.message:
            self.ledger.record("failed", outcome)
            self.ledger.stages.discard(attempt.name)
        elif self.ledger.record("done", outcome):
            self.ledger.place(outcome)
            self._gpu_failures = 0
            self._learn(answer.get("measured"))
        else:
            log.warning(
                "%s: ended by another worker meanwhile; this result is discarded", attempt.case
            )
            self.ledger.stages.discard(attempt.name)

    def _learn(self, measured: Mapping[str, Any] | None) -> None:
        """Choose the number of feeders once the first cases are measured."""
        if self.manner.feeders is not None or measured is None:
            return
        if len(self._measured) == MEASURED_CASES:
            return
        self._measured.append(MeasuredCase(**measured))
        if len(self._measured) < MEASURED_CASES:
            return
        self._feeders = choose_feeders(self._measured, workers=self.workers)
        last = self._measured[-1]
        log.info(
            "%d feeders: a case took %.1f s in the network and %.1f s beside it, %.1f cores were "
            "idle meanwhile, and it takes %.1f GiB of memory",
            *(self._feeders, last.network_s, last.beside_s, last.idle_cores),
            last.memory_bytes / 2**30,
        )
