"""Data sets of pydicom: made of keywords, and what they repeat of a series' patient and study."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from oarseg.imaging.files.dicom.series import DicomSeries

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# The character set of all that is written.
UNICODE = "ISO_IR 192"
# Named even where they are empty (type 2), …
OBLIGATORY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)
# … and only where the images have them.
OPTIONAL = (
    "IssuerOfPatientID",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyDescription",
)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep pydicom from warning: it would quote values, a patient's name among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def data_set(**values: object) -> Dataset:
    """Make a data set, or an item of a sequence, from keywords of the standard."""
    from pydicom.dataset import Dataset

    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def repeat_patient(head: Dataset, series: DicomSeries) -> None:
    """Repeat the images' patient and study, whatever a scanner wrote there."""
    from pydicom import config
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import DataElement

    known = series.patient_attributes
    for keyword in (*OBLIGATORY, *(keyword for keyword in OPTIONAL if known.get(keyword))):
        tag = tag_for_keyword(keyword)
        if tag is not None:
            text = known.get(keyword, "")
            vr = dictionary_VR(tag)
            head.add(DataElement(tag, vr, text, validation_mode=config.IGNORE))
