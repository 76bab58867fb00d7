"""A series of DICOM slices in order: where each lies, and whom and what a result is about."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from oarseg.imaging.volume import Grid, Vector

# What an object that is derived from a series has to repeat about patient and study.
PATIENT_KEYWORDS = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
    "SpecificCharacterSet",
)


@dataclass(frozen=True)
class DicomSeries:
    """Slices that were found to make one volume, in the order of its planes.

    Slice ``i`` is plane ``i`` of the volume's array, its rows along ``array[i, :, 0]`` and its
    columns along ``array[i, 0, :]``: the planes follow the normal of the image, which is the row
    direction × the column direction.

    Attributes:
        files: one file a slice; byte-identical copies are left out.
        sop_class_uid: of all slices.
        sop_instance_uids: one a slice.
        series_uid, study_uid, frame_of_reference_uid: of all slices.
        modality: "CT" or "MR".
        rows, columns: pixels of a slice.
        pixel_spacing_mm: distance of rows, distance of columns, as (0028,0030) has them.
        row_direction: unit vector (x, y, z), LPS, of growing column index.
        column_direction: unit vector of growing row index.
        positions_mm: (x, y, z), LPS, of each slice's first pixel.
        spacing_mm: distance of neighbouring slices.
        patient_attributes: keyword → value as text, of those of ``PATIENT_KEYWORDS`` that the
            first slice has; never in a message or a file name. Several values are joined by
            a backslash. Empty values are kept.
    """

    files: tuple[Path, ...]
    sop_class_uid: str
    sop_instance_uids: tuple[str, ...]
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    modality: str
    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float]
    row_direction: Vector
    column_direction: Vector
    positions_mm: tuple[Vector, ...]
    spacing_mm: float
    patient_attributes: Mapping[str, str] = field(repr=False)

    @property
    def folder(self) -> Path:
        """The folder that holds all slices, for messages."""
        return Path(os.path.commonpath([file.parent for file in self.files]))

    @property
    def normal(self) -> Vector:
        """Unit vector (x, y, z), LPS, from each slice to the next."""
        cross = np.cross(self.row_direction, self.column_direction)
        x, y, z = cross / np.linalg.norm(cross)
        return float(x), float(y), float(z)

    @property
    def grid(self) -> Grid:
        """The volume's grid, its planes along the first axis."""
        axes = np.column_stack([self.row_direction, self.column_direction, self.normal])
        rows = [(float(x), float(y), float(z)) for x, y, z in axes]
        return Grid(
            shape=(len(self.files), self.rows, self.columns),
            spacing_mm=(self.spacing_mm, *self.pixel_spacing_mm),
            origin_mm=self.positions_mm[0],
            direction=(rows[0], rows[1], rows[2]),
        )


def study_name(study_uid: str) -> str:
    """Name the case of a study: it tells nothing of the patient, and never changes."""
    return f"study_{_digest(study_uid)}"


def series_name(series: DicomSeries) -> str:
    """Name files about a series alone."""
    return f"series_{_digest(series.series_uid)}"


def _digest(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:12]
