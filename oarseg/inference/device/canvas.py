"""What a GPU gives back for each plane: its labels, and what was wrong on the way, in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import InferenceError
from oarseg.imaging.volume import Shape
from oarseg.inference.device.gpu import Gpu
from oarseg.inference.ensemble import not_finite
from oarseg.inference.painting import beyond_half


class Canvas:
    """The labels of one plane, and a fault number for each fold and for the planes.

    A kernel writes down the number of the first tile (or plane) that it finds something wrong in,
    as to ask after every tile would make the host wait for it.
    """

    def __init__(self, gpu: Gpu, shape: tuple[int, int], names: Sequence[str]) -> None:
        """Allocate on the GPU.

        Args:
            gpu: where.
            shape: rows and columns of a plane of the image.
            names: what gives the logits, for messages: each fold, or all of them.
        """
        area = shape[0] * shape[1]
        # Numbers of 4 bytes begin at a multiple of 4.
        self._first = -(-area // 4) * 4
        self._gpu = gpu
        self._shape = shape
        self._names = tuple(names)
        self._bytes = gpu.xp.zeros(self._first + 4 * (len(names) + 1), np.uint8)
        self._faults = self._bytes[self._first :].view(np.int32)
        self._tiles: list[Shape] = []

    @property
    def labels(self) -> Any:
        """The plane's labels, (rows · columns) uint8, on the GPU."""
        return self._bytes[: self._shape[0] * self._shape[1]]

    def fold_fault(self, fold: int) -> Any:
        """The number of the first tile with a logit that is not finite, on the GPU."""
        return self._faults[fold : fold + 1]

    @property
    def plane_fault(self) -> Any:
        """One more than the index of the first plane beyond half precision, on the GPU."""
        return self._faults[len(self._names) :]

    def number_tile(self, start: Shape) -> np.int32:
        """Number a tile, from 1 on, in the order of the calls."""
        self._tiles.append(start)
        return np.int32(len(self._tiles))

    def download(self) -> NDArray[np.uint8]:
        """Return the plane's labels, (rows, columns).

        Raises:
            InferenceError: logits were NaN, infinite or beyond the range of half precision.
        """
        found = self._gpu.to_host(self._bytes)
        *folds, plane = found[self._first :].view(np.int32)
        for name, tile in zip(self._names, folds, strict=True):
            if tile:
                raise InferenceError(not_finite(name, self._tiles[tile - 1]))
        if plane:
            raise InferenceError(beyond_half(plane - 1))
        labels: NDArray[np.uint8] = found[: self._shape[0] * self._shape[1]].reshape(self._shape)
        return labels
