"""Coarse copies of CT and MR for registration, with body and foreground masks.

No floating-point array has the full CT's size: the only pass over the full array sums
blocks of voxels directly into a grid of about 2 mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import ndimage

from oarseg.errors import RegistrationError
from oarseg.imaging.arrays import Image, Mask
from oarseg.imaging.grids import COARSE_MM, FINE_MM, block_mean, crop_volume, world_grid
from oarseg.imaging.intensities import (
    AIR_HU,
    BODY_HU,
    MIN_FOREGROUND_MM3,
    foreground_mean,
    otsu_threshold,
)
from oarseg.imaging.regrid import resample_linear
from oarseg.imaging.volume import (
    Grid,
    Shape,
    Volume,
)

SEARCH_MARGIN_MM = 80.0
MAX_FIELD_MM = 1500.0
BIAS_SIGMA_MM = 30.0


@dataclass(frozen=True)
class CoarseCt:
    """Coarse copies of a CT.

    Attributes:
        fine: HU, float32; block means with a spacing of at most ``FINE_MM``, or the CT's own
            if coarser.
        body: HU, float32, on a world-aligned ``COARSE_MM`` grid around the body. Air outside
            the body (couch, mask shell), NaN outside the CT's field of view.
        mask: the body on ``body``'s grid.
    """

    fine: Volume
    body: Volume
    mask: Mask


@dataclass(frozen=True)
class CoarseMr:
    """Coarse copies of an MR.

    Attributes:
        fine: float32; block means as ``CoarseCt.fine``, scaled to mean 1 over the patient.
        field: float32 on a world-aligned ``COARSE_MM`` grid, mean 1 over the patient,
            corrected for the bias field; NaN outside the MR's field of view.
        foreground: the patient on ``field``'s grid.
    """

    fine: Volume
    field: Volume
    foreground: Mask


def coarse_ct(ct: Volume, *, threads: int = 1) -> CoarseCt:
    """Downsample the CT and segment the body; the result does not depend on ``threads``.

    Raises:
        RegistrationError: no body found.
    """
    fine = block_mean(ct, spacing_mm=FINE_MM, threads=threads)
    small = block_mean(fine, spacing_mm=COARSE_MM)
    world = resample_linear(small, world_grid(small.grid, spacing_mm=COARSE_MM))
    mask = body_mask(world.array)
    start, stop = _box_with_margin(mask, margin=int(SEARCH_MARGIN_MM / COARSE_MM))
    body = crop_volume(world, start, stop)
    inside = crop_volume(world.with_array(mask), start, stop).array
    values = np.where(inside | np.isnan(body.array), body.array, np.float32(AIR_HU))
    return CoarseCt(fine, body.with_array(values), inside)


def body_mask(hu: Image) -> Mask:
    """Segment the patient in a coarse CT (z, y, x; HU; NaN allowed), air cavities filled.

    Opening removes the thin couch and mask shells; the largest component remains.

    Raises:
        RegistrationError: no component as large as part of a head.
    """
    tissue = np.nan_to_num(hu, nan=AIR_HU) > BODY_HU
    opened = ndimage.binary_opening(tissue, iterations=2)
    piece = largest_component(opened)
    if piece.sum() * COARSE_MM**3 < MIN_FOREGROUND_MM3:
        raise RegistrationError(
            f"CT: expected a patient (tissue above {BODY_HU:.0f} HU), found none; "
            "check that the image is in Hounsfield units"
        )
    body = ndimage.binary_dilation(piece, iterations=1) & tissue | piece
    for index, plane in enumerate(body):
        body[index] = ndimage.binary_fill_holes(plane)
    return cast(Mask, body)


def largest_component(mask: Mask) -> Mask:
    """Return the largest 6-connected component of a mask; an empty mask unchanged."""
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
        # The MR may cover more slices than the body does: keep all of z.
        start.append(0 if axis == 0 else max(0, int(found[0]) - margin))
        stop.append(mask.shape[0] if axis == 0 else int(found[-1]) + 1 + margin)
    return cast(Shape, tuple(start)), cast(Shape, tuple(stop))


def coarse_mr(mr: Volume) -> CoarseMr:
    """Downsample the MR, scale it to mean 1 over the patient and segment the patient.

    Raises:
        RegistrationError: no patient found, or a field of view larger than any scanner's.
    """
    _check_field(mr.grid)
    fine = block_mean(mr, spacing_mm=FINE_MM)
    small = block_mean(fine, spacing_mm=COARSE_MM)
    mean = foreground_mean(small)
    fine = fine.with_array(fine.array / np.float32(mean))
    world = resample_linear(small, world_grid(small.grid, spacing_mm=COARSE_MM))
    values = cast(Image, (world.array / mean).astype(np.float32))
    seen = ~np.isnan(values)
    foreground = seen & (np.nan_to_num(values) > otsu_threshold(values[seen]))
    flat = values / _estimate_bias_field(values, foreground)
    return CoarseMr(fine, world.with_array(flat), foreground)


def _check_field(grid: Grid) -> None:
    """Refuse a field of view whose world-aligned copy could exhaust the memory."""
    extent = max(n * s for n, s in zip(grid.shape, grid.spacing_mm, strict=True))
    if extent > MAX_FIELD_MM:
        raise RegistrationError(
            f"MR: expected a field of at most {MAX_FIELD_MM:.0f} mm, found {extent:.0f} mm; "
            "check the spacing"
        )


def _estimate_bias_field(values: Image, foreground: Mask) -> Image:
    """Estimate the coil's bias field, 1 on average: a wide Gaussian over the foreground."""
    sigma = BIAS_SIGMA_MM / COARSE_MM
    weight = ndimage.gaussian_filter(foreground.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(foreground, values, np.float32(0)), sigma)
    # Far from the patient there is nothing to average; the constant pulls towards 1.
    return cast(Image, ((total + 0.02) / (weight + 0.02)).astype(np.float32))
