"""Runs an ensemble on tiles of an image, with tiles and logits on a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from oarseg.imaging.arrays import Image
from oarseg.imaging.volume import Shape
from oarseg.inference.device.gpu import Gpu
from oarseg.inference.device.kernels import lengths
from oarseg.inference.engines.protocol import Engine
from oarseg.inference.ensemble import Flip
from oarseg.inference.tiling import Tiling, cut_tile


class DeviceEnsemble:
    """Runs every fold; whether logits are finite is found out when they are added up."""

    def __init__(
        self, data: Image, window: Tiling, engines: Sequence[Engine], *, joint: bool, gpu: Gpu
    ) -> None:
        """Allocate the tile.

        Args:
            data: (channels, *image) on the host.
            window: the tiles.
            engines: one for each fold, on the GPU.
            joint: yield the sum of the folds.
            gpu: where everything but ``data`` lies.
        """
        self._data = data
        self._window = window
        self._engines = tuple(engines)
        self._joint = joint and len(engines) > 1
        self._gpu = gpu
        shape = (1, len(data), *window.patch)
        self._staging = gpu.pinned(shape)
        self._tile = gpu.xp.empty(shape, np.float32)
        self._mean: Any = None
        self._sum: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        """Name what each yielded array comes from."""
        names = tuple(engine.name for engine in self._engines)
        return (" + ".join(names),) if self._joint else names

    def __call__(self, start: Shape, flips: Sequence[Flip] = ()) -> Iterator[Any]:
        """Compute each fold's logits for one tile, or their sum if it is joint.

        Args and yields as for ``Ensemble``; the logits lie on the GPU, are not waited for and may
        be NaN or infinite.
        """
        cut_tile(self._data, self._window, start, self._staging[0])
        if not flips:
            self._upload(())
        folds = (self._fold_logits(engine, flips) for engine in self._engines)
        if self._joint:
            yield self._sum_of(folds)
        else:
            yield from folds

    def _upload(self, axes: Flip) -> None:
        """Queue the tile's copy, mirrored along some axes.

        The networks' run before it has been waited for, so the staging is free.
        """
        behind = tuple(axis + 2 for axis in axes)
        self._tile.set(np.flip(self._staging, behind) if axes else self._staging)

    def _fold_logits(self, engine: Engine, flips: Sequence[Flip]) -> Any:
        if not flips:
            return engine(self._tile)[0]
        every: tuple[Flip, ...] = ((), *flips)
        for number, axes in enumerate(every):
            self._upload(axes)
            logits = engine(self._tile)[0]
            if self._mean is None:
                self._mean = self._gpu.xp.empty(logits.shape, np.float32)
            divisor = len(every) if axes == every[-1] else 1
            self._add(logits, self._mean, axes, fresh=number == 0, divisor=divisor)
        return self._mean

    def _sum_of(self, folds: Iterable[Any]) -> Any:
        for number, logits in enumerate(folds):
            if self._sum is None:
                self._sum = self._gpu.xp.empty(logits.shape, np.float32)
            self._add(logits, self._sum, (), fresh=number == 0)
        return self._sum

    def _add(
        self, logits: Any, total: Any, axes: Flip, *, fresh: bool, divisor: int = 1
    ) -> None:
        flipped = (np.int32(axis in axes) for axis in range(3))
        self._gpu.kernels.add_logits(
            total.size,
            logits,
            total,
            *lengths(total.shape),
            *flipped,
            np.int32(fresh),
            np.int32(divisor),
        )
