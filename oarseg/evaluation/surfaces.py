"""Surfaces of voxel masks and the distances between them.

There are two kinds of surface:

- surfels, as in google-deepmind's surface-distance: a point at every corner shared by
  eight voxels that are not all equal, weighted by the area that marching cubes places
  there (Lorensen and Cline, SIGGRAPH 1987);
- border voxels, as in medpy: voxels of the mask with at least one of six neighbours
  outside, equally weighted.

Everything beyond the array is outside the mask. No array here is as large as the image:
a surface is a list of points, and distances come from a k-d tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from oarseg.imaging.arrays import Triple
from oarseg.imaging.volume import Vector
from oarseg.labels.mask import CroppedMask

# Voxels processed together; bounds the memory for masks with scattered voxels.
CHUNK_VOXELS = 1 << 23

Normal = tuple[float, float, float]

# Marching cubes up to rotation, reflection and exchange of inside and outside: the inside
# corners, numbered 4·z + 2·y + x, and the facets as normals along z, y, x whose length is
# the area in units of a voxel's face.
CONFIGURATIONS: tuple[tuple[tuple[int, ...], tuple[Normal, ...]], ...] = (
    ((), ()),
    ((0,), ((1 / 8, 1 / 8, 1 / 8),)),
    ((0, 1), ((1 / 2, 1 / 2, 0.0),)),
    ((1, 2), ((1 / 4, 1 / 4, 1 / 4),)),
    ((0, 1, 2), ((3 / 8, 3 / 8, 3 / 8), (1 / 2, 0.0, 0.0))),
    ((0, 1, 2, 3), ((1.0, 0.0, 0.0),)),
    ((1, 2, 4), ((3 / 8, 3 / 8, 3 / 8),)),
    ((0, 1, 2, 4), ((3 / 4, 3 / 4, 3 / 4),)),
    ((3, 4), ((1 / 4, 1 / 4, 1 / 4),)),
    ((0, 3, 4), ((1 / 8, 1 / 8, 1 / 8), (0.0, 1 / 2, 1 / 2))),
    ((0, 1, 3, 4), ((1 / 2, 1 / 2, 1 / 2), (1 / 4, 0.0, 1 / 4), (0.0, 1 / 4, 1 / 4))),
    ((1, 2, 3, 4), ((1 / 2, 1 / 2, 1 / 2), (1 / 2, 0.0, 0.0))),
    ((2, 3, 4, 5), ((1.0, 1.0, 0.0),)),
    ((0, 3, 5, 6), ((1 / 2, 1 / 2, 1 / 2),)),
)


@dataclass(frozen=True)
class Surface:
    """Points of a surface.

    Attributes:
        points: (n, 3), z y x in voxels; a corner's index is relative to the low corner of
            voxel (0, 0, 0).
        areas: (n,) in mm²; ones for border voxels.
    """

    points: NDArray[np.int32]
    areas: NDArray[np.float64]


def surface_elements(mask: CroppedMask, spacing_mm: Vector) -> Surface:
    """Return the surfels of a non-empty mask."""
    table = np.asarray(area_table(spacing_mm))
    codes, points = [], []
    for start, planes in _iterate_runs(mask):
        code = _corner_codes(planes)
        where = np.flatnonzero((code != 0) & (code != 255))
        codes.append(code.ravel()[where])
        points.append(_unravel_indices(where, code.shape, start))
    return Surface(np.concatenate(points), table[np.concatenate(codes)])


def border_voxels(mask: CroppedMask) -> Surface:
    """Return the border voxels of a non-empty mask."""
    points = []
    for start, planes in _iterate_runs(mask):
        border = _find_border(planes)
        where = np.flatnonzero(border)
        points.append(_unravel_indices(where, border.shape, start))
    found = np.concatenate(points)
    return Surface(found, np.ones(len(found)))


def distances_mm(source: Surface, target: Surface, spacing_mm: Vector) -> NDArray[np.float64]:
    """Return the distance from each point of a surface to the nearest point of another.

    The tree only finds the nearest point. The distance is computed from integer voxel
    steps, so that one equal to a tolerance is exactly equal in floating point too.

    Args:
        source, target: non-empty surfaces.
        spacing_mm: spacing of the grid along z, y, x.

    Returns:
        (n,) in mm, in the order of ``source``.
    """
    spacing = np.asarray(spacing_mm)
    tree = cKDTree(target.points * spacing, balanced_tree=False, compact_nodes=False)
    _, nearest = tree.query(source.points * spacing)
    steps: NDArray[np.float64] = (source.points - target.points[nearest]) * spacing
    result: NDArray[np.float64] = np.sqrt((steps * steps).sum(axis=1))
    return result


@lru_cache(maxsize=16)
def area_table(spacing_mm: Vector) -> tuple[float, ...]:
    """Return the surface area in mm² for each of the 256 configurations of eight voxels.

    Bit 4·z + 2·y + x of the configuration is set if that voxel is inside.
    """
    z, y, x = spacing_mm
    faces = np.array([y * x, z * x, z * y])
    areas = np.zeros(256)
    for corners, normals in CONFIGURATIONS:
        for axes, flips in product(permutations(range(3)), product((0, 1), repeat=3)):
            code = sum(1 << _transform_corner(corner, axes, flips) for corner in corners)
            turned = [np.array([normal[axis] for axis in axes]) for normal in normals]
            areas[[code, 255 - code]] = sum(float(np.linalg.norm(n * faces)) for n in turned)
    return tuple(areas.tolist())


def _transform_corner(corner: int, axes: tuple[int, ...], flips: tuple[int, ...]) -> int:
    bits = (corner >> 2 & 1, corner >> 1 & 1, corner & 1)
    z, y, x = (bits[axis] ^ flip for axis, flip in zip(axes, flips, strict=True))
    return 4 * z + 2 * y + x


def _iterate_runs(mask: CroppedMask) -> Iterator[tuple[Triple, NDArray[np.uint8]]]:
    """Iterate over runs of planes of the zero-padded mask.

    Each run is cropped to its contents and skipped if empty, so that a distant stray voxel
    does not make the rest costly.

    Yields:
        The index of the run's first voxel in the padded mask, and its planes with one more
        at either end.
    """
    depth, height, width = mask.array.shape
    length = max(CHUNK_VOXELS // ((height + 2) * (width + 2)), 1)
    for first in range(0, depth + 1, length):
        last = min(first + length, depth + 1)
        low, high = max(first - 1, 0), min(last + 1, depth)
        flat: NDArray[np.bool_] = np.any(mask.array[low:high], axis=0)
        rows, columns = np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
        if not rows.size:
            continue
        top, left = int(rows[0]), int(columns[0])
        held = mask.array[low:high, top : rows[-1] + 1, left : columns[-1] + 1]
        _, height_here, width_here = held.shape
        planes = np.zeros((last - first + 2, height_here + 2, width_here + 2), np.uint8)
        planes[low - first + 1 : high - first + 1, 1:-1, 1:-1] = held
        z, y, x = mask.start
        yield (z + first, y + top, x + left), planes


def _corner_codes(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the configuration of eight voxels at each corner of the run."""
    along_x = planes[:-1, :, :-1] | planes[:-1, :, 1:] << 1  # the last plane is the next run's
    along_y = along_x[:, :-1] | along_x[:, 1:] << 2
    return (along_y[:-1] | along_y[1:] << 4).astype(np.uint8, copy=False)


def _find_border(planes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    middle = planes[1:-1, 1:-1, 1:-1]
    inner: NDArray[np.uint8] = planes[:-2, 1:-1, 1:-1] & planes[2:, 1:-1, 1:-1]
    inner = inner & planes[1:-1, :-2, 1:-1] & planes[1:-1, 2:, 1:-1]
    inner = inner & planes[1:-1, 1:-1, :-2] & planes[1:-1, 1:-1, 2:]
    border: NDArray[np.bool_] = middle > inner
    return border


def _unravel_indices(
    flat: NDArray[np.intp], shape: tuple[int, ...], start: Triple
) -> NDArray[np.int32]:
    found: NDArray[np.int32] = np.stack(np.unravel_index(flat, shape), axis=1).astype(np.int32)
    found += np.array(start, np.int32)
    return found
