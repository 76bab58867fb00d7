"""The image under a real engine: build it, run it, see what it took."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "oarseg:latest"
# As the challenge runs a container, with the root read-only and no swap on top.
FLAGS = shlex.split(
    "--network none --cap-drop ALL --security-opt no-new-privileges --read-only --tmpfs /tmp "
    "--shm-size 128m --pids-limit 256 --memory 8g --memory-swap 8g"
)
SECONDS_BETWEEN_SAMPLES = 0.1
LONGEST_RUN_S = 1200


@dataclass(frozen=True)
class Result:
    """One run of the container.

    Attributes:
        output: what it saw as /output.
        seconds: from `docker run` to its end.
        peak_mib: the largest peak of its processes' resident memory that was seen.
        stopping_s: how long `docker stop` took, if it was stopped.
    """

    status: int
    stdout: str
    stderr: str
    output: Path
    seconds: float
    peak_mib: float
    stopping_s: float = 0.0

    @property
    def log(self) -> str:
        """Both streams."""
        return self.stdout + self.stderr

    @property
    def last_line(self) -> str:
        """What the platform shows of a run that failed."""
        return self.stderr.rstrip("\n").rpartition("\n")[2]

    def files(self) -> list[str]:
        """Every file written, relative to the output folder."""
        return sorted(
            str(path.relative_to(self.output)) for path in self.output.rglob("*") if path.is_file()
        )

    def only_file(self, folder: str) -> Path:
        """The single file of a folder; a ValueError where there are more or none."""
        (path,) = (self.output / folder).iterdir()
        return path

    def report(self) -> dict[str, Any]:
        """The report of the only case."""
        report: dict[str, Any] = json.loads(self.only_file("reports").read_text())
        return report


def docker(*arguments: str) -> str:
    """What a docker command prints; a RuntimeError with its stderr where it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def open_to_all(folder: Path) -> Path:
    """Let any uid read a folder, and enter all below it."""
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def run(
    images: Path,
    folder: Path,
    *options: str,
    arguments: tuple[str, ...] = (),
    stop_at: str | None = None,
    copy_links: bool = True,
) -> Result:
    """Run the image once with the platform's flags.

    Args:
        images: what becomes /input/images, read-only.
        folder: an empty folder for copies, logs and output.
        options: further options of `docker run`.
        arguments: of the entry point.
        stop_at: stop it, as `docker stop` does, when its stdout holds this text.
        copy_links: give the files that links lead to, instead of the links.
    """
    shutil.copytree(images, folder / "input" / "images", symlinks=not copy_links)
    return run_on(folder / "input", folder, *options, arguments=arguments, stop_at=stop_at)


def run_on(
    source: Path,
    folder: Path,
    *options: str,
    arguments: tuple[str, ...] = (),
    stop_at: str | None = None,
    image: str = IMAGE,
) -> Result:
    """Run an image once on a whole input folder, which any uid is then let read."""
    open_to_all(source)
    output = folder / "output"
    output.mkdir()
    output.chmod(0o777)
    name = f"oarseg-test-{uuid.uuid4().hex[:12]}"
    command = [
        *("docker", "run", "--rm", "--name", name, *FLAGS, *options),
        *("--volume", f"{source}:/input:ro", "--volume", f"{output}:/output"),
        *(image, *arguments),
    ]
    streams = folder / "stdout", folder / "stderr"
    start = time.monotonic()
    with streams[0].open("wb") as stdout, streams[1].open("wb") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        try:
            stop = _Stop(name, streams[0], stop_at) if stop_at else None
            peak_mib = _watch(process, name, stop)
        finally:
            if process.poll() is None:
                docker("kill", name)
                process.wait()
    seconds = time.monotonic() - start
    out, err = (stream.read_text(encoding="utf-8", errors="replace") for stream in streams)
    stopping_s = stop.seconds if stop else 0.0
    return Result(process.returncode, out, err, output, seconds, peak_mib, stopping_s)


@dataclass
class _Stop:
    """Stops a container once its stdout holds a text."""

    name: str
    stdout: Path
    text: str
    seconds: float = 0.0

    def if_due(self) -> None:
        """Stop it if the text is there and it was not stopped before."""
        if self.seconds or self.text not in self.stdout.read_text(errors="replace"):
            return
        start = time.monotonic()
        docker("stop", "--time", "60", self.name)
        self.seconds = time.monotonic() - start


def _watch(process: subprocess.Popen[bytes], name: str, stop: _Stop | None) -> float:
    """Wait for the end; the largest peak of resident memory, MiB.

    The kernel's own peak (VmHWM) misses nothing between samples; the cgroup's figure would
    count the page cache of the image as well.
    """
    peak, pid, start = 0.0, 0, time.monotonic()
    while process.poll() is None:
        if time.monotonic() - start > LONGEST_RUN_S:
            raise TimeoutError(f"{name} ran for more than {LONGEST_RUN_S} s")
        pid = pid or _pid(name)
        peak = max(peak, sum(_peak_mib(p) for p in (pid, *_children(pid))))
        if stop:
            stop.if_due()
        time.sleep(SECONDS_BETWEEN_SAMPLES)
    return peak


def _children(pid: int) -> list[int]:
    """The processes that a process has started; none when it is not there (any more)."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in text.split()]


def _pid(name: str) -> int:
    """The container's first process on this machine; 0 before it has started."""
    asked = subprocess.run(
        ["docker", "inspect", "--format", "{{.State.Pid}}", name],
        capture_output=True,
        text=True,
        check=False,
    )
    return int(asked.stdout) if asked.returncode == 0 else 0


def _peak_mib(pid: int) -> float:
    """VmHWM of a process; 0 when it is not there (any more)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def image_size(image: str = IMAGE) -> int:
    """An image's uncompressed size in bytes."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", image))


def build(*options: str) -> float:
    """Build the image as a user does, with options of build.sh; returns the seconds it took.

    Raises:
        RuntimeError: no engine answers, or the build failed, with the end of its log.
    """
    docker("version")
    start = time.monotonic()
    done = subprocess.run(
        [ROOT / "build.sh", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=os.environ | {"BUILDKIT_PROGRESS": "plain"},
    )
    if done.returncode:
        raise RuntimeError(f"build.sh failed:\n{done.stdout[-4000:]}")
    return time.monotonic() - start
