"""A cohort on two hosts that share only its folder, one of which is cut off in the middle.

    python bench/cohort_hosts.py

Each host is a network namespace with a name of its own, in which not even the loopback is up:
workers need no network. "Cut off" is the second host's processes standing still after a while, as
they do when their file server no longer answers; they go on when all is done. Status 0 if twelve
cases are done in at most 14 attempts, what was committed is as it was, and nobody has listened.
Without root, namespaces of users must be allowed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cohort_fakes import coordinator_command, make_cohort, processes_of

from oarseg.cohort.ledger import ATTEMPT_FILES
from oarseg.cohort.manner import Manner
from oarseg.cohort.plan import FOLDER

CASES, MOST_ATTEMPTS = 12, 14
LEASE_S = 6.0
PATIENCE_S = 120.0
# As the kernel numbers them: TCP that listens, UDP that has a port.
OPEN_STATES = ("0A", "07")


def main() -> int:
    """Start both hosts, cut one off, and see what is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cut-after", type=float, default=5.0, help="seconds (default: 5)")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _, output = make_cohort(Path(folder), cases=CASES, manner=Manner(9, LEASE_S, 0))
        faults = two_hosts(output, told.cut_after)
    print("\n".join(faults) or "as it should be")
    return 1 if faults else 0


def two_hosts(output: Path, cut_after_s: float) -> list[str]:
    """Return what is not as it should be."""
    root = output / FOLDER
    first = start_host("host-a", coordinator_command(output, 1))
    wait_until(lambda: (root / "stage").is_dir())
    second = start_host("host-b", coordinator_command(output, 1, joins=True))
    time.sleep(cut_after_s)
    listening = [pid for pid in processes_of(output) if is_listening(pid)]
    cut = [pid for pid in processes_of(output) if host_of(pid) == host_of(second.pid)]
    for pid in cut:
        os.kill(pid, signal.SIGSTOP)
    print(f"host-b is cut off after {len(list((root / 'done').iterdir()))} cases")
    status = first.wait(PATIENCE_S)
    images = {path.name: path.read_bytes() for path in (output / "images").iterdir()}
    for pid in cut:
        os.kill(pid, signal.SIGCONT)
    joined = second.wait(PATIENCE_S)
    attempts = len(list((root / ATTEMPT_FILES).iterdir()))
    records = json.loads((output / "results.json").read_text())
    hosts = {json.loads(p.read_text())["worker"]["host"] for p in (root / "done").iterdir()}
    print(f"{len(images)} done, {len(records)} records, {attempts} attempts, by {sorted(hosts)}")
    after = {path.name: path.read_bytes() for path in (output / "images").iterdir()}
    checks = {
        f"status {status} and {joined}": (status, joined) == (0, 0),
        "cases are missing": (len(images), len(records)) == (CASES, CASES),
        "too many attempts": attempts <= MOST_ATTEMPTS,
        "what was committed has changed": after == images,
        f"processes {listening} listen": not listening,
        "both hosts have no part in it": len(hosts) == 2,
    }
    return [fault for fault, holds in checks.items() if not holds]


def start_host(name: str, command: list[str]) -> subprocess.Popen[bytes]:
    """Start a command on a host of its own."""
    line = f'hostname {name} && exec "$@"'
    apart = ["unshare", "--map-root-user", "--net", "--uts", "sh", "-c", line, "sh"]
    return subprocess.Popen([*apart, *command], env=os.environ | {"FAKE_SECONDS": "2"})


def host_of(pid: int) -> str:
    """Return the network namespace of a process."""
    return os.readlink(f"/proc/{pid}/ns/net")


def is_listening(pid: int) -> bool:
    """Return whether anybody listens in a process's network namespace."""
    lines = [
        line.split()
        for kind in ("tcp", "tcp6", "udp", "udp6")
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]
    ]
    return any(fields[3] in OPEN_STATES for fields in lines)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for something to hold."""
    end_s = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end_s:
            raise TimeoutError
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
