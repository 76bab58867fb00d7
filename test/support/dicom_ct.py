"""A CT series of slices, as the writers of DICOM objects are given one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dicom_files import Form, write_series
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from oarseg.imaging.files.dicom.choose import find_series
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.imaging.volume import Grid, Volume

PATIENT_NAME = "Müller^Anna"


def write_ct(folder: Path, grid: Grid, values: NDArray[np.int16] | None = None) -> DicomSeries:
    """Write one file a plane of a grid, and read what they are; air where there are no values."""
    array = np.full(grid.shape, -1000, np.int16) if values is None else values
    write_series(folder, Volume(array, grid), Form(intercept=0.0, signed=True, change=_rename))
    return find_series(folder, "CT")


def _rename(data: FileDataset, _: int) -> None:
    """Give the patient a name that is not in ASCII."""
    data.PatientName = PATIENT_NAME
