"""Read the contours of an RT Structure Set, and fill them on the slices of a scan."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import config
from pydicom.dataset import Dataset

from oarseg.errors import InputError
from oarseg.imaging.arrays import Points
from oarseg.imaging.files.dicom.data_set import ReadBounds, parse_data_set, unparsable_file
from oarseg.imaging.files.dicom.file_meta import check_syntax, read_file_meta
from oarseg.imaging.files.pixels import open_plain_file, quote_header_text, unusable_file
from oarseg.imaging.volume import Grid

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
# A hundred structures of three hundred contours take some 100 MB and three million reads.
BOUNDS = ReadBounds(data_bytes=1 << 30, reads=20_000_000, value_bytes=64 << 20)
KEYWORDS = (
    "ReferencedFrameOfReferenceSequence",
    "StructureSetROISequence",
    "ROIContourSequence",
)
# A contour must lie on a slice, within this share of the distance of slices.
OFF_SLICE = 0.1

Plane = NDArray[np.bool_]


@dataclass(frozen=True)
class DrawnStructure:
    """A structure: its name, and closed contours (n, 3), x y z in mm."""

    name: str
    contours: tuple[Points, ...]


@dataclass(frozen=True)
class StructureSet:
    """The structures of a file.

    Attributes:
        path: the file.
        series_uids: the series on which they were drawn.
        frame_uids: the frames of reference that they lie in.
        rois: those with at least one closed contour.
    """

    path: Path
    series_uids: frozenset[str]
    frame_uids: frozenset[str]
    rois: tuple[DrawnStructure, ...]


def read_structure_set(path: Path) -> StructureSet | None:
    """Read an RT Structure Set.

    Returns:
        None if the file is DICOM of another kind, or no DICOM.

    Raises:
        InputError: it is one that cannot be parsed.
    """
    with open_plain_file(path) as stream:
        meta = read_file_meta(path, stream)
        if meta is None or meta.sop_class_uid != STRUCTURE_SET:
            return None
        check_syntax(path, meta)
        data, _, _ = parse_data_set(path, stream, meta, KEYWORDS, BOUNDS)
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            return _structure_set(path, data)
    except (InputError, MemoryError):
        raise
    # Whatever pydicom makes of damaged values: it promises no particular exception.
    except Exception as error:
        raise unparsable_file(path, f"a damaged data set ({type(error).__name__})") from error


def _structure_set(path: Path, data: Dataset) -> StructureSet:
    frames: set[str] = set()
    series: set[str] = set()
    for frame in data.get("ReferencedFrameOfReferenceSequence") or ():
        frames.add(str(frame.get("FrameOfReferenceUID", "")))
        for study in frame.get("RTReferencedStudySequence") or ():
            for one in study.get("RTReferencedSeriesSequence") or ():
                series.add(str(one.get("SeriesInstanceUID", "")))
    names = {}
    for roi in data.get("StructureSetROISequence") or ():
        names[int(roi.ROINumber)] = str(roi.get("ROIName", "")).strip()
        frames.add(str(roi.get("ReferencedFrameOfReferenceUID", "")))
    rois = []
    for drawn in data.get("ROIContourSequence") or ():
        contours = tuple(
            _points(path, contour)
            for contour in drawn.get("ContourSequence") or ()
            if contour.get("ContourGeometricType") in CLOSED
        )
        if contours:
            rois.append(DrawnStructure(names.get(int(drawn.ReferencedROINumber), ""), contours))
    return StructureSet(path, frozenset(series - {""}), frozenset(frames - {""}), tuple(rois))


def _points(path: Path, contour: Dataset) -> Points:
    values = np.array([float(value) for value in contour.ContourData], dtype=np.float64)
    if values.size < 9 or values.size % 3 or not np.isfinite(values).all():
        raise unusable_file(
            path,
            expected="contours of three points or more, x y z each",
            found=f"one of {values.size} numbers",
            do="export the structures again",
        )
    return values.reshape(-1, 3)


def fill_contours(path: Path, roi: DrawnStructure, grid: Grid) -> dict[int, Plane]:
    """Fill the contours of a structure on the slices of a scan.

    A voxel belongs to it if its centre lies inside an odd number of its slice's contours, so
    that holes may be contours of their own or keyholes.

    Args:
        path: the structure set, for messages.
        roi: the structure.
        grid: of the scan, slices along its first axis.

    Returns:
        slice → mask (y, x).

    Raises:
        InputError: a contour lies beside the slices or off them.
    """
    planes: dict[int, Plane] = {}
    for contour in roi.contours:
        index = grid.to_index(contour)
        number = _slice_of(path, roi, index[:, 0], grid)
        plane = planes.setdefault(number, np.zeros(grid.shape[1:], bool))
        # Where contours of a slice lie in each other, the inner one is a hole.
        plane ^= _inside(index[:, 1], index[:, 2], (grid.shape[1], grid.shape[2]))
    return planes


def _slice_of(path: Path, roi: DrawnStructure, depth: Points, grid: Grid) -> int:
    number = round(float(np.clip(depth.mean(), -1e9, 1e9)))
    off = float(np.abs(depth - number).max())
    if not 0 <= number < grid.shape[0] or off > OFF_SLICE:
        raise unusable_file(
            path,
            expected="contours on the slices of the scan",
            found=f"one of {quote_header_text(roi.name)} at slice {depth.mean() + 1:.2f} of "
            f"{grid.shape[0]}",
            do="give the structures that were drawn on this series",
        )
    return number


def _inside(y: Points, x: Points, shape: tuple[int, int]) -> Plane:
    """Return which pixel centres lie inside a polygon, by the even-odd rule.

    A centre on the polygon belongs to the inside on its left and upper side only, so that
    neighbours share no pixel.
    """
    rows, columns = shape
    toggles = np.zeros((rows, columns + 1), np.int64)
    y_next, x_next = np.roll(y, -1), np.roll(x, -1)
    for y0, x0, y1, x1 in zip(y, x, y_next, x_next, strict=True):
        low, high = (y0, y1) if y0 < y1 else (y1, y0)
        first, last = (int(np.ceil(np.clip(v, 0, rows))) for v in (low, high))
        if first >= last:
            continue
        lines = np.arange(first, last)
        crossing = x0 + (lines - y0) * ((x1 - x0) / (y1 - y0))
        toggles[lines, np.ceil(np.clip(crossing, 0, columns)).astype(np.int64)] += 1
    return np.asarray(np.cumsum(toggles, axis=1)[:, :columns] % 2 == 1)
