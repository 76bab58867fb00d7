"""Sliding-window inference, resampling and labelling, a few planes at a time.

The labels are those of nnU-Net 2.8.1, without the logits of the whole volume in memory. Tiles are
computed in nnU-Net's order, axis 0 outermost; folds with sums of their own take turns row by row,
each with the buffers that its tile before left warm. When a row of tiles is done, the planes before
the next row are final: they are normalised, resampled, reduced to labels and discarded. The buffer
is one patch thick, whatever the number of slices.

With a mask, tiles that no voxel of the mask depends on are skipped. The labels within the mask do
not change, as every tile that they depend on is computed in the same order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Labels
from oarseg.imaging.volume import Shape
from oarseg.inference.confidence.agreement import FoldAgreement
from oarseg.inference.confidence.probabilities import Probabilities
from oarseg.inference.device.gpu import Gpu
from oarseg.inference.device.stages import AddsUp, Stages, open_device_stages
from oarseg.inference.engines.protocol import Engine
from oarseg.inference.ensemble import Ensemble, answers_of, mirror_flips
from oarseg.inference.half_precision import half_arithmetic
from oarseg.inference.painting import Painter, plan_streaming_resample
from oarseg.inference.preprocessing import NetworkInput, Placement
from oarseg.inference.region.footprint import BlockMask, Footprint
from oarseg.inference.ring import LogitPlane, Ring
from oarseg.inference.tiling import STEP, Tiling, lay_tiles
from oarseg.model.manifest import Manifest

ReportProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Effort:
    """How much is computed.

    Attributes:
        folds: number of folds, from the first; None takes all.
        mirror: average over the flips that the model allows.
        step: largest distance of neighbouring tiles, as a share of the patch.
    """

    folds: int | None = None
    mirror: bool = False
    step: float = STEP


ALL = Effort()


def segment_streaming(
    net_input: NetworkInput,
    engines: Sequence[Engine],
    manifest: Manifest,
    *,
    effort: Effort = ALL,
    joint: bool = False,
    mask: BlockMask | None = None,
    progress: ReportProgress | None = None,
    threads: int = 1,
    gpu: Gpu | None = None,
    agreement: FoldAgreement | None = None,
    chances: Probabilities | None = None,
) -> Labels:
    """Label every voxel of the image's grid.

    Args:
        net_input: from ``preprocessing.preprocess``.
        engines: of the folds that are computed, as ``Networks.take`` gives them.
        manifest: the model.
        effort: folds, flips and tiles.
        joint: sum all folds in one buffer, which takes less memory and rounds once where
            nnU-Net rounds each fold.
        mask: the part of the image to label; the rest is background.
        progress: called with (tiles done, tiles in all) after every tile.
        threads: for accumulating and resampling.
        gpu: where the engines' tiles and logits lie, which then accumulates and resamples;
            None for the host.
        agreement: counts how far the folds agree, where each has a sum of its own on the host.
        chances: keeps probabilities; not on a GPU.

    Returns:
        Label values (z, y, x) on the image's grid.

    Raises:
        InferenceError: logits are NaN, infinite or beyond the range of half precision.
        DeviceError: the GPU failed.
    """
    place = net_input.placement
    chosen = _first_folds(engines, effort.folds)
    work = plan_tiles(place, manifest, mask=mask, step=effort.step)
    labels = np.zeros(place.shape, np.uint8)
    if not work.count:
        return labels
    turned = mirror_flips(manifest, effort.mirror)
    done = itertools.count(1)
    opened = (
        _open_host_stages(
            net_input,
            work,
            chosen,
            manifest,
            labels,
            joint=joint,
            threads=max(threads, 1),
            agreement=agreement,
            chances=chances,
        )
        if gpu is None
        else open_device_stages(
            net_input,
            work.window,
            chosen,
            manifest,
            labels,
            joint=joint,
            mask=work.mask,
            gpu=gpu,
        )
    )
    with opened as stages:

        def add(starts: Sequence[Shape]) -> None:
            for answer in stages.ensemble.row(starts, turned):
                stages.ring.add(answer.folds, answer.start, answer.first)
                tiles, between = divmod(next(done), stages.ensemble.turns)
                if progress is not None and not between:
                    progress(tiles, work.count)

        for plane in _planes(work, add, stages.ring):
            stages.painter.take(plane)
        stages.painter.close()
    return labels


def stream_planes(
    net_input: NetworkInput,
    engines: Sequence[Engine],
    manifest: Manifest,
    work: Work,
    *,
    effort: Effort,
    joint: bool,
    pool: Executor,
    begin: Callable[[Sequence[Engine]], None],
    tick: Callable[[], None],
) -> Iterator[LogitPlane]:
    """Yield the final planes of one configuration in order, on the host.

    Args:
        work: from ``plan_tiles``, for the effort's step.
        pool: runs classes concurrently.
        begin: called with the engines before they compute a row of tiles.
        tick: called after every tile.
        net_input, engines, manifest, effort, joint: as for ``segment_streaming``.
    """
    chosen = _first_folds(engines, effort.folds)
    classes, folds = len(manifest.labels), answers_of(chosen)
    ensemble = Ensemble(net_input, work.window, chosen, joint=joint, adds=True)
    ring = Ring(work.window, classes, folds, joint=joint, pool=pool, how=half_arithmetic())
    turned = mirror_flips(manifest, effort.mirror)
    done = itertools.count(1)

    def add(starts: Sequence[Shape]) -> None:
        begin(chosen)
        for answer in ensemble.row(starts, turned):
            ring.add(answer.folds, answer.start, answer.first)
            if next(done) % ensemble.turns == 0:
                tick()

    yield from _planes(work, add, ring)


@dataclass(frozen=True, eq=False)
class Work:
    """The tiles to compute.

    Attributes:
        window: where tiles lie.
        needed: the tiles to compute, by their numbers along each axis.
        mask: the part to label, along the network's axes.
    """

    window: Tiling
    needed: NDArray[np.bool_]
    mask: Footprint | None

    @property
    def count(self) -> int:
        """Number of tiles."""
        return int(np.count_nonzero(self.needed))

    @property
    def rows(self) -> tuple[int, ...]:
        """First planes of the rows that have tiles to compute."""
        starts = self.window.starts[0]
        return tuple(first for n, first in enumerate(starts) if self.needed[n].any())

    def row(self, first: int) -> Iterator[Shape]:
        """Iterate over the tiles of a row, in nnU-Net's order."""
        number = self.window.starts[0].index(first)
        return itertools.compress(self.window.row(first), self.needed[number].ravel())

    def tiles(self) -> Iterator[Shape]:
        """Iterate over all tiles, in nnU-Net's order."""
        return itertools.chain.from_iterable(map(self.row, self.rows))


def plan_tiles(
    place: Placement, manifest: Manifest, *, mask: BlockMask | None = None, step: float = STEP
) -> Work:
    """Select the tiles to compute."""
    window = lay_tiles(place.network_shape, manifest.patch_size, step=step)
    orders = plan_streaming_resample(manifest, place).orders
    if mask is None:
        return Work(window, np.ones([len(starts) for starts in window.starts], bool), None)
    seen = Footprint.of(mask, place)
    return Work(window, seen.tiles(window, orders), seen)


def buffer_bytes(network_shape: Shape, manifest: Manifest, *, sums: int = 1, tiles: int = 2) -> int:
    """Count the bytes that ``segment_streaming`` holds besides input, label map and networks.

    These are the ring buffer in half precision, with one sum of the folds or one of each, and,
    in float32, two planes and the tiles of logits: the engine's own, and another one where folds
    or flips are summed.
    """
    window = lay_tiles(network_shape, manifest.patch_size)
    classes = len(manifest.labels)
    plane = window.shape[1] * window.shape[2]
    ring = 2 * window.patch[0] * plane * (sums * classes + 1)
    return ring + 4 * classes * (2 * plane + tiles * math.prod(window.patch))


def _first_folds(engines: Sequence[Engine], folds: int | None) -> Sequence[Engine]:
    """Leave out the engines of the other folds."""
    if folds is None:
        return engines
    before = itertools.accumulate(engine.answers for engine in engines)
    chosen = [engine for engine, last in zip(engines, before, strict=True) if last <= folds]
    if not chosen:
        raise ValueError(f"one engine answers for more folds than the {folds} that are asked for")
    return chosen


@contextmanager
def _open_host_stages(
    net_input: NetworkInput,
    work: Work,
    engines: Sequence[Engine],
    manifest: Manifest,
    labels: Labels,
    *,
    joint: bool,
    threads: int,
    agreement: FoldAgreement | None,
    chances: Probabilities | None,
) -> Iterator[Stages]:
    place, window = net_input.placement, work.window
    classes, folds, how = len(manifest.labels), answers_of(engines), half_arithmetic()
    with ThreadPoolExecutor(threads) as pool:
        compared = agreement if folds > 1 and not joint else None
        watch = None if compared is None else compared.watch(place, work.mask, pool)
        yield Stages(
            Ensemble(net_input, window, engines, joint=joint, adds=True),
            Ring(window, classes, folds, joint=joint, pool=pool, how=how, watch=watch),
            Painter(place, manifest, labels, mask=work.mask, pool=pool, chances=chances),
        )


def _planes(work: Work, add: Callable[[Sequence[Shape]], None], ring: AddsUp) -> Iterator[Any]:
    """Yield final planes in order; each is valid until the next step."""
    rows = work.rows
    for first, following in itertools.zip_longest(rows, rows[1:], fillvalue=work.window.shape[0]):
        add(tuple(work.row(first)))
        yield from ring.finish(range(first, following))
