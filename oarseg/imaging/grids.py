"""Downsample by block means, align grids with the world's axes, crop volumes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Image
from oarseg.imaging.volume import Grid, Shape, Vector, Volume, reversed_triple

FINE_MM = 2.0
COARSE_MM = 4.0


def block_mean(volume: Volume, *, spacing_mm: float, threads: int = 1) -> Volume:
    """Average blocks of voxels, the largest that fit into ``spacing_mm`` along each axis.

    Args:
        volume: of any dtype.
        spacing_mm: the largest spacing of the result.
        threads: share out its planes; the result does not depend on them.

    Returns:
        float32; an incomplete block at the end of an axis is dropped.
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
    return Volume(_average_blocks(volume.array, shape, factors, threads), small)


def _average_blocks(array: NDArray[Any], shape: Shape, factors: list[int], threads: int) -> Image:
    depth, height, width = shape
    fz, fy, fx = factors
    out = np.zeros(shape, np.float32)

    def average(z: int) -> None:
        for plane in array[z * fz : (z + 1) * fz]:
            for i in range(fy):
                for j in range(fx):
                    out[z] += plane[i::fy, j::fx][:height, :width]
        out[z] /= np.float32(fz * fy * fx)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(average, range(depth)))
    return out


def world_grid(grid: Grid, *, spacing_mm: float) -> Grid:
    """Return the isotropic, world-aligned grid that covers another grid's voxel centres."""
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


def crop_volume(volume: Volume, start: Shape, stop: Shape) -> Volume:
    """Crop a volume from index ``start`` to before ``stop``, both (z, y, x)."""
    grid = volume.grid
    part = volume.array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    origin = grid.to_world(np.array([start]))[0]
    return Volume(
        part,
        Grid(part.shape, grid.spacing_mm, cast(Vector, tuple(origin.tolist())), grid.direction),
    )
