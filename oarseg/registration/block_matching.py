"""Block matching after alignment: how far each block of the head is from its best fit.

Block matching after Ourselin et al., Image and Vision Computing 2001, with pointwise mutual
information, log p(ct, mr) / (p(ct) p(mr)), in place of their correlation. The joint
histogram of the whole head gives p. The sum over a block, computed at every small shift,
peaks where the block fits best. In two scans of one patient every block peaks within a
voxel of its place. A head of another patient, of another size or mirrored may align as well
as a whole, but its blocks fit elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.imaging.arrays import Image, Mask
from oarseg.imaging.grids import crop_volume, world_grid
from oarseg.imaging.regrid import covered_box, resample_linear
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import Grid, Volume
from oarseg.registration.coarse import CoarseCt, CoarseMr
from oarseg.registration.information import FINE_CT_EDGES_HU, FINE_MR_CLASSES, symmetric_uncertainty

GRID_MM = 3.0
HALF_BLOCK = 6  # voxels; a block is twice this along each axis, and blocks overlap by half
REACH = 3  # voxels
MIN_FILLED = 0.7
MIN_BLOCKS = 20
DISTINCT_NATS = 0.3  # pointwise information per voxel
MARGIN_VOXELS = 2

CT_CLASSES = len(FINE_CT_EDGES_HU) + 1
UNSEEN = FINE_MR_CLASSES  # class of voxels outside the MR's field of view


@dataclass(frozen=True)
class Overlay:
    """Intensity classes of CT and MR on one world-aligned grid (z, y, x).

    Attributes:
        ct: class of the HU.
        mr: class of the MR; ``UNSEEN`` outside its field of view.
        mask: the patient, within both fields of view.
    """

    ct: NDArray[np.intp]
    mr: NDArray[np.intp]
    mask: Mask

    def within(self, mask: Mask) -> Overlay:
        """Return the overlay with the patient restricted to a mask."""
        return Overlay(self.ct, self.mr, self.mask & mask)

    @property
    def joint(self) -> NDArray[np.float64]:
        """The joint histogram over the patient, (CT classes, MR classes)."""
        pairs = self.ct[self.mask] * FINE_MR_CLASSES + self.mr[self.mask]
        counts = np.bincount(pairs, minlength=CT_CLASSES * FINE_MR_CLASSES)
        return counts.reshape(CT_CLASSES, FINE_MR_CLASSES).astype(float)

    @property
    def information(self) -> float:
        """Symmetric uncertainty of CT and MR over the patient, in [0, 1]."""
        return float(symmetric_uncertainty(self.joint))


def overlay_pair(
    ct: CoarseCt,
    mr: CoarseMr,
    transform: Transform,
    *,
    where: Grid | None = None,
    threads: int = 1,
) -> Overlay:
    """Classify CT and MR on a common grid in the CT's world.

    Args:
        ct, mr: coarse copies.
        transform: CT world → MR world.
        where: the grid; None for the part of the CT that the MR covers.
        threads: of the sampling; the result does not depend on them.
    """
    where = where or overlay_grid(ct, mr, transform)
    hu = resample_linear(ct.fine, where).array
    points = transform.apply(_grid_points(where))
    foreground = mr.field.with_array(mr.foreground.astype(np.float32))
    with ThreadPoolExecutor(threads) as pool:
        sampled = pool.map(lambda image: _sample_linear(image, points), (mr.fine, foreground))
        values, patient = (found.reshape(where.shape) for found in sampled)
    mask = ndimage.binary_dilation(patient > 0.5, iterations=MARGIN_VOXELS)
    seen = ~np.isnan(values)
    mask &= seen & ~np.isnan(hu)
    inner = values[mask]
    edges = (
        np.quantile(inner, np.arange(1, FINE_MR_CLASSES) / FINE_MR_CLASSES) if inner.size else [0.0]
    )
    classes = np.where(seen, np.digitize(values, edges), UNSEEN)
    return Overlay(np.digitize(hu, FINE_CT_EDGES_HU), classes, mask)


def overlay_grid(ct: CoarseCt, mr: CoarseMr, transform: Transform) -> Grid:
    """Return the grid of ``GRID_MM`` over the part of the CT that the MR covers."""
    box = covered_box(mr.fine.grid, transform, ct.fine.grid)
    return world_grid(crop_volume(ct.fine, *box).grid, spacing_mm=GRID_MM)


def _grid_points(grid: Grid) -> NDArray[np.float64]:
    return grid.to_world(np.indices(grid.shape, dtype=np.float64).reshape(3, -1).T)


def _sample_linear(image: Volume, points: NDArray[np.float64]) -> Image:
    index = image.grid.to_index(points).T
    return cast(Image, ndimage.map_coordinates(image.array, index, order=1, cval=np.nan))


@dataclass(frozen=True)
class Mismatch:
    """Result of block matching.

    Attributes:
        median_mm: median shift of the distinct blocks to their best fit; the largest shift
            searched if there are too few blocks to tell.
        blocks: number of distinct blocks.
    """

    median_mm: float
    blocks: int


def median_local_shift(pair: Overlay, *, threads: int = 1) -> Mismatch:
    """Return the median length of ``local_shifts``."""
    lengths = np.linalg.norm(local_shifts(pair, threads=threads), axis=1)
    if len(lengths) < MIN_BLOCKS:
        return Mismatch(REACH * GRID_MM, len(lengths))
    return Mismatch(float(np.median(lengths)), len(lengths))


def local_shifts(pair: Overlay, *, threads: int = 1) -> NDArray[np.float64]:
    """Find the shift of each distinct block of the patient to its best fit.

    A block is distinct if its information at the best shift is much higher than on average.
    A homogeneous block, such as the inside of the brain, fits anywhere and says nothing.

    Args:
        pair: CT and MR.
        threads: share out the shifts; the result does not depend on them.

    Returns:
        (n, 3) shifts along z, y, x in mm, one row per block; at most ``REACH`` voxels along
        each axis, interpolated between voxels.
    """
    gains, filled = _block_information(pair, threads)
    gains = gains[:, filled] / np.float32((2 * HALF_BLOCK) ** 3)
    gains = gains[:, gains.max(0) - gains.mean(0) >= DISTINCT_NATS]
    return _interpolate_peaks(gains) * GRID_MM


def _block_information(pair: Overlay, threads: int) -> tuple[NDArray[np.float32], Mask]:
    """Return the information (shifts, blocks), and which blocks hold enough of the patient."""
    table = np.zeros((CT_CLASSES, FINE_MR_CLASSES + 1), np.float32)
    table[:, :FINE_MR_CLASSES] = _pointwise_information(pair.joint)
    padded = np.pad(pair.mr, REACH, constant_values=UNSEEN)
    where = np.argwhere(pair.mask)
    counts = tuple(n // HALF_BLOCK + 1 for n in pair.mask.shape)
    cell = np.atleast_1d(np.ravel_multi_index(tuple((where // HALF_BLOCK).T), counts))
    order = np.argsort(cell, kind="stable")
    where, cell = where[order], cell[order]
    row = pair.ct[tuple(where.T)] * (FINE_MR_CLASSES + 1)
    here = np.ravel_multi_index(tuple((where + REACH).T), padded.shape)
    firsts = np.flatnonzero(np.diff(cell, prepend=-1))
    values = padded.ravel()
    strides = (padded.shape[1] * padded.shape[2], padded.shape[2], 1)

    def sum_at(shift: Sequence[int]) -> NDArray[np.float32]:
        step = sum(s * n for s, n in zip(shift, strides, strict=True))
        cells = np.zeros(counts, np.float32)
        if len(firsts):
            found = table.ravel()[row + values[here + step]]
            cells.ravel()[cell[firsts]] = np.add.reduceat(found, firsts)
        sums: NDArray[np.float32] = _sum_cells(cells).ravel()
        return sums

    with ThreadPoolExecutor(threads) as pool:
        every = itertools.product(range(-REACH, REACH + 1), repeat=3)
        sums = list(pool.map(sum_at, every))
    voxels = np.bincount(cell, minlength=int(np.prod(counts))).reshape(counts)
    filled = _sum_cells(voxels).ravel() >= MIN_FILLED * (2 * HALF_BLOCK) ** 3
    return np.stack(sums), filled


def _pointwise_information(joint: NDArray[np.float64]) -> NDArray[np.float64]:
    share = (joint + 0.5) / (joint + 0.5).sum()
    expected = share.sum(1, keepdims=True) * share.sum(0, keepdims=True)
    return cast(NDArray[np.float64], np.log(share / expected))


def _sum_cells(cells: NDArray[Any]) -> NDArray[Any]:
    """Sum 2 × 2 × 2 neighbouring cells."""
    for axis in range(3):
        low, high = [slice(None)] * 3, [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        cells = cells[tuple(low)] + cells[tuple(high)]
    return cells


def _interpolate_peaks(gains: NDArray[np.float32]) -> NDArray[np.float64]:
    """Find the maxima over shifts in voxels, interpolated by a parabola along each axis."""
    side = 2 * REACH + 1
    cube = gains.reshape(side, side, side, -1)
    top = np.stack(np.unravel_index(gains.argmax(0), (side, side, side)), axis=1)
    blocks = np.arange(len(top))
    result = top - float(REACH)
    for axis in range(3):
        inner = (top[:, axis] > 0) & (top[:, axis] < side - 1)
        step = np.eye(3, dtype=int)[axis] * inner[:, None]
        before, at, after = (
            cube[(*(top + sign * step).T, blocks)].astype(float) for sign in (-1, 0, 1)
        )
        bend = before - 2 * at + after
        result[:, axis] += np.where(bend < 0, 0.5 * (before - after) / np.minimum(bend, -1e-9), 0)
    return result
