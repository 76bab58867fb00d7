"""Runs an ensemble on one tile: every fold, every flip, and a check for finite logits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from oarseg.errors import InferenceError
from oarseg.imaging.arrays import Image
from oarseg.imaging.volume import Shape
from oarseg.inference.engines.protocol import Engine
from oarseg.inference.tiling import Tiling, cut_tile
from oarseg.model.manifest import Manifest

Flip = tuple[int, ...]


def mirror_flips(manifest: Manifest, mirror: bool) -> tuple[Flip, ...]:
    """List the axis combinations of test-time mirroring, in nnU-Net's order; none is not listed."""
    axes = manifest.mirror_axes if mirror else ()
    return tuple(
        chosen for n in range(1, len(axes) + 1) for chosen in itertools.combinations(axes, n)
    )


class Ensemble:
    """Runs every fold of a model on tiles of one image."""

    def __init__(
        self, data: Image, window: Tiling, engines: Sequence[Engine], *, joint: bool = False
    ) -> None:
        """Allocate the tile.

        Args:
            data: (channels, *network shape).
            window: the tiles.
            engines: one a fold.
            joint: give the sum over folds instead of each fold's logits.
        """
        self._data = data
        self._window = window
        self._engines = engines
        self._joint = joint and len(engines) > 1
        self._sum: Image | None = None
        self._tile = np.empty((1, len(data), *window.patch), np.float32)

    def __call__(self, start: Shape, flips: Sequence[Flip] = ()) -> Iterator[Image]:
        """Compute each fold's logits for one tile, or their sum if it is joint.

        Args:
            start: the tile's first voxel in the padded image.
            flips: axes to mirror along; each fold's logits are averaged over these and the
                unflipped tile.

        Yields:
            Logits (classes, *patch), valid until the next step.

        Raises:
            InferenceError: logits are NaN or infinite.
        """
        cut_tile(self._data, self._window, start, self._tile[0])
        folds = (self._fold_logits(engine, start, flips) for engine in self._engines)
        if self._joint:
            yield self._sum_of(folds)
        else:
            yield from folds

    def _fold_logits(self, engine: Engine, start: Shape, flips: Sequence[Flip]) -> Image:
        logits = self._average_flips(engine, flips)
        # A sum is one pass and is finite only if every logit is.
        if not np.isfinite(logits.sum()):
            raise InferenceError(not_finite(engine.name, start))
        return logits

    def _sum_of(self, folds: Iterable[Image]) -> Image:
        """Sum in a buffer of its own, as the folds share one."""
        for number, logits in enumerate(folds):
            if self._sum is None:
                self._sum = np.empty_like(logits)
            if number == 0:
                self._sum[...] = logits
            else:
                self._sum += logits
        if self._sum is None:
            raise ValueError("an ensemble without folds")
        return self._sum

    def _average_flips(self, engine: Engine, flips: Sequence[Flip]) -> Image:
        tile = self._tile
        if not flips:
            return engine(tile)[0]
        mean = engine(tile)[0].copy()
        for axes in flips:
            behind = tuple(axis + 1 for axis in axes)
            flipped = np.ascontiguousarray(np.flip(tile[0], behind))[None]
            mean += np.flip(engine(flipped)[0], behind)
        mean /= len(flips) + 1
        return mean


def not_finite(name: str, start: Shape) -> str:
    """Compose the message for a network whose logits are NaN or infinite in a tile."""
    return (
        f"{name}: expected finite logits, found NaN or infinity in the tile at {start}; check the "
        "image's intensities or use the fp32 model"
    )
