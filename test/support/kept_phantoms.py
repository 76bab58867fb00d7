"""Compare phantoms with what they were, whatever CPU made them.

The last digits of a sine or a sum differ from CPU to CPU, and so may a voxel that is rounded to the
next whole number. A millionth of a mm does not.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

DECIMALS = 6
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?")
# Voxels of a slice, or steps of their values, that another CPU may round otherwise.
ROUNDED_OTHERWISE = 4


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def rounded(text: str) -> str:
    """A text whose numbers are rounded, each of them far from where it would round otherwise."""

    def one(found: re.Match[str]) -> str:
        value = float(found[0])
        steps = value * 10**DECIMALS
        assert abs(steps - math.floor(steps) - 0.5) > 1e-3, f"{value} may round either way"
        return f"{round(value, DECIMALS) + 0.0:.{DECIMALS}f}"  # + 0.0: there is no -0

    return NUMBER.sub(one, text)


def sums(array: NDArray[Any], name: str) -> dict[str, NDArray[np.int64]]:
    """The sum of each slice, across each axis: one voxel shows in three of them."""
    axes = {"z": (1, 2), "y": (0, 2), "x": (0, 1)}
    return {f"{name}_{axis}": array.sum(across, np.int64) for axis, across in axes.items()}


def assert_same_sums(array: NDArray[Any], name: str, expected: Mapping[str, NDArray[Any]]) -> None:
    for key, found in sums(array, name).items():
        assert found.shape == expected[key].shape
        assert np.abs(found - expected[key]).max() <= ROUNDED_OTHERWISE, key
