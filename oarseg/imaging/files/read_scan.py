"""Read scans into volumes, and check all that their headers and values claim."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.errors import NonFiniteError
from oarseg.imaging.files.dicom.read_series import read_slices
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.imaging.files.locate import locate_voxels
from oarseg.imaging.files.pixels import (
    CHUNK_BYTES,
    Pixels,
    read_voxels,
    sheared_axes,
    unusable_file,
)
from oarseg.imaging.hounsfield import are_same_image, is_surely_hu, judge_hu
from oarseg.imaging.orientation import shear_deg
from oarseg.imaging.volume import Grid, Volume
from oarseg.system import memory
from oarseg.system.memory import Need

ORTHONORMAL_TOLERANCE = 1e-3
FARTHEST_MM = 1e6

# Padding and metal lie beyond.
SCANNER_RANGE_HU = (-1024, 3000)

ImageSource = Path | DicomSeries
Warn = Callable[[str], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a header may promise.

    Attributes:
        voxels: the most voxels of one image; the largest CT of a challenge has 0.34 × 10⁹.
        bytes: the most bytes of one image, as it is stored.
        shortest: the fewest voxels along any axis.
        spacing_mm: the least and the greatest distance of neighbouring voxels.
        flat: let every voxel have one value, with a warning, as in a mask without an organ.
    """

    voxels: int = 2_000_000_000
    bytes: int = 8 << 30
    shortest: int = 4
    spacing_mm: tuple[float, float] = (0.05, 50.0)
    flat: bool = False


def read_volume(
    source: ImageSource, *, limits: Limits | None = None, warn: Warn = log.warning
) -> Volume:
    """Read a scalar 3-D image: MetaImage, NRRD or NIfTI-1 in one file, or a series of DICOM.

    Integers keep their type; floating point numbers, and values that NIfTI scales,
    become float32. Memory: one copy, and a second one while a type is converted.

    Args:
        source: the file, or the series.
        limits: what its header may promise.
        warn: called with what the header says twice and differently.

    Raises:
        ResourceError: its voxels would not fit into memory.
        InputError: not such an image, a header beyond the limits, geometry that is not
            that of a scan, damaged or missing voxels, or a constant image.
        NonFiniteError: NaN or infinities.
    """
    limits = limits or Limits()
    if isinstance(source, DicomSeries):
        return _read_series(source, limits)
    path, pixels = source, locate_voxels(source)
    _check_size(path, pixels.grid, pixels.dtype.itemsize, limits)
    _check_geometry(path, pixels.grid, limits)
    _check_memory(path, pixels)
    array = _apply_scaling(read_voxels(path, pixels, pixels.grid.voxels), pixels).reshape(
        pixels.grid.shape
    )
    _check_finite(path, array)
    _check_varies(path, array, warn if limits.flat else None)
    for note in pixels.notes:
        warn(note)
    return Volume(array, pixels.grid)


def _read_series(series: DicomSeries, limits: Limits) -> Volume:
    """Read a series of DICOM; see ``dicom.read_series`` for its type."""
    path, grid = series.folder, series.grid
    _check_size(path, grid, np.dtype(np.int16).itemsize, limits)
    _check_geometry(path, grid, limits)
    slices, rows, columns = grid.shape
    per_slice = rows * columns * np.dtype(np.int16).itemsize
    # One slice is decoded in double precision.
    memory.check_memory(Need(f"reading {path.name}", 16 * rows * columns, per_slice, slices))
    array = read_slices(series)
    _check_finite(path, array)
    _check_varies(path, array)
    return Volume(array, grid)


def read_ct(
    source: ImageSource,
    *,
    limits: Limits | None = None,
    assume_hu: bool = False,
    warn: Warn = log.warning,
) -> Volume:
    """Read a CT in Hounsfield units; see ``read_volume`` and ``check_ct``."""
    volume = read_volume(source, limits=limits, warn=warn)
    return check_ct(volume, source_path(source), assume_hu=assume_hu, warn=warn)


def read_mr(
    source: ImageSource, *, limits: Limits | None = None, warn: Warn = log.warning
) -> Volume:
    """Read an MR image. Any scale will do, negative values included; see ``check_mr``."""
    return check_mr(read_volume(source, limits=limits, warn=warn), source_path(source))


def source_path(source: ImageSource) -> Path:
    """Return the file, or the folder of a series, for messages."""
    return source.folder if isinstance(source, DicomSeries) else source


def check_ct(
    volume: Volume, path: Path, *, assume_hu: bool = False, warn: Warn = log.warning
) -> Volume:
    """Make sure that a CT is in Hounsfield units, and clip it to −1024 … 3000.

    See ``judge_ct`` and ``condition_ct``. The array is changed in place, to hold no second copy.
    """
    judge_ct(volume, path, assume_hu=assume_hu, warn=warn)
    return condition_ct(volume, path, warn=warn)


def judge_ct(
    volume: Volume,
    path: Path,
    *,
    assume_hu: bool = False,
    zero_is_fill: bool = False,
    warn: Warn = log.warning,
) -> None:
    """Make sure that a CT is in Hounsfield units; its values stay as they are.

    Args:
        volume: the CT.
        path: its file, for messages.
        assume_hu: take the values as they are, whatever they look like.
        zero_is_fill: see ``hounsfield.judge_hu``.
        warn: called with what was assumed that a user may not expect.

    Raises:
        InputError: the values are not HU, see ``hounsfield.judge_hu``. Raw values
            (0 … 4095) are found by it, with or without padding below them.
    """
    verdict = judge_hu(volume.array, zero_is_fill=zero_is_fill)
    if verdict.status == "wrong" and not assume_hu:
        raise unusable_file(
            path,
            expected="a CT in HU (air near -1000, soft tissue near 40)",
            found=verdict.reason,
            do="rescale it to HU, check that CT and MR are not exchanged, or pass --assume-hu",
        )
    if verdict.status != "right":
        doubt = "taken as HU as was asked" if assume_hu else "may not be in HU"
        warn(f"{path.name}: {doubt}: {verdict.reason}; check the masks")


def condition_ct(
    volume: Volume,
    path: Path,
    *,
    clip: bool = True,
    padding_is_air: bool = True,
    warn: Warn = log.warning,
) -> Volume:
    """Clip a CT to −1024 … 3000, in place, and turn its padding into air.

    Padding of −2000 or −3024 thereby becomes air, and metal what the data set has there.
    Padding of 0, which would be water, is recognised by reaching all four corners.

    Args:
        volume: the CT, in HU.
        path: its file, for messages.
        clip: clip the values.
        padding_is_air: set padding of 0 to air, where other values lie below 0.
        warn: called with what was changed that a user may not expect.
    """
    low, high = float(volume.array.min()), float(volume.array.max())
    if clip and (low < SCANNER_RANGE_HU[0] or high > SCANNER_RANGE_HU[1]):
        volume = volume.with_array(_clip_in_place(volume.array))
    if padding_is_air and low < 0:
        filled = _fill_zero_padding(volume.array)
        if filled:
            warn(f"{path.name}: {filled} voxels of padding with the value 0 were taken as air")
    return volume


def check_mr(volume: Volume, path: Path) -> Volume:
    """Make sure that an MR is no CT.

    Raises:
        InputError: its values are HU without doubt.
    """
    if is_surely_hu(volume.array):
        raise unusable_file(
            path,
            expected="an MR",
            found="a CT: values in HU, air near -1000 and soft tissue near 40",
            do="give the MR, and check that CT and MR are not exchanged",
        )
    return volume


def check_distinct(ct: Volume, mr: Volume, path: Path) -> None:
    """Make sure that an MR is not the CT once more.

    Args:
        ct: as it was read.
        mr: as it was read.
        path: the MR's file, for messages.

    Raises:
        InputError: the same image, perhaps shifted or scaled.
    """
    if are_same_image(ct.array, mr.array):
        raise unusable_file(
            path, expected="an MR", found="the CT's own voxels", do="give the MR of this patient"
        )


def _check_size(path: Path, grid: Grid, itemsize: int, limits: Limits) -> None:
    size = grid.size_text
    if min(grid.shape) < limits.shortest:
        raise unusable_file(
            path,
            expected=f"a 3-D image with at least {limits.shortest} voxels along each axis",
            found=size,
            do="give the whole scan",
        )
    if grid.voxels > limits.voxels or grid.voxels * itemsize > limits.bytes:
        raise unusable_file(
            path,
            expected=f"at most {limits.voxels} voxels and {limits.bytes} bytes",
            found=f"{size} of {itemsize} bytes",
            do="resample or crop it",
        )


def _check_geometry(path: Path, grid: Grid, limits: Limits) -> None:
    low, high = limits.spacing_mm
    if not all(low <= spacing <= high for spacing in grid.spacing_mm):
        raise unusable_file(
            path,
            expected=f"spacings of {low} to {high} mm",
            found=" × ".join(f"{spacing:g}" for spacing in reversed(grid.spacing_mm)),
            do="correct the header",
        )
    if not all(abs(position) <= FARTHEST_MM for position in grid.origin_mm):
        raise unusable_file(
            path,
            expected=f"an origin within {FARTHEST_MM:g} mm",
            found=f"{grid.origin_mm}",
            do="correct the header",
        )
    matrix = np.asarray(grid.direction)
    # Overflow gives infinity, which is no less wrong.
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(matrix.T @ matrix - np.eye(3)).max()
        stretch = np.abs(np.linalg.norm(matrix, axis=0) - 1.0).max()
    if not error <= ORTHONORMAL_TOLERANCE:
        if stretch <= ORTHONORMAL_TOLERANCE:
            raise sheared_axes(path, shear_deg(matrix))
        raise unusable_file(
            path,
            expected="orthonormal axis directions",
            found=f"{grid.direction}",
            do="correct the header or resample the image",
        )


def _check_memory(path: Path, pixels: Pixels) -> None:
    """Refuse an image whose voxels alone would not fit.

    Raises:
        ResourceError: with what it takes and what there is.
    """
    kept = pixels.dtype.kind in "iu" and (pixels.slope, pixels.intercept) == (1.0, 0.0)
    converted = 0 if kept else np.dtype(np.float32).itemsize
    slices, rows, columns = pixels.grid.shape
    per_slice = rows * columns * (pixels.dtype.itemsize + converted)
    memory.check_memory(Need(f"reading {path.name}", CHUNK_BYTES, per_slice, slices))


def _apply_scaling(array: NDArray[Any], pixels: Pixels) -> NDArray[Any]:
    identity = (pixels.slope, pixels.intercept) == (1.0, 0.0)
    if identity and array.dtype.kind in "iu":
        return array
    # Overflow gives infinities, which the check of values refuses by number.
    with np.errstate(over="ignore", invalid="ignore"):
        values = array.astype(np.float32, copy=False)
        if not identity:
            values *= np.float32(pixels.slope)
            values += np.float32(pixels.intercept)
    return values


def _check_finite(path: Path, array: NDArray[Any]) -> None:
    if array.dtype.kind != "f":
        return
    wrong = sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in array)
    if wrong:
        problem = unusable_file(
            path,
            expected="finite values",
            found=f"{wrong} voxels that are NaN or infinite",
            do="fill them, and check what made them",
        )
        raise NonFiniteError(str(problem))


def _check_varies(path: Path, array: NDArray[Any], warn: Warn | None = None) -> None:
    """Refuse, or with ``warn`` report, an image that has one value."""
    first = array.flat[0]
    if not all(bool((plane == first).all()) for plane in array):
        return
    if warn is None:
        raise unusable_file(
            path,
            expected="an image",
            found=f"the value {first:g} in every voxel",
            do="give the scan itself",
        )
    warn(f"{path.name}: the value {first:g} in every voxel; it is used as it is")


def _fill_zero_padding(array: NDArray[Any]) -> int:
    """Set zeros that reach all four corners of a plane to air; return their number."""
    filled = 0
    for plane in array:
        corners = plane[[0, 0, -1, -1], [0, -1, 0, -1]]
        if corners.any():
            continue
        pieces, _ = ndimage.label(plane == 0)
        padding = np.isin(pieces, np.unique(pieces[[0, 0, -1, -1], [0, -1, 0, -1]]))
        plane[padding] = SCANNER_RANGE_HU[0]
        filled += int(np.count_nonzero(padding))
    return filled


def _clip_in_place(array: NDArray[Any]) -> NDArray[Any]:
    """Clip to ``SCANNER_RANGE_HU`` in place, as far as the type can hold the bounds."""
    low, high = SCANNER_RANGE_HU
    if array.dtype.kind in "iu":
        held = np.iinfo(array.dtype)
        low, high = max(low, int(held.min)), min(high, int(held.max))
    return np.clip(array, low, high, out=array)
