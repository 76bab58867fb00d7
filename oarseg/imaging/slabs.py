"""Images that are gone through a few planes at a time, so that a whole copy is never made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.volume import Shape

SLAB = 16

# Which planes, and their values (n, y, x).
Planes = tuple[slice, NDArray[Any]]


class SlabImage(Protocol):
    """An image (z, y, x) whose planes can be had in their order, as often as they are needed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (z, y, x)."""

    def slabs(self) -> Iterator[Planes]:
        """Yield all planes in their order; values are valid until the next slab is asked for."""


@dataclass(frozen=True, eq=False)
class HeldImage:
    """An array, or a view of one, as slabs of itself."""

    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's."""
        return self.array.shape

    def slabs(self) -> Iterator[Planes]:
        """Yield views."""
        for planes in slab_slices(0, len(self.array)):
            yield planes, self.array[planes]


def slab_slices(start: int, stop: int) -> Iterator[slice]:
    """Cut planes into slabs of at most ``SLAB``."""
    for low in range(start, stop, SLAB):
        yield slice(low, min(low + SLAB, stop))


def crop_slabs(image: SlabImage, box: Sequence[tuple[int, int]]) -> Iterator[Planes]:
    """Yield the slabs of a box, half-open intervals along (z, y, x), counted from its start."""
    (first, end), rows, columns = box
    for planes, values in image.slabs():
        low, high = max(first, planes.start), min(end, planes.stop)
        if low < high:
            inner = values[low - planes.start : high - planes.start, slice(*rows), slice(*columns)]
            yield slice(low - first, high - first), inner


def whole_image(image: NDArray[Any] | SlabImage) -> NDArray[Any]:
    """Return all of an image as one array, without a copy if it is one."""
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, HeldImage):
        return image.array
    whole: NDArray[Any] | None = None
    for planes, values in image.slabs():
        if whole is None:
            whole = np.empty(image.shape, values.dtype)
        whole[planes] = values
    return np.empty(image.shape) if whole is None else whole


def constant_image(shape: Shape, value: float) -> NDArray[np.float32]:
    """Return an image of one value, which takes no memory and cannot be written to."""
    return np.broadcast_to(np.float32(value), shape)
