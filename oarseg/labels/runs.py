"""A label map as runs of equal labels along x, and the parts that runs are connected to.

Memory and time grow with an organ's surface and not with the box around it: a stray voxel far
away costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RunNumbers = NDArray[np.int64]
# Of the rows that a run may be connected to, those that come later: (planes, rows).
ALL_NEIGHBOURS = ((0, 1), (1, -1), (1, 0), (1, 1))
FACE_NEIGHBOURS = ((0, 1), (1, 0))
# 32 bytes each.
MOST_RUNS = 8_000_000


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of voxels along x, in the order of the array; arrays of equal length.

    Attributes:
        shape: of the label map, (z, y, x).
        z, y: the row of each run.
        start, stop: its first voxel, and the one after its last.
    """

    shape: tuple[int, int, int]
    z: RunNumbers
    y: RunNumbers
    start: RunNumbers
    stop: RunNumbers

    def __len__(self) -> int:
        return self.z.size

    @property
    def lengths(self) -> RunNumbers:
        """Return the voxels of each run."""
        return self.stop - self.start

    @property
    def voxels(self) -> int:
        """Return the number of voxels."""
        return int(self.lengths.sum())

    def where(self, chosen: NDArray[Any]) -> Runs:
        """Return some of the runs, by a mask or by indices that rise."""
        parts = (self.z, self.y, self.start, self.stop)
        return Runs(self.shape, *(part[chosen] for part in parts))

    def centroid(self) -> NDArray[np.float64]:
        """Return the mean index (z, y, x) of the voxels, of which there must be one."""
        weights = self.lengths
        middles = np.stack([self.z, self.y, (self.start + self.stop - 1) / 2])
        centre: NDArray[np.float64] = (middles * weights).sum(axis=1) / weights.sum()
        return centre

    def fill(self, array: NDArray[np.uint8], value: int) -> None:
        """Set the voxels of an array of this shape to a value."""
        for z, y, start, stop in zip(self.z, self.y, self.start, self.stop, strict=True):
            array[z, y, start:stop] = value


class LabelRuns:
    """The runs of a label map.

    Args:
        labels: (z, y, x), uint8.
        most: runs to keep at most; ``whole`` tells whether these were enough.
    """

    def __init__(self, labels: NDArray[np.uint8], *, most: int = MOST_RUNS) -> None:
        depth, height, width = labels.shape
        self._shape = (depth, height, width)
        parts, values, count = [], [], 0
        self.whole = True
        for z, plane in enumerate(labels):
            rows, found = _runs_of_plane(plane, z)
            count += found.size
            if count > most:
                self.whole = False
                break
            if found.size:
                parts.append(rows)
                values.append(found)
        none = np.zeros((4, 0), np.int64)
        self._rows = np.concatenate(parts, axis=1) if parts else none
        self._labels = np.concatenate(values) if values else np.zeros(0, np.uint8)

    def of(self, labels: Collection[int]) -> Runs:
        """Return the runs of the union of some labels."""
        wanted = np.zeros(256, np.bool_)
        wanted[list(labels)] = True
        rows = self._rows[:, wanted[self._labels]]
        return _joined(Runs(self._shape, *rows))

    def drop(self, runs: Runs) -> dict[int, int]:
        """Make background of voxels; return how many of each label they were.

        Args:
            runs: whole runs of ``of``, in order.
        """
        at = np.searchsorted(self._places(runs.z, runs.y, runs.start), self._firsts, "right") - 1
        dropped = at >= 0
        stops = self._places(runs.z, runs.y, runs.stop)
        dropped[dropped] = self._firsts[dropped] < stops[at[dropped]]
        lengths = (self._rows[3] - self._rows[2])[dropped]
        counts = np.bincount(self._labels[dropped], weights=lengths)
        self._rows, self._labels = self._rows[:, ~dropped], self._labels[~dropped]
        return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}

    @property
    def _firsts(self) -> RunNumbers:
        return self._places(*self._rows[:3])

    def _places(self, z: RunNumbers, y: RunNumbers, x: RunNumbers) -> RunNumbers:
        """Number voxels in the order of the array; one more a row, where its last run may stop."""
        _, height, width = self._shape
        places: RunNumbers = (z * height + y) * (width + 1) + x
        return places


def _runs_of_plane(plane: NDArray[np.uint8], z: int) -> tuple[RunNumbers, NDArray[np.uint8]]:
    """Return (z, y, start, stop) of the runs of a plane's labels, and the labels."""
    filled = np.flatnonzero(plane.any(axis=1))
    none = np.zeros((4, 0), np.int64)
    if filled.size == 0:
        return none, np.zeros(0, np.uint8)
    first = int(filled[0])
    band = plane[first : int(filled[-1]) + 1]
    # A column of background ends each row's last run.
    width = band.shape[1] + 1
    flat = np.zeros((len(band), width), np.uint8)
    flat[:, :-1] = band
    line = flat.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(line[1:] != line[:-1]) + 1])
    stops = np.concatenate([starts[1:], [line.size]])
    labels = line[starts]
    starts, stops, labels = starts[labels > 0], stops[labels > 0], labels[labels > 0]
    y, x = np.divmod(starts, width)
    return np.stack([np.full_like(y, z), y + first, x, x + stops - starts]), labels


def _joined(runs: Runs) -> Runs:
    """Join runs that follow each other without a gap, as those of two labels can."""
    if len(runs) < 2:
        return runs
    follows = (
        (runs.z[1:] == runs.z[:-1])
        & (runs.y[1:] == runs.y[:-1])
        & (runs.start[1:] == runs.stop[:-1])
    )
    first = np.concatenate([[True], ~follows])
    last = np.concatenate([~follows, [True]])
    return Runs(runs.shape, runs.z[first], runs.y[first], runs.start[first], runs.stop[last])


def number_parts(
    runs: Runs,
    *,
    z: RunNumbers | None = None,
    neighbours: Iterable[tuple[int, int]] = ALL_NEIGHBOURS,
    corners: bool = True,
) -> RunNumbers:
    """Number the connected parts, from 0, the largest first; one number a run.

    Args:
        runs: in order.
        z: another plane of each run, in the same order, to connect by.
        neighbours: which later rows a run may be connected to.
        corners: runs that meet at a corner only are connected.
    """
    if len(runs) == 0:
        return np.zeros(0, np.int64)
    _, height, width = runs.shape
    # Two columns and rows of background keep what wraps around apart.
    row = (runs.z if z is None else z) * (height + 2) + runs.y
    start, stop = row * (width + 2) + runs.start, row * (width + 2) + runs.stop
    low_side, high_side = ("left", "right") if corners else ("right", "left")
    ones, others = [], []
    for planes, rows in neighbours:
        offset = (planes * (height + 2) + rows) * (width + 2)
        low = np.searchsorted(stop, start + offset, low_side)  # type: ignore[call-overload]
        high = np.searchsorted(start, stop + offset, high_side)  # type: ignore[call-overload]
        counts = np.maximum(high - low, 0)
        ones.append(np.repeat(np.arange(len(runs)), counts))
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        others.append(np.repeat(low, counts) + steps)
    pairs = (np.concatenate(ones), np.concatenate(others))
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(pairs[0].size, np.bool_), pairs), shape=(len(runs), len(runs)))
    _, part = connected_components(graph, directed=False)
    sizes = np.bincount(part, weights=runs.lengths)
    rank = np.empty(sizes.size, np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(sizes.size)
    numbers: RunNumbers = rank[part]
    return numbers


def distance_mm(one: Runs, other: Runs, spacing_mm: Sequence[float]) -> float:
    """Return the least distance between the voxel centres of two sets of runs, exactly."""
    z_mm, y_mm, x_mm = spacing_mm
    least = np.inf
    for z, y, start, stop in zip(one.z, one.y, one.start, one.stop, strict=True):
        apart = np.maximum(0, np.maximum(other.start - (stop - 1), start - (other.stop - 1)))
        squared = ((other.z - z) * z_mm) ** 2 + ((other.y - y) * y_mm) ** 2 + (apart * x_mm) ** 2
        least = min(least, float(squared.min()))
    return float(np.sqrt(least))


def enclosed_background(runs: Runs) -> Runs:
    """Return the background that an organ encloses on all sides, as runs in its own indices."""
    around = _background(runs)
    parts = number_parts(around, neighbours=FACE_NEIGHBOURS, corners=False)
    # The first run lies in the margin, and all of the outside is connected with it.
    inside = parts != parts[0]
    return around.where(inside)


def _background(runs: Runs) -> Runs:
    """Return the background in the box around an organ and one voxel more on each side."""
    low = [int(axis.min()) - 1 for axis in (runs.z, runs.y, runs.start)]
    high = [int(axis.max()) + 2 for axis in (runs.z, runs.y, runs.stop - 1)]
    depth, height, width = (b - a for a, b in zip(low, high, strict=True))
    row = (runs.z - low[0]) * height + (runs.y - low[1])
    rows = np.arange(depth * height)
    # Background begins at each row's beginning and where a run ends, and ends likewise.
    begins = np.concatenate([rows * width, row * width + (runs.stop - low[2])])
    ends = np.concatenate([row * width + (runs.start - low[2]), (rows + 1) * width])
    begins.sort()
    ends.sort()
    at, start = np.divmod(begins, width)
    z, y = np.divmod(at, height)
    # Indices count from the box's corner, which may lie a voxel outside the image.
    return Runs((depth, height, width), z, y, start, start + (ends - begins))
