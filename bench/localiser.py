"""How many tiles a coarse localiser could leave out at most, with every label as it is.

    python bench/localiser.py --sizes small medium --seeds 300 301 302 --out bench/results

A localiser would say where organs may lie, and tiles that no voxel there depends on would be
left out: labels there do not change by it. The best one would know the answer, so here the
phantom's truth stands for it. Tiles are counted for the organs' voxels alone, for these and
a margin that an unsure localiser needs, and for each organ's box, within which no label may change.
No network runs: a tile is needed or not by where it lies.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cases import ROOT, phantom_channels
from scipy import ndimage

from oarseg.imaging.arrays import Mask
from oarseg.imaging.volume import Grid
from oarseg.inference import preprocessing
from oarseg.inference.preprocessing import Placement
from oarseg.inference.region.body import body_box, find_body
from oarseg.inference.region.footprint import BlockMask
from oarseg.inference.streaming import plan_tiles
from oarseg.model import bundle
from oarseg.model.manifest import Manifest
from oarseg.phantom import PhantomSpec

BLOCK = (2, 4, 4)  # voxels; what a localiser at a quarter of the resolution would tell apart
MARGINS_MM = (10.0, 20.0)
WORTH = 0.3  # share of the tiles that a localiser must save to be worth its own time


def main() -> None:
    """Count and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["small", "medium"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[300, 301, 302])
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    manifest = bundle.load_bundle(arguments.weights).manifest
    rows = [
        (size, seed, count_tiles(PhantomSpec(seed, size), manifest))
        for size in arguments.sizes
        for seed in arguments.seeds
    ]
    text = table(rows, manifest)
    print(text)
    if arguments.out:
        path = arguments.out / f"{datetime.date.today()}-localiser.md"
        path.write_text(text + "\n", encoding="utf-8")


def count_tiles(spec: PhantomSpec, manifest: Manifest) -> dict[str, int]:
    """Count a phantom's tiles by what is labelled: the body, or less."""
    seen = phantom_channels(spec, manifest.channels[1].recipe)
    grid, body = seen.ct.grid, find_body(seen.ct)
    place = preprocessing.preprocess(
        [seen.ct.array, seen.mr], grid.spacing_mm, manifest, box=body_box(body, grid)
    ).placement
    counts = {"body": tiles(body, place, manifest)}
    for name, blocks in organ_masks(seen.truth, grid):
        counts[name] = tiles(BlockMask(blocks, BLOCK, grid.shape), place, manifest)
    return counts


def tiles(mask: BlockMask | None, place: Placement, manifest: Manifest) -> int:
    """Count the tiles that some voxel of a mask depends on."""
    return plan_tiles(place, manifest, mask=mask).count


def organ_masks(truth: np.ndarray, grid: Grid) -> Iterator[tuple[str, Mask]]:
    """Yield what a perfect localiser would give, by name, in blocks."""
    organs = in_blocks(truth > 0)
    yield "organs", organs
    block_mm = np.multiply(grid.spacing_mm, BLOCK)
    away_mm = ndimage.distance_transform_edt(~organs, sampling=block_mm)
    for margin_mm in MARGINS_MM:
        yield f"organs and {margin_mm:g} mm", away_mm <= margin_mm
    boxes = np.zeros_like(truth, bool)
    for box in ndimage.find_objects(truth):
        if box is not None:
            boxes[box] = True
    yield "organs' boxes", in_blocks(boxes)


def in_blocks(mask: Mask) -> Mask:
    """Tell which blocks hold a voxel of a mask; the last block of an axis holds the remainder."""
    for axis, size in enumerate(BLOCK):
        starts = np.arange(0, max(mask.shape[axis] // size * size, 1), size)
        mask = np.logical_or.reduceat(mask, starts, axis=axis)
    return mask


def table(rows: list[tuple[str, int, dict[str, int]]], manifest: Manifest) -> str:
    """Markdown: the tiles of each phantom, and what the best localiser would save."""
    names = list(rows[0][2])
    patch = "×".join(map(str, manifest.patch_size))
    lines = [
        f"Tiles of {patch} that the labels of each part depend on, {manifest.title}; phantoms, "
        f"{datetime.date.today()}; no time is in it, so it is the same on every machine",
        "",
        f"| size, seed | {' | '.join(names)} |",
        "|---" + "|---:" * len(names) + "|",
    ]
    saved = {name: [1 - counts[name] / counts["body"] for *_, counts in rows] for name in names}
    for size, seed, counts in rows:
        lines.append(f"| {size}, {seed} | {' | '.join(str(counts[name]) for name in names)} |")
    lines.append(f"| saved, mean | {' | '.join(f'{np.mean(saved[n]):.0%}' for n in names)} |")
    best = float(np.mean(saved["organs' boxes"]))
    lines += ["", f"Worth building: {'yes' if best >= WORTH else 'no'} (from {WORTH:.0%})."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
