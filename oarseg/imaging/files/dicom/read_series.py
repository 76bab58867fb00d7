"""Read the slices of a series into one array, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.files.dicom.file_meta import read_file_meta
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.imaging.files.dicom.slice_header import SliceHeader, read_header
from oarseg.imaging.files.dicom.slice_pixels import check_pixels, read_pixels
from oarseg.imaging.files.pixels import open_plain_file, unusable_file

SHORT = np.iinfo(np.int16)


def read_slices(series: DicomSeries) -> NDArray[Any]:
    """Read all slices, each rescaled by its own slope and intercept.

    Values are int16 as long as that is exact, whatever the slope; the first slice for which it
    is not makes the array float32. Memory: one volume and one slice; both types at
    once where the type changes.

    Returns:
        (slices, rows, columns), writable.

    Raises:
        InputError: a file has changed or is damaged.
    """
    array: NDArray[Any] = np.empty(series.grid.shape, np.int16)
    for index, path in enumerate(series.files):
        values = _read_slice(path, series, index)
        if array.dtype == np.int16 and not _is_short(values):
            array = array.astype(np.float32)
        array[index] = values
    return array


def _read_slice(path: Path, series: DicomSeries, index: int) -> NDArray[np.float64]:
    with open_plain_file(path) as stream:
        meta = read_file_meta(path, stream)
        header = None if meta is None else read_header(path, stream, meta)
        if header is None or not _is_slice(header, series, index):
            raise unusable_file(
                path,
                expected=f"slice {index} of series {series.series_uid}",
                found="another file than a moment ago",
                do="let nothing write to the folder while it is read",
            )
        check_pixels(header)
        stored = read_pixels(header, stream)
    slope = 1.0 if header.slope is None else header.slope
    intercept = 0.0 if header.intercept is None else header.intercept
    # Overflow gives infinities, which the check of values refuses by number.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(stored * np.float64(slope) + intercept, dtype=np.float64)


def _is_slice(header: SliceHeader, series: DicomSeries, index: int) -> bool:
    return (
        header.sop_instance_uid == series.sop_instance_uids[index]
        and header.position_mm == series.positions_mm[index]
        and (header.pixels.rows, header.pixels.columns) == (series.rows, series.columns)
    )


def _is_short(values: NDArray[np.float64]) -> bool:
    """Return whether int16 holds all values exactly."""
    low, high = values.min(), values.max()
    in_range = bool(low >= SHORT.min and high <= SHORT.max)
    return in_range and bool((values == np.rint(values)).all())
