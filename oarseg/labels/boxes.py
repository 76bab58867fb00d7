"""Bounding boxes of labels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box = tuple[slice, slice, slice]


def label_boxes(labels: NDArray[np.uint8], count: int) -> list[Box | None]:
    """The bounding box of each of the labels 1 … count; None for one without voxels."""
    planes = np.flatnonzero([plane.any() for plane in labels])
    if planes.size == 0:
        return [None] * count
    first, last = int(planes[0]), int(planes[-1]) + 1
    found = ndimage.find_objects(labels[first:last], max_label=count)
    return [_shifted(box, first) if box else None for box in found]


def enclosing_box(boxes: Iterable[Box | None]) -> Box | None:
    """The box round several; None where there is none of them."""
    there = [box for box in boxes if box is not None]
    if not there:
        return None
    z, y, x = (
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*there, strict=True)
    )
    return z, y, x


def _shifted(box: Box, planes: int) -> Box:
    return slice(box[0].start + planes, box[0].stop + planes), box[1], box[2]
