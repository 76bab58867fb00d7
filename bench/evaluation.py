"""Time and memory of scoring one case of 30 structures, in each layout of either side.

    python bench/evaluation.py --size median --out bench/results

The case is a phantom (median: 1024×1024×189, as the data set's) and, as its prediction, the
same labels moved by a few voxels, with stray voxels of every structure anywhere in the
image. Each run is ``oarseg evaluate`` in a process of its own, plot included.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from oarseg.cases.case import Case
from oarseg.challenges import catalogue
from oarseg.imaging.volume import Volume
from oarseg.labels import deflate, write_labels
from oarseg.labels.boxes import label_boxes
from oarseg.phantom import PhantomSpec, make_phantom
from oarseg.results.write_case import write_case

ROOT = Path(__file__).resolve().parent.parent
RULES = catalogue.load_challenge("han_seg")
STRAY_VOXELS = 3
# The command, and the peak of its own memory in KiB as the last word: what the system tells
# the parent would count the parent's memory too.
WORKER = """
import re, sys
from pathlib import Path
from oarseg import cli
status = cli.main(sys.argv[1:])
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""
LAYOUTS = {
    "label map": Path("images", RULES.output.slug),
    "30 mask files": Path("oar_masks"),
    "4-D, 30 channels": Path("channels"),
}


def main() -> None:
    """Write the case, score it in each layout and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="median")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        shape = write_sides(Path(scratch), arguments.size, arguments.seed)
        text = heading(shape, arguments.threads)
        for name, folder in LAYOUTS.items():
            seconds, busy, mebibytes = score(Path(scratch), folder, arguments.threads)
            text += f"| {name} | {seconds:.1f} | {busy:.1f} | {mebibytes:.0f} |\n"
    sys.stdout.write(text)
    if arguments.out:
        today = datetime.datetime.now(tz=datetime.UTC).date()
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / f"{today}-evaluation-{arguments.size}.md").write_text(text)


def write_sides(scratch: Path, size: str, seed: int) -> tuple[int, ...]:
    """Write truth and prediction in every layout; returns the shape."""
    phantom = make_phantom(PhantomSpec(seed, size, with_mr=False))
    truth = phantom.labels
    moved = np.roll(truth.array, (1, 2, -1), (0, 1, 2))
    rng = np.random.default_rng(seed)
    for structure in RULES.structures:
        for _ in range(STRAY_VOXELS):
            moved[tuple(rng.integers(0, count) for count in moved.shape)] = structure.label
    for side, labels in (("truth", truth), ("prediction", Volume(moved, truth.grid))):
        case = Case("case_01", {socket.channel: Path("case_01_CT.mha") for socket in RULES.sockets})
        write_case(scratch / side, case=case, challenge=RULES, labels=labels, report={})
        (scratch / side / "channels").mkdir()
        zeros = deflate.Zeros(labels.array.shape[2])
        boxes = label_boxes(labels.array, len(RULES.structures))
        bodies = [
            deflate.deflate_mask(labels.array, organ.labels, box=box, zeros=zeros)
            for organ, box in zip(RULES.organs, boxes, strict=True)
        ]
        path = scratch / side / "channels" / "case_01.mha"
        write_labels.write_channels(path, labels.grid, bodies, identity_frame=False)
    return truth.array.shape


def score(scratch: Path, folder: Path, threads: int) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak MiB of one ``oarseg evaluate``."""
    sides = [str(scratch / side / folder) for side in ("prediction", "truth")]
    command = [sys.executable, "-c", WORKER, "evaluate", *sides]
    command += ["--out", str(scratch / "scores"), "--threads", str(threads)]
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    seconds, after = time.perf_counter() - start, os.times()
    user = after.children_user - before.children_user
    busy = user + after.children_system - before.children_system
    return seconds, busy, int(done.stdout.split()[-1]) / 1024


def heading(shape: tuple[int, ...], threads: int) -> str:
    """What was measured, where, and the table's head."""
    size = "×".join(map(str, shape))
    today = datetime.datetime.now(tz=datetime.UTC).date()
    load = os.getloadavg()[0]
    return (
        f"Scoring one phantom {size} (z×y×x), 30 structures, {threads} threads, {today}\n\n"
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {load:.1f} "
        "when it began\n\n"
        "| both sides as | seconds | CPU seconds | peak memory, MiB |\n|---|---|---|---|\n"
    )


if __name__ == "__main__":
    main()
