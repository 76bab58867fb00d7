"""Reorient volumes to the axes that a network was trained on, and back.

A network distinguishes left from right by position in the array. A file may store the same
patient from right to left, or sagittal planes first; nnU-Net uses the array as it is. Axes
are permuted and flipped without resampling, so an oblique image stays oblique.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.volume import Grid, Matrix, Vector, Volume

ORIGIN_DIGITS = 9
Axes = Literal["LPS", "RAS", "stored"]


@dataclass(frozen=True)
class Turn:
    """A permutation and flips of array axes.

    Attributes:
        order: axis i afterwards, of (z, y, x), is axis ``order[i]`` before.
        reversed: which axes, afterwards, are flipped.
    """

    order: tuple[int, ...] = (0, 1, 2)
    reversed: tuple[bool, ...] = (False, False, False)

    @property
    def is_none(self) -> bool:
        """Return whether it changes nothing."""
        return self == Turn()

    def array(self, array: NDArray[Any]) -> NDArray[Any]:
        """Reorient an array; a contiguous copy, or the array itself if nothing changes."""
        turned = array.transpose(self.order)[self._steps()]
        return array if self.is_none else np.ascontiguousarray(turned)

    def back(self, array: NDArray[Any]) -> NDArray[Any]:
        """Undo ``array``."""
        turned = array[self._steps()].transpose(np.argsort(self.order))
        return array if self.is_none else np.ascontiguousarray(turned)

    def grid(self, grid: Grid) -> Grid:
        """Reorient a grid; every voxel keeps its place in the world."""
        corner = [0, 0, 0]
        for axis, flipped in zip(self.order, self.reversed, strict=True):
            corner[axis] = grid.shape[axis] - 1 if flipped else 0
        # Without the noise of the sum, so that the same patient stored otherwise is the same image.
        origin = np.round(grid.to_world(np.array([corner], float))[0], ORIGIN_DIGITS)
        columns = np.asarray(grid.direction)[:, ::-1][:, list(self.order)]
        columns = columns * np.where(self.reversed, -1.0, 1.0)
        rows = columns[:, ::-1].tolist()
        return replace(
            grid,
            shape=cast(tuple[int, int, int], tuple(grid.shape[axis] for axis in self.order)),
            spacing_mm=cast(Vector, tuple(grid.spacing_mm[axis] for axis in self.order)),
            origin_mm=cast(Vector, tuple(origin.tolist())),
            direction=cast(Matrix, tuple(tuple(row) for row in rows)),
            nifti=None,
        )

    def volume(self, volume: Volume) -> Volume:
        """Reorient array and grid."""
        return volume if self.is_none else Volume(self.array(volume.array), self.grid(volume.grid))

    def _steps(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flipped else 1) for flipped in self.reversed)


def shear_deg(axes: NDArray[np.floating[Any]]) -> float:
    """Return how far the pair of axes that is farthest from a right angle is from it.

    Args:
        axes: (3, 3), one a column, of any length but 0.
    """
    units = np.asarray(axes, float) / np.linalg.norm(axes, axis=0)
    cosines = np.abs(units.T @ units - np.diag(np.sum(units * units, axis=0)))
    return float(np.degrees(np.arcsin(np.minimum(1.0, cosines.max()))))


def for_networks(grid: Grid, axes: Axes) -> Turn:
    """Return the turn from an image's axes to those that a model's networks expect.

    Args:
        grid: the image's.
        axes: ``LPS``; ``RAS``, as two of nnU-Net's readers turn images; or as stored.
    """
    if axes == "stored":
        return Turn()
    turn = to_lps(grid)
    if axes == "LPS":
        return turn
    z, y, x = turn.reversed
    return Turn(turn.order, (z, not y, not x))


def to_lps(grid: Grid) -> Turn:
    """Return the turn after which x is closest to left, y to back and z to up.

    Args:
        grid: any orientation, oblique ones too.
    """
    # Columns (z, y, x) of the array's axes, rows (z, y, x) of the world.
    axes = np.asarray(grid.direction)[::-1, ::-1]
    order = max(permutations(range(3)), key=lambda p: sum(abs(axes[w, a]) for w, a in enumerate(p)))
    return Turn(order, tuple(bool(axes[w, a] < 0) for w, a in enumerate(order)))
