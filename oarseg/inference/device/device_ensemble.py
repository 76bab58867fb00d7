"""Runs an ensemble on tiles of an image, with tiles and logits on a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from oarseg.imaging.volume import Shape
from oarseg.inference.device.gpu import Gpu
from oarseg.inference.device.kernels import lengths
from oarseg.inference.engines.protocol import Engine
from oarseg.inference.ensemble import Flip, TileLogits, answers_of
from oarseg.inference.preprocessing import NetworkInput
from oarseg.inference.tiling import Tiling


class DeviceEnsemble:
    """Runs every fold; whether logits are finite is found out when they are added up."""

    def __init__(
        self,
        net_input: NetworkInput,
        window: Tiling,
        engines: Sequence[Engine],
        *,
        joint: bool,
        gpu: Gpu,
    ) -> None:
        """Allocate the tile.

        Args:
            net_input: the image, on the host.
            window: the tiles.
            engines: one for each fold, on the GPU.
            joint: yield the sum of the folds.
            gpu: where everything but the image lies.
        """
        self._input = net_input
        self._window = window
        self._engines = tuple(engines)
        self._joint = joint and answers_of(engines) > 1
        self._gpu = gpu
        shape = (1, net_input.channels, *window.patch)
        self._staging, self._mirrored = gpu.pinned(shape), gpu.pinned(shape)
        self._tile = gpu.xp.empty(shape, np.float32)
        self._mean: Any = None
        self._sum: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        """Name what each sum comes from."""
        if self._joint:
            return (", ".join(engine.name for engine in self._engines),)
        return tuple(name for engine in self._engines for name in _names_of_folds(engine))

    @property
    def turns(self) -> int:
        """How often each tile of a row is computed."""
        return 1 if self._joint else len(self._engines)

    def row(self, starts: Sequence[Shape], flips: Sequence[Flip] = ()) -> Iterator[TileLogits]:
        """Compute tiles, engine after engine.

        Args and yields as for ``Ensemble``; the logits lie on the GPU, are not waited for and may
        be NaN or infinite.
        """
        if self._joint:
            for start in starts:
                self._cut(start)
                yield TileLogits(start, 0, iter([self._sum_of(flips)]))
            return
        first = 0
        for engine in self._engines:
            for start in starts:
                self._cut(start)
                yield TileLogits(start, first, self._logits(engine, flips))
            first += engine.answers

    def _cut(self, start: Shape) -> None:
        self._input.cut(self._window, start, self._staging[0])

    def _upload(self, axes: Flip = ()) -> None:
        """Queue the tile's copy, mirrored along some axes.

        The networks' run before it has been waited for, so that the staging is free.
        """
        if not axes:
            self._tile.set(self._staging)
            return
        np.copyto(self._mirrored, np.flip(self._staging, tuple(axis + 2 for axis in axes)))
        self._tile.set(self._mirrored)

    def _logits(self, engine: Engine, flips: Sequence[Flip]) -> Iterator[Any]:
        logits = self._average_flips(engine, flips)
        for fold in range(engine.answers):
            yield logits[fold]

    def _average_flips(self, engine: Engine, flips: Sequence[Flip]) -> Any:
        if not flips:
            self._upload()
            return engine(self._tile)
        every: tuple[Flip, ...] = ((), *flips)
        for axes in every:
            self._upload(axes)
            logits = engine(self._tile)
            if self._mean is None or self._mean.shape != logits.shape:
                self._mean = self._gpu.xp.empty(logits.shape, np.float32)
            divisor = len(every) if axes == every[-1] else 1
            self._add(logits, self._mean, axes, fresh=not axes, divisor=divisor)
        return self._mean

    def _sum_of(self, flips: Sequence[Flip]) -> Any:
        fresh = True
        for engine in self._engines:
            for logits in self._logits(engine, flips):
                if self._sum is None:
                    self._sum = self._gpu.xp.empty(logits.shape, np.float32)
                self._add(logits, self._sum, fresh=fresh)
                fresh = False
        return self._sum

    def _add(
        self, logits: Any, total: Any, axes: Flip = (), *, fresh: bool, divisor: int = 1
    ) -> None:
        """Add logits (…, classes, *patch), mirrored along some axes."""
        flipped = (np.int32(axis in axes) for axis in range(3))
        patch = total.shape[-3:]
        self._gpu.kernels.add_logits(
            total.size,
            logits,
            total,
            *lengths((total.size // math.prod(patch), *patch)),
            *flipped,
            np.int32(fresh),
            np.int32(divisor),
        )


def _names_of_folds(engine: Engine) -> tuple[str, ...]:
    """Name each array of logits that an engine gives."""
    names = tuple(engine.name.split(", "))
    return names if len(names) == engine.answers else (engine.name,) * engine.answers
