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
from oarseg.imaging.intensities import AIR_HU
from oarseg.system import memory
from oarseg.system.memory import Need

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
            array = _widened(array, series)
        # Overflow gives infinities, which the check of values refuses by number.
        with np.errstate(over="ignore"):
            array[index] = values
    return array


def _widened(array: NDArray[Any], series: DicomSeries) -> NDArray[Any]:
    """Go over to float32, if there is memory for both.

    Raises:
        ResourceError: there is not.
    """
    slices, rows, columns = array.shape
    per_slice = rows * columns * np.dtype(np.float32).itemsize
    what = f"reading {series.folder.name}, whose values are no whole numbers of 16 bits,"
    memory.check_memory(Need(what, 0, per_slice, slices))
    return array.astype(np.float32)


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
        values = np.asarray(stored * np.float64(slope) + intercept, dtype=np.float64)
    padding = _padding(stored, header)
    # Low padding of a CT stays, as it does in other formats.
    values[padding] = np.minimum(values[padding], AIR_HU) if series.modality == "CT" else 0.0
    return values


def _padding(stored: NDArray[Any], header: SliceHeader) -> NDArray[np.bool_]:
    """Find the pixels of the padding value, if that lies beyond all others of the slice.

    Among the others it may be a value of tissue, whatever the header calls it.
    """
    nothing = np.zeros(stored.shape, np.bool_)
    if header.pixels.padding is None:
        return nothing
    # The element's type may differ in sign from the pixels'.
    value = np.array(header.pixels.padding % (1 << 16)).astype(stored.dtype)
    found = np.asarray(stored == value)
    others = stored[~found]
    beyond = not others.size or value < others.min() or value > others.max()
    return found if beyond else nothing


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
