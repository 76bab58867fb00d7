"""Read the contours of an RT Structure Set, and fill them on the slices of a scan."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.imaging.arrays import Points
from oarseg.imaging.files.dicom.data_set import ReadBounds, parse_data_set, unparsable_file
from oarseg.imaging.files.dicom.file_meta import check_syntax, read_file_meta
from oarseg.imaging.files.pixels import open_plain_file, quote_header_text, unusable_file
from oarseg.imaging.volume import Grid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
# A hundred structures of three hundred contours take some 100 MB and three million reads.
BOUNDS = ReadBounds(data_bytes=1 << 30, reads=20_000_000, value_bytes=64 << 20)
REFERRED = "ReferencedFrameOfReferenceSequence"
NAMED = "StructureSetROISequence"
DRAWN = "ROIContourSequence"
# A triangle; fewer enclose nothing.
FEWEST_POINTS = 3
# A contour must lie on a slice, within this share of the distance of slices.
OFF_SLICE = 0.1

Plane = NDArray[np.bool_]
Result = TypeVar("Result")


@dataclass(frozen=True)
class DrawnStructure:
    """A structure that has contours.

    Attributes:
        name: as the file gives it.
        contours: closed ones that enclose something, (n, 3), x y z in mm.
        others: the kinds of its other contours, for messages: open ones, points, closed ones
            of one or two points.
        fault: why its contours cannot be used; None where they can.
    """

    name: str
    contours: tuple[Points, ...]
    others: frozenset[str] = frozenset()
    fault: InputError | None = None


@dataclass(frozen=True)
class StructureReferences:
    """What a structure set refers to.

    Attributes:
        path: the file.
        series_uids: the series on which it was drawn.
        frame_uids: the frames of reference that it names.
        roi_frame_uids: those in which its structures lie.
    """

    path: Path
    series_uids: frozenset[str]
    frame_uids: frozenset[str]
    roi_frame_uids: frozenset[str]


def read_references(path: Path) -> StructureReferences | None:
    """Read which images an RT Structure Set was drawn on; its contours are passed over.

    Returns:
        None if the file is DICOM of another kind, or no DICOM.

    Raises:
        InputError: it is one that cannot be parsed.
    """
    return _read(path, (REFERRED, NAMED), lambda data: _references(path, data))


def read_structure_set(path: Path) -> tuple[DrawnStructure, ...] | None:
    """Read the structures of an RT Structure Set that have contours.

    Returns:
        None if the file is DICOM of another kind, or no DICOM.

    Raises:
        InputError: it is one that cannot be parsed, or has two structures of one number.
    """
    return _read(path, (NAMED, DRAWN), lambda data: _structures(path, data))


def _read(
    path: Path, keywords: tuple[str, ...], taken: Callable[[Dataset], Result]
) -> Result | None:
    from pydicom import config

    with open_plain_file(path) as stream:
        meta = read_file_meta(path, stream)
        if meta is None or meta.sop_class_uid != STRUCTURE_SET:
            return None
        check_syntax(path, meta)
        data, _, _ = parse_data_set(path, stream, meta, keywords, BOUNDS)
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            return taken(data)
    except (InputError, MemoryError):
        raise
    # Whatever pydicom makes of damaged values: it promises no particular exception.
    except Exception as error:
        raise unparsable_file(path, f"a damaged data set ({type(error).__name__})") from error


def _references(path: Path, data: Dataset) -> StructureReferences:
    frames: set[str] = set()
    series: set[str] = set()
    for frame in data.get(REFERRED) or ():
        frames.add(str(frame.get("FrameOfReferenceUID", "")))
        for study in frame.get("RTReferencedStudySequence") or ():
            for one in study.get("RTReferencedSeriesSequence") or ():
                series.add(str(one.get("SeriesInstanceUID", "")))
    own = {str(roi.get("ReferencedFrameOfReferenceUID", "")) for roi in data.get(NAMED) or ()}
    return StructureReferences(
        path, frozenset(series - {""}), frozenset((frames | own) - {""}), frozenset(own - {""})
    )


def _structures(path: Path, data: Dataset) -> tuple[DrawnStructure, ...]:
    names: dict[int, str] = {}
    for roi in data.get(NAMED) or ():
        number, name = int(roi.ROINumber), str(roi.get("ROIName", "")).strip()
        if names.setdefault(number, name) != name:
            raise unusable_file(
                path,
                expected="structures of different numbers",
                found=f"{quote_header_text(names[number])} and {quote_header_text(name)} with the "
                f"ROINumber {number}",
                do="export the structures again",
            )
    return tuple(
        _drawn(path, names.get(int(drawn.ReferencedROINumber), ""), drawn.ContourSequence)
        for drawn in data.get(DRAWN) or ()
        if drawn.get("ContourSequence")
    )


def _drawn(path: Path, name: str, sequence: Iterable[Dataset]) -> DrawnStructure:
    contours: list[Points] = []
    others: set[str] = set()
    for contour in sequence:
        kind = str(contour.get("ContourGeometricType", ""))
        if kind not in CLOSED:
            others.add(quote_header_text(kind) if kind else "no ContourGeometricType")
            continue
        try:
            points = _points(path, name, contour)
        except InputError as error:
            # It counts only if this is a structure that is asked for.
            return DrawnStructure(name, (), fault=error)
        if len(points) < FEWEST_POINTS:
            others.add(f"fewer than {FEWEST_POINTS} points")
        else:
            contours.append(points)
    return DrawnStructure(name, tuple(contours), frozenset(others))


def _points(path: Path, name: str, contour: Dataset) -> Points:
    from pydicom.multival import MultiValue

    given = contour.get("ContourData")
    parts = given if isinstance(given, MultiValue | list) else [] if given is None else [given]
    try:
        values = np.array([float(value) for value in parts], dtype=np.float64)
    except (TypeError, ValueError):
        values = np.array([np.nan])
    if values.size % 3 or not np.isfinite(values).all():
        raise unusable_file(
            path,
            expected=f"contours of {quote_header_text(name)} with x y z for each point",
            found=f"one of {len(parts)} values, or of some that are no numbers",
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
