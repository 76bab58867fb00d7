"""Resample images onto other grids."""

from __future__ import annotations

from typing import cast

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.imaging.arrays import Mask
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import (
    Grid,
    Shape,
    Vector,
    Volume,
    from_sitk,
    reversed_triple,
    set_geometry,
    to_sitk,
)

SLAB = 16


def resample_moving(mr: Volume, transform: Transform, grid: Grid, *, outside: float) -> Volume:
    """Resample the MR onto another grid by linear interpolation.

    Args:
        mr: in its own world.
        transform: from ``grid``'s world (CT) to the MR's.
        outside: what voxels outside the MR's field get, exactly.

    Returns:
        float32 on ``grid``; its only array of that size, filled a slab at a time.
    """
    result = np.full(grid.shape, outside, np.float32)
    start, stop = covered_box(mr.grid, transform, grid)
    image = to_sitk(mr)
    for low in range(start[0], stop[0], SLAB):
        high = min(low + SLAB, stop[0])
        size = (high - low, stop[1] - start[1], stop[2] - start[2])
        first = (low, start[1], start[2])
        slab = _crop_grid(grid, first, size)
        moved = _resample_slab(image, transform, slab, outside)
        result[low:high, start[1] : stop[1], start[2] : stop[2]] = moved
    return Volume(result, grid)


def covered_box(mr: Grid, transform: Transform, grid: Grid) -> tuple[Shape, Shape]:
    """Return the box (start, stop) of ``grid``'s voxels that the MR's field can reach."""
    corners = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
    # The field ends half a voxel beyond the outermost centres.
    edges = corners * np.array(mr.shape) - 0.5
    index = grid.to_index(transform.rigid_part.inverse().apply(mr.to_world(edges)))
    reach = np.ceil(transform.reach_mm / np.asarray(grid.spacing_mm))
    low = np.clip(np.floor(index.min(0)) - reach, 0, grid.shape).astype(int)
    high = np.clip(np.ceil(index.max(0)) + 1 + reach, low, grid.shape).astype(int)
    return cast(Shape, tuple(low.tolist())), cast(Shape, tuple(high.tolist()))


def _crop_grid(grid: Grid, first: Shape, shape: Shape) -> Grid:
    origin = grid.to_world(np.array([first]))[0]
    return Grid(shape, grid.spacing_mm, cast(Vector, tuple(origin.tolist())), grid.direction)


def _resample_slab(
    image: sitk.Image, transform: Transform, grid: Grid, outside: float
) -> NDArray[np.float32]:
    if grid.voxels == 0:
        return np.zeros(grid.shape, np.float32)
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(reversed_triple(grid.shape))
    resampler.SetOutputSpacing(reversed_triple(grid.spacing_mm))
    resampler.SetOutputOrigin(grid.origin_mm)
    resampler.SetOutputDirection([value for row in grid.direction for value in row])
    resampler.SetTransform(transform.to_sitk())
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(outside)
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    return cast(NDArray[np.float32], sitk.GetArrayFromImage(resampler.Execute(image)))


def resample_linear(volume: Volume, grid: Grid) -> Volume:
    """Resample onto another grid by linear interpolation; float32, NaN outside the image."""
    reference = set_geometry(sitk.Image(reversed_triple(grid.shape), sitk.sitkUInt8), grid)
    moved = sitk.Resample(
        to_sitk(volume),
        reference,
        sitk.Transform(),
        sitk.sitkLinear,
        float("nan"),
        sitk.sitkFloat32,
    )
    return from_sitk(moved)


def resample_nearest(mask: Volume, grid: Grid) -> Mask:
    """Resample a mask onto another grid by nearest neighbour; False outside it."""
    reference = set_geometry(sitk.Image(reversed_triple(grid.shape), sitk.sitkUInt8), grid)
    moved = sitk.Resample(
        to_sitk(mask.with_array(mask.array.astype(np.uint8))),
        reference,
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        0,
    )
    return cast(Mask, sitk.GetArrayFromImage(moved) > 0)
