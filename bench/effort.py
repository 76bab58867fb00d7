"""What each way of saving time costs in Dice, on phantoms that nothing was trained on.

    python bench/effort.py --seeds 300 301 --out bench/results

Dice is against the phantom's truth, over the structures of at least ``MIN_VOXELS``; the MR is
moved by its true transform, the region is the body's box.
"""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path
from typing import Any

import numpy as np
from cases import ROOT, phantom_channels

from oarseg.inference import preprocessing, streaming
from oarseg.inference.body import body_box, find_body
from oarseg.inference.engines import choice
from oarseg.inference.streaming import Effort
from oarseg.labels.dice import dice_by_label
from oarseg.model import bundle
from oarseg.model.manifest import Manifest
from oarseg.phantom import PhantomSpec
from oarseg.system.cpus import available_cpus

MIN_VOXELS = 200
STEPS = (0.5, 0.75, 1.0)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[300, 301])
    parser.add_argument("--size", default="small")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    text = table(arguments, measure(arguments))
    print(text)
    if arguments.out:
        path = arguments.out / f"{datetime.date.today()}-effort.md"
        path.write_text(text + "\n", encoding="utf-8")


def measure(arguments: argparse.Namespace) -> dict[Effort, tuple[list[float], float]]:
    """Mean Dice of each phantom, and seconds in all, for each effort."""
    weights = bundle.load_bundle(arguments.weights)
    opened = choice.open_engines(weights, device="cpu", threads=arguments.threads)
    folds = opened.folds
    efforts = [Effort(n, False, step) for n in range(folds, 0, -1) for step in STEPS]
    found: dict[Effort, tuple[list[float], float]] = {effort: ([], 0.0) for effort in efforts}
    for seed in arguments.seeds:
        net_input, body, truth = prepared(PhantomSpec(seed, arguments.size), weights.manifest)
        for effort in efforts:
            start = time.perf_counter()
            labels = streaming.segment_streaming(
                net_input,
                opened.take(effort.folds),
                weights.manifest,
                effort=effort,
                mask=body,
                threads=arguments.threads,
            )
            scores, seconds = found[effort]
            scores.append(mean_dice(labels, truth))
            found[effort] = scores, seconds + time.perf_counter() - start
    return found


def prepared(spec: PhantomSpec, manifest: Manifest) -> tuple[Any, Any, Any]:
    """A phantom as the network sees it, its body, and its truth."""
    seen = phantom_channels(spec, manifest.channels[1].recipe)
    body, grid = find_body(seen.ct), seen.ct.grid
    net_input = preprocessing.preprocess(
        [seen.ct.array, seen.mr], grid.spacing_mm, manifest, box=body_box(body, grid)
    )
    return net_input, body, seen.truth


def mean_dice(labels: Any, truth: Any) -> float:
    """Over the structures that are large enough."""
    dice = dice_by_label(labels, truth, labels=30)
    large = np.bincount(truth.ravel(), minlength=31)[1:] >= MIN_VOXELS
    return float(np.nanmean(dice[large]))


def table(arguments: argparse.Namespace, found: dict[Effort, tuple[list[float], float]]) -> str:
    """Markdown."""
    whole = next(iter(found.values()))
    seeds = ", ".join(map(str, arguments.seeds))
    title = bundle.load_bundle(arguments.weights).manifest.title
    lines = [
        f"{len(arguments.seeds)} phantoms (size {arguments.size}, seeds {seeds}), {title}, "
        f"{datetime.date.today()}",
        "",
        "| folds | step | Dice | change | time |",
        "|---|---|---|---|---|",
    ]
    for effort, (scores, seconds) in found.items():
        lines.append(
            f"| {effort.folds} | {effort.step} | {np.mean(scores):.4f} | "
            f"{np.mean(scores) - np.mean(whole[0]):+.4f} | {seconds / whole[1]:.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
