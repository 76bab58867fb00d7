"""What each way of saving time costs in Dice, on phantoms that nothing was trained on.

    python bench/effort.py --seeds 300 301 --out bench/results

Dice is against the phantom's truth, over the structures of at least ``MIN_VOXELS``; the MR is
moved by its true transform, the region is the body's box. ``fast`` is bfloat16 where the CPU has
it, and equals ``exact`` where it has not: the table's heading says which it was.
"""

from __future__ import annotations

import argparse
import datetime
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cases import ROOT, phantom_channels

from oarseg.inference import preprocessing, streaming
from oarseg.inference.engines import choice
from oarseg.inference.engines.choice import Engines
from oarseg.inference.region.body import body_box, find_body
from oarseg.inference.streaming import Effort
from oarseg.labels.dice import dice_by_label
from oarseg.model import bundle
from oarseg.model.manifest import Exactness, Manifest
from oarseg.phantom import PhantomSpec
from oarseg.system.cpus import available_cpus

MIN_VOXELS = 200
STEPS = (0.5, 0.75, 1.0)
EXACTNESS: tuple[Exactness, ...] = ("exact", "fast")


@dataclass(frozen=True)
class Way:
    """One way of computing a case: how exactly, and how much of it."""

    exactness: Exactness
    effort: Effort


@dataclass
class Taken:
    """What one way yielded: each phantom's mean Dice, and seconds in all."""

    scores: list[float] = field(default_factory=list)
    seconds: float = 0.0


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
    weights = bundle.load_bundle(arguments.weights)
    opened = {
        how: choice.open_engines(weights, exactness=how, device="cpu", threads=arguments.threads)
        for how in EXACTNESS
    }
    text = table(arguments, opened, measure(arguments, opened))
    print(text)
    if arguments.out:
        path = arguments.out / f"{datetime.date.today()}-effort.md"
        path.write_text(text + "\n", encoding="utf-8")


def measure(arguments: argparse.Namespace, opened: dict[Exactness, Engines]) -> dict[Way, Taken]:
    """Label every phantom in every way, the whole effort first."""
    manifest = bundle.load_bundle(arguments.weights).manifest
    folds = opened["exact"].folds
    efforts = [Effort(n, False, step) for n in range(folds, 0, -1) for step in STEPS]
    taken = {Way(how, effort): Taken() for how in EXACTNESS for effort in efforts}
    for seed in arguments.seeds:
        net_input, body, truth = prepared(PhantomSpec(seed, arguments.size), manifest)
        for way, row in taken.items():
            joint = way.exactness == "fast"
            engines = opened[way.exactness].take(way.effort.folds, mean=joint)
            start = time.perf_counter()
            labels = streaming.segment_streaming(
                net_input,
                engines,
                manifest,
                effort=way.effort,
                joint=joint,
                mask=body,
                threads=arguments.threads,
            )
            row.seconds += time.perf_counter() - start
            row.scores.append(mean_dice(labels, truth))
    return taken


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


def table(
    arguments: argparse.Namespace, opened: dict[Exactness, Engines], taken: dict[Way, Taken]
) -> str:
    """Markdown, against the first row."""
    whole = next(iter(taken.values()))
    seeds = ", ".join(map(str, arguments.seeds))
    title = bundle.load_bundle(arguments.weights).manifest.title
    arithmetic = ", ".join(f"{how}: {opened[how].choice.arithmetic}" for how in EXACTNESS)
    lines = [
        f"{len(arguments.seeds)} phantoms (size {arguments.size}, seeds {seeds}), {title}, "
        f"{arithmetic}, {datetime.date.today()}",
        "",
        "| precision | folds | step | Dice | change | time |",
        "|---|---|---|---|---|---|",
    ]
    for way, row in taken.items():
        lines.append(
            f"| {way.exactness} | {way.effort.folds} | {way.effort.step} | "
            f"{np.mean(row.scores):.4f} | {np.mean(row.scores) - np.mean(whole.scores):+.4f} | "
            f"{row.seconds / whole.seconds:.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
