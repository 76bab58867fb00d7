"""A reader of contours for tests: a voxel is inside where a ray to the left crosses oddly often."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def fill_even_odd(
    polygons: Iterable[NDArray[np.float64]], rows: int, columns: int
) -> NDArray[np.bool_]:
    """Fill polygons, (n, 2) of x and y in voxels, together: their crossings are counted in one."""
    crossings = np.zeros((rows, columns + 1), np.int64)
    for polygon in polygons:
        begin, end = polygon, np.roll(polygon, -1, axis=0)
        low, high = np.minimum(begin[:, 1], end[:, 1]), np.maximum(begin[:, 1], end[:, 1])
        first = np.clip(np.ceil(low).astype(int), 0, rows)
        last = np.clip(np.ceil(high).astype(int), 0, rows)
        for edge in np.flatnonzero(last > first):
            y = np.arange(first[edge], last[edge])
            share = (y - begin[edge, 1]) / (end[edge, 1] - begin[edge, 1])
            x = begin[edge, 0] + share * (end[edge, 0] - begin[edge, 0])
            np.add.at(crossings, (y, np.clip(np.ceil(x).astype(int), 0, columns)), 1)
    return np.cumsum(crossings, axis=1)[:, :columns] % 2 == 1
