"""Bounding boxes of labels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box = tuple[slice, slice, slice]


def label_boxes(labels: NDArray[np.uint8], count: int) -> list[Box | None]:
    """Find the bounding box of each label 1 … count; None for a label without voxels."""
    planes = np.flatnonzero([plane.any() for plane in labels])
    if planes.size == 0:
        return [None] * count
    first, last = int(planes[0]), int(planes[-1]) + 1
    found = ndimage.find_objects(labels[first:last], max_label=count)
    return [_shift_planes(box, first) if box else None for box in found]


def enclosing_box(boxes: Iterable[Box | None]) -> Box | None:
    """Return the box that encloses several; None if all of them are."""
    present = [box for box in boxes if box is not None]
    if not present:
        return None
    z, y, x = (
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*present, strict=True)
    )
    return z, y, x


def _shift_planes(box: Box, planes: int) -> Box:
    return slice(box[0].start + planes, box[0].stop + planes), box[1], box[2]
