"""Accumulates tiles in half precision, in a ring buffer one patch thick.

nnU-Net accumulates weighted logits in half precision. The same operations in the same order give
the same sums, in half of float32's memory. With float32 sums, up to 0.05 % of the voxels of a
trained network differed, and 0.15 % of a random one.

nnU-Net sums each fold apart and rounds it before the mean over folds is taken. So does the ring,
unless it is told to keep one joint sum of all folds, which takes the memory of one fold and
rounds once.

NumPy converts to and from half one number at a time. Where OpenVINO is installed, its compiled
kernels do the same arithmetic with the same result, about thirty times faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Half, Image
from oarseg.imaging.volume import Shape
from oarseg.inference.confidence.agreement import WatchSums
from oarseg.inference.half_precision import HalfArithmetic, consecutive
from oarseg.inference.tiling import Tiling, gaussian_weights

# Adds a tile to views of its sums, (classes, planes, rows, columns), with weights (*patch).
AddTile = Callable[[Sequence[Half], Image, Executor], None]

_ROWS = 32
# Voxels of a block of classes that are added in one call. In smaller ones threads wait for Python
# more than they compute; a block is copied twice, to and from the kernel.
_BLOCK_VOXELS = 2**19


@dataclass(frozen=True, eq=False)
class LogitPlane:
    """A plane of final logits.

    Attributes:
        index: along network axis 0.
        logits: (classes, *network plane) float32; valid within ``rows`` and ``columns``
            and until the next plane is requested.
        rows, columns: the part that the computed tiles cover.
    """

    index: int
    logits: NDArray[Any]
    rows: slice
    columns: slice


class Ring:
    """The sums of planes along axis 0 that are not final yet; plane p is in slot p mod depth."""

    def __init__(
        self,
        window: Tiling,
        classes: int,
        folds: int,
        *,
        joint: bool = False,
        pool: Executor,
        how: HalfArithmetic,
        watch: WatchSums | None = None,
    ) -> None:
        """Allocate the buffers.

        Args:
            window: the tiles.
            classes: of the network.
            folds: number of folds to take the mean of.
            joint: keep one sum over all folds instead of one for each.
            pool: runs blocks of classes, or of rows, concurrently.
            how: the arithmetic.
            watch: is shown each final plane of sums before they are averaged.
        """
        depth, (height, width) = window.patch[0], window.shape[1:]
        self._window = window
        sums = 1 if joint else folds
        self._logits = np.zeros((sums, classes, depth, height, width), dtype=np.float16)
        self._weights = np.zeros((depth, height, width), dtype=np.float16)
        self._gaussian = gaussian_weights(window.patch)
        # The mean in a joint sum is taken in the weights, which saves a pass over every tile.
        self._share = self._gaussian.astype(np.float32) / np.float32(folds if joint else 1)
        self._plane = np.zeros((classes, *window.image[1:]), dtype=np.float32)
        self._starts: list[Shape] = []
        # At least two blocks, for two threads.
        most = max(_BLOCK_VOXELS // self._gaussian.size, 1)
        self._classes_at_once = min(most, math.ceil(classes / 2))
        self._pool = pool
        self._how = how
        self._watch = watch

    def add(self, folds: Iterable[Image | AddTile], start: Shape, first: int = 0) -> None:
        """Add a tile's logits (classes, *patch): each fold's, or their sum if it is joint.

        Each is used before the next one is asked for.

        Args:
            folds: the logits, or what adds them.
            start: the tile's first voxel in the padded image.
            first: the number of the first of these folds. A tile's fold 0 comes before the
                others, which may come later.
        """
        depth, height, width = self._window.patch
        rows, columns = slice(start[1], start[1] + height), slice(start[2], start[2] + width)
        # Slots wrap around: the tile's last planes go to the beginning of the ring.
        slot = start[0] % depth
        slots = (slice(slot, depth), slice(0, slot))

        if first == 0:
            self._starts.append(start)
            weights = [self._weights[part, rows, columns] for part in slots]
            for weight, planes in consecutive(weights, axis=0):
                weight += self._gaussian[planes]
        for number, logits in enumerate(folds, first):
            totals = [self._logits[number, :, part, rows, columns] for part in slots]
            if callable(logits):
                logits(totals, self._share, self._pool)
            else:
                self._add_logits(totals, logits)

    def _add_logits(self, totals: Sequence[Half], logits: Image) -> None:
        def add_classes(begin: int) -> None:
            some = slice(begin, begin + self._classes_at_once)
            self._how.add([part[some] for part in totals], logits[some], self._share)

        for _ in self._pool.map(add_classes, range(0, len(logits), self._classes_at_once)):
            pass

    def finish(self, planes: range) -> Iterator[LogitPlane]:
        """Yield final planes without padding, and clear their slots.

        Args:
            planes: their indices along axis 0 of the padded image.

        Yields:
            The planes that a tile covers, in a buffer that the next step reuses.
        """
        for padded in planes:
            index = padded - self._window.before[0]
            covering = [
                start for start in self._starts if padded - self._window.patch[0] < start[0]
            ]
            # A row of tiles that begins behind this plane has not been added yet.
            if covering:
                slot = padded % self._window.patch[0]
                if 0 <= index < self._window.image[0]:
                    yield self._normalised(index, slot, covering)
                self._logits[:, :, slot] = 0
                self._weights[slot] = 0
            self._starts = covering

    def _normalised(self, index: int, slot: int, covering: Sequence[Shape]) -> LogitPlane:
        rows, columns = (self._covered(axis, covering) for axis in (1, 2))
        inside = self._window.inside
        totals = self._logits[:, :, slot, inside[1], inside[2]][:, :, rows, columns]
        weights = self._weights[slot, inside[1], inside[2]][rows, columns].copy()
        if self._watch is not None:
            self._watch(index, totals, rows, columns)
        # No tile covers the corners: their weights are 0.
        weights[weights == 0] = 1
        out = self._plane[:, rows, columns]

        def divide_rows(first: int) -> None:
            part = slice(first, first + _ROWS)
            self._how.divide([sums[:, part] for sums in totals], weights[part], out[:, part])

        for _ in self._pool.map(divide_rows, range(0, totals.shape[2], _ROWS)):
            pass
        return LogitPlane(index, self._plane, rows, columns)

    def _covered(self, axis: int, covering: Sequence[Shape]) -> slice:
        """Return the extent of the image that tiles cover along an axis."""
        before, length = self._window.before[axis], self._window.image[axis]
        first = min(start[axis] for start in covering) - before
        last = max(start[axis] for start in covering) + self._window.patch[axis] - before
        return slice(max(first, 0), min(last, length))
