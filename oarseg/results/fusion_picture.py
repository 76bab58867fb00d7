"""Two images on each other in three planes, to judge a registration at a glance.

Above: a checkerboard of CT and moved MR, in which edges must run on from square to
square. Below: the MR with the CT's outlines, skin in cyan and bone in yellow. The frame
is green, amber or red as the verdict is good, doubtful or failed. Patient left is on the
right of axial and coronal planes, the face is on the left of the sagittal one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.imaging.grids import crop_volume, world_grid
from oarseg.imaging.intensities import BODY_HU
from oarseg.imaging.regrid import covered_box, resample_linear, resample_moving
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import Grid, Shape, Vector, Volume
from oarseg.registration.verdict import VerdictStatus
from oarseg.results.case_picture import GAP, SOFT_TISSUE_WINDOW_HU, Rgb, place_side_by_side

PIXEL_MM = 1.0
SQUARE_MM = 24.0
FRAME = 6
OUTLINED_BONE_HU = 250.0
SKIN_COLOUR = (0, 220, 220)
BONE_COLOUR = (255, 220, 0)
FRAMES: dict[VerdictStatus, tuple[int, int, int]] = {
    "good": (0, 170, 0),
    "doubtful": (255, 160, 0),
    "failed": (220, 0, 0),
}
NO_OVERLAP = (160, 320)

FusionPlane = NDArray[np.float32]


def draw_fusion(ct: Volume, mr: Volume, transform: Transform, status: VerdictStatus) -> Rgb:
    """Draw a registration.

    Args:
        ct: HU.
        mr: in its own world.
        transform: CT world → MR world.
        status: the verdict's.

    Returns:
        RGB (height, width, 3), 1 mm per pixel, through the middle of what both show; an
        empty frame where they share nothing.
    """
    start, stop = covered_box(mr.grid, transform, ct.grid)
    if any(a >= b for a, b in zip(start, stop, strict=True)):
        return _framed(np.zeros((*NO_OVERLAP, 3), np.uint8), status)
    box = world_grid(crop_volume(ct, start, stop).grid, spacing_mm=PIXEL_MM)
    boards, outlines = [], []
    for axis in range(3):
        plane = _middle(box, axis)
        hu = _flat(resample_linear(ct, plane).array, axis)
        signal = _flat(resample_moving(mr, transform, plane, outside=np.nan).array, axis)
        boards.append(_checkerboard(_grey(hu, *SOFT_TISSUE_WINDOW_HU), _mr_grey(signal)))
        outlines.append(_outlined(_mr_grey(signal), hu))
    gap = np.zeros((GAP, place_side_by_side(boards).shape[1], 3), np.uint8)
    return _framed(
        np.concatenate([place_side_by_side(boards), gap, place_side_by_side(outlines)]), status
    )


def _middle(box: Grid, axis: int) -> Grid:
    """The middle plane of a grid across an array axis."""
    index = [0, 0, 0]
    index[axis] = box.shape[axis] // 2
    shape = list(box.shape)
    shape[axis] = 1
    origin = box.to_world(np.array([index], float))[0]
    return replace(
        box, shape=cast(Shape, tuple(shape)), origin_mm=cast(Vector, tuple(origin.tolist()))
    )


def _flat(array: NDArray[Any], axis: int) -> FusionPlane:
    """A plane as it is shown: superior is up."""
    plane = array.squeeze(axis)
    return cast(FusionPlane, plane if axis == 0 else plane[::-1])


def _grey(plane: FusionPlane, low: float, high: float) -> FusionPlane:
    """Between 0 and 1; nothing was taken where it is black."""
    return cast(FusionPlane, np.clip((np.nan_to_num(plane, nan=low) - low) / (high - low), 0, 1))


def _mr_grey(plane: FusionPlane) -> FusionPlane:
    present = plane[np.isfinite(plane)]
    low, high = np.percentile(present, (1, 99)) if present.size else (0.0, 1.0)
    return _grey(plane, float(low), max(float(high), float(low) + 1e-6))


def _checkerboard(one: FusionPlane, other: FusionPlane) -> Rgb:
    rows, columns = (np.arange(n) // int(SQUARE_MM / PIXEL_MM) for n in one.shape)
    board = (rows[:, None] + columns) % 2 == 0
    return _rgb(np.where(board, one, other))


def _outlined(grey: FusionPlane, hu: FusionPlane) -> Rgb:
    picture = _rgb(grey)
    for level, colour in ((BODY_HU, SKIN_COLOUR), (OUTLINED_BONE_HU, BONE_COLOUR)):
        inside = ndimage.binary_opening(np.nan_to_num(hu, nan=-1000.0) > level)
        picture[inside & ~ndimage.binary_erosion(inside)] = colour
    return picture


def _rgb(grey: FusionPlane) -> Rgb:
    shade: Rgb = np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=2)
    return shade


def _framed(picture: Rgb, status: VerdictStatus) -> Rgb:
    height, width, _ = picture.shape
    canvas = np.empty((height + 2 * FRAME, width + 2 * FRAME, 3), np.uint8)
    canvas[...] = FRAMES[status]
    canvas[FRAME:-FRAME, FRAME:-FRAME] = picture
    return canvas
