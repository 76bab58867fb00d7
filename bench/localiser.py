"""How many tiles a coarse localiser could leave out, and what labels it would change.

    python bench/localiser.py --sizes median --seeds 1 300 --compare --out bench/results

Tiles are counted for what is labelled: the body, what a first look with the model's own network
bounds (``first_look.py``), and what a perfect look would, which knows the truth: the organs alone,
with margins, and each organ's box. With ``--compare`` the body and the first look's region are
labelled, and their labels compared within the true organs' boxes and elsewhere. No time is in
the table, so that it is the same on every machine of one arithmetic.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import ROOT, phantom_channels
from first_look import find_organ_region
from scipy import ndimage

from oarseg.imaging.arrays import Labels, Mask
from oarseg.imaging.volume import Grid
from oarseg.inference import preprocessing
from oarseg.inference.engines import choice
from oarseg.inference.engines.protocol import Engine
from oarseg.inference.preprocessing import NetworkInput, Placement
from oarseg.inference.region.body import body_box, find_body
from oarseg.inference.region.footprint import BlockMask
from oarseg.inference.streaming import plan_tiles, segment_streaming
from oarseg.model import bundle
from oarseg.model.manifest import Manifest
from oarseg.phantom import PhantomSpec
from oarseg.system.cpus import available_cpus

BLOCK = (2, 4, 4)  # voxels; what a localiser at a quarter of the resolution would tell apart
MARGINS_MM = (10.0, 20.0)
LOOK = "first look"


@dataclass(frozen=True)
class Row:
    """One phantom: tiles by what is labelled, and labels that changed in boxes and elsewhere."""

    size: str
    seed: int
    tiles: dict[str, int]
    look_tiles: int
    changed: tuple[int, int] | None


@dataclass(frozen=True)
class Model:
    """What looks and labels."""

    manifest: Manifest
    engines: Sequence[Engine]
    threads: int

    def label(self, network: NetworkInput, mask: BlockMask | None) -> Labels:
        """Label a phantom's part."""
        return segment_streaming(
            network, self.engines, self.manifest, mask=mask, threads=self.threads
        )


def main() -> None:
    """Count and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["small", "medium"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[300, 301, 302])
    parser.add_argument("--compare", action="store_true", help="label both, which takes minutes")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    weights = bundle.load_bundle(arguments.weights)
    opened = choice.open_engines(weights, device="cpu", threads=arguments.threads)
    model = Model(weights.manifest, opened.take(), arguments.threads)
    rows = []
    for size in arguments.sizes:
        for seed in arguments.seeds:
            rows.append(measure(PhantomSpec(seed, size), model, compare=arguments.compare))
            print(rows[-1], flush=True)
    text = table(rows, weights.manifest)
    print(text)
    if arguments.out:
        path = arguments.out / f"{datetime.date.today()}-localiser.md"
        path.write_text(text + "\n", encoding="utf-8")


def measure(spec: PhantomSpec, model: Model, *, compare: bool) -> Row:
    """Count a phantom's tiles by what is labelled, and the labels that a first look changes."""
    manifest = model.manifest
    seen = phantom_channels(spec, manifest.channels[1].recipe)
    grid, body = seen.ct.grid, find_body(seen.ct)
    if body is None:
        raise SystemExit("a phantom without a body")
    network = preprocessing.preprocess(
        [seen.ct.array, seen.mr],
        grid.spacing_mm,
        manifest,
        box=body_box(body, grid),
        threads=model.threads,
    )
    place = network.placement
    look = find_organ_region(network, model.engines[0], manifest, body)
    part = body if look is None else look.mask
    counts = {"body": tiles(body, place, manifest), LOOK: tiles(part, place, manifest)}
    for name, blocks in organ_masks(seen.truth, grid):
        counts[name] = tiles(BlockMask(blocks, BLOCK, grid.shape), place, manifest)
    changed = None
    if compare:
        differ = model.label(network, body) != model.label(network, part)
        boxes = organ_boxes(seen.truth)
        changed = (int(differ[boxes].sum()), int(differ[~boxes].sum()))
    return Row(spec.size, spec.seed, counts, 0 if look is None else look.look_tiles, changed)


def tiles(mask: BlockMask | None, place: Placement, manifest: Manifest) -> int:
    """Count the tiles that some voxel of a mask depends on."""
    return plan_tiles(place, manifest, mask=mask).count


def organ_masks(truth: Labels, grid: Grid) -> Iterator[tuple[str, Mask]]:
    """Yield what a perfect localiser would give, by name, in blocks."""
    organs = in_blocks(truth > 0)
    yield "organs", organs
    block_mm = np.multiply(grid.spacing_mm, BLOCK)
    away_mm = ndimage.distance_transform_edt(~organs, sampling=block_mm)
    for margin_mm in MARGINS_MM:
        yield f"organs and {margin_mm:g} mm", away_mm <= margin_mm
    yield "organs' boxes", in_blocks(organ_boxes(truth))


def organ_boxes(truth: Labels) -> Mask:
    """Mark each organ's box."""
    boxes = np.zeros_like(truth, bool)
    for box in ndimage.find_objects(truth):
        if box is not None:
            boxes[box] = True
    return boxes


def in_blocks(mask: Mask) -> Mask:
    """Tell which blocks hold a voxel of a mask; the last block of an axis holds the remainder."""
    for axis, size in enumerate(BLOCK):
        starts = np.arange(0, max(mask.shape[axis] // size * size, 1), size)
        mask = np.logical_or.reduceat(mask, starts, axis=axis)
    return mask


def table(rows: Sequence[Row], manifest: Manifest) -> str:
    """Markdown: the tiles of each phantom, and what a look saves and takes."""
    names = list(rows[0].tiles)
    folds = len(manifest.folds)
    patch = "×".join(map(str, manifest.patch_size))
    lines = [
        f"Tiles of {patch} that the labels of each part depend on, {manifest.title}; phantoms, "
        f"{datetime.date.today()}. A look's own tiles are of one fold of {folds}.",
        "",
        f"| size, seed | {' | '.join(names)} | the look's own | labels changed in organs' boxes, "
        "elsewhere |",
        "|---" + "|---:" * (len(names) + 2) + "|",
    ]
    for row in rows:
        changed = "" if row.changed is None else ", ".join(f"{n}" for n in row.changed)
        counts = " | ".join(str(row.tiles[name]) for name in names)
        lines.append(f"| {row.size}, {row.seed} | {counts} | {row.look_tiles} | {changed} |")
    saved = {n: np.mean([1 - row.tiles[n] / row.tiles["body"] for row in rows]) for n in names}
    own = np.mean([row.look_tiles / folds / row.tiles["body"] for row in rows])
    shares = " | ".join(f"{saved[name]:.0%}" for name in names)
    lines.append(f"| saved, mean | {shares} | −{own:.0%} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
