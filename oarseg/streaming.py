"""Sliding window → ring buffer → resampling → labels, a few planes at a time.

The answer is nnU-Net 2.8.1's; the way there never holds all classes of the whole volume.
Tiles come in nnU-Net's order, axis 0 outermost, so once a row of tiles is done the planes
before the next row are final: they are normalised, resampled, reduced to labels and
forgotten. The buffer is one patch thick whatever the number of slices or folds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg import resampling
from oarseg.accumulation import Ring, arithmetic
from oarseg.bundle import Manifest, label_values
from oarseg.engines import Engine
from oarseg.errors import InferenceError, WeightsError
from oarseg.preprocessing import NetworkInput, Placement
from oarseg.resampling import Band, Tap
from oarseg.tiling import Tiling, cut, tile
from oarseg.volume import Shape

Labels = NDArray[np.uint8]
Image = NDArray[np.float32]
Progress = Callable[[int, int], None]

# Half of the smallest positive half: below it a logit rounds to zero, sigmoid to 0.5.
_ABOVE_ZERO = np.float32(2.0**-25)
_LARGEST_HALF = np.float32(65504.0)


def segment(
    net_input: NetworkInput,
    engines: Sequence[Engine],
    manifest: Manifest,
    *,
    mirror: bool = False,
    progress: Progress | None = None,
    threads: int = 1,
    xp: ModuleType = np,
) -> Labels:
    """Label every voxel of the image's grid.

    Args:
        net_input: from ``preprocessing.prepare``.
        engines: one a fold; their logits are averaged.
        manifest: the model.
        mirror: average over the flips along ``manifest.mirror_axes`` too.
        progress: called with (tiles done, tiles in all) after every tile.
        threads: for accumulating and resampling.
        xp: the array module that accumulates and resamples.

    Returns:
        Label values (z, y, x) on the image's grid.

    Raises:
        InferenceError: a network gave NaN or infinite logits, or some too large.
        WeightsError: the model asks for a resampling of logits that cannot be streamed.
    """
    place = net_input.placement
    window = tile(place.network_shape, manifest.patch_size)
    labels = np.zeros(place.shape, np.uint8)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        paint = _Painter(place, manifest, labels, pool, xp)
        predict = _Predictor(net_input.data, window, engines, _flips(manifest, mirror))
        ring = Ring(
            window, len(manifest.labels), len(engines), pool=pool, how=arithmetic(xp), xp=xp
        )
        for index, plane in _planes(predict, ring, progress, xp):
            paint.take(index, plane)
    return labels


def buffer_bytes(network_shape: Shape, manifest: Manifest) -> int:
    """Bytes that ``segment`` holds besides input, label map and networks.

    The ring buffer in half precision; in float32 two tiles of logits and two planes.
    """
    window = tile(network_shape, manifest.patch_size)
    classes = len(manifest.labels)
    plane = window.shape[1] * window.shape[2]
    ring = 2 * window.patch[0] * plane * (classes + 1)
    return ring + 2 * 4 * classes * (plane + math.prod(window.patch))


def _flips(manifest: Manifest, mirror: bool) -> tuple[tuple[int, ...], ...]:
    """The axis combinations of test-time mirroring besides none, in nnU-Net's order."""
    axes = manifest.mirror_axes if mirror else ()
    return tuple(
        chosen for n in range(1, len(axes) + 1) for chosen in itertools.combinations(axes, n)
    )


class _Predictor:
    """The ensemble's answer for one tile."""

    def __init__(
        self,
        data: Image,
        window: Tiling,
        engines: Sequence[Engine],
        flips: tuple[tuple[int, ...], ...],
    ) -> None:
        self.window = window
        self._data = data
        self._engines = engines
        self._flips = flips
        self._sum: Image | None = None
        self._tile = np.empty((1, len(data), *window.patch), np.float32)

    def __call__(self, start: Shape) -> Image:
        """The sum of the folds' logits (classes, *patch); valid until the next call."""
        cut(self._data, self.window, start, self._tile[0])
        total: Image | None = None
        logits = self._tile
        for engine in self._engines:
            logits = self._one(engine)
            # A sum is one pass and is finite only if every logit is.
            if not np.isfinite(logits.sum()):
                raise InferenceError(
                    f"{engine.name}: expected finite logits, found NaN or infinity in the tile "
                    f"at {start}; check the image's intensities or use the fp32 model"
                )
            # The folds share one output buffer, so a sum of several needs its own.
            if len(self._engines) > 1:
                total = self._add(total, logits)
        return logits if total is None else total

    def _add(self, total: Image | None, logits: Image) -> Image:
        if self._sum is None:
            self._sum = np.empty_like(logits)
        if total is None:
            np.copyto(self._sum, logits)
            return self._sum
        total += logits
        return total

    def _one(self, engine: Engine) -> Image:
        if not self._flips:
            logits: Image = engine(self._tile)[0]
            return logits
        mean: Image = engine(self._tile)[0].copy()
        for axes in self._flips:
            behind = tuple(axis + 1 for axis in axes)
            flipped = np.ascontiguousarray(np.flip(self._tile[0], behind))[None]
            mean += np.flip(engine(flipped)[0], behind)
        mean /= len(self._flips) + 1
        return mean


def _planes(
    predict: _Predictor, ring: Ring, progress: Progress | None, xp: ModuleType
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Final logits (classes, *network plane) with their index along network axis 0.

    Each is valid until the next step.
    """
    window = predict.window
    done = 0
    rows = window.starts[0]
    for first, following in itertools.zip_longest(rows, rows[1:], fillvalue=window.shape[0]):
        for start in window.row(first):
            ring.add(xp.asarray(predict(start)), start)
            done += 1
            if progress is not None:
                progress(done, window.count)
        yield from ring.finish(range(first, following))


class _Painter:
    """Takes final planes in order and paints the image planes that they complete.

    Resampling along axis 0 needs at most the plane before, which is kept; every
    interpolation is therefore exact wherever a row of tiles ends.
    """

    def __init__(
        self,
        place: Placement,
        manifest: Manifest,
        labels: Labels,
        pool: Executor,
        xp: ModuleType,
    ) -> None:
        how = _streamable(manifest, place)
        shape, target = place.network_shape, place.crop_shape
        self._taps = resampling.taps(shape[0], target[0], how.orders[0])
        self._rows = resampling.bands(shape[1], target[1], how.orders[1])
        self._order = how.orders[2]
        self._canvas = place.view(labels)
        self._regions = manifest.regions
        self._values = label_values(manifest)
        self._pool = pool
        self._xp = xp
        self._next = 0
        self._before: NDArray[Any] | None = None

    def take(self, index: int, plane: NDArray[Any]) -> None:
        """Accept the final logits (classes, *network plane) of a plane of axis 0.

        Raises:
            InferenceError: a sum over tiles has left half precision's range.
        """
        if not np.isfinite(plane.sum()):
            raise InferenceError(
                f"plane {index}: logits summed over tiles are beyond half precision's range, "
                "as they would be in nnU-Net; check the image's intensities"
            )
        while self._next < len(self._taps) and self._taps[self._next].last == index:
            self._paint(self._next, self._taps[self._next], plane)
            self._next += 1
        if self._next < len(self._taps) and self._taps[self._next].first == index:
            self._keep(plane)

    def _keep(self, plane: NDArray[Any]) -> None:
        if self._before is None:
            self._before = self._xp.empty(plane.shape, plane.dtype)
        self._before[...] = plane

    def _paint(self, target: int, tap: Tap, plane: NDArray[Any]) -> None:
        canvas = self._canvas[target]
        if target > 0 and self._taps[target - 1] == tap:
            canvas[...] = self._canvas[target - 1]
            return
        blended = tap.first != tap.last
        if blended and self._before is None:
            raise RuntimeError(f"plane {tap.first} was not kept for output plane {target}")

        def band(rows: Band) -> None:
            part = plane[:, rows.source]
            if blended and self._before is not None:
                part = part * np.float32(tap.weight_last)
                part += self._before[:, rows.source] * np.float32(tap.weight_first)
            canvas[rows.target] = self._reduce(part, rows)

        for _ in self._pool.map(band, self._rows):
            pass

    def _reduce(self, part: NDArray[Any], rows: Band) -> Any:
        """Logits (classes, source rows, columns) → labels (target rows, target columns)."""
        xp = self._xp
        part = resampling.resize_columns(part, self._canvas.shape[2], self._order, xp=xp)
        part = rows.apply(part, xp=xp)
        labels = _paint_regions(part, self._values) if self._regions else first_maximum(part)
        host = labels if xp is np else xp.asnumpy(labels)
        return host if self._regions else self._values[host]


def _streamable(manifest: Manifest, place: Placement) -> resampling.Scheme:
    settings = manifest.logits_resampling
    how = resampling.scheme(settings, place.network_spacing_mm, place.crop_spacing_mm)
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
