"""Collect a mask plane by plane, packed to one bit per voxel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.labels.mask import CroppedMask


@dataclass(frozen=True)
class _PackedPlane:
    """One plane of a mask, cropped and packed to one bit per voxel."""

    z: int
    y: int
    x: int
    shape: tuple[int, int]
    bits: NDArray[np.uint8]

    def unpack(self) -> NDArray[np.bool_]:
        height, width = self.shape
        return np.unpackbits(self.bits, count=height * width).reshape(self.shape).view(np.bool_)


@dataclass(frozen=True)
class Pieces:
    """The non-empty planes of a mask so far."""

    planes: list[_PackedPlane] = field(default_factory=list)

    def add(self, z: int, plane: NDArray[np.bool_]) -> None:
        """Add a plane (y, x), each z once; an empty one takes no memory."""
        rows = np.flatnonzero(plane.any(axis=1))
        if not rows.size:
            return
        band = plane[rows[0] : rows[-1] + 1]
        columns = np.flatnonzero(band.any(axis=0))
        part = band[:, columns[0] : columns[-1] + 1]
        height, width = part.shape
        self.planes.append(
            _PackedPlane(z, int(rows[0]), int(columns[0]), (height, width), np.packbits(part))
        )

    def mask(self) -> CroppedMask | None:
        """Return the mask cropped to its box; None if it is empty."""
        if not self.planes:
            return None
        start, stop = _bounding_box(self.planes)
        array = np.zeros(tuple(b - a for a, b in zip(start, stop, strict=True)), bool)
        for piece in self.planes:
            z, y, x = piece.z - start[0], piece.y - start[1], piece.x - start[2]
            array[z, y : y + piece.shape[0], x : x + piece.shape[1]] = piece.unpack()
        return CroppedMask(array, start)


def _bounding_box(planes: list[_PackedPlane]) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    lows: NDArray[Any] = np.array([(p.z, p.y, p.x) for p in planes])
    sizes = np.array([(1, *p.shape) for p in planes])
    z, y, x = lows.min(axis=0).tolist()
    return (z, y, x), tuple((lows + sizes).max(axis=0).tolist())
