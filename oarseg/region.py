"""The part of a CT that holds the body, so that no network looks at air.

The box is that of the patient without couch and mask shell, with a wide margin: it only
has to be safe, not tight. The slices are all kept.
"""

from __future__ import annotations

import math

import numpy as np

from oarseg.errors import RegistrationError
from oarseg.preprocessing import Box
from oarseg.registration.coarse import COARSE_MM, body_mask, shrink
from oarseg.volume import Volume

MARGIN_MM = 20.0


def body_box(ct: Volume) -> Box:
    """Half-open intervals along (z, y, x) that hold the body and ``MARGIN_MM`` around it.

    Without a body to be found the box is the whole image.

    Args:
        ct: HU.
    """
    coarse = shrink(ct, spacing_mm=COARSE_MM)
    try:
        body = body_mask(coarse.array)
    except RegistrationError:
        return _whole(ct)
    depth = ct.grid.shape[0]
    return (0, depth), _interval(ct, coarse, body, axis=1), _interval(ct, coarse, body, axis=2)


def _interval(
    ct: Volume, coarse: Volume, body: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], *, axis: int
) -> tuple[int, int]:
    spacing, size = ct.grid.spacing_mm[axis], ct.grid.shape[axis]
    factor = round(coarse.grid.spacing_mm[axis] / spacing)
    margin = math.ceil(MARGIN_MM / spacing)
    found = np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))
    start, stop = int(found[0]) * factor - margin, (int(found[-1]) + 1) * factor + margin
    return max(0, start), min(size, stop)


def _whole(ct: Volume) -> Box:
    depth, height, width = ct.grid.shape
    return (0, depth), (0, height), (0, width)
