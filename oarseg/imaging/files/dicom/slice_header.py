"""The header of one slice: what it says of itself, read within bounds and judged later."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from oarseg.imaging.files.dicom.data_set import ReadBounds, parse_data_set
from oarseg.imaging.files.dicom.file_meta import FileMeta, check_syntax
from oarseg.imaging.files.dicom.series import PATIENT_KEYWORDS
from oarseg.imaging.files.pixels import quote_header_text, unusable_file
from oarseg.imaging.volume import Vector

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Headers of scanners have some 100 KiB and some 1000 elements before the pixels.
SLICE_BOUNDS = ReadBounds(data_bytes=16 << 20, reads=20_000, value_bytes=1 << 16)
MODALITIES: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
}
# Many slices in one object.
ENHANCED: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.3": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
}
_KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "SeriesDescription",
    "ImageType",
    "PatientID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "RescaleSlope",
    "RescaleIntercept",
)


@dataclass(frozen=True)
class PixelFormat:
    """How the pixels of a slice are stored; None where the header does not say it.

    Attributes:
        rows, columns, samples, bits_allocated, bits_stored, high_bit, signed: as the elements.
        photometric: the photometric interpretation.
        frames: number of frames; 1 where it is not given.
        padding: stored value of pixels outside the field of view.
        start: byte at which the value of the pixel data begins; None without pixel data.
        length: bytes of that value; None if it is a sequence of fragments.
    """

    rows: int | None
    columns: int | None
    samples: int | None
    photometric: str
    frames: int | None
    bits_allocated: int | None
    bits_stored: int | None
    high_bit: int | None
    signed: int | None
    padding: int | None
    start: int | None
    length: int | None


@dataclass(frozen=True)
class SliceHeader:
    """One image file of a series; whatever may be missing is None or empty.

    Attributes:
        path: the file.
        file_bytes: its size.
        transfer_syntax_uid: how it is encoded, one of those that are allowed.
        patient_id: for comparison; never shown whole.
        enhanced: the object holds many slices.
        orientation: row direction and column direction.
        spacing_mm: distance of rows and distance of columns.
    """

    path: Path
    file_bytes: int
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    modality: str
    enhanced: bool
    description: str
    image_type: tuple[str, ...]
    patient_id: str
    position_mm: Vector | None
    orientation: tuple[Vector, Vector] | None
    spacing_mm: tuple[float, float] | None
    slope: float | None
    intercept: float | None
    pixels: PixelFormat

    @property
    def is_scout(self) -> bool:
        """Whether the image is an overview for planning the scan."""
        return "LOCALIZER" in self.image_type


def read_header(path: Path, stream: BinaryIO, meta: FileMeta) -> SliceHeader:
    """Read the header of a CT or MR image.

    Args:
        path: for messages.
        stream: the file.
        meta: its meta information; its class is one of ``MODALITIES`` or ``ENHANCED``.

    Raises:
        InputError: a transfer syntax that is not allowed, a data set that cannot be parsed, or
            one that lacks the UIDs of object, series and study.
    """
    check_syntax(path, meta)
    data, start, length = parse_data_set(path, stream, meta, _KEYWORDS, SLICE_BOUNDS)
    uids = {name: _text(data, name) for name in _KEYWORDS[:4]}
    for name, uid in uids.items():
        _check_uid(path, name, uid)
    if uids["SOPClassUID"] != meta.sop_class_uid:
        raise unusable_file(
            path,
            expected="one SOP class in its meta information and in its data set",
            found="two",
            do="export it again",
        )
    frame = _text(data, "FrameOfReferenceUID")
    orientation = _numbers(data, "ImageOrientationPatient", 6)
    return SliceHeader(
        path=path,
        file_bytes=os.fstat(stream.fileno()).st_size,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=uids["SOPInstanceUID"],
        study_uid=uids["StudyInstanceUID"],
        series_uid=uids["SeriesInstanceUID"],
        frame_of_reference_uid=frame if _is_uid(frame) else "",
        modality={**MODALITIES, **ENHANCED}[meta.sop_class_uid],
        enhanced=meta.sop_class_uid in ENHANCED,
        description=_text(data, "SeriesDescription"),
        image_type=tuple(_text(data, "ImageType").upper().split("\\")),
        patient_id=_text(data, "PatientID"),
        position_mm=cast(Vector | None, _numbers(data, "ImagePositionPatient", 3)),
        orientation=(
            cast(tuple[Vector, Vector], (orientation[:3], orientation[3:])) if orientation else None
        ),
        spacing_mm=cast(tuple[float, float] | None, _numbers(data, "PixelSpacing", 2)),
        slope=_number(data, "RescaleSlope"),
        intercept=_number(data, "RescaleIntercept"),
        pixels=_pixel_format(data, start, length),
    )


def read_patient_attributes(path: Path, stream: BinaryIO, meta: FileMeta) -> dict[str, str]:
    """Read what the header says of patient and study: keyword → text.

    Raises:
        InputError: as ``read_header``.
    """
    check_syntax(path, meta)
    data, _, _ = parse_data_set(path, stream, meta, PATIENT_KEYWORDS, SLICE_BOUNDS)
    return {name: _text(data, name) for name in PATIENT_KEYWORDS if name in data}


def _pixel_format(data: Dataset, start: int | None, length: int | None) -> PixelFormat:
    frames = _number(data, "NumberOfFrames")
    return PixelFormat(
        rows=_whole(data, "Rows"),
        columns=_whole(data, "Columns"),
        samples=_whole(data, "SamplesPerPixel"),
        photometric=_text(data, "PhotometricInterpretation"),
        frames=1 if "NumberOfFrames" not in data else (None if frames is None else int(frames)),
        bits_allocated=_whole(data, "BitsAllocated"),
        bits_stored=_whole(data, "BitsStored"),
        high_bit=_whole(data, "HighBit"),
        signed=_whole(data, "PixelRepresentation"),
        padding=_whole(data, "PixelPaddingValue"),
        start=start,
        length=length,
    )


def _check_uid(path: Path, name: str, uid: str) -> None:
    if not _is_uid(uid):
        raise unusable_file(
            path,
            expected=f"{name}, a UID",
            found=quote_header_text(uid[:70]) if uid else "none",
            do="export it again",
        )


def _is_uid(text: str) -> bool:
    return len(text) <= 64 and text.isascii() and text.replace(".", "").isdecimal()


def _value(data: Dataset, name: str) -> Any:
    """Return an element's value; None where it is missing, empty or damaged."""
    from pydicom import config

    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            return data.get(name)
    # Whatever pydicom makes of damaged bytes: a damaged element is as good as none, and an
    # element that is needed is asked for by whoever needs it.
    except Exception:
        return None


def _text(data: Dataset, name: str) -> str:
    value = _value(data, name)
    if value is None:
        return ""
    parts = _parts(value)
    return "\\".join(str(part).strip("\0 ") for part in parts)


def _parts(value: Any) -> list[Any]:
    from pydicom.multival import MultiValue

    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]


def _numbers(data: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Return finite numbers, as many as asked for, or None."""
    value = _value(data, name)
    parts = _parts(value)
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _number(data: Dataset, name: str) -> float | None:
    numbers = _numbers(data, name, 1)
    return numbers[0] if numbers else None


def _whole(data: Dataset, name: str) -> int | None:
    value = _value(data, name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
