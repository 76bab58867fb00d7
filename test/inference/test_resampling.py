from __future__ import annotations

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape,
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from skimage.transform import resize

from oarseg.errors import InputError
from oarseg.imaging.slabs import HeldImage
from oarseg.inference.resampling import (
    Tap,
    blend_voxels,
    choose_scheme,
    linear_taps,
    new_shape,
    resize_slabs,
    spline_bands,
    spline_matrix,
    voxel_taps,
)
from oarseg.model.entries.networks import Resampling

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


def test_doubling_an_axis_blends_quarters() -> None:
    # Centres of the new voxels lie at −1/4, 1/4, 3/4 and 5/4; outside, the edge is repeated.
    expected = np.array([[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]])
    assert np.allclose(spline_matrix(2, 4, 1), expected)
    assert linear_taps(2, 4, 1) == (
        Tap(0, 0, 1, 1),
        Tap(0, 1, 0.75, 0.25),
        Tap(0, 1, 0.25, 0.75),
        Tap(1, 1, 1, 1),
    )


def test_taps_are_for_nearest_and_linear_only() -> None:
    with pytest.raises(ValueError, match="order 0 and 1, not 3"):
        linear_taps(2, 4, 3)


# From 150 to 152 the first band takes 32 rows to 32 others: as many, but not the same.
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(100, 150), (150, 152), (152, 150), (150, 151), (70, 70), (40, 33)]
)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_bands_are_the_whole_operator(inputs: int, outputs: int, order: int) -> None:
    identity = np.eye(inputs, dtype=np.float32)
    rows = [band.apply(identity[band.source]) for band in spline_bands(inputs, outputs, order)]
    assert np.abs(np.concatenate(rows) - spline_matrix(inputs, outputs, order)).max() < 1e-7


@pytest.mark.parametrize(
    ("current", "new"),
    [
        ((4.0, 1.0, 1.0), (2.5, 0.8, 0.8)),
        ((2.0, 1.0, 1.0), (4.0, 1.0, 1.0)),
        ((2.0, 1.0, 1.0), (1.5, 0.8, 0.8)),
        ((2.0, 0.7, 0.7), (2.0, 0.7, 0.7)),
        ((2.0, 0.64, 0.64), (2.0, 0.64, 0.64)),
        ((0.24, 1.25, 1.25), (1.0, 1.0, 1.0)),
        ((1.0, 1.0, 5.0), (1.0, 1.0, 1.0)),
    ],
)
@pytest.mark.parametrize("force", [None, True, False])
def test_branch_and_size_are_nnunets(current: Spacing, new: Spacing, force: bool | None) -> None:
    separate, axis = determine_do_sep_z_and_axis(force, current, new)
    how = choose_scheme(Resampling(order=3, force_separate_z=force), current, new)
    assert how.separate_axis == (int(axis) if separate else None)
    assert how.orders == tuple(0 if i == how.separate_axis else 3 for i in range(3))
    theirs = compute_new_shape((21, 33, 34), current, new)
    assert new_shape((21, 33, 34), current, new) == tuple(theirs)


def test_an_axis_must_not_vanish() -> None:
    with pytest.raises(InputError, match="at least one voxel an axis"):
        new_shape((1, 40, 40), (1.0, 1.0, 1.0), (5.0, 1.0, 1.0))


@pytest.mark.parametrize("order_z", [0, 1, 3])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("shape", [(9, 20, 31), (20, 26, 19), (13, 37, 23)])
def test_resizing_is_nnunets(shape: Shape, axis: int | None, order_z: int) -> None:
    coarse = [4.0 if i == axis else 1.0 for i in range(3)]
    spacing = (coarse[0], coarse[1], coarse[2])
    settings = Resampling(order=3, order_z=order_z)
    x = np.random.default_rng(1).standard_normal((13, 26, 23)).astype(np.float32)
    theirs = resample_data_or_seg_to_shape(
        x[None], shape, spacing, spacing, order=3, order_z=order_z, force_separate_z=None
    )[0]
    for threads in (1, 2):
        ours = np.empty(shape, np.float32)
        how = choose_scheme(settings, spacing, spacing)
        resize_slabs(HeldImage(x).slabs(), x.shape, ours, how, threads=threads)
        # float32 against float64, on values of up to 4: a few units in the last place.
        assert np.abs(ours - theirs).max() < 3e-6


@pytest.mark.parametrize(
    ("shape", "target"),
    [((9, 31, 22), (8, 37, 25)), ((5, 12, 11), (10, 24, 22)), ((9, 8, 7), (4, 8, 3))],
)
def test_single_voxels_are_blended_to_the_last_digit_also_at_edges(
    shape: tuple[int, int, int], target: tuple[int, int, int]
) -> None:
    """Sums of halves often lie in the middle between two halves: the last digit decides."""
    volume = np.random.default_rng(0).standard_normal(shape).astype(np.float16).astype(np.float32)
    theirs = resize(volume.astype(float), target, 1, mode="edge", anti_aliasing=False)
    along, rows, columns = (voxel_taps(n, m, 1) for n, m in zip(shape, target, strict=True))
    j, i = (index.ravel() for index in np.mgrid[: target[1], : target[2]])
    for index, plane in enumerate(theirs):
        pairs = zip(along.indices[index], along.weights[index], strict=True)
        planes = [(volume[None, number], float(weight)) for number, weight in pairs]
        ours = blend_voxels(planes, rows.at(j), columns.at(i))
        assert np.array_equal(ours[0].reshape(plane.shape), plane)
