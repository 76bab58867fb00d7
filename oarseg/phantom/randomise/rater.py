"""Outline organs as raters do: smooth in the plane, whole slices along z."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import find_objects, gaussian_filter, label

from oarseg.imaging.arrays import Labels, Mask
from oarseg.imaging.volume import Volume
from oarseg.phantom.patient.parts import Draws
from oarseg.phantom.randomise.levels import Level, deviation, within

MARGIN = 3  # voxels that an outline may move
LEAST_END = 0.4  # of the neighbouring slice's area; raters leave out what is smaller at an end
LEAST_PIECE = 0.15  # of the largest piece
LEAST_SLICES = 5
LEAST_LEFT = 0.6
Piece = tuple[slice, slice, slice]


def outline_as_rater(labels: Volume, d: Draws, level: Level) -> Volume:
    """Return a label map as a rater would have drawn it; labels stay disjoint.

    Args:
        labels: the truth, uint8 (z, y, x).
        d: the patient's draws.
        level: how far to go.
    """
    sigma = within(d, "rater", level.rater_mm) / labels.grid.spacing_mm[1]
    drawn = np.zeros_like(labels.array)
    scores = np.zeros(labels.array.shape, np.uint8)
    for number, window in _windows(labels.array):
        mask = labels.array[window] == number
        threshold = 0.5 + deviation(d, f"rater/{number}", level.rater_bias)
        smooth = gaussian_filter(mask.astype(np.float32), (0.0, sigma, sigma))
        outline = _without_small_pieces(_cut_at_slices(smooth > threshold))
        if np.count_nonzero(outline) < LEAST_LEFT * np.count_nonzero(mask):
            outline, smooth = mask, np.maximum(smooth, mask)
        score = np.rint(smooth * 200.0).astype(np.uint8) * outline
        won = score > scores[window]
        drawn[window][won] = number
        scores[window][won] = score[won]
    return labels.with_array(_tidy(drawn))


def _tidy(drawn: Labels) -> Labels:
    """Take off what neighbours have cut from an organ."""
    for number, window in _windows(drawn):
        mask = drawn[window] == number
        drawn[window][mask & ~_without_small_pieces(mask)] = 0
    return drawn


def _windows(labels: Labels) -> Iterator[tuple[int, Piece]]:
    for number, box in enumerate(find_objects(labels), start=1):
        if box is not None:
            z, y, x = box
            yield number, (z, _widened(y), _widened(x))


def _widened(side: slice) -> slice:
    return slice(max(0, side.start - MARGIN), side.stop + MARGIN)


def _cut_at_slices(mask: Mask) -> Mask:
    """Leave out the slice at either end that holds little beside its neighbour."""
    areas = np.count_nonzero(mask, axis=(1, 2))
    planes = np.flatnonzero(areas)
    if planes.size < LEAST_SLICES:
        return mask
    cut: Mask = mask.copy()
    for last, neighbour in ((planes[0], planes[1]), (planes[-1], planes[-2])):
        if areas[last] < LEAST_END * areas[neighbour]:
            cut[last] = False
    return cut


def _without_small_pieces(mask: Mask) -> Mask:
    pieces, count = label(mask, np.ones((3, 3, 3), int))
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    kept: Mask = (sizes >= LEAST_PIECE * sizes.max())[pieces] & mask
    return kept
