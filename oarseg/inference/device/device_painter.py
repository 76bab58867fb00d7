"""Turns final planes of logits into label planes on a GPU: one kernel and one copy back a plane.

Each voxel is interpolated in float64 in SciPy's order, so that no label depends on float32's last
digit; on the host only close calls are (``painting.close_calls``). The labels are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from oarseg.imaging.arrays import Labels
from oarseg.inference import resampling
from oarseg.inference.device.canvas import Canvas
from oarseg.inference.device.device_ring import DevicePlane
from oarseg.inference.device.gpu import Gpu
from oarseg.inference.device.kernels import lengths
from oarseg.inference.painting import plan_streaming_resample
from oarseg.inference.preprocessing import Placement
from oarseg.inference.region.footprint import Footprint
from oarseg.inference.resampling import VoxelTaps
from oarseg.model.manifest import Manifest, class_labels


class DevicePainter:
    """Takes final planes in order and paints the image planes that they complete."""

    def __init__(
        self,
        place: Placement,
        manifest: Manifest,
        labels: Labels,
        *,
        mask: Footprint | None,
        gpu: Gpu,
        canvas: Canvas,
    ) -> None:
        """Plan the interpolation, and upload what it needs; arguments as for ``Painter``.

        Raises:
            WeightsError: logits are resampled with an order above 1.
        """
        orders = plan_streaming_resample(manifest, place).orders
        shape, target = place.network_shape, place.crop_shape
        self._taps = resampling.linear_taps(shape[0], target[0], orders[0])
        self._plane_shape = target[1:]
        self._mask = mask or _whole(target)
        self._labels = place.view(labels)
        self._gpu = gpu
        self._canvas = canvas
        xp = gpu.xp
        self._steady = (
            *_uploaded(gpu, resampling.voxel_taps(shape[1], target[1], orders[1])),
            *_uploaded(gpu, resampling.voxel_taps(shape[2], target[2], orders[2])),
            xp.asarray(class_labels(manifest)),
        )
        self._blocks = xp.asarray(self._mask.blocks.astype(np.uint8))
        self._rows, self._columns = (
            xp.asarray(index.astype(np.int64)) for index in self._mask.index[1:]
        )
        self._regions = np.int32(bool(manifest.regions))
        self._next = 0

    def take(self, plane: DevicePlane) -> None:
        """Accept the next plane; planes that no tile covers may be omitted.

        Raises:
            InferenceError: logits were NaN, infinite or beyond the range of half precision.
        """
        while self._next < len(self._taps) and self._taps[self._next].last <= plane.index:
            # Taps that end before this plane belong to omitted planes, with nothing to paint.
            if self._taps[self._next].last == plane.index:
                self._paint_plane(self._next, plane)
            self._next += 1

    def close(self) -> None:
        """Look for faults in planes of which nothing was painted.

        Raises:
            InferenceError: see ``take``.
        """
        self._canvas.download()

    def _paint_plane(self, target: int, plane: DevicePlane) -> None:
        layer = int(self._mask.index[0][target])
        if not self._mask.blocks[layer].any():
            return
        if self._repeats(target):
            self._labels[target] = self._labels[target - 1]
            return
        self._launch(target, plane, layer)
        self._labels[target] = self._canvas.download()

    def _repeats(self, target: int) -> bool:
        """Tell whether a plane equals the previous one, as ``Painter`` does."""
        if target == 0 or self._taps[target - 1] != self._taps[target]:
            return False
        return self._mask.same(target, target - 1)

    def _launch(self, target: int, plane: DevicePlane, layer: int) -> None:
        tap = self._taps[target]
        two = tap.first != tap.last
        rows, columns = self._plane_shape
        self._gpu.kernels.paint_plane(
            rows * columns,
            plane.before,
            plane.logits,
            self._canvas.labels,
            *self._steady,
            self._blocks[layer],
            self._rows,
            self._columns,
            np.float64(tap.weight_first if two else 0.0),
            np.float64(tap.weight_last),
            *lengths((*plane.logits.shape, rows, columns, self._blocks.shape[2])),
            self._regions,
        )


def _uploaded(gpu: Gpu, taps: VoxelTaps) -> tuple[Any, Any]:
    indices = np.ascontiguousarray(taps.indices, np.int64)
    return gpu.xp.asarray(indices), gpu.xp.asarray(np.ascontiguousarray(taps.weights))


def _whole(shape: tuple[int, int, int]) -> Footprint:
    """A mask that leaves nothing out."""
    a, b, c = (np.zeros(length, np.intp) for length in shape)
    return Footprint(np.ones((1, 1, 1), bool), (a, b, c))
