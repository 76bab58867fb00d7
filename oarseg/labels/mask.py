"""Binary masks cropped to a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Triple


@dataclass(frozen=True)
class CroppedMask:
    """A binary mask cropped to part of its grid.

    Attributes:
        array: bool (z, y, x); all voxels beyond it are outside the mask.
        start: index of its first voxel in the grid.
    """

    array: NDArray[np.bool_]
    start: Triple = (0, 0, 0)

    @property
    def voxels(self) -> int:
        """Number of voxels in the mask."""
        return int(np.count_nonzero(self.array))

    def intersection(self, other: CroppedMask) -> int:
        """Count the voxels in both masks."""
        low = [max(a, b) for a, b in zip(self.start, other.start, strict=True)]
        high = [min(a, b) for a, b in zip(self._stop, other._stop, strict=True)]
        if any(first >= last for first, last in zip(low, high, strict=True)):
            return 0
        mine, others = self._cut(low, high), other._cut(low, high)
        return int(np.count_nonzero(mine & others))

    @property
    def _stop(self) -> Triple:
        z, y, x = (a + n for a, n in zip(self.start, self.array.shape, strict=True))
        return z, y, x

    def _cut(self, low: list[int], high: list[int]) -> NDArray[np.bool_]:
        where = zip(low, high, self.start, strict=True)
        return self.array[tuple(slice(first - s, last - s) for first, last, s in where)]


def cut_to_box(array: NDArray[Any]) -> CroppedMask | None:
    """Crop the non-zero voxels of an array to their box; None if there are none."""
    planes = np.flatnonzero([plane.any() for plane in array])
    if not planes.size:
        return None
    first, last = int(planes[0]), int(planes[-1]) + 1
    flat = np.zeros(array.shape[1:], bool)
    for plane in array[first:last]:
        flat |= plane != 0
    rows, columns = np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
    y, x = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return CroppedMask(array[first:last, y, x] != 0, (first, y.start, x.start))
