"""Tries a GPU before any case: one tile, segmented from end to end, and compared with the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from oarseg.errors import DeviceError
from oarseg.imaging.arrays import Image
from oarseg.inference.device.faults import device_faults
from oarseg.inference.device.gpu import Gpu
from oarseg.inference.device.kernels import lengths
from oarseg.inference.engines.forms import Networks
from oarseg.inference.engines.protocol import Engine
from oarseg.inference.preprocessing import NetworkInput, Placement
from oarseg.inference.streaming import segment_streaming
from oarseg.model.manifest import Manifest


def try_one_tile(
    networks: Networks, manifest: Manifest, gpu: Gpu, *, mean: bool = False, threads: int = 1
) -> None:
    """Segment one patch with all folds, and through the ring, the painter and a resampling.

    The same logits are summed and painted by the host too: where the GPU gives other labels,
    something in it, its driver or its compiler is not as it should be.

    Args:
        networks: to try.
        manifest: the model.
        gpu: where the networks run.
        mean: in the form of one graph of the folds' mean.
        threads: for the host.

    Raises:
        DeviceError: the GPU failed, or gave other labels.
    """
    _try_mirroring(gpu)
    net_input = _patch(manifest)
    tried = [_Recorded(engine, gpu) for engine in networks.take(networks.folds, mean=mean)]
    found = segment_streaming(net_input, tried, manifest, joint=mean, gpu=gpu)
    again = [_Replayed(engine) for engine in tried]
    wanted = segment_streaming(net_input, again, manifest, joint=mean, threads=threads)
    if differ := int(np.count_nonzero(found != wanted)):
        raise DeviceError(
            f"it gives other labels than the host from the same logits, in {differ} of "
            f"{found.size} voxels"
        )


def _try_mirroring(gpu: Gpu) -> None:
    """Average a few numbers and their mirror image, as flips of a tile are.

    Raises:
        DeviceError: the GPU failed, or gave another mean.
    """
    logits = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    with device_faults("in a sum of mirrored numbers"), gpu.stream:
        there, total = gpu.xp.asarray(logits), gpu.xp.empty(logits.shape, np.float32)
        for flip in (0, 1):
            flags = (flip, 0, flip, 1 - flip, 1 + flip)
            numbers = (np.int32(flag) for flag in flags)
            gpu.kernels.add_logits(logits.size, there, total, *lengths(logits.shape), *numbers)
        found = gpu.to_host(total)
    if not np.array_equal(found, (logits + np.flip(logits, (1, 3))) / 2):
        raise DeviceError("a sum of mirrored numbers came out wrong")


class _Recorded:
    """An engine on the GPU whose logits are kept on the host as well."""

    def __init__(self, engine: Engine, gpu: Gpu) -> None:
        self.name, self.answers = engine.name, engine.answers
        self.logits: Any = None
        self._engine, self._gpu = engine, gpu

    def __call__(self, tile: Any, /) -> Any:
        logits = self._engine(tile)
        self.logits = self._gpu.to_host(logits)
        return logits

    def rest(self) -> None:
        self._engine.rest()


class _Replayed:
    """Gives recorded logits once more: networks need not answer the same twice."""

    def __init__(self, recorded: _Recorded) -> None:
        self.name, self.answers = recorded.name, recorded.answers
        self._logits = recorded.logits

    def __call__(self, _: Image, /) -> Image:
        logits: Image = self._logits
        return logits

    def rest(self) -> None:
        """Free nothing."""


def _patch(manifest: Manifest) -> NetworkInput:
    """Make noise of one patch; its labels' grid is another, with fewer voxels for the host."""
    patch, spacing_mm = manifest.patch_size, manifest.network_spacing_mm((1.0, 1.0, 1.0))
    shape = (max(2, patch[0] // 4), patch[1] // 2 + 1, patch[2] + 1)
    noise = np.random.default_rng(0).standard_normal((manifest.inputs, *patch))
    a, b, c = (mm * old / new for mm, old, new in zip(spacing_mm, patch, shape, strict=True))
    place = Placement(
        shape,
        (a, b, c),
        (0, 1, 2),
        ((0, shape[0]), (0, shape[1]), (0, shape[2])),
        patch,
        spacing_mm,
    )
    return NetworkInput(noise.astype(np.float32), place)
