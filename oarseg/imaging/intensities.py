"""Intensities: air and body in HU, the patient in an MR, a common MR scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import RegistrationError
from oarseg.imaging.grids import COARSE_MM, FINE_MM, block_mean
from oarseg.imaging.volume import Volume

AIR_HU = -1000.0
BODY_HU = -300.0
MIN_FOREGROUND_MM3 = 1e5
LOWEST = 1e-3
HIGHEST = 10.0


def foreground_mean(small: Volume) -> float:
    """Return the mean of a coarse MR over its patient.

    Raises:
        RegistrationError: nothing stands out of the background, or too little does.
    """
    values = small.array[np.isfinite(small.array)]
    bright = values[values > otsu_threshold(values)]
    volume = bright.size * small.grid.voxel_volume_mm3
    if volume < MIN_FOREGROUND_MM3 or bright.mean() <= 0:
        raise RegistrationError(
            f"MR: expected a patient of at least {MIN_FOREGROUND_MM3 / 1000:.0f} ml, found "
            f"{volume / 1000:.0f} ml above the background; check the image"
        )
    return float(bright.mean(dtype=np.float64))


def otsu_threshold(values: NDArray[np.floating[Any]]) -> float:
    """Return Otsu's threshold (IEEE SMC 1979) on 256 bins, clipped at the 99th percentile.

    Clipping keeps a few bright voxels (fat, vessels) from stretching the bins; all of it
    scales with the values, so the foreground does not depend on the scanner's gain.
    """
    if values.size == 0:
        return 0.0
    low, high = float(values.min()), float(np.percentile(values, 99))
    if not high > low:
        return high
    counts, edges = np.histogram(np.minimum(values, high), bins=256, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = below[-1] + counts[-1] - below
    sums = np.cumsum(counts * centres)
    total = sums[-1]
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (total - sums[:-1]) / np.maximum(above, 1)
    between = below * above * (mean_below - mean_above) ** 2
    return float(edges[1 + int(between.argmax())])


def standardise_mr(mr: Volume) -> Volume:
    """Divide an MR by its mean over the patient, and clip to [LOWEST, HIGHEST].

    The same in training and inference (``Channel.standardise == "mean_one"``). A
    scanner's gain cancels, and the value 0 is left free to mean "not taken".

    Returns:
        float32 on the same grid.

    Raises:
        RegistrationError: nothing stands out of the background.
    """
    coarse = block_mean(block_mean(mr, spacing_mm=FINE_MM), spacing_mm=COARSE_MM)
    scaled = mr.array.astype(np.float32)
    scaled /= np.float32(foreground_mean(coarse))
    np.clip(scaled, np.float32(LOWEST), np.float32(HIGHEST), out=scaled)
    return mr.with_array(scaled)
