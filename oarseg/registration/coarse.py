"""Small, cheap copies of CT and MR: block means, world-aligned grids, body and foreground.

Nothing here makes a floating-point array of the full CT's size: the one pass over the
full array sums blocks of voxels straight into a grid of about 2 mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.errors import RegistrationError
from oarseg.imaging.volume import (
    Grid,
    Shape,
    Vector,
    Volume,
    from_sitk,
    place,
    reversed_triple,
    to_sitk,
)

FINE_MM = 2.0
COARSE_MM = 4.0
AIR_HU = -1000.0
BODY_HU = -300.0
MARGIN_MM = 80.0
MIN_FOREGROUND_MM3 = 1e5
MAX_FIELD_MM = 1500.0
BIAS_SIGMA_MM = 30.0

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CoarseCt:
    """What registration needs of the CT.

    Attributes:
        fine: HU, float32, block means on at most ``FINE_MM`` (or the CT's own, coarser) grid.
        body: HU, float32, on a world-aligned ``COARSE_MM`` grid around the body; all
            but the body (couch, mask shell) is air, and NaN where the CT was not taken.
        mask: the body on ``body``'s grid.
    """

    fine: Volume
    body: Volume
    mask: Mask


@dataclass(frozen=True)
class CoarseMr:
    """What registration needs of the MR.

    Attributes:
        fine: float32 block means, mean 1 over the patient, as ``CoarseCt.fine``.
        field: float32 on a world-aligned ``COARSE_MM`` grid, mean 1 over the patient,
            its slow shading taken out; NaN outside the MR's field.
        foreground: the patient on ``field``'s grid.
    """

    fine: Volume
    field: Volume
    foreground: Mask


def shrink(volume: Volume, *, spacing_mm: float) -> Volume:
    """Means of blocks of voxels, as large as fit into ``spacing_mm`` along each axis.

    Returns:
        float32; a last, incomplete block of an axis is dropped.
    """
    grid = volume.grid
    factors = [
        max(1, min(n, int(spacing_mm / s + 1e-3)))
        for n, s in zip(grid.shape, grid.spacing_mm, strict=True)
    ]
    shape = cast(Shape, tuple(n // f for n, f in zip(grid.shape, factors, strict=True)))
    centre = np.array([[(f - 1) / 2 for f in factors]])
    small = Grid(
        shape=shape,
        spacing_mm=cast(
            Vector, tuple(s * f for s, f in zip(grid.spacing_mm, factors, strict=True))
        ),
        origin_mm=cast(Vector, tuple(grid.to_world(centre)[0].tolist())),
        direction=grid.direction,
    )
    return Volume(_block_means(volume.array, shape, factors), small)


def _block_means(array: NDArray[Any], shape: Shape, factors: list[int]) -> Floats:
    depth, height, width = shape
    fz, fy, fx = factors
    out = np.zeros(shape, np.float32)
    for z in range(depth):
        for plane in array[z * fz : (z + 1) * fz]:
            for i in range(fy):
                for j in range(fx):
                    out[z] += plane[i::fy, j::fx][:height, :width]
    out /= np.float32(fz * fy * fx)
    return out


def world_grid(grid: Grid, *, spacing_mm: float) -> Grid:
    """The isotropic grid along the world's axes that holds another grid's voxel centres."""
    last = np.array(grid.shape) - 1.0
    corners = grid.to_world(
        np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)]) * last
    )
    low, high = corners.min(0), corners.max(0)
    size = np.floor((high - low) / spacing_mm).astype(int) + 1
    return Grid(
        shape=reversed_triple(int(n) for n in size),
        spacing_mm=(spacing_mm,) * 3,
        origin_mm=cast(Vector, tuple(low.tolist())),
    )


def resample(volume: Volume, grid: Grid) -> Volume:
    """Linear interpolation onto another grid, float32, NaN outside the image."""
    reference = place(sitk.Image(reversed_triple(grid.shape), sitk.sitkUInt8), grid)
    moved = sitk.Resample(
        to_sitk(volume),
        reference,
        sitk.Transform(),
        sitk.sitkLinear,
        float("nan"),
        sitk.sitkFloat32,
    )
    return from_sitk(moved)


def nearest(mask: Volume, grid: Grid) -> Mask:
    """A mask on another grid, by nearest neighbour; False outside it."""
    reference = place(sitk.Image(reversed_triple(grid.shape), sitk.sitkUInt8), grid)
    moved = sitk.Resample(
        to_sitk(mask.with_array(mask.array.astype(np.uint8))),
        reference,
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        0,
    )
    return cast(Mask, sitk.GetArrayFromImage(moved) > 0)


def crop(volume: Volume, start: Shape, stop: Shape) -> Volume:
    """The part of a volume from index ``start`` to before ``stop``, both (z, y, x)."""
    grid = volume.grid
    part = volume.array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    origin = grid.to_world(np.array([start]))[0]
    return Volume(
        part,
        Grid(part.shape, grid.spacing_mm, cast(Vector, tuple(origin.tolist())), grid.direction),
    )


def coarse_ct(ct: Volume) -> CoarseCt:
    """Shrink the CT and find the body in it.

    Raises:
        RegistrationError: no body in the CT.
    """
    fine = shrink(ct, spacing_mm=FINE_MM)
    small = shrink(fine, spacing_mm=COARSE_MM)
    world = resample(small, world_grid(small.grid, spacing_mm=COARSE_MM))
    mask = body_mask(world.array)
    start, stop = _box_with_margin(mask, margin=int(MARGIN_MM / COARSE_MM))
    body = crop(world, start, stop)
    inside = crop(world.with_array(mask), start, stop).array
    values = np.where(inside | np.isnan(body.array), body.array, np.float32(AIR_HU))
    return CoarseCt(fine, body.with_array(values), inside)


def body_mask(hu: Floats) -> Mask:
    """The patient in a coarse CT (z, y, x; HU; NaN allowed), air cavities filled.

    Opening cuts the thin couch and mask shells off before the largest piece is taken.

    Raises:
        RegistrationError: nothing as large as a piece of a head.
    """
    tissue = np.nan_to_num(hu, nan=AIR_HU) > BODY_HU
    opened = ndimage.binary_opening(tissue, iterations=2)
    piece = largest_component(opened)
    if piece.sum() * COARSE_MM**3 < MIN_FOREGROUND_MM3:
        raise RegistrationError(
            f"CT: expected a patient (tissue above {BODY_HU:.0f} HU), found none; "
            "check that the image is in Hounsfield units"
        )
    whole = ndimage.binary_dilation(piece, iterations=1) & tissue | piece
    for index, plane in enumerate(whole):
        whole[index] = ndimage.binary_fill_holes(plane)
    return cast(Mask, whole)


def largest_component(mask: Mask) -> Mask:
    """The largest 6-connected piece of a mask (the mask itself where it is empty)."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return cast(Mask, labels == int(sizes.argmax()))


def _box_with_margin(mask: Mask, *, margin: int) -> tuple[Shape, Shape]:
    start, stop = [], []
    for axis in range(3):
        other = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero(mask.any(axis=other))
        # The MR may show more slices than hold body, so z keeps its full length.
        start.append(0 if axis == 0 else max(0, int(found[0]) - margin))
        stop.append(mask.shape[0] if axis == 0 else int(found[-1]) + 1 + margin)
    return cast(Shape, tuple(start)), cast(Shape, tuple(stop))


def coarse_mr(mr: Volume) -> CoarseMr:
    """Shrink the MR, bring it to mean 1 over the patient, and find the patient in it.

    Raises:
        RegistrationError: no patient in the MR, or a field larger than any scanner's.
    """
    _check_field(mr.grid)
    fine = shrink(mr, spacing_mm=FINE_MM)
    small = shrink(fine, spacing_mm=COARSE_MM)
    mean = foreground_mean(small)
    fine = fine.with_array(fine.array / np.float32(mean))
    world = resample(small, world_grid(small.grid, spacing_mm=COARSE_MM))
    values = cast(Floats, (world.array / mean).astype(np.float32))
    seen = ~np.isnan(values)
    foreground = seen & (np.nan_to_num(values) > otsu(values[seen]))
    flat = values / _shading(values, foreground)
    return CoarseMr(fine, world.with_array(flat), foreground)


def _check_field(grid: Grid) -> None:
    """Refuse a field whose world-aligned copy could fill the memory."""
    extent = max(n * s for n, s in zip(grid.shape, grid.spacing_mm, strict=True))
    if extent > MAX_FIELD_MM:
        raise RegistrationError(
            f"MR: expected a field of at most {MAX_FIELD_MM:.0f} mm, found {extent:.0f} mm; "
            "check the spacing"
        )


def foreground_mean(small: Volume) -> float:
    """The mean of a coarse MR over its patient.

    Raises:
        RegistrationError: nothing stands out of the background, or too little does.
    """
    values = small.array[np.isfinite(small.array)]
    bright = values[values > otsu(values)]
    volume = bright.size * small.grid.voxel_volume_mm3
    if volume < MIN_FOREGROUND_MM3 or bright.mean() <= 0:
        raise RegistrationError(
            f"MR: expected a patient of at least {MIN_FOREGROUND_MM3 / 1000:.0f} ml, found "
            f"{volume / 1000:.0f} ml above the background; check the image"
        )
    return float(bright.mean(dtype=np.float64))


def otsu(values: NDArray[np.floating[Any]]) -> float:
    """Otsu's threshold (IEEE SMC 1979) on 256 bins, after clipping at the 99th percentile.

    Clipping keeps a few bright voxels (fat, vessels) from stretching the bins; all of it
    scales with the values, so the foreground does not depend on the scanner's gain.
    """
    if values.size == 0:
        return 0.0
    low, high = float(values.min()), float(np.percentile(values, 99))
    if not high > low:
        return high
    counts, edges = np.histogram(np.minimum(values, high), bins=256, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = below[-1] + counts[-1] - below
    sums = np.cumsum(counts * centres)
    total = sums[-1]
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (total - sums[:-1]) / np.maximum(above, 1)
    between = below * above * (mean_below - mean_above) ** 2
    return float(edges[1 + int(between.argmax())])


def _shading(values: Floats, foreground: Mask) -> Floats:
    """The coil's slow shading: the foreground's mean under a wide Gaussian, 1 on average."""
    sigma = BIAS_SIGMA_MM / COARSE_MM
    weight = ndimage.gaussian_filter(foreground.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(foreground, values, np.float32(0)), sigma)
    # Far from the patient there is nothing to average: the constant pulls towards 1.
    return cast(Floats, ((total + 0.02) / (weight + 0.02)).astype(np.float32))
