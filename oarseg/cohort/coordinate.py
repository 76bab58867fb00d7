"""Run a cohort on this machine: start workers, watch them, and close the folder's books."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oarseg.cohort.inputs import has_changed
from oarseg.cohort.ledger import CaseState, CohortLedger, Host, Outcome, State
from oarseg.cohort.plan import Plan, PlannedCase
from oarseg.results.folder import explained_refusal
from oarseg.results.results_file import Record, write_results
from oarseg.workflows.review.report_pages import write_failure_page, write_index

WATCH_S: Final = 1.0
PROGRESS_EVERY_S: Final = 10.0
# Deaths of a worker without a case that was done in between; then something else is wrong.
MOST_RESTARTS: Final = 3
# A worker that was told to stop gives its cases back first.
WORKERS_END_S: Final = 10.0
# A terminal that is closed, Ctrl-C, whoever manages the machine.
ENDING_SIGNALS: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)

log = logging.getLogger(__name__)


@dataclass
class Coordinator:
    """The workers of one machine.

    Attributes:
        ledger: the folder.
        plan: its plan.
        command: starts a worker.
        environments: of each worker, such as the one GPU that it sees.
    """

    ledger: CohortLedger
    plan: Plan
    command: Sequence[str]
    environments: Sequence[Mapping[str, str]]
    _signal: int = 0

    def run(self) -> int:
        """Work until every case has an outcome, and write what there is once a cohort.

        Returns:
            0 if all are done, 1 if not, 128 plus the number of a signal that ended it.
        """
        self.ledger.prepare()
        self.ledger.recover()
        status = self.join()
        self.ledger.recover()
        if not self._signal:
            write_outcomes(self.ledger, self.plan)
        self.ledger.sweep()
        self.ledger.close()
        return status

    def join(self) -> int:
        """Work beside the workers of other machines; see ``run``."""
        self._watch_signals()
        states = self._states()
        if _are_left(states):
            states = self._work(states)
        if self._signal:
            return 128 + self._signal
        counts = Counter(state.state for state in states.values())
        log.info("%s", count_text(counts))
        return 0 if counts["done"] == len(self.plan.cases) else 1

    def _work(self, states: Mapping[str, CaseState]) -> Mapping[str, CaseState]:
        """Have workers work until nothing is left for them; returns the states then."""
        workers = [_Worker(self.command, environment) for environment in self.environments]
        progress = Progress(_count_done(states))
        try:
            while _are_left(states) and not self._signal:
                time.sleep(WATCH_S)
                states = self._states()
                progress.tell(states)
                for worker in workers:
                    worker.watch(_count_done(states), stopping=bool(self._signal))
                if not any(worker.is_alive for worker in workers):
                    break
        finally:
            _end(workers)
        return self._states()

    def _watch_signals(self) -> None:
        def note(number: int, _frame: object) -> None:
            self._signal = number

        catch_signals(note)

    def _states(self) -> Mapping[str, CaseState]:
        return self.ledger.states(case.name for case in self.plan.cases)


def _are_left(states: Mapping[str, CaseState]) -> bool:
    return any(state.state in ("waiting", "running") for state in states.values())


def _count_done(states: Mapping[str, CaseState]) -> int:
    return sum(state.state == "done" for state in states.values())


def catch_signals(handler: Callable[[int, object], None]) -> None:
    """Have those signals handled that ask a process to end; one that is ignored stays so."""
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


class _Worker:
    """A worker process, started anew when it dies, unless it does nothing else.

    Args:
        command: starts it.
        environment: what its environment has beside this process's.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command, self._environment = command, os.environ | environment
        self._restarts, self._done = 0, 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(list(self._command), env=self._environment)

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def watch(self, done: int, *, stopping: bool) -> None:
        """Start it anew if it died without a word.

        Args:
            done: cases that are done in the folder; more of them forgive its deaths.
            stopping: nothing is started any more.
        """
        if self.process.poll() in (None, 0, 1) or stopping:
            return  # it lives, has nothing left to do, or has said why it stopped
        self._restarts = 1 if done > self._done else self._restarts + 1
        self._done = done
        if self._restarts > MOST_RESTARTS:
            return
        log.error("a worker ended with status %s; another begins", self.process.returncode)
        self.process = self._start()


def _end(workers: Sequence[_Worker]) -> None:
    """End workers, which give back what they have in work."""
    for worker in workers:
        worker.process.terminate()
    end_s = time.monotonic() + WORKERS_END_S
    for worker in workers:
        try:
            worker.process.wait(max(0.0, end_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


class Progress:
    """Log how far a cohort is, now and then.

    Args:
        done: cases that were done before.
    """

    def __init__(self, done: int) -> None:
        self._before, self._start_s, self._last_s = done, time.monotonic(), time.monotonic()

    def tell(self, states: Mapping[str, CaseState]) -> None:
        """Log a line if the last one is a while ago."""
        now_s = time.monotonic()
        if now_s - self._last_s < PROGRESS_EVERY_S:
            return
        self._last_s = now_s
        counts = Counter(state.state for state in states.values())
        done = counts["done"] - self._before
        text = count_text(counts)
        if done:
            hourly = 3600 * done / (now_s - self._start_s)
            left = counts["waiting"] + counts["running"]
            text += f"; {hourly:.0f} cases an hour, {clock_text(3600 * left / hourly)} left"
        log.info("%s", text)


def count_text(counts: Counter[State]) -> str:
    """Say how many cases are in which state."""
    order: tuple[State, ...] = ("done", "running", "waiting", "failed", "quarantined")
    return ", ".join(f"{counts[state]} {state}" for state in order if counts.get(state))


def clock_text(seconds: float) -> str:
    """Write a time as hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def record_problems(ledger: CohortLedger, plan: Plan) -> None:
    """Record what the plan says cannot be a case."""
    for case in plan.cases:
        if case.problem and ledger.outcome(case.name) is None:
            outcome = Outcome(case=case.name, attempt=0, worker=Host.here(), message=case.problem)
            ledger.record("failed", outcome)


def write_outcomes(ledger: CohortLedger, plan: Plan) -> None:
    """Write ``results.json``, once, from what the folder says; and pages if they were asked for.

    Raises:
        OutputError: they cannot be written.
    """
    root, records = Path(plan.input), []
    states = ledger.states((case.name for case in plan.cases), outcomes=True)
    for case in plan.cases:
        outcome = states[case.name].outcome
        if outcome is None:
            continue
        files = {channel: root / found.shown for channel, found in case.files.items()}
        label_file = Path(outcome.label_file) if outcome.label_file else None
        messages = (outcome.message,) if outcome.message else ()
        records.append(Record(case.name, files, label_file, messages))
    with explained_refusal(ledger.output):
        write_results(ledger.output, [record.entry for record in records])
    if plan.options.report:
        failures = {r.case: r.error_messages[0] for r in records if r.error_messages}
        for name, message in failures.items():
            write_failure_page(ledger.output, name, (message,))
        write_index(ledger.output, failures)


def reopen_changed(
    ledger: CohortLedger, old: Plan, new: Plan, *, retry_quarantined: bool
) -> list[str]:
    """Let the cases be computed anew whose outcome no longer holds.

    These are the ones whose files have other content, whose outputs are gone, and those that
    failed for want of something that there may be now: memory, or leave to read a file.

    Args:
        ledger: the folder.
        old: the plan that the outcomes are of.
        new: the plan that is made now.
        retry_quarantined: also those that were given up.

    Returns:
        Their names. A file that was touched and has the same content changes nothing.
    """
    before = {case.name: case for case in old.cases}
    reopened = []
    for case in new.cases:
        found = ledger.outcome(case.name)
        if found is None:
            continue
        kind, outcome = found
        again = (
            (kind == "quarantined" and retry_quarantined)
            or (kind == "failed" and _may_succeed_now(case, outcome))
            or (kind == "done" and not ledger.has_outputs(outcome))
            or _has_changed(before.get(case.name), case, outcome, Path(new.input))
        )
        if again:
            ledger.reopen(case.name)
            reopened.append(case.name)
    return reopened


def _may_succeed_now(case: PlannedCase, outcome: Outcome) -> bool:
    return outcome.again or (not case.problem and set(outcome.digests) != set(case.files))


def _has_changed(old: PlannedCase | None, new: PlannedCase, outcome: Outcome, root: Path) -> bool:
    if old is None or old.problem != new.problem or set(old.files) != set(new.files):
        return True
    return any(
        has_changed(old.files[channel], found, outcome.digests.get(channel), root)
        for channel, found in new.files.items()
    )
