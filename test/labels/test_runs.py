import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.labels.runs import (
    FACE_NEIGHBOURS,
    LabelRuns,
    Runs,
    distance_mm,
    enclosed_background,
    number_parts,
)

SHAPES = ((5, 7, 9), (1, 6, 6), (6, 1, 5), (4, 5, 1))


def random_mask(seed: int, shape: tuple[int, int, int], share: float) -> NDArray[np.uint8]:
    return (np.random.default_rng(seed).random(shape) < share).astype(np.uint8)


def painted(runs: Runs, values: NDArray[np.int64]) -> NDArray[np.int64]:
    image = np.zeros(runs.shape, np.int64)
    for value in np.unique(values):
        one = np.zeros(runs.shape, np.uint8)
        runs.where(values == value).fill(one, 1)
        image[one > 0] = value + 1
    return image


def test_runs_of_a_row() -> None:
    labels = np.array([[[0, 1, 1, 2, 0, 1]]], np.uint8)
    runs = LabelRuns(labels)
    assert [list(runs.of([1]).start), list(runs.of([1]).stop)] == [[1, 5], [3, 6]]
    both = runs.of([1, 2])
    assert [list(both.start), list(both.stop)] == [[1, 5], [4, 6]]
    assert both.voxels == 4
    assert both.centroid() == pytest.approx([0, 0, (1 + 2 + 3 + 5) / 4])
    assert len(runs.of([3])) == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_runs_hold_every_voxel(shape: tuple[int, int, int]) -> None:
    labels = np.random.default_rng(1).integers(0, 4, shape).astype(np.uint8)
    runs = LabelRuns(labels)
    again = np.zeros(shape, np.uint8)
    for label in (1, 2, 3):
        runs.of([label]).fill(again, label)
    assert np.array_equal(again, labels)


@pytest.mark.parametrize(("shape", "seed"), [*itertools.product(SHAPES, range(4))])
@pytest.mark.parametrize("corners", [True, False])
def test_parts_are_those_of_scipy(shape: tuple[int, int, int], seed: int, corners: bool) -> None:
    mask = random_mask(seed, shape, 0.2 if corners else 0.4)
    runs = LabelRuns(mask).of([1])
    if corners:
        parts = number_parts(runs)
    else:
        parts = number_parts(runs, neighbours=FACE_NEIGHBOURS, corners=False)
    expected, count = ndimage.label(mask, np.ones((3, 3, 3)) if corners else None)
    found = painted(runs, parts)
    assert int(parts.max()) + 1 == count
    pairs = set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == count + (mask == 0).any()
    sizes = np.bincount(found.ravel())[1:]
    assert list(sizes) == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("shape", "seed"), [*itertools.product(SHAPES, range(3))])
def test_enclosed_background_is_that_of_scipy(shape: tuple[int, int, int], seed: int) -> None:
    mask = random_mask(seed, shape, 0.75)
    filled = ndimage.binary_fill_holes(mask)
    holes = enclosed_background(LabelRuns(mask).of([1]))
    assert holes.voxels == int(filled.sum()) - int(mask.sum())


def test_a_shell_has_one_hole() -> None:
    mask = np.ones((5, 5, 5), np.uint8)
    mask[1:4, 1:4, 1:4] = 0
    holes = enclosed_background(LabelRuns(mask).of([1]))
    assert holes.voxels == 27


@pytest.mark.parametrize("seed", range(5))
def test_distances_are_those_between_voxels(seed: int) -> None:
    spacing = (3.0, 1.0, 0.5)
    one, other = random_mask(seed, (4, 5, 8), 0.05), random_mask(seed + 50, (4, 5, 8), 0.05)
    one[0, 0, 0] = other[-1, -1, -1] = 1
    points = [np.argwhere(mask) * spacing for mask in (one, other)]
    expected = min(float(np.linalg.norm(a - b)) for a in points[0] for b in points[1])
    runs = [LabelRuns(mask).of([1]) for mask in (one, other)]
    assert distance_mm(runs[0], runs[1], spacing) == pytest.approx(expected)


def test_too_many_runs_are_not_kept() -> None:
    labels = np.zeros((4, 4, 8), np.uint8)
    labels[:, :, ::2] = 1
    assert LabelRuns(labels, most=64).whole
    assert not LabelRuns(labels, most=63).whole
