"""Keep the largest part of labels, as nnU-Net's postprocessing does.

nnU-Net numbers every voxel of the image, with 8 bytes each, anew for every step. Here the runs of
the label map are found once and connected; the parts are the same: voxels that meet at a corner
are connected, and of several largest parts all are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oarseg.labels.runs import LabelRuns, number_parts
from oarseg.model.manifest import KeepLargest


@dataclass(frozen=True)
class Removed:
    """What a step removed.

    Attributes:
        labels: of the step.
        parts: how many connected parts.
        voxels: how many of each label, without those that lost none.
    """

    labels: tuple[int, ...]
    parts: int
    voxels: dict[int, int]


def keep_largest(
    labels: NDArray[np.uint8], steps: Sequence[KeepLargest]
) -> tuple[Removed, ...] | None:
    """Apply the steps to a label map, in place and in order.

    Args:
        labels: (z, y, x), uint8.
        steps: each gives background to all but the largest part of a union of labels.

    Returns:
        What each step removed; None, and nothing changed, for a label map too ragged.
    """
    if not steps:
        return ()
    runs = LabelRuns(labels)
    return tuple(_keep_largest(labels, runs, step) for step in steps) if runs.whole else None


def _keep_largest(labels: NDArray[np.uint8], runs: LabelRuns, step: KeepLargest) -> Removed:
    own = runs.of(step.labels)
    parts = number_parts(own)
    sizes = np.bincount(parts, weights=own.lengths)
    smaller = sizes < sizes.max(initial=0)
    lost = own.where(smaller[parts])
    voxels = runs.drop(lost)
    lost.fill(labels, 0)
    return Removed(step.labels, int(smaller.sum()), voxels)
