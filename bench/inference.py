"""Ours and nnUNetPredictor on the same networks and the same phantoms, one after the other.

    python bench/inference.py --list
    python bench/inference.py --out bench/results
    python bench/inference.py --rows small-shipped --out bench/results

Each program runs in a process of its own, in float32. Its seconds are those from channels on
the CT's grid to a label map; its peak memory is that process's. nnU-Net's networks are rebuilt
from the ONNX files' own parameters, and the bench stops if their logits differ from ONNX
Runtime's. A ``whole`` run is ``oarseg segment`` from files to written masks, registration
included. What was measured is kept in ``build/bench/runs`` and not measured again unless
``--redo`` is given or the project's code has changed since, so a bench that was broken off goes
on where it was.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cases
import numpy as np

from oarseg import __version__
from oarseg.imaging.volume import Grid, Volume
from oarseg.inference.body import find_body
from oarseg.labels.dice import dice_by_label
from oarseg.model import bundle
from oarseg.phantom.spec import CT_SIZES
from oarseg.system.cpus import available_cpus

HERE = Path(__file__).resolve().parent
RUNS = cases.CACHE / "runs"
MIN_VOXELS = 200
TITLES = {
    "body": "oarseg, region body",
    "full": "oarseg, region full",
    "whole": "oarseg segment, files to masks",
    "torch": "oarseg, region full, with nnU-Net's own torch networks",
    "peer": "nnUNetPredictor",
    "peer-body": "nnUNetPredictor, given the same crop",
}


@dataclass(frozen=True)
class Row:
    """One case and one set of networks.

    Attributes:
        size: of the phantom.
        toy_mm: spacing of toy networks (None: the shipped ensemble; "own": the phantom's).
        runs: which programs.
        peer_gib, peer_s: what the peer may take.
        default: whether it runs without being named.
    """

    name: str
    size: str
    toy_mm: tuple[float, float, float] | str | None
    runs: tuple[str, ...]
    peer_gib: float = 20.0
    peer_s: int = 900
    default: bool = True


ROWS = (
    Row("small-shipped", "small", None, ("body", "full", "peer", "peer-body")),
    Row("medium-toy", "medium", "own", ("body", "full", "torch", "peer", "peer-body")),
    Row("medium-shipped", "medium", None, ("body", "full", "peer", "peer-body")),
    Row("median-shipped", "median", None, ("whole",)),
    Row("median-toy", "median", "own", ("body", "peer"), peer_gib=16.0, peer_s=240),
    Row("maximum-shipped", "maximum", None, ("whole",)),
    Row("maximum-toy", "maximum", (2.0, 0.5, 0.5), ("body", "peer"), peer_gib=20.0, peer_s=240),
    Row("median-whole-toy", "median", "own", ("whole",), default=False),
    Row("maximum-whole-toy", "maximum", (2.0, 0.5, 0.5), ("whole",), default=False),
)


def main() -> None:
    """Run the rows and write Markdown and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS])
    parser.add_argument("--list", action="store_true", help="say what rows there are")
    parser.add_argument("--redo", action="store_true", help="measure again")
    parser.add_argument("--weights", type=Path, default=cases.ROOT / "weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--peer-gib", type=float, help="instead of each row's own")
    parser.add_argument("--peer-seconds", type=int, help="instead of each row's own")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    chosen = [r for r in ROWS if r.name in (arguments.rows or [q.name for q in ROWS if q.default])]
    if arguments.list:
        for row in ROWS:
            print(f"{row.name}: {', '.join(row.runs)}{'' if row.default else ' (only by name)'}")
        return
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    RUNS.mkdir(parents=True, exist_ok=True)
    found = {row.name: measure(row, arguments) for row in chosen}
    text = "\n\n".join([header(arguments), *(table(r, found[r.name], arguments) for r in chosen)])
    print(text)
    if arguments.out:
        name = "-".join([f"{datetime.date.today()}-inference-{arguments.device}"]
                        + (arguments.rows or []))  # fmt: skip
        (arguments.out / f"{name}.md").write_text(text + "\n", encoding="utf-8")
        document = {"machine": machine(), "versions": versions(), "rows": found}
        (arguments.out / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def measure(row: Row, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every run of a row, and how the answers agree."""
    weights, found = weights_of(row, arguments), {}
    for who in row.runs:
        code = "nnunet" if who.startswith("peer") else code_digest()
        made_by = f"{arguments.device}-{bundle.load_bundle(weights).sha256[:8]}-{code}"
        stem = RUNS / f"{row.name}-{who}-{made_by}"
        kept = stem.with_suffix(".json")
        if arguments.redo or not kept.is_file():
            print(f"{row.name}: {TITLES[who]} …", file=sys.stderr, flush=True)
            kept.write_text(json.dumps(run(row, who, weights, stem, arguments)))
        found[who] = json.loads(kept.read_text()) | {"labels": str(stem.with_suffix(".npy"))}
    for who in found:
        peer = "peer-body" if who == "body" and "peer-body" in found else "peer"
        if who in ("body", "full", "torch") and usable(found, who) and usable(found, peer):
            found[who]["agreement"] = agreement(row, found[who], found[peer])
    return found


def code_digest() -> str:
    """Of the project's modules: figures of other code are not this code's."""
    digest = hashlib.sha256()
    for path in sorted((cases.ROOT / "oarseg").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def usable(found: dict[str, Any], who: str) -> bool:
    """Whether a run gave an answer."""
    return who in found and "failed" not in found[who]


def weights_of(row: Row, arguments: argparse.Namespace) -> Path:
    """A row's networks."""
    if row.toy_mm is None:
        return Path(arguments.weights)
    own = cases.spacing_mm(row.size)
    return cases.toy(own if isinstance(row.toy_mm, str) else row.toy_mm)


def run(
    row: Row, who: str, weights: Path, stem: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One program; what it says of itself, or how it ended."""
    if who == "whole":
        return whole(row, weights, arguments)
    is_peer = who.startswith("peer")
    command = [sys.executable, str(HERE / "worker.py"), "peer" if is_peer else "ours"]
    command += ["--case", str(cases.case(row.size)), "--weights", str(weights)]
    command += ["--region", "body" if who.endswith("body") else "full"]
    command += ["--device", arguments.device, "--threads", str(arguments.threads)]
    command += ["--labels", str(stem.with_suffix(".npy"))] + ["--toy"] * (row.toy_mm is not None)
    command += ["--torch"] * (who == "torch")
    seconds, gib = arguments.peer_seconds or row.peer_s, arguments.peer_gib or row.peer_gib
    if is_peer:
        command += ["--memory-gib", str(gib)]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds if is_peer else None,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {seconds} s"}
    if done.returncode:
        return {"failed": reason(done, gib), "stderr": done.stderr[-2000:]}
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


def reason(done: subprocess.CompletedProcess[str], gib: float) -> str:
    """How a run ended that gave no answer."""
    text = done.stderr.lower()
    memory = (
        "memoryerror",
        "can't allocate memory",
        "cannot allocate memory",
        "unable to allocate",
    )
    if done.returncode == -9 or any(word in text for word in memory):
        return f"out of memory at {gib:g} GiB"
    return f"ended with status {done.returncode}"


def whole(row: Row, weights: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """``oarseg segment`` on files, with the steps of its own report."""
    source, output = cases.folder(row.size), RUNS / "output"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, str(cases.ROOT / "process.py"), "--input", str(source)]
    command += ["--output", str(output), "--weights", str(weights)]
    command += ["--device", arguments.device, "--threads", str(arguments.threads)]
    start = time.perf_counter()
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        return {"failed": f"ended with status {done.returncode}", "stderr": done.stderr[-2000:]}
    report = json.loads(next((output / "reports").glob("*.json")).read_text())
    steps = [[s["name"], s["seconds"], s["peak_mib"]] for s in report["steps"]]
    peak_mib = report["peak_mib"]
    return {
        "seconds": round(seconds, 2),
        "peak_mib": round(peak_mib),
        "steps": steps,
    }


def agreement(row: Row, mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Voxels equal, everywhere and in the body; each structure's Dice."""
    ours, peer = np.load(mine["labels"]), np.load(theirs["labels"])
    folder = cases.case(row.size)
    ct = np.load(folder / "ct.npy")
    grid = Grid(ct.shape, tuple(json.loads((folder / "spacing.json").read_text())))
    body = find_body(Volume(ct, grid))
    inside = np.ones(ct.shape, bool) if body is None else body.voxels()
    differ = ours != peer
    peer = np.where(inside, peer, 0).astype(np.uint8)
    dice = dice_by_label(ours, peer, labels=30)
    large = np.bincount(peer.ravel(), minlength=31)[1:] >= MIN_VOXELS
    return {
        "equal": 1 - float(differ.mean()),
        "equal_in_body": 1 - float(differ[inside].mean()),
        "differ_in_body": int(np.count_nonzero(differ[inside])),
        "dice": {str(k + 1): round(float(dice[k]), 5) for k in np.flatnonzero(large)},
    }


def header(arguments: argparse.Namespace) -> str:
    """When, where, with what."""
    named = ", ".join(f"{name} {number}" for name, number in versions().items())
    arithmetic = "float32" if arguments.device == "cpu" else "half precision where files have it"
    return (
        f"# Inference, {datetime.date.today()}\n\n{machine()}; {arguments.threads} threads, device "
        f"{arguments.device}, {arithmetic}; {named}.\n\nBy `python bench/inference.py`. Seconds "
        "from channels on the CT's grid to a label map (whole: from files to written masks, start "
        "of the process and registration included); peak resident memory of the process."
    )


def table(row: Row, found: dict[str, Any], arguments: argparse.Namespace) -> str:
    """One row's runs in Markdown."""
    manifest = bundle.load_bundle(weights_of(row, arguments)).manifest
    kind = "toy network" if row.toy_mm else f"shipped ensemble, {len(manifest.folds)} folds"
    shape = "×".join(str(n) for n in reversed(CT_SIZES[row.size].shape))
    mm = "×".join(f"{n:g}" for n in reversed(manifest.spacing_mm))
    lines = [
        f"## {row.name}: {shape}, {len(manifest.labels)} classes, {kind} at {mm} mm",
        "",
        "| | seconds | peak, MiB | steps: seconds (MiB) | equal in the body | worst Dice |",
        "|---|---|---|---|---|---|",
        *(line(who, found[who]) for who in row.runs),
    ]
    return "\n".join(lines)


def line(who: str, run: dict[str, Any]) -> str:
    """One run."""
    if "failed" in run:
        return f"| {TITLES[who]} | {run['failed']} | | | | |"
    steps = ", ".join(f"{name} {seconds:.1f} ({mib})" for name, seconds, mib in run["steps"])
    gpu = f" + {run['gpu_mib']} on the GPU" if "gpu_mib" in run else ""
    return (
        f"| {TITLES[who]} | {run['seconds']:.1f} | {run['peak_mib']}{gpu} | {steps} | "
        f"{' | '.join(agreement_cells(run.get('agreement')))} |"
    )


def agreement_cells(found: dict[str, Any] | None) -> Iterator[str]:
    """Two cells."""
    if found is None:
        yield from ("", "")
        return
    yield f"{100 * found['equal_in_body']:.4f} % ({found['differ_in_body']} differ)"
    dice = found["dice"]
    worst = min(dice, key=dice.get)
    yield f"{dice[worst]:.4f} (label {worst}, of {len(dice)} with ≥ {MIN_VOXELS} voxels)"


def versions() -> dict[str, str]:
    """Of what computes."""
    found = {"oarseg": __version__}
    for name in ("nnunetv2", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy"):
        with suppress(PackageNotFoundError):  # not all of them are on every machine
            found[name] = version(name)
    return found


def machine() -> str:
    """The processor as the kernel names it, how many there are, and the memory."""
    info = Path("/proc/cpuinfo")
    names = [
        text.split(":", 1)[1].strip()
        for text in (info.read_text().splitlines() if info.is_file() else [])
        if text.startswith("model name")
    ]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} CPUs, {gib:.0f} GiB"


if __name__ == "__main__":
    main()
