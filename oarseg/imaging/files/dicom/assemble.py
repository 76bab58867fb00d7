"""From the files of a series to a volume: which slice lies where, and whether all are there.

The order is that of the positions along the normal of the slices. Neither file names nor
InstanceNumber, SliceLocation, SliceThickness or SpacingBetweenSlices are believed.
"""

from __future__ import annotations

import filecmp
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.imaging.files.dicom.file_meta import read_file_meta
from oarseg.imaging.files.dicom.search import SeriesFiles
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.imaging.files.dicom.slice_header import SliceHeader, read_patient_attributes
from oarseg.imaging.files.dicom.slice_pixels import check_pixels
from oarseg.imaging.files.dicom.slice_positions import (
    check_positions,
    listed_numbers,
    same_position,
)
from oarseg.imaging.files.pixels import open_plain_file, printable_path, unusable_file
from oarseg.imaging.volume import Vector

# Headers give directions with six decimals.
DIRECTION_TOLERANCE = 1e-4
SPACING_TOLERANCE = 1e-4
UNIT_TOLERANCE = 1e-3
FARTHEST_SLICE_MM = 1e6


def assemble_series(files: SeriesFiles) -> DicomSeries:
    """Put the slices of a series in order, and make sure that they make one volume.

    Raises:
        InputError: they do not; the sentence names the file and what is wrong with it.
    """
    headers = _without_copies(files.headers)
    _check_patient(headers)
    _check_present(headers)
    for header in headers:
        check_pixels(header)
    _check_same(headers)
    row, column = _directions(headers)
    normal = _normal(row, column)
    positions = np.array([header.position_mm for header in headers], dtype=float)
    depth = positions @ normal
    order = np.argsort(depth, kind="stable")
    headers = [headers[index] for index in order]
    positions, depth = positions[order], depth[order]
    spacing = check_positions(headers, positions, depth, normal)
    first = headers[0]
    return DicomSeries(
        files=tuple(header.path for header in headers),
        sop_class_uid=first.sop_class_uid,
        sop_instance_uids=tuple(header.sop_instance_uid for header in headers),
        series_uid=first.series_uid,
        study_uid=first.study_uid,
        frame_of_reference_uid=first.frame_of_reference_uid,
        modality=first.modality,
        rows=first.pixels.rows or 0,
        columns=first.pixels.columns or 0,
        pixel_spacing_mm=cast(tuple[float, float], first.spacing_mm),
        row_direction=row,
        column_direction=column,
        positions_mm=tuple(cast(Vector, header.position_mm) for header in headers),
        spacing_mm=spacing,
        patient_attributes=_patient_attributes(first.path),
    )


def typical_spacing_mm(files: SeriesFiles) -> float | None:
    """Return the median distance of neighbouring slices, for a list; None if it has none."""
    known = [h for h in files.headers if h.position_mm is not None and h.orientation is not None]
    if len(known) < 2 or known[0].orientation is None:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        normal = np.cross(*known[0].orientation)
        depth = np.unique(np.round(np.array([h.position_mm for h in known]) @ normal, 3))
    return float(np.median(np.diff(depth))) if len(depth) > 1 else None


def _without_copies(headers: Sequence[SliceHeader]) -> list[SliceHeader]:
    """Leave out files that are byte for byte the same as another of the same instance.

    Raises:
        InputError: two files of one instance that are not the same.
    """
    kept: dict[str, SliceHeader] = {}
    for header in headers:
        first = kept.setdefault(header.sop_instance_uid, header)
        if first is not header and not _same_bytes(header.path, first.path):
            raise _one_instance(first, header)
    return list(kept.values())


def _one_instance(first: SliceHeader, header: SliceHeader) -> InputError:
    if first.position_mm == header.position_mm:
        return same_position(first, header)
    # Contours and segments could not say to which of them they belong.
    return unusable_file(
        header.path,
        expected="SOPInstanceUID (0008,0018) of its own",
        found=f"that of {printable_path(str(first.path))}",
        do="export the images again",
    )


def _same_bytes(path: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(path, other, shallow=False)
    except OSError as error:
        raise unusable_file(
            path, expected="a readable file", found=f"{error.strerror}", do="check the file"
        ) from error


def _check_patient(headers: Sequence[SliceHeader]) -> None:
    ids = sorted({header.patient_id for header in headers})
    if len(ids) > 1:
        raise unusable_file(
            headers[0].path,
            expected="a series of one patient",
            found=f"the patient IDs {short_id(ids[0])} and {short_id(ids[1])}",
            do="give each patient's images their own series",
        )


def short_id(text: str) -> str:
    """Shorten a patient's ID, so that a log does not tell whose it is."""
    known = "".join(character for character in text if character.isascii() and character.isalnum())
    if not known:
        return "(none)"
    return f"{known[0]}…{known[-1]}" if len(known) < 8 else f"{known[:2]}…{known[-2:]}"


def _check_present(headers: Sequence[SliceHeader]) -> None:
    """Make sure that every slice says where it is, and a CT what its values are."""
    for header in headers:
        if header.enhanced:
            # What it lacks here is elsewhere; the check of its pixels refuses it.
            continue
        given: dict[str, object] = {
            "FrameOfReferenceUID (0020,0052)": header.frame_of_reference_uid or None,
            "ImagePositionPatient (0020,0032)": header.position_mm,
            "ImageOrientationPatient (0020,0037)": header.orientation,
            "PixelSpacing (0028,0030)": header.spacing_mm,
        }
        if header.modality == "CT":
            given["RescaleSlope (0028,1053)"] = header.slope or None
            given["RescaleIntercept (0028,1052)"] = header.intercept
        missing = [name for name, value in given.items() if value is None]
        if missing:
            raise unusable_file(
                header.path,
                expected=f"a {header.modality} image with {missing[0]}",
                found="none, or a value that is none",
                do="export the original images again",
            )
        _check_near(header)


def _check_near(header: SliceHeader) -> None:
    if any(abs(position) > FARTHEST_SLICE_MM for position in header.position_mm or ()):
        raise unusable_file(
            header.path,
            expected=f"ImagePositionPatient (0020,0032) within {FARTHEST_SLICE_MM:g} mm",
            found=listed_numbers(header.position_mm),
            do="export the original images again",
        )


def _check_same(headers: Sequence[SliceHeader]) -> None:
    """Make sure that all slices have the same size, spacing, orientation and reference."""
    _check_alike(headers, "frame of reference", lambda h: h.frame_of_reference_uid)
    _check_alike(headers, "SOP class", lambda h: h.sop_class_uid)
    _check_alike(headers, "size", lambda h: f"{h.pixels.columns}×{h.pixels.rows} pixels")
    _check_close(headers, "orientation", lambda h: h.orientation, DIRECTION_TOLERANCE)
    _check_close(headers, "pixel spacing", lambda h: h.spacing_mm, SPACING_TOLERANCE)


def _check_alike(
    headers: Sequence[SliceHeader], what: str, value: Callable[[SliceHeader], str]
) -> None:
    usual = Counter(map(value, headers)).most_common(1)[0][0]
    for header in headers:
        if value(header) != usual:
            raise _differs(header, what, usual, value(header))


def _check_close(
    headers: Sequence[SliceHeader],
    what: str,
    value: Callable[[SliceHeader], Any],
    tolerance: float,
) -> None:
    usual = Counter(map(value, headers)).most_common(1)[0][0]
    for header in headers:
        # Overflow gives infinity, which is no less wrong.
        with np.errstate(over="ignore"):
            difference = np.abs(np.subtract(value(header), usual)).max()
        if difference > tolerance:
            raise _differs(header, what, listed_numbers(usual), listed_numbers(value(header)))


def _differs(header: SliceHeader, what: str, usual: str, found: str) -> InputError:
    return unusable_file(
        header.path,
        expected=f"the {what} of the other slices of its series, {usual}",
        found=found,
        do="give it a series of its own, or remove it",
    )


def _directions(headers: Sequence[SliceHeader]) -> tuple[Vector, Vector]:
    row, column = cast(tuple[Vector, Vector], headers[0].orientation)
    axes = np.array([row, column])
    # Overflow gives infinity, which is no less wrong.
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(axes @ axes.T - np.eye(2)).max()
    if not error <= UNIT_TOLERANCE:
        raise unusable_file(
            headers[0].path,
            expected="ImageOrientationPatient (0020,0037) of two unit vectors at right angles",
            found=listed_numbers(axes),
            do="export the original images again",
        )
    return row, column


def _normal(row: Vector, column: Vector) -> NDArray[np.float64]:
    cross = np.cross(row, column)
    return np.asarray(cross / np.linalg.norm(cross), dtype=np.float64)


def _patient_attributes(path: Path) -> dict[str, str]:
    with open_plain_file(path) as stream:
        meta = read_file_meta(path, stream)
        return {} if meta is None else read_patient_attributes(path, stream, meta)
