"""Shrink images for a page: cropped to the body, averaged in plane, 256 grey values, deflated."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.volume import Grid, Shape, Vector, Volume

# Values of a CT's grey levels: fine where soft tissues differ, coarse in air and in bone.
CT_LEVELS_HU = np.concatenate(
    [np.arange(-1024, -200, 32), np.arange(-200, 304, 4), np.linspace(304, 3000, 104)]
).astype(np.float64)
# Of an MR, whose units mean nothing.
MR_LEVELS = 128
MR_PERCENTILE = 99.8
COARSEST = 16
COMPRESSION = 6
# Share of the planes that tells how well an image can be compressed.
SAMPLED_PLANES = 12

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class PageView:
    """The part of an image that a page shows, and how it is shrunk.

    Attributes:
        start, stop: voxels of the whole image along (z, y, x).
        factor: voxels in plane, along y and along x, that become one.
    """

    start: Shape
    stop: Shape
    factor: int = 1

    @property
    def shape(self) -> Shape:
        """Return the shrunk image's shape; an incomplete last block counts as one."""
        depth, height, width = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return depth, -(-height // self.factor), -(-width // self.factor)

    def grid(self, whole: Grid) -> Grid:
        """Return the grid of the shrunk image."""
        half = (self.factor - 1) / 2
        corner = np.add(self.start, (0, half, half))
        z, y, x = whole.spacing_mm
        return Grid(
            self.shape,
            (z, y * self.factor, x * self.factor),
            cast(Vector, tuple(whole.to_world(corner[None])[0].tolist())),
            whole.direction,
        )


@dataclass(frozen=True)
class Layer:
    """An image of a page.

    Attributes:
        name: its channel.
        modality: "CT" if its levels are HU.
        shape: (z, y, x).
        levels: the value of each byte.
        packed: the bytes, each minus its left neighbour, deflated.
    """

    name: str
    modality: str
    shape: Shape
    levels: tuple[float, ...]
    packed: bytes


Draw = Callable[[PageView], Iterable[Layer]]


def fit_layers(view: PageView, draw: Draw, *, budget: int) -> tuple[PageView, tuple[Layer, ...]]:
    """Shrink images as little as a page's size allows.

    Args:
        view: of the whole images.
        draw: makes the layers of a view, which may have fewer planes.
        budget: bytes that all layers may take.
    """
    depth = view.stop[0] - view.start[0]
    planes = min(depth, SAMPLED_PLANES)
    first = view.start[0] + (depth - planes) // 2
    for factor in range(1, COARSEST + 1):
        shrunk = replace(view, factor=factor)
        # The middle planes hold the most.
        part = replace(
            shrunk,
            start=(first, *view.start[1:]),
            stop=(first + planes, *view.stop[1:]),
        )
        if _size(tuple(draw(part))) * depth / planes > 1.3 * budget and factor < COARSEST:
            continue
        layers = tuple(draw(shrunk))
        if _size(layers) <= budget or factor == COARSEST:
            break
    return shrunk, layers


def _size(layers: Sequence[Layer]) -> int:
    return sum(len(layer.packed) for layer in layers)


def ct_layer(name: str, ct: Volume, view: PageView) -> Layer:
    """Average a CT in the view and round it to ``CT_LEVELS_HU``."""
    middles = (CT_LEVELS_HU[1:] + CT_LEVELS_HU[:-1]) / 2
    low, high = int(CT_LEVELS_HU[0]), int(CT_LEVELS_HU[-1])
    table = np.searchsorted(middles, np.arange(low, high + 1)).astype(np.uint8)

    def level(plane: NDArray[np.float32]) -> Bytes:
        whole = np.rint(np.clip(plane, low, high)).astype(np.int32) - low
        levels: Bytes = table[whole]
        return levels

    return _layer(name, "CT", ct, view, level, CT_LEVELS_HU)


def other_layer(name: str, modality: str, image: Volume, view: PageView) -> Layer:
    """Average an image of unknown units and round it to levels from its least to its greatest."""
    low = float(min(0.0, image.array.min()))
    high = float(np.percentile(image.array[:: max(1, len(image.array) // 20)], MR_PERCENTILE))
    high = max(high, low + 1e-6)
    steps = MR_LEVELS - 1

    def level(plane: NDArray[np.float32]) -> Bytes:
        share = np.clip((plane - low) / (high - low), 0, 1)
        levels: Bytes = np.rint(share * steps).astype(np.uint8)
        return levels

    return _layer(name, modality, image, view, level, np.linspace(low, high, MR_LEVELS))


def _layer(
    name: str,
    modality: str,
    image: Volume,
    view: PageView,
    level: Callable[[NDArray[np.float32]], Bytes],
    levels: NDArray[np.float64],
) -> Layer:
    packer = zlib.compressobj(COMPRESSION)
    parts = []
    for plane in image.array[view.start[0] : view.stop[0]]:
        values = level(_averaged(plane, view))
        parts.append(packer.compress(np.diff(values, axis=1, prepend=np.uint8(0)).tobytes()))
    packed = b"".join([*parts, packer.flush()])
    rounded = tuple(round(float(value), 4) for value in levels)
    return Layer(name, modality, view.shape, rounded, packed)


def _averaged(plane: NDArray[Any], view: PageView) -> NDArray[np.float32]:
    """Average blocks of a plane; blocks at its end hold the voxels that there are."""
    (_, top, left), (_, bottom, right), factor = view.start, view.stop, view.factor
    part = plane[top:bottom, left:right]
    if factor == 1:
        return part.astype(np.float32)
    height, width = view.shape[1:]
    missing = (height * factor - part.shape[0], width * factor - part.shape[1])
    padded = np.pad(part, ((0, missing[0]), (0, missing[1])), mode="edge")
    blocks = padded.reshape(height, factor, width, factor)
    averages: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return averages
