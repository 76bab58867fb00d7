"""Runs an ensemble on one tile: every fold, every flip, and a check for finite logits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

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
        self, data: Image, window: Tiling, engines: Sequence[Engine], *, xp: ModuleType = np
    ) -> None:
        """Allocate the tile.

        Args:
            data: (channels, *network shape).
            window: the tiles.
            engines: one a fold.
            xp: the array module of their tiles and logits.
        """
        self._data = data
        self._window = window
        self._engines = engines
        self._xp = xp
        self._sum: Any = None
        self._tile = np.empty((1, len(data), *window.patch), np.float32)

    def __call__(self, start: Shape, flips: Sequence[Flip] = ()) -> Any:
        """Sum the folds' logits for one tile.

        Args:
            start: the tile's first voxel in the padded image.
            flips: axes to mirror along; each fold's logits are averaged over these and the
                unflipped tile.

        Returns:
            Logits (classes, *patch), valid until the next call.

        Raises:
            InferenceError: logits are NaN or infinite.
        """
        cut_tile(self._data, self._window, start, self._tile[0])
        tile = self._xp.asarray(self._tile)
        total = logits = tile
        for number, engine in enumerate(self._engines):
            logits = self._average_flips(engine, tile, flips)
            # A sum is one pass and is finite only if every logit is.
            if not self._xp.isfinite(logits.sum()):
                raise InferenceError(
                    f"{engine.name}: expected finite logits, found NaN or infinity in the tile "
                    f"at {start}; check the image's intensities or use the fp32 model"
                )
            # The folds share one output buffer, so a sum of several needs its own.
            if len(self._engines) > 1:
                total = self._accumulate(logits, first=number == 0)
        return total if len(self._engines) > 1 else logits

    def _accumulate(self, logits: Any, *, first: bool) -> Any:
        if self._sum is None:
            self._sum = self._xp.empty_like(logits)
        if first:
            self._sum[...] = logits
        else:
            self._sum += logits
        return self._sum

    def _average_flips(self, engine: Engine, tile: Any, flips: Sequence[Flip]) -> Any:
        if not flips:
            return engine(tile)[0]
        mean = engine(tile)[0].copy()
        for axes in flips:
            behind = tuple(axis + 1 for axis in axes)
            flipped = self._xp.ascontiguousarray(self._xp.flip(tile[0], behind))[None]
            mean += self._xp.flip(engine(flipped)[0], behind)
        mean /= len(flips) + 1
        return mean
