"""A cohort whose processes are killed, stopped and started at random, and what is left in the end.

    python bench/cohort_chaos.py --seconds 60 --seed 1 --feeders 2

The networks only wait; everything else is real. Coordinators and workers that join come and go,
any process is killed, stopped beyond its lease or told to end, and files are touched. In the end
one coordinator finishes. Whatever was lost, done twice or left behind ends this with status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from cohort_fakes import coordinator_command, make_cohort, processes_of

from oarseg.cohort.ledger import ATTEMPT_FILES
from oarseg.cohort.manner import Manner
from oarseg.cohort.plan import FOLDER

LEASE_S = 4.0
# A kill may hit a case more than once, which says nothing of the case.
ATTEMPTS = 99
LONGEST_STOP_S = 2 * LEASE_S


def main() -> int:
    """Make the cohort, and chaos."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60.0, help="of chaos (default: 60)")
    parser.add_argument("--case-seconds", default="1", help="that a case takes (default: 1)")
    parser.add_argument("--pause", type=float, default=3.0, help="between two strikes (default: 3)")
    parser.add_argument("--feeders", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manner = Manner(ATTEMPTS, LEASE_S, told.feeders)
        _, output = make_cohort(Path(folder), cases=told.cases, manner=manner)
        os.environ["FAKE_SECONDS"] = told.case_seconds
        chaos = Chaos(output, random.Random(told.seed), told.pause)
        chaos.make(told.seconds, told.cases)
        faults = [*chaos.faults, *chaos.end(told.cases)]
    print(chaos.text)
    print("\n".join(faults) or "nothing lost, nothing twice, nothing left behind")
    return 1 if faults else 0


@dataclass
class Chaos:
    """What is done to a cohort.

    Attributes:
        output: its folder.
        chance: decides.
        pause_s: mean time between two strikes.
        faults: what should not have happened.
    """

    output: Path
    chance: random.Random
    pause_s: float
    faults: list[str] = field(default_factory=list)
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _stopped: list[tuple[float, int]] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    def make(self, seconds: float, cases: int) -> None:
        """Make chaos for a while, or until all is done in spite of it."""
        most, end_s = 0, time.monotonic() + seconds
        while time.monotonic() < end_s and self.done < cases:
            self._start()
            time.sleep(self.chance.uniform(0.2, 2) * self.pause_s)
            self._strike()
            self._wake(time.monotonic())
            if self.done < most:
                self.faults.append(f"{most} cases were done, then {self.done}")
            most = self.done
        self._counts["done in chaos"] = most
        self._wake(float("inf"))
        for process in self._started:
            process.terminate()
        for process in self._started:
            process.wait()

    def _start(self) -> None:
        alive = [process for process in self._started if process.poll() is None]
        if not alive or (len(alive) < 3 and self.chance.random() < 0.3):
            joins = bool(alive) and self.chance.random() < 0.5
            command = coordinator_command(self.output, 2, joins=joins)
            alive.append(subprocess.Popen(command, start_new_session=True))
            self._count("joined" if joins else "coordinators")
        self._started = alive

    def _strike(self) -> None:
        processes = processes_of(self.output)
        if not processes:
            return
        process, dice = self.chance.choice(processes), self.chance.random()
        if dice < 0.5:
            self._send(process, signal.SIGKILL)
        elif dice < 0.7:
            self._send(process, signal.SIGSTOP)
            until_s = time.monotonic() + self.chance.uniform(0.5, LONGEST_STOP_S)
            self._stopped.append((until_s, process))
        elif dice < 0.8:
            self._send(process, signal.SIGTERM)
        else:
            os.utime(self.chance.choice(sorted((self.output.parent / "in").iterdir())))

    def _send(self, process: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
            self._count(number.name)

    def _wake(self, now_s: float) -> None:
        for until_s, process in list(self._stopped):
            if now_s >= until_s:
                self._stopped.remove((until_s, process))
                self._send(process, signal.SIGCONT)

    def end(self, cases: int) -> list[str]:
        """Let one coordinator finish; returns what is not as it should be."""
        left_s = time.monotonic() + 5
        while processes_of(self.output) and time.monotonic() < left_s:
            time.sleep(0.1)
        faults = [f"{len(left)} orphans" for left in [processes_of(self.output)] if left]
        status = subprocess.run(coordinator_command(self.output, 2), check=False).returncode
        root = self.output / FOLDER
        images = {path.stem: path.read_text() for path in (self.output / "images").iterdir()}
        records = json.loads((self.output / "results.json").read_text())
        self._counts["attempts"] = len(list((root / ATTEMPT_FILES).iterdir()))
        checks = {
            f"status {status}": status == 0,
            f"{self.done} of {cases} done": self.done == cases,
            f"{len(images)} outputs": len(images) == cases,
            "an output of another case": all(text.endswith(n) for n, text in images.items()),
            f"{len(records)} records": len(records) == cases,
            "stages are left": not list((root / "stage").iterdir()),
            "a case was given up": not list((root / "quarantined").iterdir()),
        }
        return faults + [fault for fault, holds in checks.items() if not holds]

    @property
    def done(self) -> int:
        """Cases that are done."""
        return len(list((self.output / FOLDER / "done").glob("*.json")))

    def _count(self, what: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1

    @property
    def text(self) -> str:
        """What happened, in numbers."""
        return ", ".join(f"{count} {what}" for what, count in self._counts.items())


if __name__ == "__main__":
    sys.exit(main())
