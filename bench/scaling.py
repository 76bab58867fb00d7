"""How time and memory grow with voxels, classes and folds: a plot and its figures.

    python bench/scaling.py --out bench/results

Toy networks on parts of one phantom at the network's own spacing; the whole part is computed,
so that nothing but the named quantity changes. Each point is a process of its own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cases
import numpy as np

HERE = Path(__file__).resolve().parent
# Voxels along a row, classes, folds.
POINTS: dict[str, list[tuple[int, int, int]]] = {
    "voxels": [(n, 31, 1) for n in (192, 256, 384, 512)],
    "classes": [(256, n, 1) for n in (4, 16, 31)],
    "folds": [(256, 31, n) for n in (1, 2, 4)],
}
DEPTH = 64


def main() -> None:
    """Measure, write JSON, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = {
        name: [point(*where, arguments.threads) for where in points]
        for name, points in POINTS.items()
    }
    stem = arguments.out / f"{datetime.date.today()}-scaling"
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, stem.with_suffix(".png"))
    print(stem.with_suffix(".json"), stem.with_suffix(".png"))


def point(width: int, classes: int, folds: int, threads: int) -> dict[str, Any]:
    """One process on a part of the phantom."""
    case = part(width)
    spacing_mm = tuple(json.loads((case / "spacing.json").read_text()))
    weights = cases.toy(spacing_mm, classes=classes, folds=folds)
    command = [sys.executable, str(HERE / "worker.py"), "ours", "--region", "whole"]
    command += ["--case", str(case), "--weights", str(weights), "--threads", str(threads)]
    command += ["--labels", str(cases.CACHE / "scaling.npy")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{width} wide, {classes} classes, {folds} folds: {figures}", file=sys.stderr)
    voxels = DEPTH * width * width
    return figures | {"voxels": voxels, "classes": classes, "folds": folds}


def part(width: int) -> Path:
    """The middle of the medium phantom's lowest slices."""
    source = cases.case("medium")

    def make(folder: Path) -> None:
        start = (512 - width) // 2
        where = np.s_[:DEPTH, start : start + width, start : start + width]
        for name in ("ct.npy", "mr.npy"):
            np.save(folder / name, np.load(source / name, mmap_mode="r")[where])
        (folder / "spacing.json").write_text((source / "spacing.json").read_text())

    return cases.kept(cases.CACHE / "cases" / f"part-{width}", make)


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Time above, memory below, against each quantity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(found), figsize=(9, 5), sharey="row")
    for column, (name, points) in enumerate(found.items()):
        across = [p[name] / (1e6 if name == "voxels" else 1) for p in points]
        for row, key in enumerate(("seconds", "peak_mib")):
            axes[row, column].plot(across, [p[key] for p in points], "o-", color="C0")
            axes[row, column].set_ylim(0, 1.1 * max(p[key] for ps in found.values() for p in ps))
            axes[row, column].grid(alpha=0.3)
        axes[1, column].set_xlabel("million voxels" if name == "voxels" else name)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("peak memory, MiB")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
