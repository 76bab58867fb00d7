"""What a cohort's folder says: attempts, leases, and outcomes that nobody can write twice.

Everything is told by files in ``cohort/`` of the output folder, so that workers on several hosts
need nothing but that folder:

- ``attempt/<case>.<n>``: attempt n of a case. It is made exclusively, before the work, and so
  belongs to one worker; its time of last change is its lease, renewed as a heartbeat on the file
  server's clock. Who finds the last attempt's lease over makes the next one. No file is renamed or
  removed for that, so no two workers can both think that they took it over. A lease is over when
  it was watched and not renewed for a while (``LeaseWatch``): a clock that jumps ends none.
- ``done/<case>.json``, ``failed/<case>.json``, ``quarantined/<case>.json``: the outcome, made by
  an exclusive link. Who comes second has lost its lease meanwhile, and discards what it has.
- ``stage/<case>.<n>/``: the outputs of an attempt (``stages``). They move to their places after
  the outcome is linked, by whoever sees it; a crash in between is recovered by the next who looks.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from oarseg.challenges.structures import STRICT
from oarseg.cohort.inputs import RelativePath, inside
from oarseg.cohort.plan import FOLDER
from oarseg.cohort.stages import StageFolders
from oarseg.errors import OutputError
from oarseg.results.folder import explained_refusal, make_folder, move_entry

ATTEMPT_FILES: Final = "attempt"
# The time of an attempt that is known to have died.
EXPIRED_NS: Final = 0
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


@dataclass(frozen=True, config=STRICT)
class _Holder:
    """What the file of an attempt says: whose it is, and how long its lease is in seconds."""

    worker: Host
    lease_s: float


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
        again: it failed for want of something that the next run may have, such as memory.
    """

    case: str
    attempt: int
    worker: Host
    seconds: float = 0.0
    message: str = ""
    label_file: Annotated[str, AfterValidator(lambda path: path and inside(path))] = ""
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    outputs: tuple[RelativePath, ...] = ()
    again: bool = False


_OUTCOME: Final = TypeAdapter(Outcome)
_HOLDER: Final = TypeAdapter(_Holder)


@dataclass(frozen=True)
class Attempt:
    """One attempt at a case."""

    case: str
    number: int

    @property
    def name(self) -> str:
        """Name of its file and its stage."""
        return f"{self.case}.{self.number}"

    @property
    def following(self) -> Attempt:
        """The next one at the same case."""
        return Attempt(self.case, self.number + 1)


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


class LeaseWatch:
    """Which leases are over, whatever clocks do.

    A lease is over if it was seen and not renewed for its length on this process's own clock,
    which never jumps; for half of that if the file server's clock says as well that it is older.
    Whoever holds it renews it more often.

    Args:
        clock: seconds; it never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}

    def is_over(self, attempt: str, beaten_ns: int, now_s: float, *, lease_s: float) -> bool:
        """Return whether an attempt may be taken over.

        Args:
            attempt: its name.
            beaten_ns: time of its last heartbeat, on the file server's clock.
            now_s: now, on that clock.
            lease_s: the lease's length, as whoever holds it knows it.
        """
        if beaten_ns == EXPIRED_NS:
            return True
        beaten, since_s = self._seen.get(attempt, (None, 0.0))
        if beaten != beaten_ns:
            self._seen[attempt] = (beaten_ns, self._clock())
            return False
        old = now_s - beaten_ns / 1e9 > lease_s
        return self._clock() - since_s > lease_s / (2 if old else 1)


class CohortLedger:
    """The folder of a cohort.

    Args:
        output: the output folder.
        lease_s: an attempt without a heartbeat for that long is taken over.
    """

    def __init__(self, output: Path, *, lease_s: float) -> None:
        self.output, self.lease_s = output, lease_s
        self.stages = StageFolders(output)
        self._watch = LeaseWatch()
        self._root = output / FOLDER
        self._clock = self._root / f"clock.{socket.gethostname()}.{os.getpid()}"

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            OutputError: they cannot be made, or one is a link.
        """
        self.stages.prepare()
        with explained_refusal(self._root):
            for name in (ATTEMPT_FILES, *OUTCOME_KINDS):
                make_folder(self.output, FOLDER / name)

    def now_s(self) -> float:
        """Return the time on the clock of the machine that holds the folder.

        Where nothing can be written, as for somebody who only looks, it is this machine's.
        """
        try:
            self._clock.touch()
            return self._clock.stat().st_mtime
        except OSError:
            return time.time()

    def close(self) -> None:
        """Remove this process's own file."""
        with suppress(OSError):
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
        path = self._path(attempt)
        with explained_refusal(path):
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                return False
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(_HOLDER.dump_json(_Holder(Host.here(), self.lease_s)))
            except OSError:
                path.unlink(missing_ok=True)  # a full disk is no attempt
                raise
        if self._has_outcome(attempt.case):
            path.unlink(missing_ok=True)  # it has ended just now
            return False
        return True

    def _path(self, attempt: Attempt) -> Path:
        return self._root / ATTEMPT_FILES / attempt.name

    def _is_stale(self, attempt: Attempt) -> bool:
        try:
            beaten_ns = self._path(attempt).stat().st_mtime_ns
        except FileNotFoundError:
            return True
        # A run may have shortened the lease since workers of other machines began.
        holder = self._holder(attempt)
        lease_s = max(self.lease_s, holder.lease_s) if holder else self.lease_s
        return self._watch.is_over(attempt.name, beaten_ns, self.now_s(), lease_s=lease_s)

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
        try:
            os.utime(self._path(attempt))
        except FileNotFoundError:
            return False
        return not self._path(attempt.following).exists()

    def give_back(self, attempt: Attempt) -> None:
        """Undo an attempt that was ended for no fault of its case, and before its outcome."""
        if self._has_outcome(attempt.case):
            return  # its outputs may still have to be moved
        with suppress(OSError):  # a disk that is read-only now, or gone
            if not self._path(attempt.following).exists():
                self._path(attempt).unlink(missing_ok=True)
        self.stages.discard(attempt.name)

    def expire(self, attempt: Attempt) -> None:
        """Let an attempt that died be taken over at once."""
        with explained_refusal(self._root), suppress(FileNotFoundError):
            os.utime(self._path(attempt), ns=(EXPIRED_NS, EXPIRED_NS))
        self.stages.discard(attempt.name)

    def owner(self, attempt: Attempt) -> Host | None:
        """Return who made an attempt, if that can be read."""
        holder = self._holder(attempt)
        return holder.worker if holder else None

    def _holder(self, attempt: Attempt) -> _Holder | None:
        try:
            return _HOLDER.validate_json(self._path(attempt).read_bytes())
        except (OSError, ValidationError):
            return None

    def running_on(self, case: str, state: CaseState) -> Host | None:
        """Return who works on a case now; None if nobody does."""
        return self.owner(Attempt(case, state.attempts)) if state.state == "running" else None

    def attempt_numbers(self, case: str) -> list[int]:
        """Return the numbers of a case's attempts, in order."""
        # A case's name may end with digits of its own: only what follows its own dot counts.
        found = []
        attempt = Attempt(case, 1)
        while self._path(attempt).exists():
            found.append(attempt.number)
            attempt = attempt.following
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
                with explained_refusal(path), suppress(FileNotFoundError):
                    with path.open("rb") as stream:
                        found = _OUTCOME.validate_json(stream.read(LARGEST_RECORD_BYTES))
                    if found.case != case:
                        raise ValueError("of another case")
                    return verdict, found
            except ValueError as error:
                raise OutputError(
                    f"{path}: expected the record of a case, found something else; remove it, and "
                    "the case is computed again"
                ) from error
        return None

    def _has_outcome(self, case: str) -> bool:
        return any((self._root / kind / f"{case}.json").exists() for kind in OUTCOME_KINDS)

    def reopen(self, case: str) -> None:
        """Let a case be computed anew: set its outcome, its attempts and its outputs aside.

        Raises:
            OutputError: they cannot be moved.
        """
        found = self.outcome(case)
        aside = self.stages.aside(case)
        if found is not None:
            self.stages.set_aside(found[1].outputs, aside)
        moves = [FOLDER / kind / f"{case}.json" for kind in OUTCOME_KINDS]
        moves += [FOLDER / ATTEMPT_FILES / f"{case}.{n}" for n in self.attempt_numbers(case)]
        with explained_refusal(self._root):
            for path in moves:
                with suppress(FileNotFoundError):
                    move_entry(self.output, path, aside / path.parent.name / path.name)

    # Outputs

    def place(self, outcome: Outcome) -> None:
        """Move the outputs of a done case to their places; again does no harm.

        Raises:
            OutputError: they cannot be moved.
        """
        self.stages.place(Attempt(outcome.case, outcome.attempt).name, outcome.outputs)

    def has_outputs(self, outcome: Outcome) -> bool:
        """Return whether the label file of a done case is there, in its place or its stage."""
        attempt = Attempt(outcome.case, outcome.attempt).name
        return self.stages.holds(attempt, outcome.label_file)

    def recover(self) -> None:
        """Put the outputs of done cases where a crash has left them in their stage.

        Raises:
            OutputError: they cannot be moved.
        """
        for case, number in self.stages.names():
            found = self.outcome(case)
            if found is not None and found[0] == "done" and str(found[1].attempt) == number:
                self.place(found[1])

    def sweep(self) -> None:
        """Remove what the dead have left: stages whose lease is over, and their clocks."""
        for case, number in self.stages.names():
            if number.isdigit() and self._has_ended(Attempt(case, int(number))):
                self.stages.discard(f"{case}.{number}")
        with suppress(OSError):
            for path in self._root.glob("clock.*"):
                if self._is_old(path.stat().st_mtime):
                    path.unlink(missing_ok=True)

    def _has_ended(self, attempt: Attempt) -> bool:
        try:
            old = self._is_old(self._path(attempt).stat().st_mtime)
        except FileNotFoundError:
            return True
        return old and (self._has_outcome(attempt.case) or self._path(attempt.following).exists())

    def _is_old(self, beaten_s: float) -> bool:
        return self.now_s() - beaten_s > self.lease_s

    # States

    def states(self, cases: Iterable[str], *, outcomes: bool = False) -> dict[str, CaseState]:
        """Return the state of every case, from one listing of each folder.

        Args:
            cases: their names.
            outcomes: read the outcomes too; without them it costs no file a case that has ended.

        Raises:
            OutputError: the folder cannot be read.
        """
        with explained_refusal(self._root):
            return self._states(cases, outcomes=outcomes)

    def _states(self, cases: Iterable[str], *, outcomes: bool) -> dict[str, CaseState]:
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
            beaten_s = self._path(Attempt(case, attempts)).stat().st_mtime
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
