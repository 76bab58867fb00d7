"""Registration's error and time on phantoms and on a moved pair of templates.

    python bench/registration.py --phantoms 30 --templates DIR --moves 20

DIR holds ct_template_2mm.nii.gz and t1_template_mni152.nii.gz, both in one frame.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from oarseg.phantom import PhantomSpec, make_phantom
from oarseg.registration import move, register, target_registration_errors
from oarseg.rigid import RigidTransform
from oarseg.volume import Grid, Volume, from_sitk

FIRST_SEED = 200  # seeds on which nothing is trained
# On and in the head, MNI space in LPS: nasion, occiput, both temples, two in the brain.
TEMPLATE_POINTS = np.array(
    [[0, -75, -30], [0, 100, -20], [65, 20, -40], [-65, 20, -40], [40, -30, 40], [-40, 40, 40.0]]
)


@dataclass(frozen=True)
class Pair:
    """A CT, an MR, and points known in both worlds."""

    name: str
    ct: Volume
    mr: Volume
    ct_points: np.ndarray
    mr_points: np.ndarray


def phantoms(count: int, size: str) -> Iterator[Pair]:
    """Phantoms with their landmarks, those without an MR left out."""
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        phantom = make_phantom(PhantomSpec(seed, size))
        truth = phantom.truth
        if phantom.mr is not None:
            points = np.array([truth.landmarks_ct[name] for name in truth.landmarks_ct])
            moved = np.array([truth.landmarks_mr[name] for name in truth.landmarks_ct])
            yield Pair(f"phantom {seed}", phantom.ct, phantom.mr, points, moved)


def template_pairs(folder: Path, count: int) -> Iterator[Pair]:
    """The templates, the MR moved, cut and in thick slices, a seed each."""
    ct = from_sitk(sitk.ReadImage(str(folder / "ct_template_2mm.nii.gz")))
    ct = ct.with_array(from_cormack(ct.array))
    image = sitk.ReadImage(str(folder / "t1_template_mni152.nii.gz"))
    # Slices of 4 mm: a Gaussian of that width at half maximum, along z only.
    thick = from_sitk(sitk.SmoothingRecursiveGaussian(image, [0.1, 0.1, 1.7]))
    for seed in range(count):
        mr, truth = moved_template(thick, np.random.default_rng(seed))
        yield Pair(f"move {seed}", ct, mr, TEMPLATE_POINTS, truth.apply(TEMPLATE_POINTS))


def from_cormack(values: np.ndarray) -> np.ndarray:
    """HU from the Clinical Toolbox's scale, which stretches −100…100 HU elevenfold."""
    soft = np.where(values < 3100, -100 + (values - 900) / 11, 100 + (values - 3100))
    return np.where(values < 900, values - 1000, soft).astype(np.int16)


def moved_template(mr: Volume, rng: np.random.Generator) -> tuple[Volume, RigidTransform]:
    """Turn by up to 8° an axis, shift by up to 60 mm (z −600…165), cut a random field."""
    centre = mr.grid.to_world((np.array([mr.grid.shape]) - 1) / 2)[0]
    truth = RigidTransform.about(
        tuple(centre.tolist()),
        angles_deg=tuple(rng.uniform(-8, 8, 3).tolist()),
        shift_mm=(*rng.uniform(-60, 60, 2).tolist(), float(rng.uniform(-600, 165))),
    )
    extent = np.array([*rng.uniform(140, 240, 2), rng.uniform(110, 170)])
    spacing = np.array([0.8, 0.8, 4.0])
    middle = truth.apply(centre[None])[0] + rng.uniform(-1, 1, 3) * [10, 10, 15]
    shape = tuple((extent / spacing).astype(int)[::-1].tolist())
    origin = middle - (np.array(shape[::-1]) - 1) * spacing / 2
    grid = Grid(shape, tuple(spacing[::-1].tolist()), tuple(origin.tolist()))
    seen = move(mr, truth.inverse(), grid, outside=0.0).array * rng.uniform(1, 30)
    noise = np.abs(rng.normal(0, 0.02 * seen.max(), seen.shape))
    return Volume((seen + noise).astype(np.float32), grid), truth


def row(pair: Pair, threads: int) -> float:
    """Register one pair, print its line and return its mean error in mm."""
    before = time.process_time()
    found = register(pair.ct, pair.mr, threads=threads)
    cpu = time.process_time() - before
    errors = target_registration_errors(found.transform, pair.ct_points, pair.mr_points)
    verdict = found.verdict
    sys.stdout.write(
        f"{pair.name:12} TRE mean {errors.mean():6.2f} max {errors.max():6.2f} mm | "
        f"{found.seconds:5.1f} s, {cpu:5.1f} s CPU | {verdict.status:8} "
        f"information {verdict.information:.3f} contrast {verdict.contrast:.2f} "
        f"overlap {verdict.overlap:.2f} angle {verdict.angle_deg:.1f}\n"
    )
    sys.stdout.flush()
    return float(errors.mean())


def main() -> None:
    """Print a line a pair and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantoms", type=int, default=0)
    parser.add_argument("--size", default="small")
    parser.add_argument("--templates", type=Path)
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    groups = {"phantoms": phantoms(options.phantoms, options.size)}
    if options.templates:
        groups["templates"] = template_pairs(options.templates, options.moves)
    for name, pairs in groups.items():
        means = [row(pair, options.threads) for pair in pairs]
        if means:
            sys.stdout.write(f"{name}: mean {np.mean(means):.2f}, worst {max(means):.2f} mm\n")


if __name__ == "__main__":
    main()
