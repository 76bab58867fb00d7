"""Faults that only the real container shows: memory, disk, signals."""

from __future__ import annotations

import json
from pathlib import Path

import docker_engine
import pytest
from docker_engine import ROOT

IMAGES = ROOT / "test" / "images"
pytestmark = pytest.mark.container
# The shipped case takes more than twice as much.
TOO_LITTLE = ("--memory", "400m", "--memory-swap", "400m")
# The outputs of the shipped case take several times as much.
SMALL_DISK = ("--tmpfs", "/small:size=64k,mode=1777")
RUN_AND_LIST = """
import pathlib, subprocess, sys
folder = pathlib.Path("/small/out")
command = [sys.executable, "/opt/app/process.py", "--output", str(folder)]
status = subprocess.run(command).returncode
print("left:", *sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()))
sys.exit(status)
"""


# A case that takes more than there is, as a forecast that is wrong would let it.
TAKE_TOO_MUCH = """
import pathlib, sys
from oarseg.system import log
from oarseg.workflows import supervisor
from oarseg.workflows.journal import Finished

def work(journal):
    for case in ("small", "large"):
        if case not in journal.finished:
            journal.begins(case)
            taken = bytearray(1 if case == "small" else 1 << 30)
            taken[::4096] = b"x" * len(taken[::4096])
            journal.ends(case, Finished(case))
    print("after", sorted(journal.finished))
    return 1

log.configure_logging()
sys.exit(supervisor.run_supervised(work, output=pathlib.Path("/output")))
"""


@pytest.fixture(scope="module")
def image() -> str:
    docker_engine.build()
    return docker_engine.IMAGE


def test_memory_limit(image: str, tmp_path: Path) -> None:
    done = docker_engine.run(IMAGES, tmp_path, *TOO_LITTLE)
    assert done.status == 1, done.log
    assert "memory" in done.last_line
    assert "Traceback" not in done.log
    assert done.files() == ["results.json"]
    (record,) = json.loads((done.output / "results.json").read_text())
    assert record["outputs"] == []
    assert "memory" in record["error_messages"][0]


def test_a_kill_for_memory_costs_one_case(image: str, tmp_path: Path) -> None:
    done = docker_engine.run(
        IMAGES,
        tmp_path,
        *TOO_LITTLE,
        *("--entrypoint", "/opt/venv/bin/python"),
        arguments=("-c", TAKE_TOO_MUCH),
    )
    assert done.status == 1, done.log
    assert "large: killed because memory ran out, which is limited to" in done.last_line
    assert done.stdout == "after ['large', 'small']\n"


def test_disk_full(image: str, tmp_path: Path) -> None:
    done = docker_engine.run(
        IMAGES,
        tmp_path,
        *SMALL_DISK,
        *("--entrypoint", "/opt/venv/bin/python"),
        arguments=("-c", RUN_AND_LIST),
    )
    assert done.status == 1, done.log
    assert "No space left on device" in done.last_line
    assert "Traceback" not in done.log
    assert done.stdout.splitlines()[-1] == "left: results.json"


def test_sigterm(image: str, tmp_path: Path) -> None:
    done = docker_engine.run(IMAGES, tmp_path, stop_at=" case ")
    assert done.status == 128 + 15, done.log
    assert "stopped by signal 15" in done.last_line
    assert done.stopping_s < 10
    assert done.files() == ["results.json"]
    assert json.loads((done.output / "results.json").read_text()) == []


def test_hostile_input_of_every_kind_is_refused_in_one_line_each(
    image: str, tmp_path: Path
) -> None:
    """Links out of the input, a device's name, and data in another file."""
    images = tmp_path / "images"
    (images / "ct").mkdir(parents=True)
    (images / "ct" / "link_CT.mha").symlink_to("/etc/hostname")
    header = (
        "NDims = 3\nDimSize = 5 5 5\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\n"
        "BinaryData = True\nElementDataFile = /opt/app/weights/manifest.json\n"
    )
    (images / "ct" / "other_CT.mha").write_text(header)
    (images / "ct" / "zip_CT.mha").write_bytes(b"PK\x03\x04")
    done = docker_engine.run(images, tmp_path, copy_links=False)
    assert done.status == 1, done.log
    assert "Traceback" not in done.log
    records = json.loads((done.output / "results.json").read_text())
    messages = [record["error_messages"][0] for record in records]
    assert len(messages) == 3
    for part in ("a link that leaves it", "a header that points to", "a zip file"):
        assert sum(part in message for message in messages) == 1
    assert done.files() == ["results.json"]
