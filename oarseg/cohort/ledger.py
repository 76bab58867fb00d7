"""What a cohort's folder says: attempts, leases, and outcomes that nobody can write twice.

Everything is told by files in ``cohort/`` of the output folder, so that workers on several hosts
need nothing but that folder:

- ``attempt/<case>.<n>``: attempt n of a case. It is made exclusively, before the work, and so
  belongs to one worker; its time of last change is its lease, renewed as a heartbeat on the file
  server's clock. Who finds the last attempt stale makes the next one. No file is renamed or
  removed for that, so no two workers can both think that they took it over.
- ``done/<case>.json``, ``failed/<case>.json``, ``quarantined/<case>.json``: the outcome, made by
  an exclusive link. Who comes second has lost its lease meanwhile, and discards what it has.
- ``stage/<case>.<n>/``: the outputs of an attempt. They move to their places after the outcome
  is linked, by whoever sees it; a crash in between is recovered by the next who looks.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from oarseg.challenges.structures import STRICT
from oarseg.cohort.plan import FOLDER
from oarseg.errors import OutputError
from oarseg.results.folder import explained_refusal

ATTEMPT_FILES: Final = "attempt"
STAGE_FOLDERS: Final = "stage"
REOPENED: Final = "reopened"
OutcomeKind = Literal["done", "failed", "quarantined"]
OUTCOME_KINDS: Final[tuple[OutcomeKind, ...]] = ("done", "failed", "quarantined")
State = Literal["waiting", "running", "done", "failed", "quarantined"]
LARGEST_RECORD_BYTES: Final = 1 << 20


@dataclass(frozen=True, config=STRICT)
class Host:
    """Who works: a process of a machine."""

    host: str
    pid: int

    @classmethod
    def here(cls) -> Host:
        """Return this process."""
        return cls(socket.gethostname(), os.getpid())


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Outcome:
    """The outcome of a case.

    Attributes:
        case: its name.
        attempt: number of the attempt that ended so.
        worker: who.
        seconds: of that attempt.
        message: why it failed; empty if it is done.
        label_file: below the output folder, if it is done.
        digests: channel → SHA-256 of the file, if it was read.
        outputs: files and folders to be moved from the stage, below the output folder.
    """

    case: str
    attempt: int
    worker: Host
    seconds: float = 0.0
    message: str = ""
    label_file: str = ""
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    outputs: tuple[str, ...] = ()


_OUTCOME: Final = TypeAdapter(Outcome)
_HOST: Final = TypeAdapter(Host)


@dataclass(frozen=True)
class Attempt:
    """One attempt at a case."""

    case: str
    number: int

    @property
    def name(self) -> str:
        """Name of its file and its stage."""
        return f"{self.case}.{self.number}"


@dataclass(frozen=True)
class CaseState:
    """What the folder says of a case.

    Attributes:
        state: see the module.
        attempts: how many were begun.
        outcome: if there is one.
        age_s: seconds since the last heartbeat of a running attempt.
    """

    state: State
    attempts: int = 0
    outcome: Outcome | None = None
    age_s: float = 0.0


class CohortLedger:
    """The folder of a cohort.

    Args:
        output: the output folder.
        lease_s: an attempt without a heartbeat for that long is taken over.
    """

    def __init__(self, output: Path, *, lease_s: float) -> None:
        self.output, self.lease_s = output, lease_s
        self._root = output / FOLDER
        self._clock = self._root / f"clock.{socket.gethostname()}.{os.getpid()}"

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            OutputError: they cannot be made.
        """
        with explained_refusal(self._root):
            for name in (ATTEMPT_FILES, STAGE_FOLDERS, *OUTCOME_KINDS):
                (self._root / name).mkdir(parents=True, exist_ok=True)

    def now_s(self) -> float:
        """Return the time on the clock of the machine that holds the folder."""
        self._clock.touch()
        return self._clock.stat().st_mtime

    def close(self) -> None:
        """Remove this process's own file."""
        self._clock.unlink(missing_ok=True)

    # Attempts

    def take(self, case: str, *, most: int) -> Attempt | None:
        """Begin the next attempt at a case; None if another worker has it, or none is left.

        Args:
            case: its name.
            most: attempts that a case has. The last one that dies without a word quarantines it.
        """
        if self._has_outcome(case):
            return None
        numbers = self.attempt_numbers(case)
        last = max(numbers, default=0)
        if last and not self._is_stale(Attempt(case, last)):
            return None
        if len(numbers) >= most:
            self._quarantine(case, last, most)
            return None
        attempt = Attempt(case, last + 1)
        return attempt if self._create(attempt) else None

    def _create(self, attempt: Attempt) -> bool:
        path = self._root / ATTEMPT_FILES / attempt.name
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "wb") as stream:
            stream.write(_HOST.dump_json(Host.here()))
        return True

    def _is_stale(self, attempt: Attempt) -> bool:
        try:
            beaten_s = (self._root / ATTEMPT_FILES / attempt.name).stat().st_mtime
        except FileNotFoundError:
            return True
        return self.now_s() - beaten_s > self.lease_s

    def _quarantine(self, case: str, last: int, most: int) -> None:
        worker = self.owner(Attempt(case, last)) or Host("unknown", 0)
        message = (
            f"{most} attempts ended without a word: something in it kills what computes it; it is "
            "left out until --retry-quarantined"
        )
        outcome = Outcome(case=case, attempt=last, worker=worker, message=message)
        self.record("quarantined", outcome)

    def beat(self, attempt: Attempt) -> bool:
        """Renew the lease; return whether it is still this worker's."""
        path = self._root / ATTEMPT_FILES / attempt.name
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        following = Attempt(attempt.case, attempt.number + 1)
        return not (self._root / ATTEMPT_FILES / following.name).exists()

    def give_back(self, attempt: Attempt) -> None:
        """Undo an attempt that was ended for no fault of its case."""
        following = Attempt(attempt.case, attempt.number + 1)
        if not (self._root / ATTEMPT_FILES / following.name).exists():
            (self._root / ATTEMPT_FILES / attempt.name).unlink(missing_ok=True)
        self.discard(attempt)

    def expire(self, attempt: Attempt) -> None:
        """Let an attempt that died be taken over at once."""
        path = self._root / ATTEMPT_FILES / attempt.name
        if path.exists():
            os.utime(path, (0, 0))
        self.discard(attempt)

    def owner(self, attempt: Attempt) -> Host | None:
        """Return who made an attempt, if that can be read."""
        try:
            return _HOST.validate_json((self._root / ATTEMPT_FILES / attempt.name).read_bytes())
        except (OSError, ValidationError):
            return None

    def running_on(self, case: str, state: CaseState) -> Host | None:
        """Return who works on a case now; None if nobody does."""
        return self.owner(Attempt(case, state.attempts)) if state.state == "running" else None

    def attempt_numbers(self, case: str) -> list[int]:
        """Return the numbers of a case's attempts, in order."""
        # A case's name may end with digits of its own: only what follows its own dot counts.
        found = []
        number = 1
        while (self._root / ATTEMPT_FILES / f"{case}.{number}").exists():
            found.append(number)
            number += 1
        return found

    # Outcomes

    def record(self, verdict: OutcomeKind, outcome: Outcome) -> bool:
        """Link an outcome; False if the case has one, which then stands.

        Raises:
            OutputError: it cannot be written.
        """
        if self._has_outcome(outcome.case):
            return False
        folder = self._root / verdict
        draft = folder / f".{secrets.token_hex(8)}"
        with explained_refusal(folder):
            try:
                with draft.open("xb") as stream:
                    stream.write(_OUTCOME.dump_json(outcome))
                    stream.flush()
                    os.fsync(stream.fileno())
                os.link(draft, folder / f"{outcome.case}.json")
            except FileExistsError:
                return False
            finally:
                draft.unlink(missing_ok=True)
        return True

    def outcome(self, case: str) -> tuple[OutcomeKind, Outcome] | None:
        """Return a case's outcome; the done one where a race has left two."""
        for verdict in OUTCOME_KINDS:
            path = self._root / verdict / f"{case}.json"
            try:
                with path.open("rb") as stream:
                    return verdict, _OUTCOME.validate_json(stream.read(LARGEST_RECORD_BYTES))
            except FileNotFoundError:
                continue
            except ValidationError as error:
                raise OutputError(
                    f"{path}: expected the record of a case, found something else; remove it, and "
                    "the case is computed again"
                ) from error
        return None

    def _has_outcome(self, case: str) -> bool:
        return any((self._root / kind / f"{case}.json").exists() for kind in OUTCOME_KINDS)

    def reopen(self, case: str) -> None:
        """Let a case be computed anew: set its outcome and its attempts aside."""
        aside = self._root / REOPENED / f"{case}.{secrets.token_hex(4)}"
        aside.mkdir(parents=True)
        for verdict in OUTCOME_KINDS:
            path = self._root / verdict / f"{case}.json"
            if path.exists():
                path.rename(aside / f"{verdict}.json")
        for number in self.attempt_numbers(case):
            name = f"{case}.{number}"
            (self._root / ATTEMPT_FILES / name).rename(aside / name)

    # Outputs

    def stage(self, attempt: Attempt) -> Path:
        """Return the folder that an attempt writes to."""
        return self._root / STAGE_FOLDERS / attempt.name

    def discard(self, attempt: Attempt) -> None:
        """Remove what an attempt wrote, of this worker only."""
        shutil.rmtree(self.stage(attempt), ignore_errors=True)

    def place(self, outcome: Outcome) -> None:
        """Move the outputs of a done case to their places; again does no harm.

        Raises:
            OutputError: they cannot be moved.
        """
        stage = self.stage(Attempt(outcome.case, outcome.attempt))
        if not stage.is_dir():
            return
        with explained_refusal(self.output):
            for name in outcome.outputs:
                source, target = stage / name, self.output / name
                if not os.path.lexists(source):
                    continue  # moved before
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.is_dir():
                    shutil.rmtree(target)
                source.rename(target)
        shutil.rmtree(stage, ignore_errors=True)

    def unplaced(self) -> Iterator[Outcome]:
        """Yield the done cases whose outputs were not all moved."""
        for path in sorted((self._root / STAGE_FOLDERS).iterdir()):
            case, _, number = path.name.rpartition(".")
            found = self.outcome(case)
            if found is not None and found[0] == "done" and str(found[1].attempt) == number:
                yield found[1]

    # States

    def states(self, cases: Iterable[str], *, outcomes: bool = True) -> dict[str, CaseState]:
        """Return the state of every case, from one listing of each folder.

        Args:
            cases: their names.
            outcomes: read the outcomes too; without them it costs no file a case that has ended.
        """
        attempts = _numbers(self._root / ATTEMPT_FILES)
        ended = {
            entry.name.removesuffix(".json"): kind
            for kind in reversed(OUTCOME_KINDS)
            for entry in os.scandir(self._root / kind)
        }
        now_s = self.now_s()
        return {
            case: self._state(case, attempts.get(case, 0), ended.get(case), now_s, outcomes)
            for case in cases
        }

    def _state(
        self, case: str, attempts: int, ended: OutcomeKind | None, now_s: float, outcomes: bool
    ) -> CaseState:
        if ended is not None:
            found = self.outcome(case) if outcomes else None
            return CaseState(ended, attempts, found[1] if found else None)
        if not attempts:
            return CaseState("waiting")
        try:
            beaten_s = (self._root / ATTEMPT_FILES / f"{case}.{attempts}").stat().st_mtime
        except FileNotFoundError:
            return CaseState("waiting", attempts)
        age_s = now_s - beaten_s
        return CaseState("waiting" if age_s > self.lease_s else "running", attempts, age_s=age_s)


def _numbers(folder: Path) -> dict[str, int]:
    """Return the highest number of an attempt for each case."""
    found: dict[str, int] = {}
    for entry in os.scandir(folder):
        case, _, number = entry.name.rpartition(".")
        if number.isdigit():
            found[case] = max(found.get(case, 0), int(number))
    return found
