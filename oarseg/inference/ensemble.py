"""Runs an ensemble on tiles: every fold, every flip, and a check for finite logits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from oarseg.errors import InferenceError
from oarseg.imaging.arrays import Half, Image
from oarseg.imaging.volume import Shape
from oarseg.inference.engines.protocol import AddsTiles, Engine
from oarseg.inference.preprocessing import NetworkInput
from oarseg.inference.ring import AddTile
from oarseg.inference.tiling import Tiling
from oarseg.model.manifest import Manifest

Flip = tuple[int, ...]


def mirror_flips(manifest: Manifest, mirror: bool) -> tuple[Flip, ...]:
    """List the axis combinations of test-time mirroring, in nnU-Net's order; none is not listed."""
    axes = manifest.mirror_axes if mirror else ()
    return tuple(
        chosen for n in range(1, len(axes) + 1) for chosen in itertools.combinations(axes, n)
    )


@dataclass(frozen=True, eq=False)
class TileLogits:
    """What engines say of one tile.

    Attributes:
        start: the tile's first voxel in the padded image.
        first: the number of the first fold, or 0 where the folds are summed.
        folds: the logits (classes, *patch) of each fold, or their sum, or what adds them to sums
            (``AddTile``); each is valid until the next is asked for.
    """

    start: Shape
    first: int
    folds: Iterator[Any]


class Ensemble:
    """Runs every fold of a model on tiles of one image."""

    def __init__(
        self,
        net_input: NetworkInput,
        window: Tiling,
        engines: Sequence[Engine],
        *,
        joint: bool = False,
        adds: bool = False,
    ) -> None:
        """Allocate the tile.

        Args:
            net_input: the image.
            window: the tiles.
            engines: of all folds, in their order.
            joint: give the sum over folds instead of each fold's logits.
            adds: give what adds a fold's logits to sums, of engines that can.
        """
        self._input = net_input
        self._window = window
        self._engines = engines
        self._joint = joint and answers_of(engines) > 1
        self._adds = adds
        self._sum: Image | None = None
        self._tile = np.empty((1, net_input.channels, *window.patch), np.float32)

    @property
    def turns(self) -> int:
        """How often each tile of a row is computed."""
        return 1 if self._joint else len(self._engines)

    def row(self, starts: Sequence[Shape], flips: Sequence[Flip] = ()) -> Iterator[TileLogits]:
        """Compute tiles, engine after engine, so that each goes on with the buffers that it has.

        Args:
            starts: the first voxel of each tile in the padded image.
            flips: axes to mirror along; each fold's logits are averaged over these and the
                unflipped tile.

        Yields:
            One answer for each tile in each turn. Its folds have to be taken before the next.

        Raises:
            InferenceError: logits are NaN or infinite.
        """
        if self._joint:
            for start in starts:
                self._cut(start)
                yield TileLogits(start, 0, iter([self._sum_of(start, flips)]))
            return
        first = 0
        for engine in self._engines:
            for start in starts:
                self._cut(start)
                yield TileLogits(start, first, self._fold_logits(engine, start, flips))
            first += engine.answers
            self._rest(engine)

    def _cut(self, start: Shape) -> None:
        self._input.cut(self._window, start, self._tile[0])

    def _rest(self, engine: Engine) -> None:
        """Make room for the next engine, if there is another."""
        if len(self._engines) > 1:
            engine.rest()

    def _fold_logits(self, engine: Engine, start: Shape, flips: Sequence[Flip]) -> Iterator[Any]:
        """Give each fold's logits, or what adds them; a mean over flips is taken here."""
        if self._adds and not flips and isinstance(engine, AddsTiles):
            return iter([self._adder(engine, start)])
        return self._logits(engine, start, flips)

    def _adder(self, engine: AddsTiles, start: Shape) -> AddTile:
        def add(totals: Sequence[Half], weights: Image, pool: Executor) -> None:
            if not engine.add(self._tile, totals, weights, pool):
                raise InferenceError(not_finite(engine.name, start))

        return add

    def _logits(self, engine: Engine, start: Shape, flips: Sequence[Flip]) -> Iterator[Image]:
        """Yield each fold's logits, which must be finite."""
        for logits in self._average_flips(engine, flips):
            # A sum is one pass and is finite only if every logit is.
            if not np.isfinite(logits.sum()):
                raise InferenceError(not_finite(engine.name, start))
            yield logits

    def _sum_of(self, start: Shape, flips: Sequence[Flip]) -> Image:
        """Sum in a buffer of its own, as engines share one."""
        number = 0
        for engine in self._engines:
            for logits in self._logits(engine, start, flips):
                if self._sum is None:
                    self._sum = np.empty_like(logits)
                if number == 0:
                    self._sum[...] = logits
                else:
                    self._sum += logits
                number += 1
            self._rest(engine)
        if self._sum is None:
            raise ValueError("an ensemble without folds")
        return self._sum

    def _average_flips(self, engine: Engine, flips: Sequence[Flip]) -> Image:
        tile = self._tile
        if not flips:
            return engine(tile)
        mean = engine(tile).copy()
        for axes in flips:
            behind = tuple(axis + 2 for axis in axes)
            flipped = np.ascontiguousarray(np.flip(tile, behind))
            mean += np.flip(engine(flipped), behind)
        mean /= len(flips) + 1
        return mean


def not_finite(name: str, start: Shape) -> str:
    """Compose the message for a network whose logits are NaN or infinite in a tile."""
    return (
        f"{name}: expected finite logits, found NaN or infinity in the tile at {start}; check the "
        "image's intensities or use the fp32 model"
    )


def answers_of(engines: Sequence[Engine]) -> int:
    """Count the arrays of logits that engines give for a tile."""
    return sum(engine.answers for engine in engines)
