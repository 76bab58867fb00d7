"""Lays the tiles of the sliding window and weights them.

As in nnU-Net 2.8.1 (``nnunetv2.inference.sliding_window_prediction`` and
``acvl_utils.cropping_and_padding.padding``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.imaging.volume import Shape

STEP = 0.5
_SIGMA = 1 / 8
_PEAK = 10.0


@dataclass(frozen=True)
class Tiling:
    """A sliding window over an image padded to at least one patch.

    Attributes:
        image: the image's shape, unpadded.
        shape: the padded shape.
        before: zeros before the image along each axis.
        patch: the tile's shape.
        starts: first index of the tiles along each axis, in the padded image.
    """

    image: Shape
    shape: Shape
    before: Shape
    patch: Shape
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @property
    def count(self) -> int:
        """The number of tiles."""
        return math.prod(len(starts) for starts in self.starts)

    def row(self, first: int) -> Iterator[Shape]:
        """Iterate over the tiles that begin at ``first`` along axis 0, in nnU-Net's order."""
        for second in self.starts[1]:
            for third in self.starts[2]:
                yield first, second, third

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """The image within the padded image."""
        a, b, c = (slice(lo, lo + n) for lo, n in zip(self.before, self.image, strict=True))
        return a, b, c


def lay_tiles(image: Shape, patch: Shape, *, step: float = STEP) -> Tiling:
    """Lay tiles over an image.

    Axes shorter than the patch are padded, ``floor(missing / 2)`` before the image and
    the rest behind. Neighbouring tiles are at most ``step`` of a patch apart; where a patch is
    one voxel thick, as in nnU-Net's 2d, there is one for each voxel.
    """
    shape = tuple(max(n, p) for n, p in zip(image, patch, strict=True))
    before = tuple((s - n) // 2 for s, n in zip(shape, image, strict=True))
    starts = [_starts(s, p, step) for s, p in zip(shape, patch, strict=True)]
    return Tiling(
        image,
        (shape[0], shape[1], shape[2]),
        (before[0], before[1], before[2]),
        patch,
        (starts[0], starts[1], starts[2]),
    )


def _starts(length: int, patch: int, step: float) -> tuple[int, ...]:
    last = length - patch
    if patch == 1:
        return tuple(range(length))
    steps = math.ceil(last / (patch * step))
    if steps == 0:
        return (0,)
    return tuple(round(last / steps * index) for index in range(steps + 1))


@lru_cache(maxsize=2)
def gaussian_weights(patch: Shape) -> NDArray[np.float16]:
    """Compute the weights of a tile, in half precision as in nnU-Net; none is zero."""
    # Of a patch of one plane those of nnU-Net's 2d.
    sizes = patch[1:] if patch[0] == 1 else patch
    impulse = np.zeros(sizes)
    impulse[tuple(n // 2 for n in sizes)] = 1
    weights = ndimage.gaussian_filter(impulse, [n * _SIGMA for n in sizes], mode="constant")
    weights = weights.reshape(patch) / (weights.max() / _PEAK)
    # Through float32, as torch does: a few values would round differently.
    half: NDArray[np.float16] = weights.astype(np.float32).astype(np.float16)
    half[half == 0] = half[half > 0].min()
    return half


def cut_tile(data: NDArray[Any], window: Tiling, start: Shape, out: NDArray[Any]) -> None:
    """Copy one tile of ``data`` (C, *image) into ``out`` (C, *patch), zeros outside."""
    source: list[slice] = [slice(None)]
    target: list[slice] = [slice(None)]
    for first, before, length, patch in zip(
        start, window.before, window.image, window.patch, strict=True
    ):
        low, high = first - before, first - before + patch
        source.append(slice(max(low, 0), min(high, length)))
        target.append(slice(max(-low, 0), patch - max(high - length, 0)))
    if window.shape != window.image:
        out[...] = 0
    out[tuple(target)] = data[tuple(source)]
