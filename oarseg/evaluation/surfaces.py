"""Surfaces of voxel masks, with the area of each piece, and distances between them.

Two kinds of surface are known:

- surfels, as google-deepmind's surface-distance has them: a point at every corner
  between eight voxels that are not all alike, weighted with the area that marching
  cubes puts there (Lorensen and Cline, SIGGRAPH 1987);
- border voxels, as medpy has them: voxels of the mask with one of six neighbours
  outside, all of one weight.

What lies beyond the array counts as outside the mask. Nothing here is as large as the
image: a surface is a list of points, and distances are searched in a k-d tree.
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

# Voxels that are looked at together; bounds the memory for masks with far-flung voxels.
CHUNK_VOXELS = 1 << 23

Normal = tuple[float, float, float]

# Marching cubes up to rotation, reflection and exchange of inside and outside: the
# corners that are inside, and the surface as pieces (normal along z, y, x; its length is
# the area in units of a voxel's face). Corners by number: 4·z + 2·y + x.
ARRANGEMENTS: tuple[tuple[tuple[int, ...], tuple[Normal, ...]], ...] = (
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
        points: (n, 3), z y x in voxels of the grid; corners are counted from the low
            corner of voxel (0, 0, 0).
        areas: (n,) in mm², or ones for border voxels.
    """

    points: NDArray[np.int32]
    areas: NDArray[np.float64]


def surface_elements(mask: CroppedMask, spacing_mm: Vector) -> Surface:
    """The corners between voxels inside and outside of a mask that has some, with areas."""
    table = np.asarray(area_table(spacing_mm))
    codes, points = [], []
    for start, planes in _chunks(mask):
        code = _corner_codes(planes)
        where = np.flatnonzero((code != 0) & (code != 255))
        codes.append(code.ravel()[where])
        points.append(_indices(where, code.shape, start))
    return Surface(np.concatenate(points), table[np.concatenate(codes)])


def border_voxels(mask: CroppedMask) -> Surface:
    """The voxels of a mask that has some with one of their six neighbours outside."""
    points = []
    for start, planes in _chunks(mask):
        border = _border(planes)
        where = np.flatnonzero(border)
        points.append(_indices(where, border.shape, start))
    found = np.concatenate(points)
    return Surface(found, np.ones(len(found)))


def distances_mm(source: Surface, target: Surface, spacing_mm: Vector) -> NDArray[np.float64]:
    """How far each point of one surface lies from the nearest point of another.

    The tree only finds the nearest point. The distance is then computed from whole
    numbers of voxels, so that one equal to a tolerance is equal to it in binary too.

    Args:
        source, target: neither may be empty.
        spacing_mm: of the grid, along z, y, x.

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
    """The area of surface, in mm², for each of the 256 arrangements of eight voxels.

    Bit 4·z + 2·y + x of the number tells whether that corner's voxel is inside.
    """
    z, y, x = spacing_mm
    faces = np.array([y * x, z * x, z * y])
    areas = np.zeros(256)
    for corners, normals in ARRANGEMENTS:
        for axes, flips in product(permutations(range(3)), product((0, 1), repeat=3)):
            code = sum(1 << _moved(corner, axes, flips) for corner in corners)
            turned = [np.array([normal[axis] for axis in axes]) for normal in normals]
            areas[[code, 255 - code]] = sum(float(np.linalg.norm(n * faces)) for n in turned)
    return tuple(areas.tolist())


def _moved(corner: int, axes: tuple[int, ...], flips: tuple[int, ...]) -> int:
    bits = (corner >> 2 & 1, corner >> 1 & 1, corner & 1)
    z, y, x = (bits[axis] ^ flip for axis, flip in zip(axes, flips, strict=True))
    return 4 * z + 2 * y + x


def _chunks(mask: CroppedMask) -> Iterator[tuple[Triple, NDArray[np.uint8]]]:
    """Runs of planes of the mask inside a frame of zeros, each with the one before it.

    Every run is cut to what it holds, and left out where it holds nothing, so that a
    stray voxel far off does not make all the others costly.

    Yields:
        The index of the run's first voxel, counted with the frame, and its planes: one
        more than the run is long at either end.
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
    """The arrangement at each corner of the run."""
    along_x = planes[:-1, :, :-1] | planes[:-1, :, 1:] << 1  # the last plane is the next run's
    along_y = along_x[:, :-1] | along_x[:, 1:] << 2
    return (along_y[:-1] | along_y[1:] << 4).astype(np.uint8, copy=False)


def _border(planes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    middle = planes[1:-1, 1:-1, 1:-1]
    inner: NDArray[np.uint8] = planes[:-2, 1:-1, 1:-1] & planes[2:, 1:-1, 1:-1]
    inner = inner & planes[1:-1, :-2, 1:-1] & planes[1:-1, 2:, 1:-1]
    inner = inner & planes[1:-1, 1:-1, :-2] & planes[1:-1, 1:-1, 2:]
    border: NDArray[np.bool_] = middle > inner
    return border


def _indices(flat: NDArray[np.intp], shape: tuple[int, ...], start: Triple) -> NDArray[np.int32]:
    found: NDArray[np.int32] = np.stack(np.unravel_index(flat, shape), axis=1).astype(np.int32)
    found += np.array(start, np.int32)
    return found
