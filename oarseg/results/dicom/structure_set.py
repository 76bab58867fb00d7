"""Write an RT Structure Set: the organs of a label map as contours on the slices of a series.

The object is that of PS3.3 A.19, in implicit VR, little endian. What is small is pydicom's; the
contours go to the file one by one (``elements.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from oarseg import __version__
from oarseg.challenges.challenge import Code, Organ
from oarseg.errors import OutputError
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.labels.boxes import Box
from oarseg.results.dicom.contours import trace_contours
from oarseg.results.dicom.data_sets import UNICODE, data_set, repeat_patient, without_warnings
from oarseg.results.dicom.elements import ITEM_TAG, nested, write_text, write_uid
from oarseg.results.dicom.identity import LONG_STRING, MANUFACTURER, Origin, one_line

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
# Retired as a class of its own; what RT objects name a study by all the same.
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"

ROI_CONTOURS = 0x30060039
ROI_COLOUR = 0x3006002A
CONTOURS = 0x30060040
CONTOUR_IMAGES = 0x30060016
IMAGE_CLASS = 0x00081150
IMAGE_INSTANCE = 0x00081155
GEOMETRIC_TYPE = 0x30060042
POINT_COUNT = 0x30060046
CONTOUR_NUMBER = 0x30060048
CONTOUR_DATA = 0x30060050
ROI_NUMBER = 0x30060084

DECIMALS = 4
# A DS has at most 16 characters: a sign, eleven digits, no more, before four decimals.
LARGEST_MM = 1e9


@dataclass(frozen=True)
class Roi:
    """A structure that becomes an ROI.

    Attributes:
        number: of the ROI.
        organ: its name, colour, codes and labels.
        box: round its voxels.
    """

    number: int
    organ: Organ
    box: Box


def rois_of(organs: Sequence[Organ], boxes: Sequence[Box | None]) -> list[Roi]:
    """List the organs that have voxels, numbered as in the challenge."""
    found = zip(organs, boxes, strict=True)
    return [Roi(i, organ, box) for i, (organ, box) in enumerate(found, 1) if box is not None]


def write_structure_set(
    path: Path, labels: NDArray[np.uint8], rois: Sequence[Roi], origin: Origin
) -> None:
    """Write an RT Structure Set to a new file.

    Args:
        path: must not exist.
        labels: (slices, rows, columns), slices in the series' order.
        rois: what to write; at least one.
        origin: the series, and the model.

    Raises:
        OSError: the disk is full, or the place cannot be written.
        OutputError: coordinates too large for DICOM's decimal strings.
    """
    from pydicom import dcmwrite

    with without_warnings():
        head = _head(origin)
    head.update(data_set(StructureSetROISequence=[_roi(roi, origin.series) for roi in rois]))
    tail = data_set(
        RTROIObservationsSequence=[_observation(roi) for roi in rois],
        ApprovalStatus="UNAPPROVED",
    )
    with without_warnings(), path.open("xb") as stream:
        dcmwrite(stream, head, enforce_file_format=True)
        with nested(stream, ROI_CONTOURS):
            for roi in rois:
                with nested(stream, ITEM_TAG):
                    _write_roi(stream, labels, roi, origin.series)
        # Without file meta: the rest of the same data set.
        dcmwrite(stream, tail, implicit_vr=True, little_endian=True)


def _head(origin: Origin) -> Dataset:
    """All attributes whose tags come before the structures'."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian

    series = origin.series
    instance = origin.uid("RTSTRUCT", "instance")
    head = data_set(
        SpecificCharacterSet=UNICODE,
        SOPClassUID=RT_STRUCTURE_SET,
        SOPInstanceUID=instance,
        Modality="RTSTRUCT",
        Manufacturer=MANUFACTURER,
        ManufacturerModelName=one_line(origin.model, LONG_STRING),
        SoftwareVersions=__version__,
        OperatorsName="",
        StudyInstanceUID=series.study_uid,
        SeriesInstanceUID=origin.uid("RTSTRUCT", "series"),
        SeriesNumber=1,
        SeriesDescription=one_line(f"oarseg: {origin.model}", LONG_STRING),
        InstanceNumber=1,
        FrameOfReferenceUID=series.frame_of_reference_uid,
        StructureSetLabel="oarseg",
        StructureSetName=one_line(origin.model, LONG_STRING),
        StructureSetDescription=origin.description(),
        # Known dates are the images' own; the day of a run would differ from run to run.
        StructureSetDate="",
        StructureSetTime="",
        ReferencedFrameOfReferenceSequence=[_frame_of_reference(series)],
    )
    repeat_patient(head, series)
    head.file_meta = FileMetaDataset(
        data_set(
            MediaStorageSOPClassUID=RT_STRUCTURE_SET,
            MediaStorageSOPInstanceUID=instance,
            TransferSyntaxUID=ImplicitVRLittleEndian,
        )
    )
    return head


def _frame_of_reference(series: DicomSeries) -> Dataset:
    images = [_reference(series.sop_class_uid, uid) for uid in series.sop_instance_uids]
    study = _reference(STUDY_CLASS, series.study_uid)
    study.update(
        data_set(
            RTReferencedSeriesSequence=[
                data_set(SeriesInstanceUID=series.series_uid, ContourImageSequence=images)
            ]
        )
    )
    return data_set(
        FrameOfReferenceUID=series.frame_of_reference_uid, RTReferencedStudySequence=[study]
    )


def _reference(sop_class: str, instance: str) -> Dataset:
    return data_set(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=instance)


def _roi(roi: Roi, series: DicomSeries) -> Dataset:
    return data_set(
        ROINumber=roi.number,
        ReferencedFrameOfReferenceUID=series.frame_of_reference_uid,
        ROIName=roi.organ.dicom_name,
        ROIGenerationAlgorithm="AUTOMATIC",
    )


def _observation(roi: Roi) -> Dataset:
    code, side = roi.organ.code(), roi.organ.side_code()
    item = data_set(
        ObservationNumber=roi.number,
        ReferencedROINumber=roi.number,
        RTROIInterpretedType=roi.organ.rt_type,
        ROIInterpreter="",
    )
    if code:
        sides = {"SegmentedPropertyTypeModifierCodeSequence": [_coded(side)]} if side else {}
        kind = _coded(code)
        kind.update(data_set(**sides))
        item.update(data_set(RTROIIdentificationCodeSequence=[kind]))
    return item


def _coded(code: Code) -> Dataset:
    return data_set(
        CodeValue=code.value,
        CodingSchemeDesignator=code.scheme,
        CodeMeaning=one_line(code.meaning, LONG_STRING),
    )


def _write_roi(stream: BinaryIO, labels: NDArray[np.uint8], roi: Roi, series: DicomSeries) -> None:
    write_text(stream, ROI_COLOUR, "\\".join(str(part) for part in roi.organ.colour))
    with nested(stream, CONTOURS):
        for number, (plane, points) in enumerate(_contours(labels, roi, series), 1):
            with nested(stream, ITEM_TAG):
                with nested(stream, CONTOUR_IMAGES), nested(stream, ITEM_TAG):
                    write_uid(stream, IMAGE_CLASS, series.sop_class_uid)
                    write_uid(stream, IMAGE_INSTANCE, series.sop_instance_uids[plane])
                write_text(stream, GEOMETRIC_TYPE, "CLOSED_PLANAR")
                write_text(stream, POINT_COUNT, str(len(points)))
                write_text(stream, CONTOUR_NUMBER, str(number))
                write_text(stream, CONTOUR_DATA, decimal_text(points))
    write_text(stream, ROI_NUMBER, str(roi.number))


def _contours(
    labels: NDArray[np.uint8], roi: Roi, series: DicomSeries
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the plane and the points, (n, 3) in mm, of each contour of a roi."""
    z, y, x = roi.box
    positions = np.asarray(series.positions_mm)
    between_rows, between_columns = series.pixel_spacing_mm
    axes = np.stack(
        [
            np.asarray(series.row_direction) * between_columns,
            np.asarray(series.column_direction) * between_rows,
        ]
    )
    corner = np.asarray((x.start, y.start))
    for contour in trace_contours(labels[roi.box], roi.organ.labels):
        plane = z.start + contour.plane
        yield plane, (contour.points + corner) @ axes + positions[plane]


def decimal_text(points_mm: NDArray[np.float64]) -> str:
    """Write points as decimal strings to a tenth of a micrometre, each of at most 16 characters.

    Raises:
        OutputError: a coordinate of a thousand kilometres or more.
    """
    if not np.abs(points_mm).max() < LARGEST_MM:
        raise OutputError(
            f"expected coordinates below {LARGEST_MM:g} mm, found "
            f"{np.abs(points_mm).max():g} mm; check the images' positions"
        )
    # Adding zero takes the sign off a rounded -0.
    rounded = (np.round(points_mm, DECIMALS) + 0.0).ravel()
    text = f"%.{DECIMALS}f\\" * len(rounded) % tuple(rounded.tolist())
    return text[:-1]
