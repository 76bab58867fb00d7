"""Gives one configuration's logits on the image's planes, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Image
from oarseg.inference import resampling
from oarseg.inference.painting import (
    Block,
    check_plane,
    interpolate,
    plan_blocks,
    plan_streaming_resample,
)
from oarseg.inference.preprocessing import Placement
from oarseg.inference.resampling import Tap
from oarseg.inference.ring import LogitPlane
from oarseg.model.manifest import Manifest


class PlaneFeed:
    """Reads planes of logits as far as each plane of the image needs them.

    Logits are rounded to half precision once they are resampled, as nnU-Net's are before they
    become probabilities.
    """

    def __init__(self, place: Placement, manifest: Manifest, planes: Iterator[LogitPlane]) -> None:
        """Plan the interpolation.

        Args:
            place: maps the network's grid to the image's.
            manifest: the configuration.
            planes: its final planes in order; each is valid until the next is asked for.
        """
        orders = plan_streaming_resample(manifest, place).orders
        shape, target = place.network_shape, place.crop_shape
        self.blocks = plan_blocks(place, orders)
        self._taps = resampling.linear_taps(shape[0], target[0], orders[0])
        self._voxel_taps = (
            None
            if shape == target
            else [resampling.voxel_taps(shape[k], target[k], orders[k]) for k in range(3)]
        )
        self._planes = planes
        self._now: LogitPlane | None = None
        self._before: NDArray[Any] | None = None
        self._tap = Tap(-1, -1, 0.0, 0.0)
        self._target = -1

    @property
    def is_exact(self) -> bool:
        """Whether logits are as the networks gave them, without a resampling."""
        return self._voxel_taps is None

    def seek(self, target: int) -> bool:
        """Go on to a plane of the image; False if no tile covers what it is interpolated from.

        Raises:
            InferenceError: a sum over tiles exceeds the range of half precision.
        """
        tap = self._tap = self._taps[target]
        self._target = target
        while self._now is None or self._now.index < tap.last:
            if self._now is not None and self._now.index == tap.first:
                self._keep(self._now.logits)
            found = next(self._planes, None)
            if found is None:
                return False
            check_plane(found)
            self._now = found
        return self._now.index == tap.last

    def repeats(self, target: int) -> bool:
        """Tell whether a plane of the image is interpolated as the one before it."""
        return target > 0 and self._taps[target] == self._taps[target - 1]

    def _keep(self, logits: NDArray[Any]) -> None:
        if self._before is None:
            self._before = np.empty(logits.shape, logits.dtype)
        self._before[...] = logits

    def logits(self, block: Block) -> Image:
        """Resample the logits (classes, rows, columns) of a block of the plane."""
        return _rounded(interpolate(block, self._tap, self._before, self._plane))

    def voxels(self, block: Block, where: tuple[NDArray[np.intp], ...]) -> Image:
        """Resample single voxels of a block anew, in float64 as nnU-Net does: (classes, voxels)."""
        indices = [part.start + index for part, index in zip(block.target, where, strict=True)]
        if self._voxel_taps is None:
            return _rounded(self._plane[:, indices[0], indices[1]])
        along, across, down = self._voxel_taps
        planes = self._blended(along.indices[self._target], along.weights[self._target])
        rows, columns = across.at(indices[0]), down.at(indices[1])
        return _rounded(resampling.blend_voxels(planes, rows, columns))

    def _blended(
        self, indices: NDArray[np.intp], weights: NDArray[np.float64]
    ) -> list[tuple[NDArray[Any], float]]:
        """List the planes that the image's is blended from, with SciPy's weights to the last digit.

        Beyond an edge it is the edge's plane twice.
        """
        first, last = (float(weight) for weight in weights)
        if self._tap.first != self._tap.last and self._before is not None:
            return [(self._before, first), (self._plane, last)]
        if indices[0] == indices[1]:
            return [(self._plane, first), (self._plane, last)]
        return [(self._plane, 1.0)]

    @property
    def _plane(self) -> NDArray[Any]:
        if self._now is None:
            raise RuntimeError("no plane was asked for")
        return self._now.logits


def _rounded(logits: NDArray[Any]) -> Image:
    with np.errstate(over="ignore"):
        return logits.astype(np.float16).astype(np.float32)
