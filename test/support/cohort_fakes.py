"""Workers of a cohort whose networks only wait: what they do to the folder is real.

``python -m cohort_fakes run OUTPUT WORKERS`` is a coordinator, ``join …`` one beside it, ``work
OUTPUT PARENT`` a worker, ``compute OUTPUT PARENT ANSWERS`` its process that computes. The
environment says how: ``FAKE_SECONDS`` a case takes, ``FAKE_POISON`` kills what computes it,
``FAKE_FULL`` is a file that stands for a full disk while it is there, ``FAKE_IDLE`` is how many
cores a network leaves idle, ``FAKE_GPU`` is a case in which the GPU fails.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from oarseg.cohort.coordinate import ENDING_SIGNALS, Coordinator, catch_signals
from oarseg.cohort.feeding import MeasuredCase
from oarseg.cohort.inputs import InputFile
from oarseg.cohort.ledger import CohortLedger
from oarseg.cohort.manner import Manner, read_manner, write_manner
from oarseg.cohort.plan import (
    FOLDER,
    FORMAT,
    CohortOptions,
    Plan,
    PlannedCase,
    read_plan,
    write_plan,
)
from oarseg.cohort.worker import CohortWorker, RunStoppedError
from oarseg.errors import OarsegError
from oarseg.results.lock import lock_output
from oarseg.system.child import die_with_parent, send_answer


def make_cohort(root: Path, *, cases: int, manner: Manner) -> tuple[Plan, Path]:
    """A cohort of empty files, planned; returns its plan and output folder."""
    source, output = root / "in", root / "out"
    source.mkdir()
    planned = []
    for number in range(cases):
        path = source / f"case_{number:02d}_CT.mha"
        path.write_bytes(b"%d" % number)
        stat = path.stat()
        file = InputFile(path.name, stat.st_size, stat.st_mtime_ns)
        planned.append(PlannedCase(f"case_{number:02d}", {"CT": file}))
    plan = Plan(FORMAT, str(source), str(root), "m" * 64, "c" * 64, CohortOptions(), tuple(planned))
    with lock_output(output):
        (output / FOLDER).mkdir()
        write_plan(output, plan)
        write_manner(output, manner)
    return plan, output


def worker_command(output: Path, parent: int) -> list[str]:
    """Starts a worker that ends with ``parent``."""
    return [sys.executable, "-m", "cohort_fakes", "work", str(output), str(parent)]


def coordinator_command(output: Path, workers: int, *, joins: bool = False) -> list[str]:
    """Starts a coordinator and its workers, or workers beside those of another one."""
    kind = "join" if joins else "run"
    return [sys.executable, "-m", "cohort_fakes", kind, str(output), str(workers)]


def processes_of(output: Path, kind: str = "") -> list[int]:
    """Processes of a kind, or all, that work on a folder, this one's children or not."""
    named = b"cohort_fakes\0" + os.fsencode(f"{kind}\0" if kind else "")
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if named in line and os.fsencode(output) in line:
            found.append(int(entry.name))
    return found


def coordinate(output: Path, workers: int, *, joins: bool) -> int:
    plan, lease_s = read_plan(output), read_manner(output).lease_s
    ledger = CohortLedger(output, lease_s=lease_s)
    command = worker_command(output, os.getpid())
    coordinator = Coordinator(ledger, plan, command, [{}] * workers)
    if joins:
        return coordinator.join()
    with lock_output(output):
        return coordinator.run()


def work(output: Path, parent: int) -> int:
    die_with_parent(parent)
    manner = read_manner(output)
    command = [sys.executable, "-m", "cohort_fakes", "compute", str(output), str(os.getpid())]
    ledger = CohortLedger(output, lease_s=manner.lease_s)
    worker = CohortWorker(ledger, read_plan(output), manner, command)
    catch_signals(lambda *_: worker.stop())
    try:
        worker.run()
    except RunStoppedError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


def compute(output: Path, parent: int, answers: int) -> int:
    die_with_parent(parent)
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    seconds = float(os.environ.get("FAKE_SECONDS", "0.05"))
    gate, feeders = threading.Lock(), read_manner(output).feeders
    send_answer(answers, {"ready": True})

    def note(what: str, name: str) -> None:
        """Write what happens, in its order, where a test asks for it."""
        if "FAKE_NOTES" in os.environ:
            with Path(os.environ["FAKE_NOTES"]).open("a") as stream:
                stream.write(f"{what} {name} {time.monotonic()}\n")

    def send(name: str, more: Mapping[str, object]) -> None:
        send_answer(answers, {"case": name, "digests": {"CT": "d"}} | more)

    def segment(name: str, stage: Path) -> None:
        if name == os.environ.get("FAKE_POISON"):
            os.kill(os.getpid(), signal.SIGKILL)
        full = os.environ.get("FAKE_FULL")
        if full and Path(full).exists():
            send(name, {"message": "full", "blame": "machine"})
            return
        if name == os.environ.get("FAKE_GPU"):
            send(name, {"message": "the GPU failed", "blame": "gpu"})
            return
        note("prepares", name)
        time.sleep(seconds / 2)  # reading, registering, writing
        with gate:
            note("begins", name)
            time.sleep(seconds / 2)  # the network
            note("ends", name)
        (stage / "images").mkdir(parents=True)
        (stage / "images" / f"{name}.mha").write_text(f"{os.getpid()} {name}")
        outputs = [f"images/{name}.mha"]
        measured = MeasuredCase(
            network_s=seconds / 2,
            beside_s=seconds / 2,
            idle_cores=float(os.environ.get("FAKE_IDLE", "0")),
            memory_bytes=1,
            room_bytes=1 << 30,
        )
        more = {"label_file": outputs[0], "outputs": outputs, "measured": asdict(measured)}
        send(name, more)

    with ThreadPoolExecutor(9 if feeders is None else feeders + 1) as pool:
        for line in sys.stdin:
            request = json.loads(line)
            pool.submit(segment, request["case"], Path(request["stage"]))
    return 0


def main(kind: str, output: Path, *numbers: int) -> int:
    try:
        if kind == "work":
            return work(output, numbers[0])
        if kind == "compute":
            return compute(output, *numbers)
        return coordinate(output, numbers[0], joins=kind == "join")
    except OarsegError as error:
        print(error, file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])))
