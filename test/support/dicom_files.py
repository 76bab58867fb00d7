"""Write series of DICOM for tests: a volume as slices, in any position and form."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jpeg_lossless import encode_lossless
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence as Sequence_
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    MRImageStorage,
    RTStructureSetStorage,
)

from oarseg.imaging.volume import IDENTITY, Grid, Volume

PATIENT_NAME = "Mustermann^Erika"
Change = Callable[[FileDataset, int], None]


def uid(*parts: object) -> str:
    """A UID that is the same for the same parts."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


@dataclass(frozen=True)
class Form:
    """How a series is written.

    Attributes:
        modality: "CT" or "MR".
        slopes: the rescale slope of each slice, used in turn.
        intercept: the rescale intercept; None writes neither.
        signed: the pixel representation.
        names: slice index → file name.
        change: called with each data set before it is written.
    """

    modality: str = "CT"
    study: str = "1"
    series: str = "1"
    patient: str = "PAT-0001"
    reference: str = "1"
    description: str = "Head 1.0"
    position: str = "HFS"
    slopes: tuple[float, ...] = (1.0,)
    intercept: float | None = -1024.0
    signed: bool = False
    syntax: str = ExplicitVRLittleEndian
    names: Callable[[int], str] = "slice_{:04d}.dcm".format
    change: Change | None = None

    def but(self, **changes: Any) -> Form:
        """The same form with some changes."""
        return replace(self, **changes)


def small_volume(shape: tuple[int, int, int] = (5, 6, 7)) -> Volume:
    """A CT of random values whose voxels all differ in place."""
    values = np.random.default_rng(3).integers(-1000, 1000, shape).astype(np.int16)
    return Volume(values, Grid(shape, (2.5, 0.75, 0.5), (-10.0, 20.0, -300.25), IDENTITY))


def write_series(folder: Path, volume: Volume, form: Form | None = None) -> list[Path]:
    """Write each plane of a volume as a slice; returns the files in the order of the planes."""
    form = form or Form()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(volume.grid.shape[0]):
        data = slice_dataset(volume, index, form)
        if form.change:
            form.change(data, index)
        path = folder / form.names(index)
        data.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def slice_dataset(volume: Volume, index: int, form: Form) -> FileDataset:
    """Make the data set of one slice."""
    plane, grid = volume.array[index], volume.grid
    kind = CTImageStorage if form.modality == "CT" else MRImageStorage
    data = new_dataset(kind, uid("slice", form.study, form.series, index), form)
    data.Modality = form.modality
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.PatientPosition = form.position
    data.FrameOfReferenceUID = uid("frame", form.reference)
    data.InstanceNumber = 7
    data.SliceThickness = "9.5"
    matrix = np.asarray(grid.direction)
    data.ImageOrientationPatient = [_ds(v) for v in [*matrix[:, 0], *matrix[:, 1]]]
    data.ImagePositionPatient = [_ds(v) for v in grid.to_world(np.array([[index, 0, 0]]))[0]]
    data.PixelSpacing = [_ds(v) for v in grid.spacing_mm[1:]]
    slope = form.slopes[index % len(form.slopes)]
    if form.intercept is not None:
        data.RescaleSlope, data.RescaleIntercept = _ds(slope), _ds(form.intercept)
        data.RescaleType = "HU"
    set_pixels(data, _stored(plane, slope, form.intercept or 0.0, form), signed=form.signed)
    return data


def new_dataset(kind: str, instance: str, form: Form | None = None) -> FileDataset:
    """Make a data set with the attributes of patient, study and series."""
    form = form or Form()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(kind), UID(instance)
    meta.TransferSyntaxUID = UID(form.syntax)
    meta.ImplementationClassUID = UID(uid("tests"))
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID = kind, instance
    data.StudyDate, data.StudyTime = "20240131", "101500"
    data.AccessionNumber = "A1"
    data.ReferringPhysicianName = ""
    data.StudyDescription = "Planning"
    data.SeriesDescription = form.description
    data.PatientName, data.PatientID = PATIENT_NAME, form.patient
    data.PatientBirthDate, data.PatientSex = "19500101", "F"
    data.StudyInstanceUID = uid("study", form.study)
    data.SeriesInstanceUID = uid("series", form.study, form.series)
    data.StudyID = form.study
    return data


def set_pixels(data: Dataset, stored: NDArray[Any], *, signed: bool) -> None:
    """Set the pixels of a slice from 16-bit integers."""
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(signed)
    data.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()


def compress(data: FileDataset, syntax: str, keep: float = 1.0) -> None:
    """Compress the pixels of a slice, and keep this share of the frame's bytes."""
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        stored = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns)
        frame = encode_lossless(stored)
        data.file_meta.TransferSyntaxUID = UID(syntax)
    else:
        data.compress(syntax, generate_instance_uid=False)
        frame = next(generate_frames(data.PixelData, number_of_frames=1))
    data.PixelData = encapsulate([frame[: int(len(frame) * keep)]])
    data["PixelData"].VR = "OB"


def write_structure_set(
    path: Path,
    contours: Mapping[str, Sequence[NDArray[Any]]],
    *,
    series: str = "1",
    frame: str = "1",
) -> Path:
    """Write an RT Structure Set: name → closed contours (n, 3), x y z in mm.

    Args:
        path: the file.
        contours: of each structure.
        series: that it names; "" names none.
        frame: its frame of reference.
    """
    data = new_dataset(RTStructureSetStorage, uid("structures", path.name))
    one, study, referenced = Dataset(), Dataset(), Dataset()
    one.FrameOfReferenceUID = uid("frame", frame)
    if series:
        referenced.SeriesInstanceUID = uid("series", "1", series)
        study.RTReferencedSeriesSequence = Sequence_([referenced])
        one.RTReferencedStudySequence = Sequence_([study])
    data.ReferencedFrameOfReferenceSequence = Sequence_([one])
    rois, drawn = [], []
    for number, (name, shapes) in enumerate(contours.items(), 1):
        roi, shown = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        shown.ReferencedROINumber = number
        shown.ContourSequence = Sequence_([_contour(points) for points in shapes])
        rois.append(roi)
        drawn.append(shown)
    data.StructureSetROISequence = Sequence_(rois)
    data.ROIContourSequence = Sequence_(drawn)
    data.save_as(path, enforce_file_format=True)
    return path


def _contour(points: NDArray[Any]) -> Dataset:
    contour = Dataset()
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = [_ds(value) for value in np.ravel(points)]
    return contour


def turned(volume: Volume, axes: tuple[int, int, int]) -> Volume:
    """The same voxels at the same places, some index axes (z, y, x) running backwards.

    Axes along z are turned by writing slices at other positions, so only rows and columns count.
    """
    flips = tuple(index for index, sign in enumerate(axes) if sign < 0)
    array = np.ascontiguousarray(np.flip(volume.array, flips))
    grid = volume.grid
    start = [[n - 1 if index in flips else 0 for index, n in enumerate(grid.shape)]]
    origin = grid.to_world(np.array(start, float))[0]
    direction = np.asarray(grid.direction) * np.array(axes[::-1], float)
    first, second, third = ((float(x), float(y), float(z)) for x, y, z in direction)
    x, y, z = origin.tolist()
    return Volume(array, replace(grid, origin_mm=(x, y, z), direction=(first, second, third)))


def _stored(plane: NDArray[Any], slope: float, intercept: float, form: Form) -> NDArray[np.int64]:
    stored = (plane.astype(np.float64) - intercept) / slope
    whole = np.rint(stored)
    low, high = (-32768, 32767) if form.signed else (0, 65535)
    assert np.array_equal(stored, whole)
    assert whole.min() >= low
    assert whole.max() <= high
    return whole.astype(np.int64)


def _ds(value: float) -> str:
    """A decimal string of at most 16 characters."""
    value = float(value)
    for digits in range(16, 5, -1):
        if len(text := f"{value:.{digits}g}") <= 16:
            return text
    raise ValueError(value)
