"""Write probabilities of organs as NRRD files, plane by plane."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from oarseg.imaging.arrays import Half
from oarseg.imaging.volume import Grid
from oarseg.labels.write_labels import nrrd_header

# Half-precision values leave 13 of a float's bits 0; more effort gains a few per cent.
QUICKEST = 1


def write_probabilities(path: Path, grid: Grid, planes: Iterable[Half]) -> None:
    """Write values in half precision as a NRRD of floats.

    NRRD has no half, and readers ignore a scale in a field of its own. Each half is a float.

    Args:
        path: must not exist.
        grid: of the image.
        planes: (y, x), in order.

    Raises:
        OSError: the disk is full, or the place cannot be written.
    """
    with path.open("xb") as file:
        file.write(nrrd_header(grid, {}, kind="float"))
        with gzip.GzipFile("", "wb", QUICKEST, file, mtime=0) as stream:
            for plane in planes:
                stream.write(np.ascontiguousarray(plane, "<f4").tobytes())
        file.flush()
        os.fsync(file.fileno())
