"""The ensemble's answer for one tile: all folds, all flips, and nothing but finite numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.bundle import Manifest
from oarseg.engine import Engine
from oarseg.errors import InferenceError
from oarseg.tiling import Tiling, cut
from oarseg.volume import Shape

Image = NDArray[np.float32]
Flip = tuple[int, ...]


def flips(manifest: Manifest, mirror: bool) -> tuple[Flip, ...]:
    """The axis combinations of test-time mirroring besides none, in nnU-Net's order."""
    axes = manifest.mirror_axes if mirror else ()
    return tuple(
        chosen for n in range(1, len(axes) + 1) for chosen in itertools.combinations(axes, n)
    )


class Ensemble:
    """Every fold of a model, on tiles of one image."""

    def __init__(self, data: Image, window: Tiling, engines: Sequence[Engine]) -> None:
        """Make room for a tile.

        Args:
            data: (channels, *network shape).
            window: the tiles.
            engines: one a fold.
        """
        self._data = data
        self._window = window
        self._engines = engines
        self._sum: Image | None = None
        self._tile = np.empty((1, len(data), *window.patch), np.float32)

    def __call__(self, start: Shape, flips: Sequence[Flip] = ()) -> Image:
        """The sum of the folds' logits (classes, *patch); valid until the next call.

        Args:
            start: the tile's first voxel in the padded image.
            flips: axes to mirror along; each fold's logits are averaged over these and none.

        Raises:
            InferenceError: NaN or infinity among them.
        """
        cut(self._data, self._window, start, self._tile[0])
        total: Image | None = None
        logits = self._tile
        for engine in self._engines:
            logits = self._one(engine, flips)
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

    def _one(self, engine: Engine, flips: Sequence[Flip]) -> Image:
        if not flips:
            logits: Image = engine(self._tile)[0]
            return logits
        mean: Image = engine(self._tile)[0].copy()
        for axes in flips:
            behind = tuple(axis + 1 for axis in axes)
            flipped: Any = np.ascontiguousarray(np.flip(self._tile[0], behind))[None]
            mean += np.flip(engine(flipped)[0], behind)
        mean /= len(flips) + 1
        return mean
