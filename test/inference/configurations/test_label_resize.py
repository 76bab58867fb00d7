"""A label map on another grid, against nnU-Net's own resampling of segmentations."""

from __future__ import annotations

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.inference.configurations.label_resize import resize_labels
from oarseg.inference.resampling import choose_scheme
from oarseg.model.entries.networks import Resampling

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

CASES: dict[str, tuple[Shape, Shape, Spacing, Spacing]] = {
    "same": ((9, 12, 11), (9, 12, 11), (2.0, 1.0, 1.0), (2.0, 1.0, 1.0)),
    "twice as fine": ((9, 12, 11), (18, 24, 22), (2.0, 1.0, 1.0), (1.0, 0.5, 0.5)),
    "finer": ((9, 14, 11), (13, 19, 23), (2.0, 1.0, 1.0), (1.4, 0.7, 0.5)),
    "coarser": ((17, 24, 22), (7, 12, 9), (1.0, 1.0, 1.0), (2.4, 2.0, 2.4)),
    "in plane": ((9, 14, 11), (9, 20, 16), (2.0, 1.0, 1.0), (2.0, 0.7, 0.7)),
    "separate": ((9, 14, 11), (15, 19, 16), (5.0, 1.0, 1.0), (3.0, 0.7, 0.7)),
    "separate, same slices": ((9, 14, 11), (9, 19, 16), (5.0, 1.0, 1.0), (5.0, 0.7, 0.7)),
    "separate along the last axis": ((14, 11, 9), (19, 16, 15), (1.0, 1.0, 5.0), (0.7, 0.7, 3.0)),
}


def blobs(shape: Shape) -> NDArray[np.int16]:
    """Six labels, −1 among them, in pieces of a few voxels: three and four meet in many points."""
    noise = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal(shape), 0.9)
    ranks = np.digitize(noise, np.quantile(noise, [0.1, 0.35, 0.5, 0.7, 0.85]))
    found: NDArray[np.int16] = np.array([-1, 0, 3, 1, 7, 2], np.int16)[ranks]
    return found


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_labels_are_nnunets(name: str, order: int) -> None:
    shape, target, current, new = CASES[name]
    labels = blobs(shape)
    theirs = resample_data_or_seg_to_shape(
        labels[None].astype(np.float32),
        target,
        current,
        new,
        is_seg=True,
        order=order,
        order_z=0,
        force_separate_z=None,
    )[0]
    how = choose_scheme(Resampling(order=order), current, new)
    assert (how.separate_axis is not None) == name.startswith("separate")
    out = np.full(target, 99, np.uint8)
    resize_labels(lambda index: labels[index], shape, how, order, out)
    assert np.array_equal(out, np.maximum(theirs, 0))
    assert len(np.unique(out)) == 5
