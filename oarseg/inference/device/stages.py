"""The three stages of a case, wherever they run; here they are opened on a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from oarseg.imaging.arrays import Labels
from oarseg.imaging.volume import Shape
from oarseg.inference.device.canvas import Canvas
from oarseg.inference.device.device_ensemble import DeviceEnsemble
from oarseg.inference.device.device_painter import DevicePainter
from oarseg.inference.device.device_ring import DeviceRing
from oarseg.inference.device.faults import device_faults
from oarseg.inference.device.gpu import Gpu
from oarseg.inference.engines.protocol import Engine
from oarseg.inference.ensemble import Flip, TileLogits, answers_of
from oarseg.inference.preprocessing import NetworkInput
from oarseg.inference.region.footprint import Footprint
from oarseg.inference.tiling import Tiling
from oarseg.model.manifest import Manifest


class Predicts(Protocol):
    """Computes logits of tiles, as ``Ensemble``."""

    @property
    def turns(self) -> int:
        """How often each tile of a row is computed."""

    def row(self, starts: Sequence[Shape], flips: Sequence[Flip] = ()) -> Iterator[TileLogits]:
        """Compute the logits of tiles."""


class AddsUp(Protocol):
    """Sums tiles, as ``Ring``."""

    def add(self, folds: Iterable[Any], start: Shape, first: int = 0) -> None:
        """Add a tile's logits."""

    def finish(self, planes: range) -> Iterator[Any]:
        """Yield final planes."""


class Paints(Protocol):
    """Labels planes, as ``Painter``."""

    def take(self, plane: Any) -> None:
        """Accept the next plane."""

    def close(self) -> None:
        """End a case."""


@dataclass(frozen=True)
class Stages:
    """What turns tiles into labels; each takes what the one before it gives."""

    ensemble: Predicts
    ring: AddsUp
    painter: Paints


@contextmanager
def open_device_stages(
    net_input: NetworkInput,
    window: Tiling,
    engines: Sequence[Engine],
    manifest: Manifest,
    labels: Labels,
    *,
    joint: bool,
    mask: Footprint | None,
    gpu: Gpu,
) -> Iterator[Stages]:
    """Open the stages on a GPU; arguments as for ``segment_streaming``.

    Raises:
        DeviceError: the GPU failed, here or in the block.
    """
    with device_faults("while it segmented"), gpu.stream:
        place = net_input.placement
        ensemble = DeviceEnsemble(net_input, window, engines, joint=joint, gpu=gpu)
        canvas = Canvas(gpu, place.crop_shape[1:], ensemble.names)
        classes, folds = len(manifest.labels), answers_of(engines)
        yield Stages(
            ensemble,
            DeviceRing(window, classes, folds, joint=joint, gpu=gpu, canvas=canvas),
            DevicePainter(place, manifest, labels, mask=mask, gpu=gpu, canvas=canvas),
        )
