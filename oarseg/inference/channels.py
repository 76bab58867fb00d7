"""The network's input channels, made alike for training and for inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.imaging.intensities import standardise_mr
from oarseg.imaging.regrid import resample_moving
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import Grid, Volume
from oarseg.model.manifest import ChannelRecipe

TRAINING_RANGE_HU = (-1000, 3000)
# Headers round; voxels that lie closer than this lie on one grid.
SAME_GRID_MM = 1e-2


def ct_channel(ct: Volume) -> NDArray[Any]:
    """The CT's values for training, limited to [−1000, 3000] HU, in the CT's own dtype.

    Inference need not do it: normalisation clips to a range within this one.
    """
    low, high = TRAINING_RANGE_HU
    clipped: NDArray[Any] = np.clip(ct.array, low, high).astype(ct.array.dtype, copy=False)
    return clipped


def mr_channel(
    mr: Volume, transform: Transform, grid: Grid, recipe: ChannelRecipe
) -> NDArray[np.float32]:
    """The MR on the CT's grid, (z, y, x) float32.

    Args:
        mr: as read.
        transform: CT world → MR world.
        grid: the CT's.
        recipe: says how intensities are standardised and what stands outside the MR.
    """
    source = standardise_mr(mr) if recipe.standardise == "mean_one" else mr
    moved = resample_moving(source, transform, grid, outside=recipe.absent_value)
    return moved.array


def absent_channel(grid: Grid, recipe: ChannelRecipe) -> NDArray[np.float32]:
    """A channel that was not taken: its absent value everywhere."""
    return np.full(grid.shape, recipe.absent_value, dtype=np.float32)


def aligned_channel(
    image: Volume, grid: Grid, *, path: Path, outside: float, resample: bool
) -> NDArray[Any]:
    """An image that should lie on the reference's grid already.

    Args:
        image: as read.
        grid: the reference's.
        path: the image's file, for messages.
        outside: what stands beyond the image's field where it is resampled.
        resample: bring it onto the grid, by linear interpolation, if it lies on another.

    Raises:
        InputError: it lies on another grid, and ``resample`` is not set.
    """
    if image.grid.matches(grid, tolerance_mm=SAME_GRID_MM):
        return image.array
    if not resample:
        raise InputError(
            f"{path}: expected the reference image's grid, {grid.text}, found "
            f"{image.grid.text}; resample it onto that grid, or pass --resample"
        )
    return resample_moving(image, RigidTransform(), grid, outside=outside).array
