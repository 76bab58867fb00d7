"""A network on a GPU whose tiles and logits lie on the host, for where a ring has no room there."""

from __future__ import annotations

import numpy as np

from oarseg.imaging.arrays import Image
from oarseg.inference.device.faults import device_faults
from oarseg.inference.device.gpu import Gpu
from oarseg.inference.engines.protocol import Engine


class HostedEngine:
    """Copies each tile to the GPU and its logits back."""

    def __init__(self, engine: Engine, gpu: Gpu) -> None:
        """Wrap an engine whose arrays lie on the GPU."""
        self.name = engine.name
        self.answers = engine.answers
        self._engine = engine
        self._gpu = gpu

    def __call__(self, tile: Image) -> Image:
        """See ``Engine``.

        Raises:
            DeviceError: the GPU failed.
        """
        with device_faults("while it ran a network"), self._gpu.stream:
            logits: Image = self._gpu.to_host(self._engine(self._gpu.xp.asarray(tile)))
        return logits.astype(np.float32, copy=False)

    def rest(self) -> None:
        """See ``Engine``."""
        self._engine.rest()
