"""How far each part of the head is from where it fits best, once the whole is aligned.

The whole head's joint histogram tells which pairs of CT and MR values belong together:
log p(ct, mr) / (p(ct) p(mr)), the pointwise mutual information. Its sum over a block of
tissue, taken at every small shift of the block, peaks where that block fits. In two
scans of one patient all blocks peak at their own place to within a voxel. Another
patient's head, a mirrored one or one of another size can be as well aligned as a whole,
but its parts want to go elsewhere. Block matching after Ourselin et al., Image and
Vision Computing 2001, with the sum of pointwise information for their correlation.
"""

from __future__ import annotations

import itertools
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
HALF_BLOCK = 6  # voxels; a block is two of them along each axis, and blocks overlap by half
REACH = 3  # voxels
MIN_FILLED = 0.7
MIN_BLOCKS = 20
DISTINCT_NATS = 0.3  # of pointwise information a voxel
MARGIN_VOXELS = 2

CT_CLASSES = len(FINE_CT_EDGES_HU) + 1
UNSEEN = FINE_MR_CLASSES  # the class of what the MR does not show


@dataclass(frozen=True)
class Overlay:
    """CT and MR as classes of values on one grid (z, y, x) along the world's axes.

    Attributes:
        ct: class of each voxel's HU.
        mr: class of the MR there; ``UNSEEN`` outside its field.
        mask: the patient where both were taken.
    """

    ct: NDArray[np.intp]
    mr: NDArray[np.intp]
    mask: Mask

    def within(self, mask: Mask) -> Overlay:
        """The same, the patient cut to a mask."""
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
    ct: CoarseCt, mr: CoarseMr, transform: Transform, *, where: Grid | None = None
) -> Overlay:
    """CT and MR on a grid in the CT's world.

    Args:
        transform: CT world → MR world.
        where: the grid; None takes all that the MR covers.
    """
    where = where or overlay_grid(ct, mr, transform)
    hu = resample_linear(ct.fine, where).array
    points = transform.apply(_points(where))
    values = _at(mr.fine, points).reshape(where.shape)
    patient = _at(mr.field.with_array(mr.foreground.astype(np.float32)), points) > 0.5
    mask = ndimage.binary_dilation(patient.reshape(where.shape), iterations=MARGIN_VOXELS)
    seen = ~np.isnan(values)
    mask &= seen & ~np.isnan(hu)
    inner = values[mask]
    edges = (
        np.quantile(inner, np.arange(1, FINE_MR_CLASSES) / FINE_MR_CLASSES) if inner.size else [0.0]
    )
    classes = np.where(seen, np.digitize(values, edges), UNSEEN)
    return Overlay(np.digitize(hu, FINE_CT_EDGES_HU), classes, mask)


def overlay_grid(ct: CoarseCt, mr: CoarseMr, transform: Transform) -> Grid:
    """The grid of ``GRID_MM`` over what the MR covers of the CT at a pose."""
    box = covered_box(mr.fine.grid, transform, ct.fine.grid)
    return world_grid(crop_volume(ct.fine, *box).grid, spacing_mm=GRID_MM)


def _points(grid: Grid) -> NDArray[np.float64]:
    return grid.to_world(np.indices(grid.shape, dtype=np.float64).reshape(3, -1).T)


def _at(image: Volume, points: NDArray[np.float64]) -> Image:
    index = image.grid.to_index(points).T
    return cast(Image, ndimage.map_coordinates(image.array, index, order=1, cval=np.nan))


@dataclass(frozen=True)
class Mismatch:
    """How badly the parts fit where the whole has put them.

    Attributes:
        median_mm: half of the distinct blocks would fit better at least this far away;
            the farthest that is looked at where there are too few blocks to tell.
        blocks: how many distinct blocks there were.
    """

    median_mm: float
    blocks: int


def median_local_shift(pair: Overlay) -> Mismatch:
    """The median length of ``local_shifts``."""
    lengths = np.linalg.norm(local_shifts(pair), axis=1)
    if len(lengths) < MIN_BLOCKS:
        return Mismatch(REACH * GRID_MM, len(lengths))
    return Mismatch(float(np.median(lengths)), len(lengths))


def local_shifts(pair: Overlay) -> NDArray[np.float64]:
    """Where each distinct block of the patient fits best, relative to where it is.

    A block is distinct when its information is much higher at its best place than on
    average: the even inside of a brain fits anywhere and tells nothing.

    Returns:
        (n, 3) shifts along z, y, x in mm, at most ``REACH`` voxels along each axis and
        interpolated between them; one row a block.
    """
    gains, filled = _block_information(pair)
    gains = gains[:, filled] / np.float32((2 * HALF_BLOCK) ** 3)
    gains = gains[:, gains.max(0) - gains.mean(0) >= DISTINCT_NATS]
    return _peaks(gains) * GRID_MM


def _block_information(pair: Overlay) -> tuple[NDArray[np.float32], Mask]:
    """(shifts, blocks) summed pointwise information, and which blocks hold enough patient."""
    table = np.zeros((CT_CLASSES, FINE_MR_CLASSES + 1), np.float32)
    table[:, :FINE_MR_CLASSES] = _pointwise(pair.joint)
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
    sums = []
    strides = (padded.shape[1] * padded.shape[2], padded.shape[2], 1)
    for shift in itertools.product(range(-REACH, REACH + 1), repeat=3):
        step = sum(s * n for s, n in zip(shift, strides, strict=True))
        cells = np.zeros(counts, np.float32)
        if len(firsts):
            found = table.ravel()[row + values[here + step]]
            cells.ravel()[cell[firsts]] = np.add.reduceat(found, firsts)
        sums.append(_blocks(cells).ravel())
    voxels = np.bincount(cell, minlength=int(np.prod(counts))).reshape(counts)
    filled = _blocks(voxels).ravel() >= MIN_FILLED * (2 * HALF_BLOCK) ** 3
    return np.stack(sums), filled


def _pointwise(joint: NDArray[np.float64]) -> NDArray[np.float64]:
    share = (joint + 0.5) / (joint + 0.5).sum()
    expected = share.sum(1, keepdims=True) * share.sum(0, keepdims=True)
    return cast(NDArray[np.float64], np.log(share / expected))


def _blocks(cells: NDArray[Any]) -> NDArray[Any]:
    """Sums of 2 × 2 × 2 neighbouring cells."""
    for axis in range(3):
        low, high = [slice(None)] * 3, [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        cells = cells[tuple(low)] + cells[tuple(high)]
    return cells


def _peaks(gains: NDArray[np.float32]) -> NDArray[np.float64]:
    """Maxima over shifts, in voxels, interpolated by a parabola along each axis."""
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
