"""Turns final planes of logits into label planes: resampling, argmax and masking.

Only blocks that hold voxels of the mask are computed; everything outside it is background.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import InferenceError
from oarseg.imaging.arrays import Image, Labels, Mask
from oarseg.inference import resampling
from oarseg.inference.confidence.probabilities import Probabilities
from oarseg.inference.preprocessing import Placement
from oarseg.inference.region.footprint import Footprint
from oarseg.inference.resampling import Band, Tap
from oarseg.inference.ring import LogitPlane
from oarseg.model.manifest import Manifest, class_labels

# Half of the smallest positive half: below it a logit rounds to zero, sigmoid to 0.5.
_ABOVE_ZERO = np.float32(2.0**-25)
_LARGEST_HALF = np.float32(65504.0)

# Bands of 32 columns a block: 31 classes of 32 × 128 voxels take half a megabyte.
_BANDS = 4


@dataclass(frozen=True)
class Block:
    """A block of a label plane that fits the cache, and the bands that interpolate it.

    The mask decides whether a block is computed, never how.
    """

    rows: Band
    columns: tuple[Band, ...]

    @property
    def target(self) -> tuple[slice, slice]:
        """Rows and columns of the label plane."""
        return self.rows.target, _span(band.target for band in self.columns)

    @property
    def source(self) -> tuple[slice, slice]:
        """Rows and columns of the network's plane that it is interpolated from."""
        return self.rows.source, _span(band.source for band in self.columns)


def _span(parts: Iterable[slice]) -> slice:
    found = list(parts)
    return slice(min(part.start for part in found), max(part.stop for part in found))


def plan_blocks(place: Placement, orders: Sequence[int]) -> tuple[Block, ...]:
    """Divide an image's plane into blocks; those of two networks have the same targets."""
    shape, target = place.network_shape, place.crop_shape
    return tuple(
        Block(rows, columns)
        for rows in resampling.spline_bands(shape[1], target[1], orders[1])
        for columns in _groups(resampling.spline_bands(shape[2], target[2], orders[2]))
    )


def interpolate(
    block: Block, tap: Tap, before: NDArray[Any] | None, logits: NDArray[Any]
) -> NDArray[Any]:
    """Resample logits to a block's voxels, (classes, rows, columns).

    Args:
        block: where.
        tap: the planes that the image's plane is blended from.
        before, logits: these, (classes, *network plane); the first is needed if they are two.
    """
    rows, columns = block.source
    part = logits[:, rows, columns]
    if tap.first != tap.last:
        if before is None:
            raise RuntimeError(f"plane {tap.first} was not kept")
        part = part * np.float32(tap.weight_last)
        part += before[:, rows, columns] * np.float32(tap.weight_first)
    if not all(band.unchanged for band in block.columns):
        part = resampling.apply_columns(part, block.columns)
    return block.rows.apply(part)


def check_plane(plane: LogitPlane) -> None:
    """Make sure that half precision could hold a plane's sums.

    Raises:
        InferenceError: it could not.
    """
    if not np.isfinite(plane.logits[:, plane.rows, plane.columns].sum()):
        raise InferenceError(beyond_half(plane.index))


class Painter:
    """Takes final planes in order and paints the image planes that they complete.

    Resampling along axis 0 needs at most the previous plane, which is kept, so interpolation is
    exact across rows of tiles.
    """

    def __init__(
        self,
        place: Placement,
        manifest: Manifest,
        labels: Labels,
        *,
        mask: Footprint | None,
        pool: Executor,
        chances: Probabilities | None = None,
    ) -> None:
        """Plan the interpolation.

        Args:
            place: maps the network's grid to the image's.
            manifest: the model.
            labels: the label map to paint, on the image's grid.
            mask: the part to paint; None paints the whole image.
            pool: computes blocks concurrently.
            chances: keeps probabilities of the planes that are painted.
        """
        orders = plan_streaming_resample(manifest, place).orders
        shape, target = place.network_shape, place.crop_shape
        self._taps = resampling.linear_taps(shape[0], target[0], orders[0])
        self._blocks = plan_blocks(place, orders)
        exact = not manifest.regions and shape != target
        self._voxel_taps = (
            tuple(resampling.voxel_taps(shape[k], target[k], orders[k]) for k in (1, 2))
            if exact
            else None
        )
        self._canvas = place.view(labels)
        self._mask = mask
        self._regions = manifest.regions
        self._values = class_labels(manifest)
        self._pool = pool
        self._chances = chances
        self._next = 0
        self._before: NDArray[Any] | None = None

    def take(self, plane: LogitPlane) -> None:
        """Accept the next plane; planes that no tile covers may be omitted.

        Raises:
            InferenceError: a sum over tiles exceeds the range of half precision.
        """
        check_plane(plane)
        while self._next < len(self._taps) and self._taps[self._next].last <= plane.index:
            # Taps that end before this plane belong to omitted planes, with nothing to paint.
            if self._taps[self._next].last == plane.index:
                self._paint_plane(self._next, plane.logits)
            self._next += 1
        if self._next < len(self._taps) and self._taps[self._next].first == plane.index:
            self._keep_plane(plane.logits)

    def close(self) -> None:
        """End a case; every plane has been painted already."""

    def _keep_plane(self, logits: NDArray[Any]) -> None:
        if self._before is None:
            self._before = np.empty(logits.shape, logits.dtype)
        self._before[...] = logits

    def _paint_plane(self, target: int, logits: NDArray[Any]) -> None:
        if self._repeats(target):
            self._canvas[target][...] = self._canvas[target - 1]
        else:
            if self._chances is not None:
                self._chances.begin()
            self._paint_blocks(target, logits)
        if self._chances is not None:
            self._chances.end(target)

    def _paint_blocks(self, target: int, logits: NDArray[Any]) -> None:
        canvas = self._canvas[target]
        inside = None if self._mask is None else self._mask.plane(target)
        tap = self._taps[target]

        def paint_block(part: Block) -> None:
            where = part.target
            if inside is None:
                canvas[where] = self._label_block(part, tap, logits, None)
            elif inside[where].any():
                seen = inside[where]
                canvas[where] = np.where(seen, self._label_block(part, tap, logits, seen), 0)

        for _ in self._pool.map(paint_block, self._blocks):
            pass

    def _repeats(self, target: int) -> bool:
        """Tell whether a plane equals the previous one: same interpolation, same mask."""
        if target == 0 or self._taps[target - 1] != self._taps[target]:
            return False
        return self._mask is None or self._mask.same(target, target - 1)

    def _label_block(
        self, block: Block, tap: Tap, logits: NDArray[Any], inside: Mask | None
    ) -> NDArray[np.uint8]:
        resized = interpolate(block, tap, self._before, logits)
        if self._chances is not None:
            self._chances.keep(block.target, resized, inside)
        if self._regions:
            return _paint_regions(resized, self._values)
        classes = first_maximum(resized)
        if self._voxel_taps is not None:
            self._settle_close_calls(classes, resized, block, tap, logits)
        labels: NDArray[np.uint8] = self._values[classes]
        return labels

    def _settle_close_calls(
        self,
        classes: NDArray[Any],
        resized: NDArray[Any],
        block: Block,
        tap: Tap,
        logits: NDArray[Any],
    ) -> None:
        """Interpolate anew, in float64 as nnU-Net does, where rounding decides; in place."""
        where = close_calls(resized)
        if self._voxel_taps is None or not len(where[0]):
            return
        rows, columns = (
            taps.at(part.start + indices)
            for taps, part, indices in zip(self._voxel_taps, block.target, where, strict=True)
        )
        planes = [(logits, tap.weight_last)]
        if tap.first != tap.last and self._before is not None:
            planes.insert(0, (self._before, tap.weight_first))
        values = resampling.blend_voxels(planes, rows, columns)
        with np.errstate(over="ignore"):
            classes[where] = values.astype(np.float16).argmax(axis=0)


def beyond_half(plane: int) -> str:
    """Compose the message for a plane of sums that half precision cannot hold."""
    return (
        f"plane {plane}: logits summed over tiles are beyond half precision's range, as they "
        "would be in nnU-Net; check the image's intensities"
    )


def _groups(columns: Sequence[Band]) -> Iterator[tuple[Band, ...]]:
    """Group bands to the columns of a block."""
    for start in range(0, len(columns), _BANDS):
        yield tuple(columns[start : start + _BANDS])


def plan_streaming_resample(manifest: Manifest, place: Placement) -> resampling.Scheme:
    """Choose how logits are resampled to the image's grid; a manifest has orders 0 and 1 only."""
    settings = manifest.logits_resampling
    return resampling.choose_scheme(settings, place.network_spacing_mm, place.crop_spacing_mm)


def label_logits(logits: NDArray[Any], manifest: Manifest) -> NDArray[np.uint8]:
    """Reduce logits (classes, …) on the host to label values (…)."""
    values = class_labels(manifest)
    if manifest.regions:
        painted: NDArray[np.uint8] = _paint_regions(logits, values)
        return painted
    labels: NDArray[np.uint8] = values[first_maximum(logits)]
    return labels


def first_maximum(logits: NDArray[Any]) -> NDArray[Any]:
    """Return the class of the largest logit after rounding to half precision, the first of a tie.

    nnU-Net's resampled logits are in half precision, where ties are common. Only the largest logit
    has to be rounded: rounding is monotonic, so a class ties if and only if its logit reaches the
    lowest value that rounds to the same half.

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


def close_calls(logits: NDArray[Any]) -> tuple[NDArray[np.intp], ...]:
    """Find the voxels in which float32's last digit may decide which class is the largest.

    There another logit comes within two units of half precision of the largest.

    Args:
        logits: (classes, …) float32.

    Returns:
        Their indices along each axis but the first.
    """
    half = np.clip(logits.max(axis=0), -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)
    for _ in range(2):
        half = np.nextafter(half, np.float16(-np.inf))
    near = logits >= half.astype(np.float32)
    return np.nonzero(np.add.reduce(near.view(np.uint8), axis=0, dtype=np.uint16) > 1)


def _lowest_rounding_to_same(values: NDArray[Any]) -> NDArray[Any]:
    half = np.clip(values, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)
    below = np.nextafter(half, np.float16(-np.inf)).astype(np.float32)
    middle = (half.astype(np.float32) + below) / 2
    # Ties round to the even mantissa: the midpoint rounds up only if this half is even.
    odd = (half.view(np.uint16) & 1).astype(bool)
    lowest: Image = np.where(odd, np.nextafter(middle, np.float32(np.inf)), middle)
    return lowest


def _paint_regions(logits: NDArray[Any], values: NDArray[np.uint8]) -> NDArray[Any]:
    """Paint regions in order, each where sigmoid(logit) > 0.5."""
    labels = np.zeros_like(logits[0], dtype=np.uint8)
    for region, value in zip(logits, values, strict=True):
        labels[region > _ABOVE_ZERO] = value
    return labels
