from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing,
    load_postprocess_save,
    remove_all_but_largest_component_from_segmentation,
)
from numpy.typing import NDArray

from oarseg.labels import runs
from oarseg.model.manifest import KeepLargest
from oarseg.plausibility.largest_part import Removed, keep_largest


def nnunets(labels: NDArray[np.uint8], *steps: tuple[int, ...]) -> NDArray[np.uint8]:
    kwargs = [{"labels_or_regions": list(step)} for step in steps]
    functions = [remove_all_but_largest_component_from_segmentation] * len(steps)
    done: NDArray[np.uint8] = apply_postprocessing(labels, functions, kwargs)
    return done


def kept(
    labels: NDArray[np.uint8], *steps: tuple[int, ...]
) -> tuple[NDArray[np.uint8], tuple[Removed, ...]]:
    array = labels.copy()
    removed = keep_largest(array, [KeepLargest(step) for step in steps])
    assert removed is not None
    return array, removed


def blobs(seed: int) -> NDArray[np.uint8]:
    """Draw a small label map, from empty to crowded, in which parts of equal size are common."""
    draw = np.random.default_rng(seed)
    shape = draw.integers(1, 14, 3)
    filled = draw.random(shape) < draw.uniform(0, 0.5)
    return np.where(filled, draw.integers(1, 6, shape), 0).astype(np.uint8)


@pytest.mark.parametrize("seed", range(60))
def test_no_voxel_differs_from_nnunets(seed: int) -> None:
    draw = np.random.default_rng(1000 + seed)
    steps = [tuple(map(int, draw.permutation(5)[: draw.integers(1, 6)] + 1)) for _ in range(4)]
    labels = blobs(seed)
    mine, removed = kept(labels, *steps)
    assert np.array_equal(mine, nnunets(labels, *steps))
    gone = labels[mine != labels]
    for value in range(1, 6):
        assert sum(step.voxels.get(value, 0) for step in removed) == np.count_nonzero(gone == value)


def test_files_processed_by_nnunet_are_the_same(tmp_path: Path) -> None:
    """Files in, files out, by what ``nnUNetv2_apply_postprocessing`` runs for each of them."""
    labels = np.kron(blobs(7), np.ones((2, 3, 3), np.uint8))
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((0.7, 0.8, 2.5))
    sitk.WriteImage(image, str(tmp_path / "in.nii.gz"))
    load_postprocess_save(
        str(tmp_path / "in.nii.gz"),
        str(tmp_path / "out.nii.gz"),
        SimpleITKIO(),
        [remove_all_but_largest_component_from_segmentation] * 2,
        [{"labels_or_regions": [1, 2, 3, 4, 5]}, {"labels_or_regions": 2}],
    )
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.nii.gz")))
    mine, removed = kept(labels, (1, 2, 3, 4, 5), (2,))
    assert np.array_equal(mine, theirs)
    assert sum(sum(step.voxels.values()) for step in removed) > 0


def test_of_equal_parts_all_stay() -> None:
    labels = np.zeros((1, 3, 9), np.uint8)
    labels[0, 0, 0:2] = labels[0, 2, 4:6] = 1
    labels[0, 0, 8] = 1
    mine, removed = kept(labels, (1,))
    assert np.count_nonzero(mine) == 4
    assert removed == (Removed((1,), 1, {1: 1}),)


def test_parts_that_meet_at_a_corner_are_one() -> None:
    labels = np.zeros((3, 3, 5), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = 1
    labels[0, 2, 4] = 1
    mine, _ = kept(labels, (1,))
    assert [int(mine[k, k, k]) for k in range(3)] == [1, 1, 1]
    assert mine[0, 2, 4] == 0


def test_steps_are_applied_in_their_order() -> None:
    """Label 2 joins two parts of label 1 until it is filtered."""
    labels = np.array([[[1, 1, 2, 1, 0, 2, 2]]], np.uint8)
    first, _ = kept(labels, (2,), (1, 2))
    then, _ = kept(labels, (1, 2), (2,))
    assert first.tolist() == [[[1, 1, 0, 0, 0, 2, 2]]]
    assert then.tolist() == [[[1, 1, 2, 1, 0, 0, 0]]]
    assert np.array_equal(first, nnunets(labels, (2,), (1, 2)))


def test_nothing_to_filter() -> None:
    labels = np.zeros((2, 3, 4), np.uint8)
    mine, removed = kept(labels, (1,), (2, 3))
    assert not mine.any()
    assert [step.parts for step in removed] == [0, 0]


def test_a_label_map_too_ragged_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = blobs(7)
    monkeypatch.setattr(runs.LabelRuns.__init__, "__kwdefaults__", {"most": 5})
    array = labels.copy()
    assert keep_largest(array, [KeepLargest((1,))]) is None
    assert np.array_equal(array, labels)
