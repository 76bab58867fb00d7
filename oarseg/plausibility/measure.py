"""Measure organs: size, place, parts, holes, empty slices, the image's edges, mean value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges.plausibility import Plausibility
from oarseg.challenges.structures import Organ, Outline
from oarseg.imaging.orientation import to_lps
from oarseg.imaging.volume import Grid, Vector, Volume
from oarseg.labels.runs import (
    LabelRuns,
    RunNumbers,
    Runs,
    distance_mm,
    enclosed_background,
    number_parts,
)

# The faces of an image whose axes run to the left, to the back and up, by (z, y, x).
FACES = (("inferior", "superior"), ("anterior", "posterior"), ("right", "left"))
# The largest of them; those of a ragged label map would take their time.
MEASURED_STRAYS = 100
COMPARED_RUNS = 500
MANY_PARTS = 1 << 30


@dataclass(frozen=True)
class Measured:
    """What a label map says of one organ. Without a voxel all but the name is 0 or None.

    Attributes:
        organ: its name.
        volume_cm3: of all its voxels.
        centroid_mm: (x, y, z) in the world, LPS, without stray parts.
        parts: connected parts, stray ones too; voxels that meet at a corner are connected.
        stray_parts, stray_cm3: those that are small, or far from the largest.
        stray_farthest_mm: from the others to the stray one that is farthest from them.
        holes, holes_cm3: background that it encloses on all sides.
        empty_slices: between filled ones of the largest part.
        edges: faces of the image that it reaches.
        mean: of the reference image's values; None without the image.
    """

    organ: str
    volume_cm3: float = 0.0
    centroid_mm: Vector | None = None
    parts: int = 0
    stray_parts: int = 0
    stray_cm3: float = 0.0
    stray_farthest_mm: float = 0.0
    holes: int = 0
    holes_cm3: float = 0.0
    empty_slices: int = 0
    edges: tuple[str, ...] = ()
    mean: float | None = None

    @property
    def missing(self) -> bool:
        """Return whether there is no voxel of it."""
        return self.centroid_mm is None


def measure_organs(
    labels: Volume,
    organs: Sequence[Organ],
    limits: Plausibility,
    *,
    image: Volume | None = None,
) -> tuple[Measured, ...] | None:
    """Measure every organ of a label map.

    Args:
        labels: uint8, on any grid; slices are those across the patient's length.
        organs: unions of labels.
        limits: what a stray part is.
        image: the reference image on the labels' grid, for means.

    Returns:
        In the order of ``organs``; None for a label map too ragged to measure.
    """
    turn = to_lps(labels.grid)
    upright = turn.array(labels.array)
    runs = LabelRuns(upright)
    if not runs.whole:
        return None
    grid = turn.grid(labels.grid)
    sums = None if image is None else _sums_by_label(labels.array, image.array)
    return tuple(_measure(organ, runs.of(organ.labels), grid, limits, sums) for organ in organs)


def usual_parts(outline: Outline, limits: Plausibility) -> int:
    """Return how many parts an organ has by nature; a target volume may have any number."""
    return limits.parts.get(outline.name, 1) if outline.rt_type == "ORGAN" else MANY_PARTS


def stray_parts(
    runs: Runs, grid: Grid, limits: Plausibility, *, usual: int = 1
) -> tuple[NDArray[np.bool_], RunNumbers]:
    """Tell which of an organ's runs belong to stray parts, and number the connected parts.

    Args:
        runs: the organ's.
        grid: gives the voxels' size.
        usual: how many of the largest parts the organ has by nature.
        limits: what a stray part is. Slices that are empty for less than ``bridged_mm`` are
            left out before parts are connected, so that such a gap divides nothing.

    Returns:
        Whether each run is stray, and the number of its part, the largest being 0.
    """
    parts = number_parts(runs, z=_bridged_planes(runs, limits.bridged_mm / grid.spacing_mm[0]))
    sizes = np.bincount(parts, weights=runs.lengths)
    stray = sizes < limits.stray_share * sizes.sum()
    stray[:usual] = False
    main = runs.where(parts < usual)
    # Few parts can be so large; of a ragged label map's many specks each is stray.
    doubtful = np.flatnonzero(~stray)[usual:]
    specks = np.flatnonzero(stray & (sizes < limits.speck_voxels))
    if specks.size <= MEASURED_STRAYS:
        doubtful = np.concatenate([doubtful, specks])
    for number in doubtful:
        stray[number] = _apart_mm(runs.where(parts == number), main, grid) > limits.stray_mm
    return stray[parts], parts


def _apart_mm(part: Runs, main: Runs, grid: Grid) -> float:
    """Return how far a part lies from the others; of many runs some are compared."""
    some = part.where(np.unique(np.linspace(0, len(part) - 1, COMPARED_RUNS).astype(int)))
    return distance_mm(some, main, grid.spacing_mm)


def _bridged_planes(runs: Runs, most: float) -> RunNumbers:
    """Renumber planes so that fewer than ``most`` empty ones between filled ones vanish."""
    filled = np.unique(runs.z)
    empty = np.diff(filled) - 1
    steps = np.where(empty <= most, 1, empty + 1)
    numbers = np.concatenate([[0], np.cumsum(steps)])
    planes: RunNumbers = numbers[np.searchsorted(filled, runs.z)]
    return planes


def _measure(
    organ: Organ,
    runs: Runs,
    grid: Grid,
    limits: Plausibility,
    sums: NDArray[np.float64] | None,
) -> Measured:
    if len(runs) == 0:
        return Measured(organ.name)
    usual = usual_parts(organ, limits)
    is_stray, parts = stray_parts(runs, grid, limits, usual=usual)
    kept, stray = runs.where(~is_stray), runs.where(is_stray)
    # The numbers rise as the parts get smaller.
    strays = np.unique(parts[is_stray])
    holes = enclosed_background(kept)
    cm3 = grid.voxel_volume_mm3 / 1000
    # Other parts that belong to it may lie where they like.
    planes = np.unique(runs.z[parts == 0])
    mean = None if sums is None else float(sums[list(organ.labels)].sum() / runs.voxels)
    far = [_apart_mm(runs.where(parts == k), kept, grid) for k in strays[:MEASURED_STRAYS]]
    return Measured(
        organ.name,
        volume_cm3=runs.voxels * cm3,
        centroid_mm=cast(Vector, tuple(grid.to_world(kept.centroid()[None])[0].tolist())),
        parts=int(parts.max()) + 1,
        stray_parts=int(strays.size),
        stray_cm3=stray.voxels * cm3,
        stray_farthest_mm=max(far, default=0.0),
        holes=_count_holes(holes),
        holes_cm3=holes.voxels * cm3,
        empty_slices=int(planes[-1] - planes[0] + 1 - planes.size),
        edges=_edges(kept, grid),
        mean=mean,
    )


def _count_holes(holes: Runs) -> int:
    return int(number_parts(holes).max(initial=-1)) + 1


def _edges(runs: Runs, grid: Grid) -> tuple[str, ...]:
    """Name the faces of the image that an organ reaches, in the patient's terms."""
    lows = (runs.z, runs.y, runs.start)
    highs = (runs.z, runs.y, runs.stop - 1)
    found = []
    for names, low, high, length in zip(FACES, lows, highs, grid.shape, strict=True):
        found += [names[0]] if low.min() == 0 else []
        found += [names[1]] if high.max() == length - 1 else []
    return tuple(found)


def _sums_by_label(labels: NDArray[np.uint8], image: NDArray[Any]) -> NDArray[np.float64]:
    """Sum an image's values by label, plane by plane."""
    sums = np.zeros(256)
    for marks, values in zip(labels, image, strict=True):
        inside = np.flatnonzero(marks)
        if inside.size:
            flat = marks.ravel()[inside]
            sums += np.bincount(flat, weights=values.ravel()[inside], minlength=256)
    return sums
