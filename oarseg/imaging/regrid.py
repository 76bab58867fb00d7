"""Resample volumes and masks onto another grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Mask
from oarseg.imaging.slabs import SLAB, Planes, slab_slices, whole_image
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

if TYPE_CHECKING:
    import SimpleITK as sitk


class MovedImage:
    """An MR on another grid, by linear interpolation, computed each time it is gone through.

    Args:
        mr: MR in its own world.
        transform: world of ``grid`` (CT) → world of the MR.
        grid: target grid.
        outside: exact value of voxels outside the MR's field of view.
    """

    def __init__(self, mr: Volume, transform: Transform, grid: Grid, *, outside: float) -> None:
        self._image = to_sitk(mr)
        self._transform, self._grid, self._outside = transform, grid, outside
        self._start, self._stop = covered_box(mr.grid, transform, grid)

    @property
    def shape(self) -> tuple[int, ...]:
        """The grid's."""
        return self._grid.shape

    def slabs(self) -> Iterator[Planes]:
        """Yield the planes, float32; see ``SlabImage``.

        ITK's answer may depend on where a slab begins, so they always begin at the same planes.
        """
        depth, *plane = self._grid.shape
        first, last = self._start[0], self._stop[0]
        inside = np.s_[self._start[1] : self._stop[1], self._start[2] : self._stop[2]]
        slab = np.full((min(SLAB, depth), *plane), self._outside, np.float32)
        for planes in slab_slices(0, first):
            yield planes, slab[: planes.stop - planes.start]
        for planes in slab_slices(first, last):
            values = slab[: planes.stop - planes.start]
            values[:, *inside] = self._moved(planes)
            yield planes, values
        slab[:, *inside] = self._outside
        for planes in slab_slices(last, depth):
            yield planes, slab[: planes.stop - planes.start]

    def _moved(self, planes: slice) -> NDArray[np.float32]:
        (_, *low), (_, *high) = self._start, self._stop
        size = (planes.stop - planes.start, high[0] - low[0], high[1] - low[1])
        slab = _crop_grid(self._grid, (planes.start, low[0], low[1]), size)
        return _resample_slab(self._image, self._transform, slab, self._outside)


def resample_moving(mr: Volume, transform: Transform, grid: Grid, *, outside: float) -> Volume:
    """Resample the MR onto another grid; see ``MovedImage``.

    Returns:
        float32 on ``grid``; its only array of that size, filled a slab at a time.
    """
    moved = MovedImage(mr, transform, grid, outside=outside)
    return Volume(whole_image(moved), grid)


def covered_box(mr: Grid, transform: Transform, grid: Grid) -> tuple[Shape, Shape]:
    """Return the box (start, stop) of ``grid``'s voxels that the MR can cover."""
    corners = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
    # The field of view ends half a voxel beyond the outermost centres.
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
    import SimpleITK as sitk

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
    """Resample linearly onto another grid; float32, NaN outside the image."""
    import SimpleITK as sitk

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
    """Resample a mask onto another grid by nearest neighbour; False outside."""
    import SimpleITK as sitk

    reference = set_geometry(sitk.Image(reversed_triple(grid.shape), sitk.sitkUInt8), grid)
    moved = sitk.Resample(
        to_sitk(mask.with_array(mask.array.astype(np.uint8))),
        reference,
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        0,
    )
    return cast(Mask, sitk.GetArrayFromImage(moved) > 0)
