"""Write CT series for tests: only what a reader of the standard needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.imaging.volume import Grid

CT = "1.2.840.10008.5.1.4.1.1.2"
ROOT = "1.2.826.0.1.3680043.8.498.1"
PATIENT = {
    "PatientName": "Müller^Anna",
    "PatientID": "P-17",
    "PatientBirthDate": "19600102",
    "PatientSex": "F",
    "StudyDate": "20250304",
    "StudyTime": "101112",
    "StudyID": "1",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "",
}


def write_ct(folder: Path, grid: Grid, values: NDArray[np.int16] | None = None) -> DicomSeries:
    """Write one file a plane of a grid; air where there are no values."""
    folder.mkdir(parents=True, exist_ok=True)
    series = series_of(grid, folder)
    for index, file in enumerate(series.files):
        plane = np.full(grid.shape[1:], -1000, np.int16) if values is None else values[index]
        dcmwrite(file, _slice(series, grid, index, plane), enforce_file_format=True)
    return series


def series_of(grid: Grid, folder: Path) -> DicomSeries:
    """Describe the series that ``write_ct`` writes for a grid."""
    slices = grid.shape[0]
    corners = np.zeros((slices, 3))
    corners[:, 0] = np.arange(slices)
    return DicomSeries(
        files=tuple(folder / f"{index:04}.dcm" for index in range(slices)),
        sop_class_uid=CT,
        sop_instance_uids=tuple(f"{ROOT}.4.{index + 1}" for index in range(slices)),
        series_uid=f"{ROOT}.3",
        study_uid=f"{ROOT}.2",
        frame_of_reference_uid=f"{ROOT}.5",
        modality="CT",
        rows=grid.shape[1],
        columns=grid.shape[2],
        pixel_spacing_mm=(grid.spacing_mm[1], grid.spacing_mm[2]),
        row_direction=tuple(row[0] for row in grid.direction),  # type: ignore[arg-type]
        column_direction=tuple(row[1] for row in grid.direction),  # type: ignore[arg-type]
        positions_mm=tuple(map(tuple, grid.to_world(corners).tolist())),
        spacing_mm=grid.spacing_mm[0],
        patient_attributes=PATIENT,
    )


def _slice(series: DicomSeries, grid: Grid, index: int, plane: NDArray[np.int16]) -> Dataset:
    instance = series.sop_instance_uids[index]
    image = _data_set(
        **series.patient_attributes,
        SpecificCharacterSet="ISO_IR 192",
        SOPClassUID=CT,
        SOPInstanceUID=instance,
        StudyInstanceUID=series.study_uid,
        SeriesInstanceUID=series.series_uid,
        FrameOfReferenceUID=series.frame_of_reference_uid,
        PositionReferenceIndicator="",
        Modality="CT",
        SeriesNumber=2,
        InstanceNumber=index + 1,
        Manufacturer="test",
        PatientPosition="HFS",
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        AcquisitionNumber=1,
        KVP=120,
        SliceThickness=_text(grid.spacing_mm[0]),
        PixelSpacing=[_text(part) for part in series.pixel_spacing_mm],
        ImageOrientationPatient=[
            _text(part) for part in (*series.row_direction, *series.column_direction)
        ],
        ImagePositionPatient=[_text(part) for part in series.positions_mm[index]],
        Rows=series.rows,
        Columns=series.columns,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=1,
        RescaleIntercept=0,
        RescaleSlope=1,
        RescaleType="HU",
        PixelData=plane.astype("<i2").tobytes(),
    )
    image.file_meta = FileMetaDataset(
        _data_set(
            TransferSyntaxUID=ExplicitVRLittleEndian,
            MediaStorageSOPClassUID=CT,
            MediaStorageSOPInstanceUID=instance,
        )
    )
    return image


def _data_set(**values: object) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def _text(value: float) -> str:
    return f"{value:.9f}"[:16]
