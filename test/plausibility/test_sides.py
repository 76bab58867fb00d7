"""Left and right told apart by anatomy, in labels that hold both."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import cos, radians, sin

import numpy as np
import pytest
from scipy import ndimage

from oarseg.challenges.catalogue import load_challenge
from oarseg.challenges.pairs import name_pairs
from oarseg.imaging.orientation import Turn
from oarseg.imaging.volume import Grid, Volume
from oarseg.labels import runs
from oarseg.phantom.case import make_phantom
from oarseg.phantom.spec import PhantomSpec
from oarseg.plausibility.sides import SplitPairs, split_pairs

HAN_SEG = load_challenge("han_seg")
LABELS = {structure.name: structure.label for structure in HAN_SEG.structures}
PAIRS = tuple((LABELS[left], LABELS[right]) for left, right in name_pairs(LABELS))
MIDDLE = tuple(set(LABELS.values()) - {label for pair in PAIRS for label in pair})
# (about the body's length, about its depth), in degrees.
ANGLES = {400: (15, 0), 401: (0, 15), 402: (-15, 0), 403: (10, -11), 404: (-12, 9)}
# The share of the labelled width that an image shows from either side.
CUTS = {405: slice(0.3, 1.0), 406: slice(0.0, 0.62)}
SEEDS = range(400, 410)


@cache
def phantom(seed: int) -> Volume:
    """A tiny one; every other varies as far as patients do."""
    spec = PhantomSpec(seed, size="tiny", with_mr=False, randomise=2 * (seed % 2))
    return make_phantom(spec).labels


def rotated(labels: Volume, length_deg: float, depth_deg: float) -> Volume:
    """Turn the patient in the image."""
    a, b = radians(length_deg), radians(depth_deg)
    about_z = np.array([[1, 0, 0], [0, cos(a), -sin(a)], [0, sin(a), cos(a)]])
    about_y = np.array([[cos(b), 0, -sin(b)], [0, 1, 0], [sin(b), 0, cos(b)]])
    spacing = np.asarray(labels.grid.spacing_mm)
    matrix = np.diag(1 / spacing) @ about_z @ about_y @ np.diag(spacing)
    centre = (np.asarray(labels.array.shape) - 1) / 2
    turned = ndimage.affine_transform(labels.array, matrix, centre - matrix @ centre, order=0)
    return labels.with_array(turned)


def cut(labels: Volume, kept: slice) -> Volume:
    """Leave out planes at one side of the patient; what is left begins at the same place."""
    filled = np.flatnonzero(labels.array.any(axis=(0, 1)))
    first, width = int(filled[0]), int(filled[-1] - filled[0]) + 1
    columns = slice(first + int(kept.start * width), first + int(kept.stop * width))
    array = np.ascontiguousarray(labels.array[:, :, columns])
    return Volume(array, replace(labels.grid, shape=array.shape))


def case(seed: int) -> Volume:
    labels = rotated(phantom(seed), *ANGLES[seed]) if seed in ANGLES else phantom(seed)
    return cut(labels, CUTS[seed]) if seed in CUTS else labels


def merged(labels: Volume) -> Volume:
    array = labels.array.copy()
    for left, right in PAIRS:
        array[array == right] = left
    return labels.with_array(array)


def told(labels: Volume, **options: object) -> SplitPairs:
    found = split_pairs(labels, PAIRS, **{"middle": MIDDLE, **options})  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_no_voxel_changes_sides_on_phantoms_turned_and_cut(seed: int) -> None:
    truth = case(seed)
    found = told(merged(truth))
    assert np.count_nonzero(np.isin(truth.array, PAIRS)) > 50
    assert np.array_equal(found.labels.array, truth.array)
    by_label = {side.left: (side.left_voxels, side.right_voxels) for side in found.sides}
    for left, right in PAIRS:
        wanted = (np.count_nonzero(truth.array == left), np.count_nonzero(truth.array == right))
        assert by_label.get(left, (0, 0)) == wanted


def test_the_plane_is_the_patients_and_not_the_images() -> None:
    straight = told(merged(phantom(402))).midline
    turned = told(merged(rotated(phantom(402), 15, 0))).midline
    assert straight is not None
    assert turned is not None
    angle = np.degrees(np.arccos(np.dot(straight.normal, turned.normal)))
    assert angle == pytest.approx(15, abs=2)


@pytest.mark.parametrize("turn", [Turn((0, 1, 2), (False, False, True)), Turn((2, 0, 1))])
def test_sides_are_the_worlds_whatever_the_axes_of_the_file(turn: Turn) -> None:
    truth = turn.volume(phantom(407))
    assert np.array_equal(told(merged(truth)).labels.array, truth.array)


def grid(shape: tuple[int, int, int]) -> Grid:
    identity = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    return Grid(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), identity)


def line(*spans: tuple[int, int, int]) -> Volume:
    """Boxes 5 voxels thick in a row of 100: (first, last + 1, label)."""
    array = np.zeros((11, 11, 100), np.uint8)
    for first, last, label in spans:
        array[3:8, 3:8, first:last] = label
    return Volume(array, grid(array.shape))


def small(labels: Volume, *pairs: tuple[int, int], **options: object) -> SplitPairs:
    found = split_pairs(labels, pairs, **options)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_part_on_both_sides_is_cut_at_the_plane() -> None:
    """The patient's left is where x is large; pair 1 has its middle at voxel 49.5."""
    labels = line((10, 20, 1), (80, 90, 1), (44, 56, 3))
    found = small(labels, (1, 2), (3, 4))
    row = found.labels.array[5, 5]
    assert row[10:20].tolist() == [2] * 10
    assert row[80:90].tolist() == [1] * 10
    assert row[44:56].tolist() == [4] * 6 + [3] * 6
    assert [side.cut for side in found.sides] == [False, True]
    assert (found.pairs, found.midline.offset_mm) == (1, 49.5)  # type: ignore[union-attr]


def test_a_part_that_reaches_a_little_across_is_whole() -> None:
    labels = line((10, 20, 1), (80, 90, 1), (30, 53, 3))
    found = small(labels, (1, 2), (3, 4))
    assert (found.labels.array[5, 5, 30:53] == 4).all()
    assert not any(side.cut for side in found.sides)


def test_one_organ_alone_is_told_by_the_middle_the_body_or_the_image() -> None:
    """It lies at voxels 60 to 70 of 100."""
    labels = line((60, 70, 1), (78, 82, 9))
    by_middle = small(labels, (1, 2), middle=(9,), body_mm=(40.0, 5.0, 5.0))
    by_body = small(labels, (1, 2), body_mm=(80.0, 5.0, 5.0))
    by_image = small(labels, (1, 2))
    assert [f.source for f in (by_middle, by_body, by_image)] == [
        "middle structures",
        "body",
        "image",
    ]
    assert [int(f.labels.array[5, 5, 65]) for f in (by_middle, by_body, by_image)] == [2, 2, 1]


def test_two_parts_of_unequal_size_or_above_each_other_are_no_pair() -> None:
    unequal = line((10, 30, 1), (88, 90, 1), (48, 52, 9))
    assert small(unequal, (1, 2), middle=(9,)).pairs == 0
    array = np.zeros((60, 11, 40), np.uint8)
    array[2:8, 3:8, 10:16] = array[50:56, 3:8, 24:30] = 1
    assert small(Volume(array, grid(array.shape)), (1, 2)).pairs == 0


def test_without_a_voxel_there_is_nothing_to_tell() -> None:
    labels = line((10, 20, 7))
    found = small(labels, (1, 2))
    assert found.labels is labels
    assert (found.midline, found.sides) == (None, ())


def test_a_ragged_label_map_is_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.LabelRuns.__init__, "__kwdefaults__", {"most": 5})
    assert split_pairs(phantom(407), PAIRS) is None
