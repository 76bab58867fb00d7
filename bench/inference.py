"""Ours and nnUNetPredictor on the shipped ensemble and the same phantom, one after the other.

    python bench/inference.py --size small --region full --out bench/results

Each program runs in a process of its own on float32 networks and the same prepared
channels; seconds and peak memory are those of that process, imports included in memory
and not in time. nnU-Net's networks are rebuilt from the ONNX files' own parameters, and the
bench stops if their logits differ from ONNX Runtime's.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

from oarseg import bundle, channels, engines, preprocessing, streaming  # noqa: E402
from oarseg.evaluation.overlap import dice_by_label  # noqa: E402
from oarseg.phantom import PhantomSpec, make_phantom  # noqa: E402
from oarseg.region import body_box, find_body  # noqa: E402
from oarseg.volume import Grid, Volume  # noqa: E402

MIN_VOXELS = 200
SEED = 1  # the shipped case's, on which nothing is trained


def main() -> None:
    """Run both programs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="small")
    parser.add_argument("--region", choices=("full", "body"), default="full")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--threads", type=int, default=engines.available_cpus())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return
    with tempfile.TemporaryDirectory() as scratch:
        write_case(arguments.size, Path(scratch))
        figures = {who: run(who, arguments, Path(scratch)) for who in ("ours", "peer")}
        text = table(arguments, figures, Path(scratch))
    print(text)
    if arguments.out:
        name = f"{datetime.date.today()}-inference-{arguments.size}-{arguments.region}.md"
        (arguments.out / name).write_text(text + "\n", encoding="utf-8")


def write_case(size: str, folder: Path) -> None:
    """A phantom's channels on the CT's grid, the MR moved by its true transform."""
    phantom = make_phantom(PhantomSpec(SEED, size))
    if phantom.mr is None:
        raise ValueError("the phantom has no MR")
    recipe = bundle.ChannelRecipe("MR_T1", optional=True, standardise="mean_one")
    mr = channels.mr_channel(phantom.mr, phantom.truth.ct_to_mr, phantom.ct.grid, recipe)
    np.save(folder / "ct.npy", phantom.ct.array)
    np.save(folder / "mr.npy", mr)
    (folder / "spacing.json").write_text(json.dumps(phantom.ct.grid.spacing_mm))


def run(who: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One worker process; what it says of itself."""
    command = [sys.executable, __file__, "--worker", who, "--folder", str(folder)]
    options = ["--region", arguments.region, "--weights", str(arguments.weights)]
    threads = str(arguments.threads)
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    done = subprocess.run(
        [*command, *options, "--threads", threads],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"failed": f"ended with status {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def worker(arguments: argparse.Namespace) -> None:
    """Segment the case and print seconds and peak memory as JSON."""
    folder: Path = arguments.folder
    spacing_mm = tuple(json.loads((folder / "spacing.json").read_text()))
    images = [np.load(folder / "ct.npy"), np.load(folder / "mr.npy")]
    segment = ours if arguments.worker == "ours" else peer
    labels, seconds = segment(images, spacing_mm, arguments)
    np.save(folder / f"{arguments.worker}.npy", labels.astype(np.uint8))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib}))


def crop_box(images: list[Any], spacing_mm: Any, region: str) -> Any:
    """The body's box, or None."""
    ct = Volume(images[0], Grid(images[0].shape, spacing_mm))
    return body_box(find_body(ct), ct.grid) if region == "body" else None


def ours(images: list[Any], spacing_mm: Any, arguments: argparse.Namespace) -> tuple[Any, float]:
    """This project's inference."""
    weights = bundle.load(arguments.weights)
    start = time.perf_counter()
    opened = engines.open_engines(weights, device="cpu", threads=arguments.threads)
    box = crop_box(images, spacing_mm, arguments.region)
    net_input = preprocessing.prepare(
        images, spacing_mm, weights.manifest, box=box, threads=arguments.threads
    )
    del images
    labels = streaming.segment(net_input, opened.folds, weights.manifest, threads=arguments.threads)
    return labels, time.perf_counter() - start


def peer(images: list[Any], spacing_mm: Any, arguments: argparse.Namespace) -> tuple[Any, float]:
    """nnUNetPredictor, on the same box."""
    import nnunet_peer

    predictor = nnunet_peer.predictor(bundle.load(arguments.weights), threads=arguments.threads)
    start = time.perf_counter()
    box = crop_box(images, spacing_mm, arguments.region)
    where = tuple(slice(*interval) for interval in box) if box else (slice(None),) * 3
    stacked = np.stack([image[where].astype(np.float32) for image in images])
    labels = np.zeros(images[0].shape, np.uint8)
    labels[where] = predictor.predict_single_npy_array(stacked, {"spacing": list(spacing_mm)})
    return labels, time.perf_counter() - start


def table(arguments: argparse.Namespace, figures: dict[str, dict[str, Any]], folder: Path) -> str:
    """The comparison in Markdown."""
    shape = "×".join(str(n) for n in np.load(folder / "ct.npy", mmap_mode="r").shape)
    folds = len(bundle.load(arguments.weights).manifest.folds)
    lines = [
        f"Phantom {shape} (z×y×x), 31 classes, {folds} folds, region {arguments.region}, float32, "
        f"{arguments.threads} threads, {datetime.date.today()}",
        "",
        f"{cpu_name()}; "
        + ", ".join(
            f"{name} {version(name)}" for name in ("nnunetv2", "torch", "onnxruntime", "openvino")
        ),
        "",
        "| | seconds | peak memory, MiB |",
        "|---|---|---|",
    ]
    for who, title in (("ours", "oarseg"), ("peer", "nnUNetPredictor")):
        found = figures[who]
        lines.append(
            f"| {title} | {found['failed']} | |"
            if "failed" in found
            else f"| {title} | {found['seconds']:.1f} | {found['peak_mib']:.0f} |"
        )
    if all("failed" not in found for found in figures.values()):
        lines += ["", agreement(np.load(folder / "ours.npy"), np.load(folder / "peer.npy"))]
    return "\n".join(lines)


def agreement(mine: Any, theirs: Any) -> str:
    """Voxels equal and the worst structure's Dice."""
    dice = dice_by_label(mine, theirs, labels=30)
    large = np.bincount(theirs.ravel(), minlength=31)[1:] >= MIN_VOXELS
    differing = int(np.count_nonzero(mine != theirs))
    return (
        f"{100 * (1 - differing / mine.size):.4f} % of voxels equal ({differing} differ); "
        f"worst Dice {np.nanmin(dice[large]):.4f} over {int(large.sum())} structures of at least "
        f"{MIN_VOXELS} voxels."
    )


def cpu_name() -> str:
    """The processor as the kernel names it, and how many there are."""
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.is_file() else [])
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} CPUs"


if __name__ == "__main__":
    main()
