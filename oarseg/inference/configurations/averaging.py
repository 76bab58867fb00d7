"""Averages the probabilities of several configurations, and labels the image by the average.

As ``nnUNetv2_predict --save_probabilities`` and ``nnUNetv2_ensemble`` of nnU-Net 2.8.1: each
configuration's logits are resampled to the image's grid, rounded to half precision and become
probabilities in float32 there; these are added up, divided by their number, and the largest wins,
or with regions each that is above one half. Here that is done in blocks of a plane, so that no
class is held for more than a plane, and no probability for more than a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Image, Labels, Mask
from oarseg.inference.confidence.probabilities import Probabilities
from oarseg.inference.configurations.plane_feed import PlaneFeed
from oarseg.inference.painting import Block
from oarseg.inference.preprocessing import Placement
from oarseg.inference.region.footprint import Footprint
from oarseg.model.manifest import Manifest, class_labels

# A logit below 16 that is rounded otherwise to half precision moves a probability by 0.002 at most.
_CLOSE = np.float32(0.01)
_HALF = np.float32(0.5)


class AveragePainter:
    """Paints planes of the image by the average of what several feeds give."""

    def __init__(
        self,
        place: Placement,
        manifest: Manifest,
        labels: Labels,
        feeds: Sequence[PlaneFeed],
        *,
        mask: Footprint | None,
        pool: Executor,
        chances: Probabilities | None = None,
    ) -> None:
        """Take the parts together.

        Args:
            place: of any of the configurations: box and axes are the same for all.
            manifest: says what classes stand for.
            labels: the label map to paint, on the image's grid.
            feeds: one for each configuration.
            mask: the part to paint; None paints the whole image.
            pool: computes blocks concurrently.
            chances: keeps the average of the planes that are painted.
        """
        self._chances = chances
        self._canvas = place.view(labels)
        self._regions = manifest.regions
        self._values = class_labels(manifest)
        self._feeds = feeds
        self._mask = mask
        self._pool = pool

    def paint(self, target: int) -> None:
        """Paint one plane; planes have to follow in order.

        Raises:
            InferenceError: logits of it cannot be used.
        """
        covered = [feed.seek(target) for feed in self._feeds]
        if self._repeats(target):
            self._canvas[target][...] = self._canvas[target - 1]
        else:
            if self._chances is not None:
                self._chances.begin()
            if all(covered):  # else it is outside the mask
                self._paint_blocks(target)
        if self._chances is not None:
            self._chances.end(target)

    def _paint_blocks(self, target: int) -> None:
        canvas = self._canvas[target]
        inside = None if self._mask is None else self._mask.plane(target)

        def paint_block(blocks: tuple[Block, ...]) -> None:
            where = blocks[0].target
            if inside is None:
                canvas[where] = self._label(blocks, None)
            elif inside[where].any():
                seen = inside[where]
                canvas[where] = np.where(seen, self._label(blocks, seen), 0)

        every = zip(*(feed.blocks for feed in self._feeds), strict=True)
        for _ in self._pool.map(paint_block, every):
            pass

    def _repeats(self, target: int) -> bool:
        alike = all(feed.repeats(target) for feed in self._feeds)
        return alike and (self._mask is None or self._mask.same(target, target - 1))

    def _label(self, blocks: Sequence[Block], inside: Mask | None) -> NDArray[np.uint8]:
        """Label one block of the image, which is a block of each feed."""
        pairs = list(zip(self._feeds, blocks, strict=True))
        average = self._average([feed.logits(block) for feed, block in pairs])
        if self._chances is not None:
            self._chances.store(blocks[0].target, average, inside)
        labels = self._choose(average)
        if all(feed.is_exact for feed in self._feeds):
            return labels
        where = self._close_calls(average)
        if len(where[0]):
            exact = self._average([feed.voxels(block, where) for feed, block in pairs])
            labels[where] = self._choose(exact)
        return labels

    def _average(self, logits: Sequence[Image]) -> Image:
        total = probabilities(logits[0], regions=self._regions)
        for more in logits[1:]:
            total += probabilities(more, regions=self._regions)
        total /= np.float32(len(logits))
        return total

    def _choose(self, average: Image) -> NDArray[np.uint8]:
        if not self._regions:
            found: NDArray[np.uint8] = self._values[average.argmax(axis=0)]
            return found
        labels = np.zeros(average.shape[1:], np.uint8)
        for region, value in zip(average, self._values, strict=True):
            labels[region > _HALF] = value
        return labels

    def _close_calls(self, average: Image) -> tuple[NDArray[np.intp], ...]:
        """Find the voxels in which the last digit of a logit may decide."""
        if self._regions:
            near: NDArray[Any] = (np.abs(average - _HALF) < _CLOSE).any(axis=0)
            return np.nonzero(near)
        close = average > average.max(axis=0) - _CLOSE
        return np.nonzero(np.count_nonzero(close, axis=0) > 1)


def probabilities(logits: Image, *, regions: bool) -> Image:
    """Turn logits (classes, …) into probabilities in place, in float32 as torch does.

    Args:
        logits: float32.
        regions: classes are independent of each other.
    """
    if regions:
        np.negative(logits, out=logits)
        with np.errstate(over="ignore"):
            np.exp(logits, out=logits)
        logits += np.float32(1)
        np.reciprocal(logits, out=logits)
        return logits
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    # Class after class, in torch's order.
    total = logits[0].copy()
    for more in logits[1:]:
        total += more
    logits /= total
    return logits
