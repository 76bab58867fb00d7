"""Work on a cohort's cases, one lease at a time, whatever happens to the process that computes."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from oarseg.cohort.ledger import Attempt, CohortLedger, Host, Outcome
from oarseg.cohort.manner import Manner
from oarseg.cohort.plan import Plan
from oarseg.system.child import AnsweringChild, ChildEndedError
from oarseg.workflows.supervisor import explain_death, memory_kills

# A lease is renewed this often while it lasts.
BEATS_A_LEASE: Final = 4
POLL_S: Final = 0.5
MOST_DEATHS_UNREADY: Final = 3

log = logging.getLogger(__name__)


class RunStoppedError(Exception):
    """The machine, not a case, is at fault: nothing more can be done here."""


@dataclass
class CohortWorker:
    """One worker.

    Attributes:
        ledger: the folder.
        plan: its plan.
        manner: see there.
        command: starts the process that computes.
    """

    ledger: CohortLedger
    plan: Plan
    manner: Manner
    command: Sequence[str]
    _child: AnsweringChild | None = None
    _in_work: dict[str, Attempt] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _lost: set[str] = field(default_factory=set)
    _queue: deque[str] = field(default_factory=deque)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _kills: int = 0

    def run(self) -> None:
        """Work until every case has an outcome or belongs to another worker that lives.

        Raises:
            RunStoppedError: the machine is at fault; no case is charged for that.
        """
        beating = threading.Thread(target=self._beat, daemon=True)
        beating.start()
        try:
            while not self._stopping.is_set():
                self._fill()
                if self._in_work:
                    self._collect()
                elif not self._is_work_left():
                    return
                else:
                    self._stopping.wait(POLL_S)
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
        for attempt in list(self._in_work.values()):
            self.ledger.give_back(attempt)
        self._in_work.clear()

    # Leases

    def _fill(self) -> None:
        """Take cases until feeders and network are busy."""
        room = self.manner.feeders + 1 - len(self._in_work)
        if room <= 0:
            return
        if not self._queue:
            self._queue = self._waiting()
        while self._queue and room > 0:
            name = self._queue.popleft()
            attempt = self.ledger.take(name, most=self.manner.attempts)
            if attempt is not None:
                self._begin(attempt)
                room -= 1

    def _waiting(self) -> deque[str]:
        """Return the cases that nobody works on, from a place of this worker's own on."""
        states = self.ledger.states((case.name for case in self.plan.cases), outcomes=False)
        waiting = deque(name for name, found in states.items() if found.state == "waiting")
        waiting.rotate(random.randrange(len(waiting)) if waiting else 0)
        return waiting

    def _is_work_left(self) -> bool:
        """Return whether a case may still become this worker's."""
        states = self.ledger.states((case.name for case in self.plan.cases), outcomes=False)
        return any(found.state in ("waiting", "running") for found in states.values())

    def _beat(self) -> None:
        while not self._stopping.wait(self.manner.lease_s / BEATS_A_LEASE):
            with self._lock:
                attempts = list(self._in_work.values())
            for attempt in attempts:
                if not self.ledger.beat(attempt):
                    self._lost.add(attempt.name)

    # The process that computes

    def _begin(self, attempt: Attempt) -> None:
        with self._lock:
            self._in_work[attempt.case] = attempt
        self._started[attempt.case] = time.monotonic()
        # A stage of that name can only be this attempt's own.
        self.ledger.discard(attempt)
        child = self._ready_child()
        if child is None:
            return
        try:
            child.ask({"case": attempt.case, "stage": str(self.ledger.stage(attempt))})
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
            attempts = list(self._in_work.values())
            self._in_work.clear()
        for attempt in attempts:
            log.error("%s, attempt %d: %s", attempt.case, attempt.number, reason)
            self.ledger.expire(attempt)

    def _record(self, answer: dict[str, Any]) -> None:
        name = answer["case"]
        with self._lock:
            attempt = self._in_work.pop(name)
        if answer.get("blame") == "machine":
            self.ledger.give_back(attempt)
            raise RunStoppedError(answer["message"])
        if answer.get("blame") == "gpu":
            log.warning("%s: %s", name, answer["message"])
            self.ledger.give_back(attempt)
            self._restart()
            return
        if attempt.name in self._lost:
            log.warning("%s: its lease was over, another worker has it; discarded", name)
            self.ledger.discard(attempt)
            return
        outcome = Outcome(
            case=name,
            attempt=attempt.number,
            worker=Host.here(),
            seconds=round(time.monotonic() - self._started.pop(name), 2),
            message=answer.get("message", ""),
            label_file=answer.get("label_file", ""),
            digests=answer["digests"],
            outputs=tuple(answer.get("outputs", ())),
        )
        if outcome.message:
            self.ledger.record("failed", outcome)
            self.ledger.discard(attempt)
        elif self.ledger.record("done", outcome):
            self.ledger.place(outcome)
        else:
            log.warning("%s: done by another worker meanwhile; this result is discarded", name)
            self.ledger.discard(attempt)

    def _restart(self) -> None:
        """Leave a process whose GPU has failed; what else is in it is begun anew."""
        if self._child is not None:
            self._child.end()
            self._child = None
        with self._lock:
            attempts = list(self._in_work.values())
            self._in_work.clear()
        for attempt in attempts:
            self.ledger.give_back(attempt)
