import numpy as np
import pytest

from oarseg.labels.dice import dice_by_label


def test_dice_by_hand() -> None:
    # Label 1: 2 and 3 voxels, 2 shared; label 2: 1 and 1, none shared; label 3: nowhere.
    prediction = np.array([[1, 1, 2, 0]], dtype=np.uint8)
    reference = np.array([[1, 1, 1, 2]], dtype=np.uint8)
    dice = dice_by_label(prediction, reference, labels=3)
    np.testing.assert_allclose(dice, [2 * 2 / 5, 0.0, np.nan])


def test_dice_of_itself_is_one() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (6, 7, 8)).astype(np.uint8)
    assert dice_by_label(labels, labels, labels=4).tolist() == [1.0] * 4


def test_shapes_and_values_are_checked() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        dice_by_label(np.zeros(3, int), np.zeros(4, int), labels=1)
    with pytest.raises(ValueError, match="label 2 is above 1"):
        dice_by_label(np.array([2]), np.array([1]), labels=1)
