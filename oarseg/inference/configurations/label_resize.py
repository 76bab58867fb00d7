"""Resamples a label map as nnU-Net does, for the stage behind it.

nnU-Net interpolates each label's indicator and takes the label with the largest share; of labels
with the same share the nearest voxel's, or else the smallest (``resize_segmentation`` of
batchgenerators, called by ``nnunetv2.preprocessing.resampling.default_resampling``). Where the
voxels around a point have one label, that is it. Only the others are computed, in float64 and in
SciPy's order: shares are often equal but for the last digit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Labels
from oarseg.inference.resampling import Scheme, VoxelTaps, linear_taps, voxel_taps

# Labels of a plane; −1 lies below the background, as in nnU-Net.
LabelPlane = NDArray[np.int16]
ReadPlane = Callable[[int], LabelPlane]


def resize_labels(
    read: ReadPlane, shape: Sequence[int], how: Scheme, order: int, out: Labels
) -> None:
    """Resample a label map plane by plane.

    Args:
        read: gives a plane along axis 0.
        shape: of the map.
        how: of ``choose_scheme``; its separate axis is resized by the nearest plane.
        order: of the spline, 0 or 1.
        out: gets the labels, 0 where a label is negative.
    """
    if tuple(shape) == out.shape:
        for index, plane in enumerate(out):
            np.maximum(read(index), 0, out=plane, casting="unsafe")
        return
    orders = [order] * 3
    if how.separate_axis is not None:
        orders[how.separate_axis] = 0
    pairs = list(zip(shape, out.shape, orders, strict=True))
    along, *in_plane = (voxel_taps(*pair) for pair in pairs)
    nearest = [_nearest(before, after) for before, after, _ in pairs]
    for index, plane in enumerate(out):
        tap = along.at(np.array([index]))
        layers = [
            (read(int(number)), float(weight))
            for number, weight in zip(tap.indices[0], tap.weights[0], strict=True)
            if weight != 0
        ]
        near = read(int(nearest[0][index]))[np.ix_(nearest[1], nearest[2])]
        np.maximum(_blend(layers, in_plane, near), 0, out=plane, casting="unsafe")


def _nearest(before: int, after: int) -> NDArray[np.intp]:
    return np.array([tap.first for tap in linear_taps(before, after, 0)], np.intp)


def _blend(
    layers: Sequence[tuple[LabelPlane, float]], in_plane: Sequence[VoxelTaps], near: LabelPlane
) -> LabelPlane:
    """Choose the labels of one plane from one or two planes before resampling."""
    rows, columns = in_plane
    corners = [
        plane[np.ix_(rows.indices[:, i], columns.indices[:, j])]
        for (plane, _), i, j in itertools.product(layers, range(2), range(2))
    ]
    chosen = corners[0].copy()
    differ = np.logical_or.reduce([corner != chosen for corner in corners[1:]])
    where = np.nonzero(differ)
    if not len(where[0]):
        return chosen
    weights = [
        weight * rows.weights[where[0], i] * columns.weights[where[1], j]
        for (_, weight), i, j in itertools.product(layers, range(2), range(2))
    ]
    chosen[where] = _largest(
        np.stack([corner[where] for corner in corners]), np.stack(weights), near[where]
    )
    return chosen


def _largest(labels: LabelPlane, weights: NDArray[np.float64], near: LabelPlane) -> NDArray[Any]:
    """Choose the label of the largest share for each point.

    Args:
        labels, weights: (corners, points), in the order in which SciPy adds them up.
        near: the nearest voxel's label, (points,).
    """

    def share(label: NDArray[Any]) -> NDArray[np.float64]:
        total = np.zeros(label.shape)
        for other, weight in zip(labels, weights, strict=True):
            total += np.where(other == label, weight, 0.0)
        return np.minimum(total, 1.0)

    shares = np.stack([share(label) for label in labels])
    best = shares.max(axis=0)
    highest = np.iinfo(np.int16).max
    smallest = np.where(shares == best, labels, highest).min(axis=0)
    return np.where(share(near) == best, near, smallest)
