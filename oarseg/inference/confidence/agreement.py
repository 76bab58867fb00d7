"""How far the folds of an ensemble agree, each with the label map that it alone would give.

The sums of each fold pass through the ring anyway. Their largest class needs neither their mean
nor a division: the weights of a voxel are the same for all classes. So voxels are compared on the
network's grid, a plane at a time, and what is kept are counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Executor
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Half, Mask
from oarseg.inference.preprocessing import Placement
from oarseg.inference.region.footprint import Footprint
from oarseg.model.manifest import Manifest, class_labels

# Takes a plane's number, each fold's sums (folds, classes, rows, columns), and which part it is.
WatchSums = Callable[[int, Half, slice, slice], None]
# From a half's bits, which hold sign and magnitude, to whole numbers of the same order.
_MAGNITUDE = np.int16(0x7FFF)


class FoldAgreement:
    """Counts, for each pair of folds, how many voxels one labels a and the other b."""

    def __init__(self, manifest: Manifest) -> None:
        """Begin with no voxel.

        Args:
            manifest: says what classes stand for.
        """
        self._regions = manifest.regions
        self._values = class_labels(manifest)
        self._size = int(self._values.max()) + 1
        self._counts: dict[tuple[int, int], NDArray[np.int64]] = {}

    def watch(self, place: Placement, mask: Footprint | None, pool: Executor) -> WatchSums:
        """Return what takes each final plane of sums.

        Args:
            place: maps the network's grid to the image's.
            mask: the part that is labelled; None for all.
            pool: labels folds concurrently.
        """
        shapes = tuple(zip(place.network_shape, place.crop_shape, strict=True))
        nearest = [_nearest(length, target) for length, target in shapes]

        def take(index: int, sums: Half, rows: slice, columns: slice) -> None:
            inside = None
            if mask is not None:
                plane = mask.plane(int(nearest[0][index]))
                inside = plane[np.ix_(nearest[1][rows], nearest[2][columns])]
            self._count(list(pool.map(self._label, sums)), inside)

        return take

    @property
    def pairs(self) -> int:
        """How many pairs of folds were compared."""
        return len(self._counts)

    def dice(self, labels: Collection[int]) -> float | None:
        """Return the mean over pairs of folds of the Dice of a union of labels.

        Returns:
            None where fewer than two folds were seen, or no fold has a voxel of it.
        """
        known = [value for value in labels if value < self._size]
        found = [_dice(counts, known) for counts in self._counts.values()]
        seen = [dice for dice in found if dice is not None]
        return float(np.mean(seen)) if seen else None

    def _count(self, folds: list[NDArray[np.uint8]], inside: Mask | None) -> None:
        anywhere = np.logical_or.reduce([fold > 0 for fold in folds])
        if inside is not None:
            anywhere &= inside
        at = np.flatnonzero(anywhere)
        flat = [fold.ravel()[at].astype(np.intp) for fold in folds]
        for one, other in combinations(range(len(folds)), 2):
            both = flat[one] * self._size + flat[other]
            counts = np.bincount(both, minlength=self._size**2).reshape(self._size, self._size)
            self._counts[one, other] = self._counts.get((one, other), 0) + counts

    def _label(self, sums: Half) -> NDArray[np.uint8]:
        """Label a plane by one fold's sums (classes, rows, columns)."""
        if self._regions:
            painted = np.zeros(sums.shape[1:], np.uint8)
            for region, value in zip(sums, self._values, strict=True):
                painted[region > 0] = value
            return painted
        labels: NDArray[np.uint8] = self._values[_largest(sums)]
        return labels


def _largest(sums: Half) -> NDArray[Any]:
    """Return the class of the largest sum, the first of a tie; far faster than ``argmax``."""
    best = _ordered(sums[0])
    found = np.zeros(best.shape, np.uint8)
    for number, values in enumerate(sums[1:], 1):
        ordered = _ordered(values)
        # Numbers rise, so that the last that was larger is the largest: no voxel is indexed.
        larger = (ordered > best).view(np.uint8) * np.uint8(number)
        np.maximum(found, larger, out=found)
        np.maximum(best, ordered, out=best)
    return found


def _ordered(values: Half) -> NDArray[np.int16]:
    bits = np.ascontiguousarray(values).view(np.int16)
    ordered: NDArray[np.int16] = bits ^ ((bits >> 15) & _MAGNITUDE)
    return ordered


def _nearest(length: int, target: int) -> NDArray[np.intp]:
    """Map voxels along an axis to the nearest of another grid over the same extent."""
    found: NDArray[np.intp] = ((np.arange(length) + 0.5) * target / length).astype(np.intp)
    return found


def _dice(counts: NDArray[np.int64], labels: Collection[int]) -> float | None:
    chosen = list(labels)
    sizes = counts[chosen].sum() + counts[:, chosen].sum()
    return 2 * float(counts[np.ix_(chosen, chosen)].sum()) / float(sizes) if sizes else None
