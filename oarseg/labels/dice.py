"""Dice coefficients of two label maps, without any challenge's rules."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def dice_by_label(
    prediction: NDArray[np.integer[Any]], reference: NDArray[np.integer[Any]], *, labels: int
) -> NDArray[np.float64]:
    """Compute the Dice similarity coefficient of each label.

    Args:
        prediction, reference: label maps of one shape, values 0 … ``labels``.
        labels: the highest label.

    Returns:
        (labels,) for labels 1 … ``labels``: 2·|A∩B| / (|A| + |B|); NaN if both are empty.

    Raises:
        ValueError: the shapes differ, or a value is above ``labels``.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"shapes differ: {prediction.shape} and {reference.shape}")
    size = labels + 1
    sizes = count_labels(prediction, size) + count_labels(reference, size)
    both = count_labels(prediction[prediction == reference], size)
    with np.errstate(invalid="ignore"):
        dice: NDArray[np.float64] = 2.0 * both / sizes
    return dice[1:]


def count_labels(labels: NDArray[np.integer[Any]], size: int) -> NDArray[np.int64]:
    """Count the voxels of each value 0 … ``size`` − 1.

    Raises:
        ValueError: a value is outside that range.
    """
    found = np.bincount(labels.ravel(), minlength=size)
    if len(found) > size:
        raise ValueError(f"label {len(found) - 1} is above {size - 1}")
    return found
