"""The ring of sums on a GPU: the same sums as ``Ring``'s, one kernel a fold and one a plane."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from oarseg.imaging.volume import Shape
from oarseg.inference.device.canvas import Canvas
from oarseg.inference.device.gpu import Gpu
from oarseg.inference.device.kernels import lengths
from oarseg.inference.tiling import Tiling, gaussian_weights


@dataclass(frozen=True, eq=False)
class DevicePlane:
    """A plane of final logits on the GPU.

    Attributes:
        index: along network axis 0.
        logits, before: of this plane and of the one yielded before it, (classes, *network
            plane) in half precision; valid until the next plane but one is requested.
    """

    index: int
    logits: Any
    before: Any


class DeviceRing:
    """The sums of planes along axis 0 that are not final yet; plane p is in slot p mod depth."""

    def __init__(
        self, window: Tiling, classes: int, folds: int, *, joint: bool, gpu: Gpu, canvas: Canvas
    ) -> None:
        """Allocate the buffers; arguments as for ``Ring``, and where faults are noted."""
        sums = 1 if joint else folds
        self._window = window
        self._gpu = gpu
        self._canvas = canvas
        xp = gpu.xp
        self._shape = (classes, window.patch[0], *window.shape[1:])
        self._sums = xp.zeros((sums, *self._shape), np.float16)
        self._weights = xp.zeros(self._shape[1:], np.float16)
        gaussian = gaussian_weights(window.patch)
        self._gaussian = xp.asarray(gaussian)
        # As in ``Ring``, the mean in a joint sum is taken in the weights.
        self._share = xp.asarray(gaussian.astype(np.float32) / np.float32(folds if joint else 1))
        self._planes = xp.zeros((2, classes, *window.image[1:]), np.float16)
        self._yielded = 0
        self._starts: list[Shape] = []

    def add(self, folds: Iterable[Any], start: Shape, first: int = 0) -> None:
        """Queue the addition of a tile's logits; see ``Ring.add``."""
        if first == 0:
            self._starts.append(start)
        number = self._canvas.number_tile(start)
        for fold, logits in enumerate(folds, first):
            self._gpu.kernels.add_tile(
                self._gaussian.size,
                logits,
                self._share,
                self._gaussian,
                self._sums[fold],
                self._weights,
                self._canvas.fold_fault(fold),
                *lengths((self._shape[0], *self._window.patch, *self._shape[2:], *start)),
                np.int32(fold == 0),
                number,
            )

    def finish(self, planes: range) -> Iterator[DevicePlane]:
        """Yield final planes without padding, and clear their slots; see ``Ring.finish``."""
        depth = self._window.patch[0]
        for padded in planes:
            index = padded - self._window.before[0]
            covering = [start for start in self._starts if padded - depth < start[0]]
            # A row of tiles that begins behind this plane has not been added yet.
            if covering:
                inside = 0 <= index < self._window.image[0]
                logits, before = (
                    self._planes[self._yielded % 2],
                    self._planes[1 - self._yielded % 2],
                )
                self._take_mean(padded % depth, logits, index + 1 if inside else 0)
                if inside:
                    self._yielded += 1
                    yield DevicePlane(index, logits, before)
            self._starts = covering

    def _take_mean(self, slot: int, logits: Any, number: int) -> None:
        rows, columns = self._shape[2:]
        self._gpu.kernels.finish_plane(
            rows * columns,
            self._sums,
            self._weights,
            logits,
            self._canvas.plane_fault,
            *lengths((len(self._sums), *self._shape, slot)),
            *lengths((*self._window.before[1:], *self._window.image[1:])),
            np.int32(number),
        )
