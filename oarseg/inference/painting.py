"""Final planes of logits → label planes: resampling, the largest class, the mask.

Only what lies in the body's rows and columns is computed; outside the mask is background.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import InferenceError, WeightsError
from oarseg.imaging.arrays import Image, Labels
from oarseg.inference import resampling
from oarseg.inference.footprint import Footprint
from oarseg.inference.preprocessing import Placement
from oarseg.inference.resampling import Band, Tap
from oarseg.inference.ring import LogitPlane
from oarseg.model.manifest import Manifest, class_labels

# Half of the smallest positive half: below it a logit rounds to zero, sigmoid to 0.5.
_ABOVE_ZERO = np.float32(2.0**-25)
_LARGEST_HALF = np.float32(65504.0)

# Bands of 32 columns a block: 31 classes of 32 × 128 voxels take half a megabyte.
_BANDS = 4


@dataclass(frozen=True)
class _Block:
    """A piece of a label plane, small enough for the cache, and what it is made of.

    Which voxels the body has decides whether a block is computed, never how.
    """

    rows: Band
    columns: tuple[Band, ...]

    @property
    def target(self) -> tuple[slice, slice]:
        """Where it lies in the label plane."""
        return self.rows.target, _span(band.target for band in self.columns)

    @property
    def source(self) -> tuple[slice, slice]:
        """The network's rows and columns that it is interpolated from."""
        return self.rows.source, _span(band.source for band in self.columns)


def _span(parts: Iterable[slice]) -> slice:
    found = list(parts)
    return slice(min(part.start for part in found), max(part.stop for part in found))


class Painter:
    """Takes final planes in order and paints the image planes that they complete.

    Resampling along axis 0 needs at most the plane before, which is kept; every
    interpolation is therefore exact wherever a row of tiles ends.
    """

    def __init__(
        self,
        place: Placement,
        manifest: Manifest,
        labels: Labels,
        *,
        mask: Footprint | None,
        pool: Executor,
        xp: ModuleType,
    ) -> None:
        """Plan the interpolation.

        Args:
            place: where the network's answer belongs.
            manifest: the model.
            labels: the label map to paint, on the image's grid.
            mask: what to paint; None paints all.
            pool: computes blocks side by side.
            xp: the array module of the logits.

        Raises:
            WeightsError: logits are resampled with an order above 1.
        """
        orders = plan_streaming_resample(manifest, place).orders
        shape, target = place.network_shape, place.crop_shape
        self._taps = resampling.linear_taps(shape[0], target[0], orders[0])
        self._blocks = tuple(
            _Block(rows, columns)
            for rows in resampling.spline_bands(shape[1], target[1], orders[1])
            for columns in _groups(
                resampling.spline_bands(shape[2], target[2], orders[2]),
                _BANDS if xp is np else None,
            )
        )
        self._canvas = place.view(labels)
        self._mask = mask
        self._regions = manifest.regions
        self._values = class_labels(manifest)
        self._pool = pool
        self._xp = xp
        self._next = 0
        self._before: NDArray[Any] | None = None

    def take(self, plane: LogitPlane) -> None:
        """Accept a plane; those that no tile covers may be left out.

        Raises:
            InferenceError: a sum over tiles has left half precision's range.
        """
        if not np.isfinite(plane.logits[:, plane.rows, plane.columns].sum()):
            raise InferenceError(
                f"plane {plane.index}: logits summed over tiles are beyond half precision's "
                "range, as they would be in nnU-Net; check the image's intensities"
            )
        while self._next < len(self._taps) and self._taps[self._next].last <= plane.index:
            # Taps that end before this plane are those of planes left out: nothing to paint.
            if self._taps[self._next].last == plane.index:
                self._paint(self._next, plane.logits)
            self._next += 1
        if self._next < len(self._taps) and self._taps[self._next].first == plane.index:
            self._keep(plane.logits)

    def _keep(self, logits: NDArray[Any]) -> None:
        if self._before is None:
            self._before = self._xp.empty(logits.shape, logits.dtype)
        self._before[...] = logits

    def _paint(self, target: int, logits: NDArray[Any]) -> None:
        canvas = self._canvas[target]
        if self._repeats(target):
            canvas[...] = self._canvas[target - 1]
            return
        inside = None if self._mask is None else self._mask.plane(target)
        tap = self._taps[target]

        def block(part: _Block) -> None:
            where = part.target
            if inside is None:
                canvas[where] = self._labels(part, tap, logits)
            elif inside[where].any():
                canvas[where] = np.where(inside[where], self._labels(part, tap, logits), 0)

        for _ in self._pool.map(block, self._blocks):
            pass

    def _repeats(self, target: int) -> bool:
        """Whether a plane is interpolated as the one before it, and as much of it wanted."""
        if target == 0 or self._taps[target - 1] != self._taps[target]:
            return False
        return self._mask is None or self._mask.same(target, target - 1)

    def _labels(self, block: _Block, tap: Tap, logits: NDArray[Any]) -> NDArray[np.uint8]:
        rows, columns = block.source
        part = logits[:, rows, columns]
        if tap.first != tap.last:
            if self._before is None:
                raise RuntimeError(f"plane {tap.first} was not kept")
            part = part * np.float32(tap.weight_last)
            part += self._before[:, rows, columns] * np.float32(tap.weight_first)
        return self._reduce(self._resized(part, block))

    def _resized(self, part: NDArray[Any], block: _Block) -> NDArray[Any]:
        """Logits (classes, source rows, source columns) → those of the block's voxels."""
        xp = self._xp
        rows, columns = block.rows, block.columns
        if not all(band.unchanged for band in columns):
            part = resampling.apply_columns(part, columns, xp=xp)
        return rows.apply(part, xp=xp)

    def _reduce(self, logits: NDArray[Any]) -> NDArray[np.uint8]:
        """Logits → label values, in the host's memory."""
        found = _paint_regions(logits, self._values) if self._regions else first_maximum(logits)
        host: NDArray[np.uint8] = found if self._xp is np else self._xp.asnumpy(found)
        return host if self._regions else self._values[host]


def _groups(columns: Sequence[Band], size: int | None) -> Iterator[tuple[Band, ...]]:
    """Bands by the group; without a size one group of all, as a GPU wants large pieces."""
    step = size or len(columns)
    for start in range(0, len(columns), step):
        yield tuple(columns[start : start + step])


def plan_streaming_resample(manifest: Manifest, place: Placement) -> resampling.Scheme:
    """How logits go back to the image's grid.

    Raises:
        WeightsError: with an order above 1, which needs more planes than are kept.
    """
    settings = manifest.logits_resampling
    how = resampling.choose_scheme(settings, place.network_spacing_mm, place.crop_spacing_mm)
    if max(how.orders) > 1:
        raise WeightsError(
            f"manifest: logits_resampling: expected orders 0 or 1, found {settings.order} in "
            f"plane and {settings.order_z} along z; export a plan with nnU-Net's defaults"
        )
    return how


def first_maximum(logits: NDArray[Any]) -> NDArray[Any]:
    """Class of the largest logit after rounding to half; the first where several tie.

    nnU-Net's resampled logits are half, and there such ties are common. No logit but the
    largest has to be rounded: rounding keeps order, so a class ties if and only if it
    reaches the lowest value that rounds to the same half.

    Args:
        logits: (classes, …) float32.

    Returns:
        uint8 of shape (…).
    """
    lowest = _lowest_rounding_to_same(logits.max(axis=0))
    best = np.zeros_like(lowest, dtype=np.uint8)
    for index in range(len(logits) - 1, -1, -1):
        best[logits[index] >= lowest] = index
    return best


def _lowest_rounding_to_same(values: NDArray[Any]) -> NDArray[Any]:
    half = np.clip(values, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)
    below = np.nextafter(half, np.float16(-np.inf)).astype(np.float32)
    middle = (half.astype(np.float32) + below) / 2
    # A tie goes to the even mantissa: the middle itself belongs to us only if ours is even.
    odd = (half.view(np.uint16) & 1).astype(bool)
    lowest: Image = np.where(odd, np.nextafter(middle, np.float32(np.inf)), middle)
    return lowest


def _paint_regions(logits: NDArray[Any], values: NDArray[np.uint8]) -> NDArray[Any]:
    """Later regions over earlier ones, each where sigmoid(logit) > 0.5."""
    labels = np.zeros_like(logits[0], dtype=np.uint8)
    for region, value in zip(logits, values, strict=True):
        labels[region > _ABOVE_ZERO] = value
    return labels
