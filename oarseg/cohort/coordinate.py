"""Run a cohort on this machine: start workers, watch them, and close the folder's books."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from oarseg.cohort.ledger import CaseState, CohortLedger, Host, Outcome, State
from oarseg.cohort.manner import Manner
from oarseg.cohort.plan import InputFile, Plan, PlannedCase
from oarseg.model.bundle import file_sha256
from oarseg.results.results_file import Record, write_results

WATCH_S: Final = 1.0
PROGRESS_EVERY_S: Final = 10.0
# Workers that end without having finished a case; then something else is wrong.
MOST_RESTARTS: Final = 3
# A worker that was told to stop gives its cases back first.
WORKERS_END_S: Final = 10.0

log = logging.getLogger(__name__)


@dataclass
class Coordinator:
    """The workers of one machine.

    Attributes:
        ledger: the folder.
        plan: its plan.
        manner: see there.
        command: starts a worker.
        environments: of each worker, such as the one GPU that it sees.
    """

    ledger: CohortLedger
    plan: Plan
    manner: Manner
    command: Sequence[str]
    environments: Sequence[Mapping[str, str]]
    _signal: int = 0

    def run(self) -> int:
        """Work until every case has an outcome.

        Returns:
            0 if all are done, 1 if not, 128 plus the number of a signal that ended it.
        """
        self.ledger.prepare()
        recover(self.ledger)
        self._watch_signals()
        if self._states_left():
            self._work()
        recover(self.ledger)
        if self._signal:
            return 128 + self._signal
        write_outcomes(self.ledger, self.plan)
        counts = Counter(state.state for state in self._states().values())
        log.info("%s", count_text(counts))
        self.ledger.close()
        return 0 if counts["done"] == len(self.plan.cases) else 1

    def _work(self) -> None:
        workers = [self._start(environment) for environment in self.environments]
        restarts = [0] * len(workers)
        progress = Progress(self._done())
        while self._states_left() and not self._signal:
            time.sleep(WATCH_S)
            progress.tell(self._states())
            for number, worker in enumerate(workers):
                if worker.poll() in (None, 0) or self._signal:
                    continue
                restarts[number] += 1
                if worker.returncode == 1 or restarts[number] >= MOST_RESTARTS:
                    continue  # it has said why
                log.error("a worker ended with status %s; another begins", worker.returncode)
                workers[number] = self._start(self.environments[number])
            if all(worker.poll() is not None for worker in workers):
                break
        self._end(workers)

    def _start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(list(self.command), env=os.environ | environment)

    def _end(self, workers: Sequence[subprocess.Popen[bytes]]) -> None:
        for worker in workers:
            worker.terminate()
        end_s = time.monotonic() + WORKERS_END_S
        for worker in workers:
            try:
                worker.wait(max(0.0, end_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def _watch_signals(self) -> None:
        def note(number: int, _frame: object) -> None:
            self._signal = number

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, note)

    def _states(self) -> dict[str, CaseState]:
        names = (case.name for case in self.plan.cases)
        return self.ledger.states(names, outcomes=False)

    def _states_left(self) -> bool:
        return any(state.state in ("waiting", "running") for state in self._states().values())

    def _done(self) -> int:
        return sum(state.state == "done" for state in self._states().values())


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


def recover(ledger: CohortLedger) -> None:
    """Put the outputs of done cases where a crash has left them in their stage."""
    for outcome in list(ledger.unplaced()):
        ledger.place(outcome)


def record_problems(ledger: CohortLedger, plan: Plan) -> None:
    """Record what the plan says cannot be a case."""
    for case in plan.cases:
        if case.problem and ledger.outcome(case.name) is None:
            outcome = Outcome(case=case.name, attempt=0, worker=Host.here(), message=case.problem)
            ledger.record("failed", outcome)


def write_outcomes(ledger: CohortLedger, plan: Plan) -> None:
    """Write ``results.json``, once, from what the folder says."""
    root, records = Path(plan.input), []
    states = ledger.states(case.name for case in plan.cases)
    for case in plan.cases:
        outcome = states[case.name].outcome
        if outcome is None:
            continue
        files = {channel: root / file.path for channel, file in case.files.items()}
        label_file = Path(outcome.label_file) if outcome.label_file else None
        messages = (outcome.message,) if outcome.message else ()
        records.append(Record(case.name, files, label_file, messages))
    write_results(ledger.output, [record.entry for record in records])


def reopen_changed(
    ledger: CohortLedger, old: Plan, new: Plan, *, retry_quarantined: bool
) -> list[str]:
    """Let the cases be computed anew whose files are no longer those of their outcome.

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
        verdict, outcome = found
        again = verdict == "quarantined" and retry_quarantined
        if again or _has_changed(before.get(case.name), case, outcome, Path(new.input)):
            ledger.reopen(case.name)
            reopened.append(case.name)
    return reopened


def _has_changed(old: PlannedCase | None, new: PlannedCase, outcome: Outcome, root: Path) -> bool:
    if old is None or old.problem != new.problem or set(old.files) != set(new.files):
        return True
    return any(
        _file_has_changed(old.files[channel], file, outcome.digests.get(channel), root)
        for channel, file in new.files.items()
    )


def _file_has_changed(old: InputFile, new: InputFile, digest: str | None, root: Path) -> bool:
    if asdict(old) == asdict(new):
        return False
    if old.size != new.size or digest is None:
        return True
    return file_sha256(root / new.path) != digest
