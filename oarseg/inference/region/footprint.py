"""Masks an image in blocks of voxels, and selects the tiles that a mask depends on.

The body need not be known to the voxel in order to skip air. Blocks keep the mask small: no array
here is as large as the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Mask
from oarseg.imaging.volume import Shape
from oarseg.inference import resampling
from oarseg.inference.preprocessing import Placement
from oarseg.inference.tiling import Tiling

Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class BlockMask:
    """A mask of an image in blocks of voxels.

    Attributes:
        blocks: (z, y, x), True for those that belong to the mask.
        size: voxels of a block along each axis; the last block of an axis holds the remainder.
        shape: the image's.
    """

    blocks: Mask
    size: Shape
    shape: Shape

    def index(self, axis: int) -> Index:
        """Return the block of each voxel along an axis."""
        found: Index = np.minimum(
            np.arange(self.shape[axis]) // self.size[axis], self.blocks.shape[axis] - 1
        )
        return found

    def voxels(self) -> Mask:
        """Expand the mask to the image's size, for tests and pictures."""
        return self.blocks[np.ix_(self.index(0), self.index(1), self.index(2))]


@dataclass(frozen=True, eq=False)
class Footprint:
    """A mask along the network's axes, within the part of the image that was kept.

    Attributes:
        blocks: in the network's order of axes.
        index: along each axis, the block of each voxel before resampling.
    """

    blocks: Mask
    index: tuple[Index, Index, Index]

    @classmethod
    def of(cls, mask: BlockMask, place: Placement) -> Footprint:
        """Map a mask to the axes and the crop of a placement."""
        a, b, c = (
            mask.index(axis)[start:stop]
            for axis, (start, stop) in zip(place.transpose, place.box, strict=True)
        )
        return cls(mask.blocks.transpose(place.transpose), (a, b, c))

    def plane(self, index: int) -> Mask:
        """Return one plane of the image along the network's axis 0."""
        layer: Mask = self.blocks[self.index[0][index]]
        return layer[np.ix_(self.index[1], self.index[2])]

    def same(self, one: int, other: int) -> bool:
        """Tell whether two planes lie in the same layer of blocks."""
        return bool(self.index[0][one] == self.index[0][other])

    def tiles(self, window: Tiling, orders: Sequence[int]) -> Mask:
        """Select the tiles that a voxel of the mask depends on, by their numbers along each axis.

        A label is interpolated from the logits of one or two network voxels along each axis,
        and each of those is a sum over all tiles that cover it.

        Args:
            window: the tiles.
            orders: spline orders of the logits' resampling along each axis.
        """
        needed = self.blocks.astype(np.float32)
        for axis in range(3):
            touched = self._touched(axis, window, orders[axis]).astype(np.float32)
            needed = np.minimum(np.moveaxis(np.tensordot(touched, needed, (1, axis)), 0, axis), 1)
        found: Mask = needed > 0
        return found

    def _touched(self, axis: int, window: Tiling, order: int) -> Mask:
        """Relate tiles to blocks along one axis.

        Returns:
            (tiles, blocks), True where a voxel of the block is interpolated from the tile.
        """
        index = self.index[axis]
        taps = resampling.linear_taps(window.image[axis], len(index), order)
        first, last = np.array([tap.first for tap in taps]), np.array([tap.last for tap in taps])
        touched = np.zeros((len(window.starts[axis]), self.blocks.shape[axis]), bool)
        for number, start in enumerate(window.starts[axis]):
            low = start - window.before[axis]
            touched[number, index[(first < low + window.patch[axis]) & (last >= low)]] = True
        return touched
