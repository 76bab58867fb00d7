from __future__ import annotations

import numpy as np
import pytest
import torch
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)

from oarseg.inference.tiling import cut_tile, gaussian_weights, lay_tiles

Shape = tuple[int, int, int]


def test_tiles_overlap_by_half_at_least_and_end_at_the_border() -> None:
    window = lay_tiles((110, 64, 96), (64, 64, 64))
    # 110 − 64 = 46 in steps of at most 32: two steps of 23. 96 − 64 = 32: one step.
    assert window.starts == ((0, 23, 46), (0,), (0, 32))
    assert window.count == 6
    assert list(window.row(23)) == [(23, 0, 0), (23, 0, 32)]


def test_steps_that_fall_between_voxels_are_rounded_half_to_even() -> None:
    # 15 − 10 = 5 at most 5 apart: one step. 17 − 10 = 7: two of 3.5, rounded to 4 and 7.
    assert lay_tiles((15, 17, 10), (10, 10, 10)).starts == ((0, 5), (0, 4, 7), (0,))


def test_small_images_are_padded_with_the_larger_half_behind() -> None:
    window = lay_tiles((5, 8, 12), (8, 8, 8))
    assert window.shape == (8, 8, 12)
    assert window.before == (1, 0, 0)
    assert window.inside == (slice(1, 6), slice(0, 8), slice(0, 12))


@pytest.mark.parametrize("length", range(16, 90, 7))
def test_positions_are_nnunets(length: int) -> None:
    theirs = compute_steps_for_sliding_window((length, 50, 33), (16, 25, 33), 0.5)
    assert [list(axis) for axis in lay_tiles((length, 50, 33), (16, 25, 33)).starts] == theirs


@pytest.mark.parametrize("patch", [(16, 24, 24), (5, 9, 64), (1, 1, 1)])
def test_weights_are_nnunets(patch: Shape) -> None:
    theirs = compute_gaussian(patch, value_scaling_factor=10, device=torch.device("cpu"))
    assert gaussian_weights(patch).dtype == np.float16
    assert np.array_equal(gaussian_weights(patch), theirs.numpy())
    assert gaussian_weights(patch).min() > 0


def test_a_patch_of_one_plane_is_laid_on_every_slice_as_in_nnunets_2d() -> None:
    window = lay_tiles((7, 50, 20), (1, 25, 33), step=1.0)
    in_plane = compute_steps_for_sliding_window((50, 33), (25, 33), 1.0)
    assert [list(axis) for axis in window.starts] == [list(range(7)), *in_plane]
    assert window.shape == (7, 50, 33)
    theirs = compute_gaussian((25, 33), value_scaling_factor=10, device=torch.device("cpu"))
    assert np.array_equal(gaussian_weights((1, 25, 33))[0], theirs.numpy())


def test_a_tile_across_the_padding_is_zero_outside_the_image() -> None:
    data = np.arange(1, 6, dtype=np.float32).reshape(1, 5, 1, 1)
    window = lay_tiles((5, 1, 1), (8, 1, 1))
    out = np.full((1, 8, 1, 1), np.nan, np.float32)
    cut_tile(data, window, (0, 0, 0), out)
    assert out.ravel().tolist() == [0, 1, 2, 3, 4, 5, 0, 0]


def test_cutting_weighting_and_blending_gives_the_image_back() -> None:
    image = np.random.default_rng(0).standard_normal((1, 11, 13, 6)).astype(np.float32)
    window = lay_tiles((11, 13, 6), (4, 6, 8))
    weights = gaussian_weights((4, 6, 8)).astype(np.float64)
    total, norm = np.zeros((2, *window.shape))
    out = np.empty((1, 4, 6, 8), np.float32)
    for first in window.starts[0]:
        for start in window.row(first):
            cut_tile(image, window, start, out)
            place = tuple(slice(s, s + p) for s, p in zip(start, window.patch, strict=True))
            total[place] += out[0] * weights
            norm[place] += weights
    assert np.allclose((total / norm)[window.inside], image[0], atol=1e-6)
