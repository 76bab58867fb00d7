"""Measure a command from outside: the kernel's marks of its whole process tree, and its account.

    python test/support/outside_meter.py oarseg segment …

It runs in a small process of its own: a command's account (``wait4``, ``/usr/bin/time``) begins
with the size of the process that starts it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SECONDS_BETWEEN_SAMPLES = 0.02


@dataclass(frozen=True)
class Outside:
    """What a command took.

    Attributes:
        status: as it ended; minus a signal's number.
        seconds: from its start to its end.
        tree_mib: the largest sum of the peaks of all its processes that was seen.
        account_mib: the largest of its processes, by the kernel's account (``ru_maxrss``).
    """

    status: int
    seconds: float
    tree_mib: float
    account_mib: float


def measure(command: Sequence[str], **options: object) -> tuple[Outside, str]:
    """Run a command; return its figures and its stdout.

    Args:
        command: to run; its stdout must end with a newline.
        options: of ``subprocess.run``.
    """
    meter = [sys.executable, "-S", str(Path(__file__).resolve()), *command]
    # Of all options mypy would have to know the types.
    done = subprocess.run(meter, stdout=subprocess.PIPE, text=True, check=True, **options)  # type: ignore[call-overload]
    *text, last = done.stdout.splitlines()
    return Outside(**json.loads(last)), "\n".join(text)


def _run(command: Sequence[str]) -> Outside:
    start, seen = time.monotonic(), 0.0
    process = subprocess.Popen(command)
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        seen = max(seen, _marks_mib(process.pid))
        time.sleep(SECONDS_BETWEEN_SAMPLES)
    seconds = time.monotonic() - start
    status = process.returncode = os.waitstatus_to_exitcode(ended[1])
    return Outside(status, seconds, seen, ended[2].ru_maxrss / 1024)


def _marks_mib(process: int) -> float:
    """Add up the kernel's peaks of a process and of all that it has started, in MiB."""
    folder = Path(f"/proc/{process}")
    try:
        mark = re.search(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text())
        started = (folder / f"task/{process}/children").read_text().split()
    except OSError:
        return 0.0
    return (int(mark[1]) / 1024 if mark else 0.0) + sum(_marks_mib(int(child)) for child in started)


if __name__ == "__main__":
    print(json.dumps(asdict(_run(sys.argv[1:]))))
